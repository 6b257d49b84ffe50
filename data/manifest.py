"""What a prepared corpus says of itself, and what this node has verified of it."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from data.errors import CorpusError
from data.files import DamagedFileError, is_sealed, of_type, read_json, sealed, write_text

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1


class SplitManifest(BaseModel):
    """What a manifest says of one split."""

    model_config = ConfigDict(extra="allow")

    num_sequences: int = Field(ge=0)
    num_tokens: int = Field(ge=0)
    num_bytes: int = Field(ge=0)
    num_unknown: int = Field(default=0, ge=0)
    """Tokens that are not in the vocabulary."""
    num_single: int = Field(default=0, ge=0)
    """Sequences of fewer than two tokens."""
    longest_bytes: int = Field(default=0, ge=0)
    """Of the longest sequence."""
    shards: list[str]


class TextBytes(BaseModel):
    """Where the UTF-8 bytes of all text that was read went, a line end counted with each sequence."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = {}
    """By the reason."""

    def check(self) -> None:
        """Raise CorpusError if text was lost without a reason."""
        lost = self.read - self.kept - sum(self.dropped.values())
        if lost:
            raise CorpusError(
                f"{abs(lost):,} bytes of text {'were lost' if lost > 0 else 'came from nowhere'} while preparing, which"
                " is an error of this program; nothing was written: please report it with the command"
            )


class Manifest(BaseModel):
    """What a manifest must hold; more is kept as it is."""

    model_config = ConfigDict(extra="allow")

    schema_version: int = SCHEMA_VERSION
    source: str
    """The name of a named corpus, or `files`."""
    splits: dict[str, SplitManifest]
    files: dict[str, int]
    """Bytes of each file beside the manifest."""
    fingerprint: str
    settings: dict[str, object]
    """Those of `PrepareSettings`."""
    vocabulary_size: int = Field(ge=1)
    dropped: dict[str, int] = {}
    """Sequences that were left out, by the reason."""
    text_bytes: TextBytes = TextBytes()
    labels: list[str] = []
    """Names of the labels of sequences, if they have any."""
    also_in_train: dict[str, int] = {}
    """Sequences of each other split that occur word for word in the training split."""
    origin: dict[str, object] = {}
    """What a corpus that is no files of the user's was made by."""
    identity: str = ""
    """A digest of the input and the settings that it was made of."""
    digest: str = ""
    """Of all the others."""


def read_manifest(folder: Path) -> Manifest:
    """Read and check a corpus' manifest; raise CorpusError if it is missing, foreign, damaged or of another version."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise CorpusError(f"{folder} is no folder; run `study corpus prepare` first")
    if not path.exists():
        raise CorpusError(f"{folder} has no {MANIFEST}; run `study corpus prepare` first")
    try:
        stored: dict[str, object] = read_json(path, dict[str, object])
        version = stored.get("schema_version")
        if version is not None and version != SCHEMA_VERSION:
            raise CorpusError(f"{path} has schema version {version}, expected {SCHEMA_VERSION}; prepare it again")
        manifest = of_type(stored, Manifest, path)
    except DamagedFileError as error:
        raise CorpusError(f"{error}; it is no manifest of a corpus: prepare the corpus again") from None
    for name in (*manifest.files, *(name for split in manifest.splits.values() for name in split.shards)):
        inside(folder, name)
    cleaning = {"tokenizer", "pattern", "lowercase"} - set(manifest.settings)
    if cleaning or is_sealed(stored) is False:
        what = f"settings lack {', '.join(sorted(cleaning))}" if cleaning else "its digest is not that of its content"
        raise CorpusError(f"{path} is damaged: {what}; prepare the corpus again with --overwrite")
    return manifest.model_copy(update={"digest": sealed(stored)["digest"]})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a corpus' manifest, with a digest of what it says."""
    write_text(folder / MANIFEST, json.dumps(sealed(manifest.model_dump()), indent=1) + "\n")


def file_stamps(folder: Path, manifest: Manifest) -> dict[str, list[int]]:
    """Return size, times of change and place on the disk of each file: other content has another stamp."""
    found = {name: (folder / name).stat() for name in manifest.files}
    return {name: [at.st_size, at.st_mtime_ns, at.st_ctime_ns, at.st_ino] for name, at in found.items()}


def verified_list(folder: Path) -> Path:
    """Return where this node keeps what it has verified of a corpus: in the user's cache, never beside the corpus."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    return cache / "pooled-vae-study" / "verified" / f"{name}.json"


def is_verified(folder: Path, manifest: Manifest) -> bool:
    """Say whether this node has read these very files before and found them to be what the manifest says."""
    try:
        known: dict[str, object] = read_json(verified_list(folder), dict[str, object])
        return known == {"manifest": manifest.digest, "files": file_stamps(folder, manifest)}
    except (DamagedFileError, OSError, RuntimeError):
        return False


def remember_verified(folder: Path, manifest: Manifest, stamps: dict[str, list[int]]) -> None:
    """Note that files with these stamps are what the manifest says; where nothing can be noted they are read again."""
    with suppress(OSError, RuntimeError):
        path = verified_list(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"manifest": manifest.digest, "files": stamps}))


def inside(folder: Path, name: str) -> Path:
    """Return folder/name; raise CorpusError if the name leads out of the folder."""
    path = folder / name
    if Path(name).name != name or "\0" in name:
        raise CorpusError(f"{folder / MANIFEST} names the file {name!r}, which is outside its folder")
    return path
