"""How text becomes tokens, and tokens text again: one entry a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl
import regex

from data.tokens import subwords

WORDS_AND_MARKS = r"\w+(?:['’]\w+)*|[^\w\s]"
SMILES = r"\[[^\[\]]*\]|%\d\d|%\(\d+\)|Br|Cl|(?s:.)"
"""Atoms in brackets whole, ring numbers of two digits, the two elements of two letters that need no brackets; every
other character is a token (after Schwaller et al., arXiv 1711.04810)."""
GRAPHEME = regex.compile(r"\X")


@dataclass(frozen=True)
class Tokenizer:
    """A way from text to tokens and back."""

    split: Callable[[pl.Series, str], pl.Series]
    """Of texts without white space around them, and a regular expression, to lists of tokens."""
    join: Callable[[Sequence[str]], str]
    """Of tokens to the text that they came from, as it was cleaned."""
    is_exact: bool = True
    """Whether `join` gives every text back to the letter; else white space between tokens is one blank."""
    is_fine: bool = True
    """Whether tokens are a few characters, of which a text has many."""
    is_trained: bool = False
    """Whether `split` gives pieces of text, which tokens are learnt within (`data.tokens.subwords`)."""
    usual_length: int = 200
    """Tokens that a text has at most, unless it is a long one."""


def words(texts: pl.Series, pattern: str) -> pl.Series:
    """Return what stands between white space, in a third of the time that extracting \\S+ takes."""
    text = pl.col("text").str.replace_all(r"[^\S ]\s*| \s+", " ")
    tokens = pl.when(text == "").then(pl.lit([], pl.List(pl.String))).otherwise(text.str.split(" "))
    return texts.to_frame("text").select(tokens=tokens)["tokens"]


def matches(texts: pl.Series, pattern: str) -> pl.Series:
    """Return what a regular expression finds; `<unk>` stays whole, so that text printed from a corpus is read back."""
    return texts.str.extract_all(rf"<unk>|{pattern}").alias("tokens")


def graphemes(texts: pl.Series, pattern: str) -> pl.Series:
    """Return what a reader takes for one character: Unicode's extended grapheme clusters (UAX 29)."""
    lists = [None if text is None else clusters(text) for text in texts]
    return pl.Series("tokens", lists, dtype=pl.List(pl.String))


def clusters(text: str) -> list[str]:
    """Return the grapheme clusters of a text; of ASCII, which is much, all but one are single characters."""
    if text.isascii() and "\r" not in text:
        return list(text)
    found: list[str] = GRAPHEME.findall(text)
    return found


def atoms(texts: pl.Series, pattern: str) -> pl.Series:
    """Return the atoms, bonds, branches and rings of molecules."""
    return texts.str.extract_all(SMILES).alias("tokens")


def pieces(texts: pl.Series, pattern: str) -> pl.Series:
    """Return the pieces of text that byte pairs are merged within, all of the text; not tokens yet."""
    return texts.str.extract_all(subwords.PIECES).alias("tokens")


TOKENIZERS: dict[str, Tokenizer] = {
    "whitespace": Tokenizer(words, " ".join, is_exact=False, is_fine=False, usual_length=60),
    "regex": Tokenizer(matches, " ".join, is_exact=False, is_fine=False, usual_length=60),
    "char": Tokenizer(graphemes, "".join),
    "smiles": Tokenizer(atoms, "".join),
    "bpe": Tokenizer(pieces, subwords.text_of, is_trained=True, usual_length=100),
}
"""What stands between white space; words and marks, or what --pattern matches; characters as readers see them; atoms,
bonds, branches and rings of molecules; byte pairs merged as often as they occur."""
