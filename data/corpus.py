"""The prepared corpus on disk: Arrow shards opened memory-mapped, a vocabulary and a manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from data.errors import CorpusError
from data.files import DamagedFileError, check_type, first_line, is_sealed, read_json, sealed, write_text
from data.vocabulary import Vocabulary

SCHEMA_VERSION = 1
MANIFEST, VOCABULARY = "manifest.json", "vocabulary.json"
_NONE: NDArray[np.int64] = np.empty(0, np.int64)


class Split:
    """One split's sequences, read from memory-mapped shards that all processes of a node share."""

    def __init__(self, name: str, shards: Sequence[pa.RecordBatch]) -> None:
        """Hold a split's shards; raise CorpusError if a shard's offsets do not fit its tokens."""
        self.name = name
        # from_dlpack, not to_numpy: that imports pandas, which takes a hundred times as long as opening a corpus
        offsets: list[NDArray[Any]] = [np.from_dlpack(shard.column("tokens").offsets) for shard in shards]
        self._values: list[NDArray[Any]] = [np.from_dlpack(shard.column("tokens").values) for shard in shards]
        self._offsets = offsets
        self._ends = np.cumsum([len(shard) for shard in shards])
        # Of half the size and written once: with millions of sequences, what takes time and memory when opening
        self.lengths: NDArray[np.int32] = np.empty(sum(map(len, shards)), np.int32)
        for stop, ends, values in zip(self._ends, offsets, self._values, strict=True):
            lengths = self.lengths[stop - len(ends) + 1 : stop]
            np.subtract(ends[1:], ends[:-1], out=lengths, casting="same_kind")
            if len(lengths) and (lengths.min() < 0 or ends[0] < 0 or ends[-1] > len(values)):
                raise CorpusError(f"a shard of {name} is damaged: its offsets do not fit its {len(values)} tokens")
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

    @property
    def highest_id(self) -> int:
        """The highest token id of all sequences, -1 without any; reads everything."""
        return max((int(values.max()) for values in self._values if len(values)), default=-1)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.integer[Any]]:
        """Return the token ids of some sequences one after another, each without `<s>` and `</s>`."""
        if len(self._values) == 1:
            starts = self._offsets[0][indices]
            found: NDArray[np.integer[Any]] = self._values[0][runs(starts, self.lengths[indices])]
            return found
        shards = np.searchsorted(self._ends, indices, side="right")
        rows = indices - np.concatenate([[0], self._ends])[shards]
        places = zip(shards.tolist(), rows.tolist(), strict=True)
        parts = [self._values[shard][slice(*self._offsets[shard][row : row + 2])] for shard, row in places]
        return np.concatenate(parts) if parts else _NONE

    def sequence(self, index: int) -> NDArray[np.integer[Any]]:
        """Return the token ids of one sequence, without `<s>` and `</s>`, as a view of the shard."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[shard - 1]) if shard else 0)
        start, stop = self._offsets[shard][row : row + 2]
        view: NDArray[np.integer[Any]] = self._values[shard][start:stop]
        return view


def runs(starts: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the whole numbers from each start on, as many as its length, one run after another."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)


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
        """Read everything and raise CorpusError unless the content has the manifest's fingerprint and every id a token.

        Opening does this too, once a node for files that have not changed since.
        """
        try:
            stamps = file_stamps(self.folder, self.manifest)
            found = fingerprint(self.folder, list(self.manifest["files"]))
        except OSError as error:
            raise CorpusError(f"{error.filename} cannot be read: {error.strerror}") from None
        if found != self.fingerprint:
            raise CorpusError(
                f"{self.folder} is damaged: its files have fingerprint {found}, its manifest says {self.fingerprint};"
                " prepare it again with --overwrite"
            )
        for name in self.manifest["splits"]:
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


def inside(folder: Path, name: str) -> Path:
    """Return folder/name; raise CorpusError if the name leads out of the folder."""
    path = folder / name
    if Path(name).name != name or "\0" in name:
        raise CorpusError(f"{folder / MANIFEST} names the file {name!r}, which is outside its folder")
    return path


class SplitManifest(BaseModel):
    """What a manifest says of one split."""

    model_config = ConfigDict(extra="allow")

    num_sequences: int = Field(ge=0)
    num_tokens: int = Field(ge=0)
    num_bytes: int = Field(ge=0)
    shards: list[str]


class Manifest(BaseModel):
    """What a manifest must hold; more is kept as it is."""

    model_config = ConfigDict(extra="allow")

    schema_version: int
    source: str
    splits: dict[str, SplitManifest]
    files: dict[str, int]
    fingerprint: str
    settings: dict[str, Any]
    vocabulary_size: int = Field(ge=1)
    dropped: dict[str, int] = {}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check a corpus' manifest; raise CorpusError if it is missing, foreign, damaged or of another version."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CorpusError(f"{folder} is no folder; run `study corpus prepare` first")
    if not path.exists():
        raise CorpusError(f"{folder} has no {MANIFEST}; run `study corpus prepare` first")
    try:
        manifest: dict[str, Any] = read_json(path, dict[str, Any])
        version = manifest.get("schema_version")
        if version is not None and version != SCHEMA_VERSION:
            raise CorpusError(f"{path} has schema version {version}, expected {SCHEMA_VERSION}; prepare it again")
        check_type(manifest, Manifest, path)
    except DamagedFileError as error:
        raise CorpusError(f"{error}; it is no manifest of a corpus: prepare the corpus again") from None
    for name in (*manifest["files"], *(name for split in manifest["splits"].values() for name in split["shards"])):
        inside(folder, name)
    cleaning = {"tokenizer", "pattern", "lowercase"} - set(manifest["settings"])
    if cleaning or is_sealed(manifest) is False:
        what = f"settings lack {', '.join(sorted(cleaning))}" if cleaning else "its digest is not that of its content"
        raise CorpusError(f"{path} is damaged: {what}; prepare the corpus again with --overwrite")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a corpus' manifest, with a digest of what it says."""
    write_text(folder / MANIFEST, json.dumps(sealed(manifest), indent=1) + "\n")


