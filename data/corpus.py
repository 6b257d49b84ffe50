"""The prepared corpus on disk: Arrow shards opened memory-mapped, a vocabulary and a manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.errors import CorpusError
from data.vocabulary import Vocabulary

SCHEMA_VERSION = 1
MANIFEST, VOCABULARY = "manifest.json", "vocabulary.json"
_NONE: NDArray[np.int64] = np.empty(0, np.int64)


class Split:
    """One split's sequences, read from memory-mapped shards that all processes of a node share."""

    def __init__(self, name: str, shards: Sequence[pa.RecordBatch]) -> None:
        self.name = name
        # from_dlpack, not to_numpy: that imports pandas, which takes a hundred times as long as opening a corpus
        offsets = [np.from_dlpack(shard.column("tokens").offsets) for shard in shards]
        self._values: list[NDArray[Any]] = [np.from_dlpack(shard.column("tokens").values) for shard in shards]
        self._offsets = offsets
        self._ends = np.cumsum([len(shard) for shard in shards])
        # Of half the size and written once: with millions of sequences, what takes time and memory when opening
        self.lengths: NDArray[np.int32] = np.empty(sum(map(len, shards)), np.int32)
        for stop, ends in zip(self._ends, offsets, strict=True):
            np.subtract(ends[1:], ends[:-1], out=self.lengths[stop - len(ends) + 1 : stop], casting="same_kind")
        self._num_bytes = [np.from_dlpack(shard.column("num_bytes")) for shard in shards]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def num_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes of each sequence's text."""
        return np.concatenate([_NONE, *self._num_bytes], dtype=np.int64)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, `<s>` and `</s>` not counted."""
        return int(self.lengths.sum())

    def sequence(self, index: int) -> NDArray[np.integer[Any]]:
        """Return the token ids of one sequence, without `<s>` and `</s>`, as a view of the shard."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[shard - 1]) if shard else 0)
        start, stop = self._offsets[shard][row : row + 2]
        view: NDArray[np.integer[Any]] = self._values[shard][start:stop]
        return view


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: its folder and what its manifest says of it."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path | str) -> Corpus:
        """Open a folder that `study corpus prepare` wrote; raise CorpusError if it is none or damaged."""
        folder = Path(folder).absolute()
        manifest = read_manifest(folder)
        for name, size in manifest["files"].items():
            path = inside(folder, name)
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                raise CorpusError(
                    f"{path} should have {size} bytes, found {'no file' if found is None else found};"
                    " the corpus is damaged: prepare it again with --overwrite"
                )
        return cls(folder, manifest)

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
        return int(self.manifest["vocabulary_size"])

    @property
    def name(self) -> str:
        """The corpus' name: that of its source, or of its folder for a user's own files."""
        source = str(self.manifest["source"])
        return self.folder.name if source == "files" else source

    @property
    def fingerprint(self) -> str:
        """A digest of the content: equal exactly when sequences and vocabulary are."""
        return str(self.manifest["fingerprint"])

    @property
    def cleaning(self) -> dict[str, Any]:
        """The settings of `CleaningSettings` by which new text is tokenised as this corpus was."""
        return {name: self.manifest["settings"][name] for name in ("tokenizer", "pattern", "lowercase")}

    def split(self, name: str) -> Split:
        """Open the split `train`, `valid` or `test`."""
        if name not in self.manifest["splits"]:
            raise CorpusError(f"unknown split {name!r}; expected one of {', '.join(self.manifest['splits'])}")
        return Split(name, [self._shard(file) for file in self.manifest["splits"][name]["shards"]])

    def verify(self) -> None:
        """Read everything and raise CorpusError unless the content has the manifest's fingerprint."""
        found = fingerprint(self.folder, list(self.manifest["files"]))
        if found != self.fingerprint:
            raise CorpusError(f"{self.folder} has fingerprint {found}, its manifest says {self.fingerprint}")

    def _shard(self, name: str) -> pa.RecordBatch:
        try:
            batch = pa.ipc.open_file(pa.memory_map(str(inside(self.folder, name)))).get_batch(0)
            tokens = batch.column("tokens")
            assert isinstance(tokens, pa.LargeListArray)
        except (OSError, pa.ArrowException, AssertionError, KeyError) as error:
            raise CorpusError(f"{self.folder / name} is no shard of a corpus: {error}") from None
        return batch


def inside(folder: Path, name: str) -> Path:
    """Return folder/name; raise CorpusError if the name leads out of the folder."""
    path = folder / name
    if Path(name).name != name:
        raise CorpusError(f"{folder / MANIFEST} names the file {name!r}, which is outside its folder")
    return path


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check a corpus' manifest."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CorpusError(f"{folder} is no folder; run `study corpus prepare` first")
    if not path.is_file():
        raise CorpusError(f"{folder} has no {MANIFEST}; run `study corpus prepare` first")
    try:
        manifest = json.loads(path.read_text("utf-8"))
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path} is no manifest of a corpus ({error}); prepare the corpus again") from None
    if version != SCHEMA_VERSION:
        raise CorpusError(f"{path} has schema version {version}, expected {SCHEMA_VERSION}; prepare it again")
    missing = {"source", "splits", "files", "fingerprint", "settings", "vocabulary_size"} - set(manifest)
    if missing:
        raise CorpusError(f"{path} lacks {', '.join(sorted(missing))}; prepare the corpus again")
    return dict(manifest)


def write_shard(path: Path, tokens: NDArray[Any], lengths: NDArray[Any], num_bytes: NDArray[Any]) -> None:
    """Write sequences, given as their concatenated token ids and their lengths, as one Arrow record batch."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    column = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(tokens))
    batch = pa.record_batch({"tokens": column, "num_bytes": pa.array(num_bytes.astype(np.uint32))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def fingerprint(folder: Path, names: Sequence[str]) -> str:
    """Return a digest of the named files' content."""
    digest = hashlib.sha256()
    for name in sorted(names):
        with (folder / name).open("rb") as stream:
            digest.update(name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
