"""The pipeline from text to a prepared corpus, in three passes of bounded memory.

1. Clean and tokenise the text in chunks; spool the sequences, tokens as numbers, to buckets by a hash of their tokens.
2. Bucket by bucket: sort by that hash, drop duplicates, choose each sequence's split, count tokens.
3. Bucket by bucket: encode with the vocabulary, one shard a split.

A sequence's place and split depend on nothing but itself (and its group), and buckets on the text's
size alone, so that the same text in any order and any files gives the same corpus.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from data.cleaning import clean
from data.corpus import VOCABULARY, Corpus, Ids, fingerprint, write_shard
from data.errors import CorpusError
from data.manifest import MANIFEST, Manifest, SplitManifest, write_manifest
from data.placing import check_nothing_foreign, replace_folder, writing_aside
from data.settings import PrepareSettings
from data.sources import SPLITS, Source
from data.splitting import check_groups, check_splits, choose_split
from data.vocabulary import UNK_ID, Vocabulary

NUM_PARTITIONS = 128
BUCKET_BYTES = 32 * 2**20
"""Text of one bucket, which is held in memory at once, tokens and all."""


def prepare(
    source: Source,
    settings: PrepareSettings,
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Corpus, bool]:
    """Prepare a corpus into a folder; return it, and whether it was newly made.

    A folder that already holds what the same input and settings give is returned as it is. It is
    written aside and renamed, so that an interrupted run leaves nothing behind. Raises CorpusError
    if the folder holds something else (unless `overwrite`) or no sequence is left for a split.
    """
    identity = source_identity(source, settings)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise CorpusError(f"{folder} holds files that are no corpus, which are left alone; choose another --out")
    if (folder / MANIFEST).is_file() and not overwrite:
        existing = Corpus.open(folder)
        if existing.manifest.identity == identity:
            return existing, False
        raise CorpusError(
            f"{folder} already holds a corpus made from other text or settings;"
            " choose another --out or pass --overwrite"
        )
    check_nothing_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing_aside(folder) as aside:
        manifest = write_corpus(source, settings, aside, progress)
        write_manifest(aside, manifest.model_copy(update={"identity": identity}))
        replace_folder(aside, folder)
    return Corpus.open(folder), True


def source_identity(source: Source, settings: PrepareSettings) -> str:
    """Return a digest of the input's content and the settings."""
    digest = hashlib.sha256()
    parts = {
        "source": source.name,
        "settings": settings.model_dump(),
        "identity": source.identity,
        "splits": {name: len(files) for name, files in source.splits.items()},
    }
    digest.update(json.dumps(parts, sort_keys=True).encode())
    for path in source.files:
        try:
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]


def choose_vocabulary(source: Source, settings: PrepareSettings, token_counts: pl.DataFrame) -> Vocabulary:
    """Return the vocabulary that came with the source, or the most frequent tokens where fewer are asked for.

    Raises CorpusError if the source's likelihood is known for the whole vocabulary only.
    """
    listed, size = source.vocabulary, settings.vocabulary_size
    if listed is None:
        return Vocabulary.from_counts(token_counts, size, settings.min_count)
    if (size is None or size >= len(listed)) and settings.min_count == 1:
        return Vocabulary.of(listed)
    if source.exact:
        raise CorpusError(f"{source.name} keeps its {len(listed)} words: its exact likelihood is that of all of them")
    return Vocabulary.from_counts(token_counts, size, settings.min_count)


def write_corpus(source: Source, settings: PrepareSettings, folder: Path, progress: Callable[[str], None]) -> Manifest:
    """Run the three passes into an empty folder; return the manifest."""
    spool = folder / "spool"
    spool.mkdir()
    numbers = TokenNumbers()
    dropped, buckets = spool_sequences(source, settings, numbers, spool, progress)
    counts, duplicates, overlap = settle_buckets(buckets, settings, progress)
    dropped += Counter(duplicate=duplicates)
    met = np.flatnonzero(counts.sum(axis=0))
    tokens = numbers.tokens(met)
    in_training = pl.DataFrame({"token": tokens, "count": counts[0, met]}).filter(pl.col("count") > 0)
    vocabulary = choose_vocabulary(source, settings, in_training)
    vocabulary.write(folder / VOCABULARY)
    ids: Ids = np.zeros(counts.shape[1], np.uint16 if len(vocabulary) <= 2**16 else np.uint32)
    ids[met] = vocabulary.encode_column(tokens).to_numpy()
    splits = encode_buckets(buckets, ids, folder, progress)
    shutil.rmtree(spool)
    check_splits(splits, dropped)
    files = [VOCABULARY, *(name for split in splits.values() for name in split.shards)]
    return Manifest(
        source=source.name,
        fingerprint=fingerprint(folder, files),
        settings=settings.model_dump(),
        origin=dict(source.identity) if source.name == "synthetic-topics" else {},
        vocabulary_size=len(vocabulary),
        splits=splits,
        dropped=dict(dropped.most_common()),
        also_in_train=overlap,
        files={name: (folder / name).stat().st_size for name in files},
    )


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


