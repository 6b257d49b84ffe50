"""The first two passes: text to files of token numbers by hash, then each in order, without repeats, and split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data.errors import CorpusError
from data.settings import PrepareSettings
from data.sources.source import Source
from data.splitting import check_groups, choose_split
from data.tokens.cleaning import Dropped, clean, tokenizer_of

NUM_PARTITIONS = 128
BUCKET_BYTES = 32 * 2**20
"""Text of one bucket, which is held in memory at once, tokens and all."""
FINE_COST, FINE_ROWS = 6, 5_000
"""A byte of text as a token of its own takes so much more; and rows of such tokens that are made at once."""
NUM_EXAMPLES = 200
MOST_LABELS = 1000


class TokenNumbers:
    """Numbers tokens as they come, so that the text of each is held and hashed once."""

    def __init__(self) -> None:
        # Polars forgets the numbers once no column has any of them.
        self._kept = pl.Series([""], dtype=pl.Categorical(pl.Categories.random()))

    def of(self, lists: pl.Series) -> pl.Series:
        """Return lists of numbers for lists of tokens."""
        return lists.cast(pl.List(self._kept.dtype)).to_physical()

    def tokens(self, numbers: NDArray[np.integer]) -> pl.Series:
        """Return the tokens that have these numbers."""
        return pl.Series(numbers, dtype=pl.UInt32).cat.to(self._kept.dtype).cast(pl.String)


@dataclass
class Spooled:
    """What the first pass left: files by bucket, and what was read and left out."""

    buckets: list[list[Path]]
    dropped: Dropped
    num_bytes: int
    """Of all text that was read."""
    labels: set[str]
    examples: list[str]
    """Texts from the beginning of the source."""


def spool_sequences(
    source: Source, settings: PrepareSettings, numbers: TokenNumbers, spool: Path, progress: Callable[[str], None]
) -> Spooled:
    """Clean the source chunk by chunk into files by hash."""
    paths = [spool / f"{number:03d}.arrow" for number in range(NUM_PARTITIONS)]
    sizes: Counter[int] = Counter()
    found = Spooled([], Dropped(), 0, set(), [])
    num_rows, cost = 0, FINE_COST if tokenizer_of(settings).is_fine else 1
    with ExitStack() as stack:
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        for split, part in ((split, part) for split, parts in source.splits.items() for part in parts):
            for chunk in slices(part.chunks(), settings):
                check_given_tokens(chunk, settings)
                found.examples = found.examples or chunk["text"].drop_nulls().head(NUM_EXAMPLES).to_list()
                kept, num_read = clean(chunk, settings, found.dropped)
                found.num_bytes += num_read
                found.labels.update(kept["label"].drop_nulls().unique())
                check_labels(found.labels)
                num_rows += chunk.height
                kept = kept.with_columns(
                    numbers.of(kept["tokens"]), split=pl.lit(split), place=pl.col("key") // (2**64 // NUM_PARTITIONS)
                )
                for (place,), rows in kept.partition_by("place", as_dict=True, include_key=False).items():
                    sizes[place] += cost * int(rows["num_bytes"].sum())
                    repeats = settings.deduplicate and rows["key"].n_unique() < rows.height
                    rest = without_repeats(rows, found.dropped) if repeats else rows
                    table = rest.to_arrow(compat_level=pl.CompatLevel.oldest())
                    if place not in writers:
                        writers[place] = stack.enter_context(pa.ipc.new_file(str(paths[place]), table.schema))
                    writers[place].write_table(table)
                progress(f"read {num_rows:,} sequences, dropped {found.dropped.sequences.total():,}")
    found.buckets = gather_buckets(paths, sizes)
    return found


def slices(chunks: Iterator[pl.DataFrame], settings: PrepareSettings) -> Iterator[pl.DataFrame]:
    """Yield chunks in parts whose tokens, where they are many, are not too many at once."""
    for chunk in chunks:
        yield from chunk.iter_slices(FINE_ROWS) if tokenizer_of(settings).is_fine else (chunk,)


def check_given_tokens(chunk: pl.DataFrame, settings: PrepareSettings) -> None:
    """Raise CorpusError if text that comes as lists of tokens is to be cut into other ones."""
    if "tokens" in chunk.columns and settings.tokenizer != "whitespace":
        raise CorpusError(
            f"the column holds lists of tokens, which are taken as they are; leave --tokenizer {settings.tokenizer} out"
        )


def check_labels(labels: set[str]) -> None:
    """Raise CorpusError if there are so many labels that they can be none."""
    if len(labels) > MOST_LABELS:
        shown = ", ".join(repr(label[:30]) for label in sorted(labels)[:3])
        raise CorpusError(f"the label column has more than {MOST_LABELS} values, such as {shown}; name another one")


def gather_buckets(paths: list[Path], num_bytes: Counter[int]) -> list[list[Path]]:
    """Group neighbouring partitions into buckets of bounded text, by sizes that do not depend on its order."""
    buckets: list[list[Path]] = []
    size = 0
    for place, path in enumerate(paths):
        if place in num_bytes:
            if not buckets or size + num_bytes[place] > BUCKET_BYTES:
                buckets.append([])
                size = 0
            buckets[-1].append(path)
            size += num_bytes[place]
    return buckets


def settle_buckets(
    buckets: list[list[Path]], settings: PrepareSettings, dropped: Dropped, progress: Callable[[str], None]
) -> NDArray[np.int64]:
    """Deduplicate, order and split each bucket in place.

    Returns how often each token, by its number, occurs in the training split and in the others, [2, numbers].
    """
    counts = np.zeros((2, 0), np.int64)
    groups = []
    for number, paths in enumerate(buckets, 1):
        found = pl.concat(map(pl.read_ipc, paths))
        rows = without_repeats(found, dropped) if settings.deduplicate else in_order(found)
        rows = rows.with_columns(split=choose_split(settings))
        for place, is_training in enumerate((True, False)):
            part = rows.filter((pl.col("split") == "train") == is_training)
            new = np.bincount(flat(part["tokens"]))
            counts = np.pad(counts, ((0, 0), (0, max(0, len(new) - counts.shape[1]))))
            counts[place, : len(new)] += new
        rows.write_ipc(settled(paths))
        if settings.split_by_group:
            groups.append(rows.select("group_key", "split").unique())
        progress(f"split {number} of {len(buckets)} parts")
    if groups:
        check_groups(pl.concat(groups).unique())
    return counts


def in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Order sequences by what they are."""
    return rows.sort("key", "group_key", "num_bytes", "split", "label")


def without_repeats(rows: pl.DataFrame, dropped: Dropped) -> pl.DataFrame:
    """Order sequences by what they are, keep the first of equal ones only, and count the others."""
    ordered = in_order(rows)
    is_first = ordered["key"].is_first_distinct()
    dropped.add("duplicate", ordered.filter(~is_first))
    return ordered.filter(is_first)


def flat(lists: pl.Series) -> NDArray[np.integer]:
    """Return the elements of all lists, one after the other."""
    return lists.explode(empty_as_null=False).to_numpy()


def settled(paths: list[Path]) -> Path:
    """Return where a bucket lies once it is deduplicated, ordered and split."""
    return paths[0].with_suffix(".settled")
