"""The prepared corpus on disk: Arrow shards opened memory-mapped, a vocabulary and a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.errors import CorpusError
from data.files import first_line
from data.manifest import MANIFEST, Manifest, file_stamps, inside, is_verified, read_manifest, remember_verified
from data.vocabulary import Vocabulary

VOCABULARY = "vocabulary.json"
Ids = NDArray[np.integer]
"""Token ids, of 16 bits where the vocabulary allows it."""
_NONE: NDArray[np.int64] = np.empty(0, np.int64)

MOST_TOKENS = 1000
"""Of a sequence of a corpus whose manifest does not say it."""


class Split:
    """One split's sequences, read from memory-mapped shards that all processes of a node share."""

    def __init__(self, name: str, shards: Sequence[pa.RecordBatch]) -> None:
        """Hold a split's shards; raise CorpusError if a shard's offsets do not fit its tokens."""
        self.name = name
        offsets = [as_array(shard.column("tokens").offsets) for shard in shards]
        self._values: list[Ids] = [as_array(shard.column("tokens").values) for shard in shards]
        self._offsets = offsets
        self._ends = np.cumsum([len(shard) for shard in shards])
        # Of half the size and written once: with millions of sequences, what takes time and memory when opening
        self.lengths: NDArray[np.int32] = np.empty(sum(map(len, shards)), np.int32)
        for stop, ends, values in zip(self._ends, offsets, self._values, strict=True):
            lengths = self.lengths[stop - len(ends) + 1 : stop]
            np.subtract(ends[1:], ends[:-1], out=lengths, casting="same_kind")
            if len(lengths) and (lengths.min() < 0 or ends[0] < 0 or ends[-1] > len(values)):
                raise CorpusError(f"a shard of {name} is damaged: its offsets do not fit its {len(values)} tokens")
        self._labels = [as_array(shard.column("label")) for shard in shards if "label" in shard.schema.names]
        self._num_bytes = [as_array(shard.column("num_bytes")) for shard in shards]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def num_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes of each sequence's text."""
        return np.concatenate([_NONE, *self._num_bytes], dtype=np.int64)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The label of each sequence, by its place in the manifest's list, -1 without one."""
        found = np.concatenate([_NONE, *self._labels], dtype=np.int64)
        return found if len(found) == len(self) else np.full(len(self), -1)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, `<s>` and `</s>` not counted."""
        return int(self.lengths.sum())

    @property
    def highest_id(self) -> int:
        """The highest token id of all sequences, -1 without any; reads everything."""
        return max((int(values.max()) for values in self._values if len(values)), default=-1)

    def take(self, indices: NDArray[np.int64]) -> Ids:
        """Return the token ids of some sequences one after another, each without `<s>` and `</s>`."""
        if len(self._values) == 1:
            starts = self._offsets[0][indices]
            found: Ids = self._values[0][runs(starts, self.lengths[indices])]
            return found
        shards = np.searchsorted(self._ends, indices, side="right")
        rows = indices - np.concatenate([[0], self._ends])[shards]
        places = zip(shards.tolist(), rows.tolist(), strict=True)
        parts = [self._values[shard][slice(*self._offsets[shard][row : row + 2])] for shard, row in places]
        return np.concatenate(parts) if parts else _NONE

    def sequence(self, index: int) -> Ids:
        """Return the token ids of one sequence, without `<s>` and `</s>`, as a view of the shard."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[shard - 1]) if shard else 0)
        start, stop = self._offsets[shard][row : row + 2]
        view: Ids = self._values[shard][start:stop]
        return view


def as_array(column: pa.Array) -> NDArray[np.integer]:
    """Return a column of whole numbers as an array over the same memory."""
    # Not to_numpy: that imports pandas, which takes a hundred times as long as opening a corpus.
    return cast("NDArray[np.integer]", np.from_dlpack(column))