def spool_sequences(
    source: Source, settings: PrepareSettings, numbers: TokenNumbers, spool: Path, progress: Callable[[str], None]
) -> tuple[Counter[str], list[list[Path]]]:
    """Clean the source chunk by chunk into files by hash; return drop counts and the files by bucket."""
    paths = [spool / f"{number:03d}.arrow" for number in range(NUM_PARTITIONS)]
    num_bytes: Counter[int] = Counter()
    dropped: Counter[str] = Counter()
    num_rows = 0
    with ExitStack() as stack:
        writers: dict[int, pa.ipc.RecordBatchFileWriter] = {}
        for split, part in ((split, part) for split, parts in source.splits.items() for part in parts):
            for chunk in part.chunks():
                kept, reasons = clean(chunk, settings)
                dropped.update(reasons)
                num_rows += chunk.height
                kept = kept.with_columns(
                    numbers.of(kept["tokens"]), split=pl.lit(split), place=pl.col("key") // (2**64 // NUM_PARTITIONS)
                )
                for (place,), found in kept.partition_by("place", as_dict=True, include_key=False).items():
                    num_bytes[place] += int(found["num_bytes"].sum())
                    repeats = settings.deduplicate and found["key"].n_unique() < found.height
                    rows = in_order(found, deduplicate=True) if repeats else found
                    dropped["duplicate"] += found.height - rows.height
                    table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
                    if place not in writers:
                        writers[place] = stack.enter_context(pa.ipc.new_file(str(paths[place]), table.schema))
                    writers[place].write_table(table)
                progress(f"read {num_rows:,} sequences, dropped {dropped.total():,}")
    return dropped, gather_buckets(paths, num_bytes)


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
    buckets: list[list[Path]], settings: PrepareSettings, progress: Callable[[str], None]
) -> tuple[NDArray[np.int64], int, dict[str, int]]:
    """Deduplicate, order and split each bucket in place.

    Returns how often each token, by its number, occurs in the training split and in the others, [2, numbers]; the
    number of duplicates dropped; how many sequences of each other split occur word for word in the training split.
    """
    counts = np.zeros((2, 0), np.int64)
    num_duplicates = 0
    overlap: dict[str, int] = defaultdict(int)
    groups = []
    for number, paths in enumerate(buckets, 1):
        found = pl.concat(map(pl.read_ipc, paths))
        rows = in_order(found, deduplicate=settings.deduplicate).with_columns(split=choose_split(settings))
        num_duplicates += found.height - rows.height
        train = rows.filter(pl.col("split") == "train")
        for split in SPLITS[1:]:
            other = rows.filter(pl.col("split") == split)
            overlap[split] += other.join(train, on="key", how="semi").height
        for place, part in enumerate((train, rows.filter(pl.col("split") != "train"))):
            new = np.bincount(flat(part["tokens"]))
            counts = np.pad(counts, ((0, 0), (0, max(0, len(new) - counts.shape[1]))))
            counts[place, : len(new)] += new
        rows.write_ipc(settled(paths))
        if settings.split_by_group:
            groups.append(rows.select("group_key", "split").unique())
        progress(f"split {number} of {len(buckets)} parts")
    if groups:
        check_groups(pl.concat(groups).unique())
    return counts, num_duplicates, dict(overlap)


def in_order(rows: pl.DataFrame, *, deduplicate: bool) -> pl.DataFrame:
    """Order sequences by what they are, and keep the first of equal ones only."""
    rows = rows.sort("key", "group_key", "num_bytes", "split")
    return rows.unique("key", keep="first", maintain_order=True) if deduplicate else rows


def flat(lists: pl.Series) -> NDArray[np.integer]:
    """Return the elements of all lists, one after the other."""
    return lists.explode(empty_as_null=False).to_numpy()


def settled(paths: list[Path]) -> Path:
    """Return where a bucket lies once it is deduplicated, ordered and split."""
    return paths[0].with_suffix(".settled")


def encode_buckets(
    buckets: list[list[Path]], ids_by_number: Ids, folder: Path, progress: Callable[[str], None]
) -> dict[str, SplitManifest]:
    """Write each bucket's sequences as one shard a split; return what the manifest says of the splits."""
    splits = {name: SplitManifest(num_sequences=0, num_tokens=0, num_bytes=0, shards=[]) for name in SPLITS}
    for number, paths in enumerate(buckets):
        rows = pl.read_ipc(settled(paths))
        for name, split in splits.items():
            part = rows.filter(pl.col("split") == name)
            if part.height == 0:
                continue
            ids = ids_by_number[flat(part["tokens"])]
            lengths, num_bytes = part["tokens"].list.len().to_numpy(), part["num_bytes"].to_numpy()
            shard = f"{name}-{number:05d}.arrow"
            write_shard(folder / shard, ids, lengths, num_bytes)
            split.shards.append(shard)
            split.num_sequences += part.height
            split.num_tokens += len(ids)
            split.num_bytes += int(num_bytes.sum())
            split.num_unknown += int((ids == UNK_ID).sum())
        progress(f"encoded {number + 1} of {len(buckets)} parts")
    return splits
