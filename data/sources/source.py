"""What a corpus is made of: text by split, and what is usual for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from data.sources.text_file import TextFile

SPLITS = ("train", "valid", "test")
CHUNK_ROWS = 50_000


@dataclass(frozen=True)
class Frames:
    """Sequences that a program made, in place of a file."""

    frame: pl.DataFrame

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Yield the frame's rows, as `TextFile.chunks` does."""
        yield from self.frame.iter_slices(CHUNK_ROWS)


@dataclass(frozen=True)
class Source:
    """Text by split (`all` where it does not come split), and what is usual for it.

    `defaults` are preparation settings that hold unless the user gives others; `identity` says which
    input this is and takes part in the corpus' fingerprint.
    """

    name: str
    splits: Mapping[str, list[TextFile | Frames]]
    defaults: Mapping[str, object] = field(default_factory=dict)
    identity: Mapping[str, object] = field(default_factory=dict)
    vocabulary: tuple[str, ...] | None = None
    exact: bool = False
    """Whether its likelihood is known, in its own vocabulary."""

    @property
    def files(self) -> list[Path]:
        """Every file that is read, in order."""
        return [part.path for parts in self.splits.values() for part in parts if isinstance(part, TextFile)]