def file_stamps(folder: Path, manifest: dict[str, Any]) -> dict[str, list[int]]:
    """Return size, times of change and place on the disk of each file: other content has another stamp."""
    found = {name: (folder / name).stat() for name in manifest["files"]}
    return {name: [at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino] for name, at in found.items()}


def verified_list(folder: Path) -> Path:
    """Return where this node keeps what it has verified of a corpus: in the user's cache, never beside the corpus."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    return cache / "pooled-vae-study" / "verified" / f"{name}.json"


def is_verified(folder: Path, manifest: dict[str, Any]) -> bool:
    """Say whether this node has read these very files before and found them to be what the manifest says."""
    try:
        known: dict[str, Any] = read_json(verified_list(folder), dict[str, Any])
        return known == {"manifest": sealed(manifest)["digest"], "files": file_stamps(folder, manifest)}
    except (DamagedFileError, OSError, RuntimeError):
        return False


def remember_verified(folder: Path, manifest: dict[str, Any], stamps: dict[str, list[int]]) -> None:
    """Note that files with these stamps are what the manifest says; where nothing can be noted they are read again."""
    with suppress(OSError, RuntimeError):
        path = verified_list(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"manifest": sealed(manifest)["digest"], "files": stamps}))


def shard_schema(batch: pa.RecordBatch) -> pa.Schema:
    """Return the columns that a shard has: lists of 16- or 32-bit token ids, and the bytes of each sequence's text."""
    found = batch.schema.field("tokens").type
    ids = found.value_type if isinstance(found, pa.LargeListType) and found.value_type == pa.uint16() else pa.uint32()
    return pa.schema({"tokens": pa.large_list(ids), "num_bytes": pa.uint32()})


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
