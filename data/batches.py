"""Padded batches of similar lengths, in an order that a seed fixes and that can be resumed anywhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.corpus import Ids, Split, runs
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

    def pinned(self) -> Batch:
        """Return the batch with its tokens in memory from which a GPU copies by itself."""
        return Batch(self.tokens.pin_memory(), self.lengths, self.indices)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tokens on a device; the copy does not wait for the device."""
        if device.type == "cpu":
            return self
        tokens = self.tokens.pin_memory() if device.type == "cuda" else self.tokens
        return Batch(tokens.to(device, non_blocking=True), self.lengths, self.indices)


def frame(values: Ids, lengths: NDArray[np.int64], indices: NDArray[np.int64]) -> Batch:
    """Frame sequences by `<s>` and `</s>` and pad them to the longest.

    `values` holds the token ids of all sequences one after another, `lengths` how many each has, `[batch]`.
    """
    width = int(lengths.max(initial=0)) + 2
    tokens = np.full((len(lengths), width), PAD_ID, np.int64)
    tokens[:, 0] = BOS_ID
    rows = width * np.arange(len(lengths))
    tokens.reshape(-1)[runs(rows + 1, lengths)] = values
    tokens.reshape(-1)[rows + lengths + 1] = EOS_ID
    return Batch(torch.from_numpy(tokens), torch.from_numpy(lengths + 2), indices)


def collate(sequences: Sequence[Ids], indices: NDArray[np.int64]) -> Batch:
    """Return the batch of sequences of token ids that are in no split."""
    lengths = np.fromiter((len(sequence) for sequence in sequences), np.int64, len(sequences))
    return frame(np.concatenate([np.empty(0, np.int64), *sequences]), lengths, indices)


def gather(split: Split, indices: NDArray[np.int64]) -> Batch:
    """Return the batch of the named sequences, in that order."""
    return frame(split.take(indices), split.lengths[indices].astype(np.int64), indices)


@dataclass(frozen=True)
class BatchOrder:
    """Which sequences form which batch: each once an epoch, lengths alike within a batch.

    `batch_size` counts sequences; with `max_tokens`, a batch instead takes sequences while its padded
    size (with `<s>` and `</s>`) stays within that many tokens.
    """

    lengths: NDArray[np.integer]
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


def iterate(split: Split, batches: list[NDArray[np.int64]], start: int = 0, ahead: int = 0) -> Iterator[Batch]:
    """Yield batches of a split from the given place on.

    With `ahead`, a thread makes that many before they are asked for, in pinned memory where there is a GPU: the host
    has them at hand while the device works. On a CPU, which the device is, there is nothing to gain.
    """
    if ahead == 0:
        for indices in batches[start:]:
            yield gather(split, indices)
        return

    def make(indices: NDArray[np.int64]) -> Batch:
        batch = gather(split, indices)
        return batch.pinned() if torch.cuda.is_available() else batch

    with ThreadPoolExecutor(1, "batches") as thread:
        waiting: deque[Future[Batch]] = deque()
        for indices in batches[start:]:
            waiting.append(thread.submit(make, indices))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
