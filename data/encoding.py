"""The last pass: sequences of numbers become ids, one shard for each bucket and split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.corpus import Ids, runs, write_shard
from data.manifest import SplitManifest
from data.settings import PrepareSettings
from data.sources.source import SPLITS
from data.spooling import flat, settled
from data.tokens.cleaning import TOO_LONG, TOO_SHORT, Dropped, tokenizer_of
from data.vocabulary import UNK_ID, Vocabulary


@dataclass(frozen=True)
class Encoding:
    """The ids that each number of a token, or of a piece of text, stands for."""

    ids: Ids
    """One for each number; or one after another, where numbers have several."""
    lengths: NDArray[np.int64] | None = None
    """How many ids each number has, if not one."""

    @classmethod
    def of_single(
        cls, num_numbers: int, met: NDArray[np.int64], ids: NDArray[np.integer], vocabulary: Vocabulary
    ) -> Encoding:
        """Return the encoding of numbers that are an id each."""
        places = np.zeros(num_numbers, id_type(vocabulary))
        places[met] = ids
        return cls(places)

    @classmethod
    def of_lists(
        cls, num_numbers: int, met: NDArray[np.int64], lists: Iterable[list[int]], vocabulary: Vocabulary
    ) -> Encoding:
        """Return the encoding of numbers that are several ids each."""
        found = list(lists)
        lengths = np.zeros(num_numbers, np.int64)
        lengths[met] = [len(ids) for ids in found]
        flat_ids = np.array([each for ids in found for each in ids], id_type(vocabulary))
        return cls(flat_ids, lengths)

    def of(self, numbers: pl.Series) -> tuple[Ids, NDArray[np.int64]]:
        """Return the ids of lists of numbers, one after another, and how many each list has."""
        all_numbers, counts = flat(numbers), numbers.list.len().to_numpy()
        if self.lengths is None:
            return self.ids[all_numbers], counts
        lengths = self.lengths[all_numbers]
        starts = np.cumsum(self.lengths) - self.lengths
        ends = np.concatenate([[0], np.cumsum(lengths)])
        stops = np.cumsum(counts, dtype=np.int64)
        ids: Ids = self.ids[runs(starts[all_numbers], lengths)]
        return ids, ends[stops] - ends[stops - counts]


def id_type(vocabulary: Vocabulary) -> type[np.unsignedinteger]:
    """Return the type in which the ids of a vocabulary are stored."""
    return np.uint16 if len(vocabulary) <= 2**16 else np.uint32


def encode_buckets(
    buckets: list[list[Path]],
    encoding: Encoding,
    labels: list[str],
    settings: PrepareSettings,
    folder: Path,
    dropped: Dropped,
    progress: Callable[[str], None],
) -> tuple[dict[str, SplitManifest], dict[str, int]]:
    """Write each bucket's sequences as one shard a split.

    Returns what the manifest says of the splits, and how many sequences of each other split occur word for word in the
    training split.
    """
    splits = {name: SplitManifest(num_sequences=0, num_tokens=0, num_bytes=0, shards=[]) for name in SPLITS}
    overlap = dict.fromkeys(SPLITS[1:], 0)
    for number, paths in enumerate(buckets):
        rows = pl.read_ipc(settled(paths))
        train_keys = rows.filter(pl.col("split") == "train").select("key")
        for name, split in splits.items():
            part = rows.filter(pl.col("split") == name)
            ids, lengths = encoding.of(part["tokens"])
            if tokenizer_of(settings).is_trained:
                part, ids, lengths = of_length(part, ids, lengths, settings, dropped)
            if part.height == 0:
                continue
            shard = f"{name}-{number:05d}.arrow"
            write_shard(folder / shard, ids, lengths, part["num_bytes"].to_numpy(), label_ids(part, labels))
            split.shards.append(shard)
            split.num_sequences += part.height
            split.num_tokens += len(ids)
            split.num_bytes += int(part["num_bytes"].sum())
            split.num_unknown += int((ids == UNK_ID).sum())
            split.longest_bytes = max(split.longest_bytes, int(part["num_bytes"].to_numpy().max()))
            split.num_single += int((lengths < 2).sum())
            if name in overlap:
                overlap[name] += part.join(train_keys, on="key", how="semi").height
        progress(f"encoded {number + 1} of {len(buckets)} parts")
    return splits, overlap


def of_length(
    rows: pl.DataFrame, ids: Ids, lengths: NDArray[np.int64], settings: PrepareSettings, dropped: Dropped
) -> tuple[pl.DataFrame, Ids, NDArray[np.int64]]:
    """Return the sequences, their ids and numbers of ids, without those that byte pairs make too short or too long."""
    is_kept = np.ones(len(lengths), bool)
    for reason, is_out in (
        (TOO_SHORT, lengths < settings.min_tokens),
        (TOO_LONG, lengths > settings.max_tokens),
    ):
        dropped.add(reason, rows.filter(pl.Series(is_out)))
        is_kept &= ~is_out
    return rows.filter(pl.Series(is_kept)), ids[np.repeat(is_kept, lengths)], lengths[is_kept]


def label_ids(rows: pl.DataFrame, labels: list[str]) -> NDArray[np.int32] | None:
    """Return the place of each sequence's label among all, -1 without one; None where no sequence has any."""
    if not labels:
        return None
    places = rows["label"].replace_strict(labels, list(range(len(labels))), default=-1, return_dtype=pl.Int32)
    return places.fill_null(-1).to_numpy()
