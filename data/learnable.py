"""Corpora of which nothing can be learnt, because their text was cut in the wrong places: seen, and what to try."""

from __future__ import annotations

import re

import regex

from data.errors import CorpusError
from data.manifest import Manifest
from data.tokens.subwords import NUM_BYTES
from data.tokens.tokenizers import TOKENIZERS

MOST_UNKNOWN = 0.5
"""Of the validation tokens."""
FEWEST_REPEATS = 1.25
"""Times that a token of the training split occurs in the mean."""
FEW_SEQUENCES, LARGEST_SHARE = 10, 0.5
"""Of the bytes of a split in one sequence."""
WITHOUT_BLANKS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
SMILES_LIKE = re.compile(r"(?:\[[^\]]+\]|Br|Cl|[BCNOPSFIbcnops]|[()=#$:.~/\\@+\-*]|%\d\d|\d){2,}")
"""A word of nothing but atoms, bonds, branches and rings."""


def check_learnable(manifest: Manifest, examples: list[str]) -> None:
    """Raise CorpusError, saying what was seen and which tokenizer to try, if nothing can be learnt from a corpus."""
    train, valid = manifest.splits["train"], manifest.splits["valid"]
    tokenizer = str(manifest.settings["tokenizer"])
    # All bytes are known to byte pairs, met or not.
    known = manifest.vocabulary_size - 4 - NUM_BYTES * TOKENIZERS[tokenizer].is_trained
    unknown = valid.num_unknown / max(1, valid.num_tokens)
    if unknown > MOST_UNKNOWN:
        seen = f"{unknown:.0%} of the validation tokens are unknown, since they are not in the training text"
    elif 2 * train.num_single > train.num_sequences:
        seen = f"{train.num_single / train.num_sequences:.0%} of the training sequences are a single token"
    elif train.num_tokens < FEWEST_REPEATS * known:
        seen = f"{known:,} different tokens in a text of {train.num_tokens:,}: hardly one occurs twice"
    elif train.num_sequences >= FEW_SEQUENCES and train.longest_bytes > LARGEST_SHARE * train.num_bytes:
        seen = f"one sequence makes up {train.longest_bytes / train.num_bytes:.0%} of the training text"
    else:
        return
    raise CorpusError(f"nothing can be learnt from this: {seen}. {advice(tokenizer, examples)}; --force goes on")


def advice(tokenizer: str, examples: list[str]) -> str:
    """Return what to try, from what the text looks like."""
    texts = [text.strip() for text in examples if text.strip()]
    letters = "".join(texts)
    if tokenizer in ("whitespace", "regex"):
        if len(WITHOUT_BLANKS.findall(letters)) > 0.2 * len(letters):
            return "It is written without blanks between words: try --tokenizer char, or bpe"
        if texts and sum(map(is_smiles_like, texts)) > 0.8 * len(texts):
            return "It looks like molecules in SMILES: try --tokenizer smiles"
    if tokenizer == "whitespace":
        return "Try --tokenizer regex, char or bpe, or give more text; is it a sequence a line?"
    return "Give more text, or try --tokenizer char; is it a sequence a line?"


def is_smiles_like(text: str) -> bool:
    """Say whether a line begins as files of molecules do: a molecule, and perhaps a name."""
    words = text.split()
    return len(words) <= 2 and SMILES_LIKE.fullmatch(words[0]) is not None
