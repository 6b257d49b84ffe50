"""Pure steps from raw text to tokens: every dropped sequence leaves under a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl
import xxhash
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.tokens.tokenizers import TOKENIZERS, WORDS_AND_MARKS, Tokenizer

TOO_SHORT, TOO_LONG = "too short", "too long"
CONTACTS = {
    "email": r"[\w.+-]+@[\w-]+\.\w+",
    "url": r"(?i)\b(?:https?://|www\.)\S|\b[a-z0-9-]+\.(?:com|org|net|edu|gov|io|ly|be|me|gg|tv|co)\b(?:/|\s|$)",
    "phone": r"(?:\+?\d[\s().-]{0,2}){7,}",
}


class CleaningSettings(BaseModel):
    """How raw text becomes tokens, and which sequences are dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tokenizer: str = "whitespace"
    pattern: str = WORDS_AND_MARKS
    lowercase: bool = False
    normalization: Literal["none", "nfc"] = "none"
    min_tokens: int = Field(default=1, ge=1)
    max_tokens: int = Field(default=200, ge=1)
    max_word_bytes: int = Field(default=1000, ge=1)
    drop_contacts: bool = False

    @field_validator("tokenizer")
    @classmethod
    def _tokenizer_is_known(cls, tokenizer: str) -> str:
        if tokenizer not in TOKENIZERS:
            raise ValueError(f"{tokenizer!r} is no tokenizer; expected one of {', '.join(TOKENIZERS)}")
        return tokenizer

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: str) -> str:
        try:
            pl.Series(["a"]).str.extract_all(pattern)
        except pl.exceptions.ComputeError as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        if pl.Series([""]).str.contains(f"^(?:{pattern})$")[0]:
            raise ValueError(f"{pattern!r} matches nothing as well, which is no token")
        return pattern

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> CleaningSettings:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens must not exceed max_tokens, got {self.min_tokens} and {self.max_tokens}")
        return self


def tokenizer_of(settings: CleaningSettings) -> Tokenizer:
    """Return the tokenizer that settings name."""
    return TOKENIZERS[settings.tokenizer]


def tokenize(texts: pl.Series, settings: CleaningSettings) -> pl.Series:
    """Return lists of tokens (of pieces, for `bpe`) of texts without white space around them."""
    if settings.normalization == "nfc":
        texts = texts.str.normalize("NFC")
    if settings.lowercase:
        texts = texts.str.to_lowercase()
    return tokenizer_of(settings).split(texts, settings.pattern)


def stripped(texts: pl.Series) -> pl.Series:
    """Return texts without white space around them; ASCII's four separators are white space too, as in Python."""
    return texts.str.replace_all(r"[\x1c-\x1f]", " ").str.strip_chars()


def drop_reason(settings: CleaningSettings, *, with_long_words: bool) -> pl.Expr:
    """Return the expression that names why a row is dropped, null where it is kept.

    Words are measured where a text is long enough to have too long ones.
    """
    num_tokens = pl.col("tokens").list.len()
    reason: Any = pl.when(pl.col("text").is_null()).then(pl.lit("missing"))
    reason = reason.when(num_tokens == 0).then(pl.lit("empty"))
    if settings.drop_contacts:
        for name, pattern in CONTACTS.items():
            reason = reason.when(pl.col("text").str.contains(pattern)).then(pl.lit(name))
    if not tokenizer_of(settings).is_trained:
        # Else only pieces are known yet, which are fewer.
        reason = reason.when(num_tokens < settings.min_tokens).then(pl.lit(TOO_SHORT))
    reason = reason.when(num_tokens > settings.max_tokens).then(pl.lit(TOO_LONG))
    if with_long_words:
        longest = pl.col("tokens").list.eval(pl.element().str.len_bytes()).list.max()
        reason = reason.when(longest > settings.max_word_bytes).then(pl.lit("long word"))
    expression: pl.Expr = reason.otherwise(None)
    return expression


def stable_hash(column: pl.Series) -> pl.Series:
    """Hash strings to 64 bits, the same on every machine and in every version."""
    digest = xxhash.xxh3_64_intdigest
    return pl.Series(column.name, [digest(value or b"") for value in column.cast(pl.Binary)], dtype=pl.UInt64)


@dataclass
class Dropped:
    """What is left out, by the reason: sequences, and bytes of their text."""

    sequences: Counter[str] = field(default_factory=Counter)
    num_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, rows: pl.DataFrame) -> None:
        """Count rows, with `num_bytes`, under a reason."""
        if rows.height:
            self.sequences[reason] += rows.height
            self.num_bytes[reason] += int(rows["num_bytes"].sum())


AROUND = "white space around"
"""Under which bytes are counted that no sequence is dropped for."""


def clean(frame: pl.DataFrame, settings: CleaningSettings, dropped: Dropped) -> tuple[pl.DataFrame, int]:
    """Tokenise rows of `text` (and `group`, `label`); return those kept and the bytes read, counting what is dropped.

    The kept rows have `tokens`, `num_bytes` (UTF-8 bytes of the raw sequence and its line end, which
    `</s>` stands for), `key` (a hash of the tokens), `group_key` (a hash of the group) and `label`.
    """
    if "tokens" in frame.columns:
        # Where it is given as tokens the text is what they are joined to.
        frame = frame.with_columns(text=pl.coalesce(pl.col("tokens").list.join(" "), pl.col("text")))
    raw = frame["text"].cast(pl.String)
    frame = frame.with_columns(stripped(raw).alias("text"))
    bytes_of_text = pl.col("text").str.len_bytes().fill_null(0).cast(pl.Int64)
    frame = frame.with_columns(num_bytes=bytes_of_text + 1)
    tokens = tokenize(frame["text"], settings)
    if "tokens" in frame.columns:
        tokens = pl.select(pl.coalesce(frame["tokens"], tokens)).to_series()
    frame = frame.with_columns(tokens.alias("tokens"))
    num_read = int(raw.str.len_bytes().fill_null(0).sum()) + frame.height
    if around := num_read - int(frame["num_bytes"].sum()):
        dropped.num_bytes[AROUND] += around
    with_long_words = bool((frame["num_bytes"] > settings.max_word_bytes).any())
    frame = frame.with_columns(reason=drop_reason(settings, with_long_words=with_long_words))
    for (reason,), rows in frame.filter(pl.col("reason").is_not_null()).partition_by("reason", as_dict=True).items():
        dropped.add(str(reason), rows)
    kept = frame.filter(pl.col("reason").is_null())
    kept = kept.with_columns(
        pl.col("num_bytes").cast(pl.UInt32),
        key=stable_hash(kept["tokens"].list.join("\x1f")),
        group_key=stable_hash(kept["group"].cast(pl.String)),
    )
    # A sequence without a group is one of its own.
    kept = kept.with_columns(group_key=pl.when(pl.col("group").is_null()).then("key").otherwise("group_key"))
    return kept.select("tokens", "num_bytes", "key", "group_key", "label"), num_read


def tokenize_texts(texts: list[str], settings: CleaningSettings) -> list[list[str]]:
    """Tokenise texts as `clean` does, dropping none; `<unk>` stays the unknown token."""
    tokens: list[list[str]] = tokenize(stripped(pl.Series("text", texts, dtype=pl.String)), settings).to_list()
    return tokens
