"""Molecules of the MOSES benchmark, as SMILES (Polykovskiy et al., arXiv 1811.12823)."""

from __future__ import annotations

import gzip
import zipfile
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from data.errors import CorpusError
from data.sources.source import Frames, Source

FILES = {"train": "train.csv.gz", "valid": "test.csv.gz", "test": "test_scaffolds.csv.gz"}
"""The benchmark's own splits; its test set validates, and its set of unseen scaffolds tests."""
INSIDE = "moses/dataset/data"
MEND = "pip install --no-deps molsets, or name the wheel or the folder of its files by --from"


def moses(place: Path | None, seed: int) -> Source:
    """Return the molecules of the package `molsets`: installed, in its wheel, or in a folder of its files."""
    frames = {
        split: pl.read_csv(read(place, name), columns=["SMILES"], infer_schema=False).rename({"SMILES": "text"})
        for split, name in FILES.items()
    }
    origin = {"molecules": {split: frame.height for split, frame in frames.items()}}
    splits = {split: [Frames(frame)] for split, frame in frames.items()}
    return Source("moses", splits, {"tokenizer": "smiles", "deduplicate": False}, origin, origin)


def read(place: Path | None, name: str) -> bytes:
    """Return the content of one of the package's files; raise CorpusError if it is not there."""
    if place is not None and place.is_file():
        try:
            with zipfile.ZipFile(place) as wheel:
                return gzip.decompress(wheel.read(f"{INSIDE}/{name}"))
        except (zipfile.BadZipFile, KeyError) as error:
            raise CorpusError(f"{place} is no wheel of molsets ({error}); {MEND}") from None
    folders = [place] if place is not None else installed()
    for folder in folders:
        for path in (folder / name, folder / INSIDE / name):
            if path.is_file():
                return gzip.decompress(path.read_bytes())
    where = f"{place} has no {name}" if place is not None else "the package molsets is not installed"
    raise CorpusError(f"{where}; {MEND}")


def installed() -> list[Path]:
    """Return where the package's files are; its code, which needs much else, is not imported."""
    spec = find_spec("moses")
    return [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "dataset" / "data"]