def runs(starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the whole numbers from each start on, as many as its length, one run after another."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: its folder and what its manifest says of it."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """Open a folder that `study corpus prepare` wrote; raise CorpusError if it is none or damaged."""
        folder = Path(folder).absolute()
        manifest = read_manifest(folder)
        for name, size in manifest.files.items():
            path = inside(folder, name)
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                raise CorpusError(
                    f"{path} should have {size} bytes, found {'no file' if found is None else found};"
                    " the corpus is damaged: prepare it again with --overwrite"
                )
        corpus = cls(folder, manifest)
        if not is_verified(folder, manifest):
            corpus.verify()
        return corpus

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, read when it is first asked for: training needs its size alone."""
        vocabulary = Vocabulary.read(self.folder / VOCABULARY)
        if len(vocabulary) != self.vocabulary_size:
            raise CorpusError(
                f"{self.folder} is damaged: {len(vocabulary)} tokens in {VOCABULARY}, {self.vocabulary_size} in"
                f" {MANIFEST}; prepare it again with --overwrite"
            )
        return vocabulary

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens known, the four special ones counted."""
        return self.manifest.vocabulary_size

    @property
    def longest(self) -> int:
        """The most tokens that a sequence of it can have, `<s>` and `</s>` included."""
        most = self.manifest.settings.get("max_tokens")
        return 2 + (most if isinstance(most, int) else MOST_TOKENS)

    @property
    def name(self) -> str:
        """The corpus' name: that of its source, or of its folder for a user's own files."""
        source = self.manifest.source
        return self.folder.name if source == "files" else source

    @property
    def fingerprint(self) -> str:
        """A digest of the content: equal exactly when sequences and vocabulary are."""
        return self.manifest.fingerprint

    @property
    def cleaning(self) -> dict[str, object]:
        """The settings of `CleaningSettings` by which new text is tokenised as this corpus was."""
        names = ("tokenizer", "pattern", "lowercase", "normalization")
        return {name: self.manifest.settings[name] for name in names if name in self.manifest.settings}

    def split(self, name: str) -> Split:
        """Open the split `train`, `valid` or `test`."""
        if name not in self.manifest.splits:
            raise CorpusError(f"unknown split {name!r}; expected one of {', '.join(self.manifest.splits)}")
        return Split(name, [self._shard(file) for file in self.manifest.splits[name].shards])

    def verify(self) -> None:
        """Read everything and raise CorpusError unless the content has the manifest's fingerprint and every id a token.

        Opening does this too, once a node for files that have not changed since.
        """
        try:
            stamps = file_stamps(self.folder, self.manifest)
            found = fingerprint(self.folder, list(self.manifest.files))
        except OSError as error:
            raise CorpusError(f"{error.filename} cannot be read: {error.strerror}") from None
        if found != self.fingerprint:
            raise CorpusError(
                f"{self.folder} is damaged: its files have fingerprint {found}, its manifest says {self.fingerprint};"
                " prepare it again with --overwrite"
            )
        for name in self.manifest.splits:
            highest = self.split(name).highest_id
            if highest >= self.vocabulary_size:
                raise CorpusError(
                    f"{self.folder} is damaged: token id {highest} in {name}, but {self.vocabulary_size} tokens are"
                    " known; prepare it again with --overwrite"
                )
        remember_verified(self.folder, self.manifest, stamps)

    def _shard(self, name: str) -> pa.RecordBatch:
        path = inside(self.folder, name)
        try:
            file = pa.ipc.open_file(pa.memory_map(str(path)))
            batch = file.get_batch(0)
            batch.validate()
            if file.num_record_batches != 1 or not batch.schema.equals(shard_schema(batch)):
                raise CorpusError(f"{path} is no shard of a corpus: it has columns {batch.schema.to_string()!r}")
        except (OSError, pa.ArrowException, KeyError, IndexError) as error:
            raise CorpusError(f"{path} is no shard of a corpus: {first_line(error)}") from None
        return batch


def shard_schema(batch: pa.RecordBatch) -> pa.Schema:
    """Return the columns that a shard has: lists of 16- or 32-bit token ids, bytes of each sequence's text, a label."""
    found = batch.schema.field("tokens").type
    ids = found.value_type if isinstance(found, pa.LargeListType) and found.value_type == pa.uint16() else pa.uint32()
    label = {"label": pa.int32()} if "label" in batch.schema.names else {}
    return pa.schema({"tokens": pa.large_list(ids), "num_bytes": pa.uint32(), **label})


def write_shard(
    path: Path,
    tokens: Ids,
    lengths: NDArray[np.integer],
    num_bytes: NDArray[np.integer],
    labels: NDArray[np.int32] | None = None,
) -> None:
    """Write sequences, given as their concatenated token ids and their lengths, as one Arrow record batch."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(tokens))
    columns = {"tokens": column, "num_bytes": pa.array(num_bytes.astype(np.uint32))}
    batch = pa.record_batch(columns if labels is None else {**columns, "label": pa.array(labels)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def fingerprint(folder: Path, names: Sequence[str]) -> str:
    """Return a digest of the named files' content."""
    digest = hashlib.sha256()
    for name in sorted(names):
        with (folder / name).open("rb") as stream:
            digest.update(name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
