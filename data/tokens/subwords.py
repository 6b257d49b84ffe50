"""Byte-pair encoding, trained on pieces of text and how often each occurs: nothing is unknown to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from data.errors import CorpusError

if TYPE_CHECKING:
    import polars as pl
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

PIECES = r" ?\p{L}[\p{L}\p{M}]*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"
"""Words, numbers and marks, each with a blank before it; nothing is merged over their ends, and nothing left out."""
SEPARATOR = "\x1f"
"""Cleaned text has none."""
NUM_BYTES = 256
DEFAULT_SIZE = 8000
BATCH_CHARACTERS = 2**20


@dataclass(frozen=True)
class Subwords:
    """A trained encoding: its tokens, bytes first, and the pairs that are merged, in order."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The library's tokenizer of single pieces."""
        from tokenizers import Tokenizer, models

        ids = {token: number for number, token in enumerate(self.tokens)}
        tokenizer = Tokenizer(models.BPE(vocab=ids, merges=list(self.merges)))
        tokenizer.pre_tokenizer = byte_level()
        return tokenizer

    def encode(self, pieces: Iterable[str]) -> list[list[str]]:
        """Return the tokens of each piece."""
        return [found.tokens for found in self.tokenizer.encode_batch(list(pieces), add_special_tokens=False)]


def byte_level() -> PreTokenizer:
    """Return what writes each byte of a piece as one visible character."""
    from tokenizers import pre_tokenizers

    made: PreTokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return made


def train(counts: pl.DataFrame, size: int | None) -> Subwords:
    """Merge byte pairs, the most frequent first, until there are `size` tokens (8,000 if None).

    `counts` has the columns `token`, the pieces, and `count`. Raises CorpusError if not even the bytes find room.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    size = size if size is not None else DEFAULT_SIZE
    if size < NUM_BYTES:
        raise CorpusError(f"--vocabulary-size must be at least {NUM_BYTES} with --tokenizer bpe, one for each byte")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(SEPARATOR, "removed"), byte_level()])
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False
    )
    # By count and then by text, so that the result does not depend on the order of the corpus.
    ordered = counts.sort(["count", "token"], descending=[True, False])
    tokenizer.train_from_iterator(batches(ordered), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return Subwords(tuple(tokens), tuple((first, second) for first, second in model["merges"]))


def batches(counts: pl.DataFrame) -> Iterator[list[str]]:
    """Yield each piece as often as it occurs, in texts of bounded length."""
    held, size = [], 0
    for piece, count in counts.select("token", "count").iter_rows():
        at_once = max(1, BATCH_CHARACTERS // (len(piece) + 1))
        for done in range(0, count, at_once):
            held.append(SEPARATOR.join([piece] * min(count - done, at_once)))
            size += len(held[-1])
            if size >= BATCH_CHARACTERS:
                yield held
                held, size = [], 0
    if held:
        yield held


def text_of(tokens: Sequence[str]) -> str:
    """Return the text that tokens stand for; bytes that are no UTF-8 become the replacement character."""
    from tokenizers import decoders

    text: str = decoders.ByteLevel().decode(list(tokens))
    return text
