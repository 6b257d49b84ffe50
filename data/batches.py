"""Padded batches of similar lengths, in an order that a seed fixes and that can be resumed anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.corpus import Split
from data.vocabulary import BOS_ID, EOS_ID, PAD_ID

POOL_BATCHES = 50


@dataclass(frozen=True)
class Batch:
    """Sequences of one split, `<s>` and `</s>` included, padded to the longest."""

    tokens: Tensor
    """Token ids, int64 `[batch, time]`."""
    lengths: Tensor
    """Tokens of each sequence with `<s>` and `</s>`, int64 `[batch]`, on the CPU."""
    indices: NDArray[np.int64]
    """Each sequence's place in its split, `[batch]`."""

    @cached_property
    def num_targets(self) -> int:
        """Tokens that the decoder predicts: every one but `<s>`."""
        return int(self.lengths.sum()) - len(self.lengths)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tokens on a device; the copy does not wait for the device."""
        if device.type == "cpu":
            return self
        return Batch(self.tokens.pin_memory().to(device, non_blocking=True), self.lengths, self.indices)


def collate(sequences: list[NDArray[np.integer[Any]]], indices: NDArray[np.int64]) -> Batch:
    """Frame sequences of token ids by `<s>` and `</s>` and pad them to the longest."""
    lengths = np.fromiter((len(sequence) for sequence in sequences), np.int64, len(sequences))
    tokens = np.full((len(sequences), int(lengths.max(initial=0)) + 2), PAD_ID, np.int64)
    tokens[:, 0] = BOS_ID
    for row, sequence in zip(tokens, sequences, strict=True):
        row[1 : len(sequence) + 1] = sequence
        row[len(sequence) + 1] = EOS_ID
    return Batch(torch.from_numpy(tokens), torch.from_numpy(lengths + 2), indices)


def gather(split: Split, indices: NDArray[np.int64]) -> Batch:
    """Return the batch of the named sequences, in that order."""
    return collate([split.sequence(int(index)) for index in indices], indices)


@dataclass(frozen=True)
class BatchOrder:
    """Which sequences form which batch: each once an epoch, lengths alike within a batch.

    `batch_size` counts sequences; with `max_tokens`, a batch instead takes sequences while its padded
    size (with `<s>` and `</s>`) stays within that many tokens.
    """

    lengths: NDArray[np.integer[Any]]
    batch_size: int
    max_tokens: int | None = None
    seed: int = 0

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """Return the epoch's batches of sequence indices; the same number gives the same batches.

        Sequences are shuffled, sorted by length within pools of many batches, cut into batches,
        and the batches are shuffled.
        """
        generator = np.random.default_rng([self.seed, number])
        order = generator.permutation(len(self.lengths))
        pool_size = self.batch_size * POOL_BATCHES
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(order), pool_size):
            pool = order[start : start + pool_size]
            batches += self._cut(pool[np.argsort(self.lengths[pool], kind="stable")])
        return [batches[place] for place in generator.permutation(len(batches))]

    def in_order_of_length(self) -> list[NDArray[np.int64]]:
        """Return batches for evaluation: all sequences from the shortest to the longest."""
        return self._cut(np.argsort(self.lengths, kind="stable"))

    def _cut(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        if self.max_tokens is None:
            return [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        batches, start = [], 0
        for stop in range(1, len(indices) + 1):
            longest = int(self.lengths[indices[stop - 1]]) + 2
            if stop - start > 1 and longest * (stop - start) > self.max_tokens:
                batches.append(indices[start : stop - 1])
                start = stop - 1
        if start < len(indices):
            batches.append(indices[start:])
        return batches


def iterate(split: Split, batches: list[NDArray[np.int64]], start: int = 0) -> Iterator[Batch]:
    """Yield batches of a split from the given place on."""
    for indices in batches[start:]:
        yield gather(split, indices)
