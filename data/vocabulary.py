"""Tokens to ids and back: four special ids first, then tokens by falling count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, RootModel

from data.errors import CorpusError
from data.files import DamagedFileError, read_json

if TYPE_CHECKING:
    import polars as pl

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)


class Merged(BaseModel):
    """How a vocabulary of byte pairs is stored."""

    tokens: list[str]
    merges: list[tuple[str, str]]


class Stored(RootModel[list[str] | Merged]):
    """A vocabulary's file: tokens, or byte pairs."""


@dataclass(frozen=True)
class Vocabulary:
    """The known tokens, special ones first; a token's id is its place."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...] = ()
    """Of byte-pair encoding: the pairs of tokens that make another one, in order."""

    def __post_init__(self) -> None:
        if self.tokens[:4] != SPECIAL_TOKENS or len(set(self.tokens)) != len(self.tokens):
            raise CorpusError(
                f"a vocabulary starts with {SPECIAL_TOKENS} and has each token once, got {self.tokens[:4]} and"
                f" {len(self.tokens) - len(set(self.tokens))} repeats; prepare the corpus again"
            )

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def of(cls, words: Iterable[str]) -> Vocabulary:
        """Return a vocabulary of these words, without repeats and without the special tokens."""
        kept = [word for word in dict.fromkeys(words) if word not in SPECIAL_TOKENS]
        return cls((*SPECIAL_TOKENS, *kept))

    @classmethod
    def from_counts(cls, counts: pl.DataFrame, size: int | None, min_count: int) -> Vocabulary:
        """Keep the `size` most frequent tokens seen at least `min_count` times.

        `counts` has the columns `token` and `count`. Ties are broken by the token itself, so that
        the result does not depend on the order of the text. `size` leaves the special tokens out.
        """
        import polars as pl

        kept = (
            counts.filter((pl.col("count") >= min_count) & ~pl.col("token").is_in(SPECIAL_TOKENS))
            .sort(["count", "token"], descending=[True, False])
            .head(size if size is not None else counts.height)
        )
        return cls.of(kept["token"])

    @classmethod
    def read(cls, path: Path) -> Vocabulary:
        """Read what `write` wrote."""
        try:
            found = read_json(path, Stored).root
        except DamagedFileError as error:
            raise CorpusError(f"{error}; expected a vocabulary, a JSON list of tokens") from None
        if isinstance(found, list):
            return cls(tuple(found))
        return cls(tuple(found.tokens), tuple(found.merges))

    def write(self, path: Path) -> None:
        """Write the tokens as a JSON list, one a line; with merges as an object of both."""
        merges = [list(pair) for pair in self.merges]
        stored = {"tokens": self.tokens, "merges": merges} if merges else self.tokens
        path.write_text(json.dumps(stored, ensure_ascii=False, indent=None if merges else 0) + "\n", "utf-8")

    @cached_property
    def ids(self) -> dict[str, int]:
        """Each token's id."""
        return {token: index for index, token in enumerate(self.tokens)}

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Return the ids of tokens; unknown ones, and literal special ones, become `<unk>`."""
        return [max(self.ids.get(token, UNK_ID), UNK_ID) for token in tokens]

    def encode_column(self, tokens: pl.Series) -> pl.Series:
        """Return the ids of a flat column of tokens, as `encode` does."""
        import polars as pl

        return tokens.replace_strict(
            pl.Series(self.tokens, dtype=pl.String),
            pl.Series([UNK_ID] * 4 + list(range(4, len(self.tokens))), dtype=pl.UInt32),
            default=UNK_ID,
            return_dtype=pl.UInt32,
        )

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids up to the first `</s>`, without `<s>` and `<pad>`."""
        words: list[str] = []
        for index in ids:
            if index == EOS_ID:
                break
            if index not in (PAD_ID, BOS_ID):
                words.append(self.tokens[index])
        return words
