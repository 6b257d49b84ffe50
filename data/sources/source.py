"""What a corpus is made of: text by split, and what is usual for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from data.sources.columns import CHUNK_ROWS, whole
from data.sources.text_file import TextFile

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Frames:
    """Sequences that a program made, in place of a file: `text`, and `group` and `label` where they have any."""

    frame: pl.DataFrame

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Yield the frame's rows, as `TextFile.chunks` does."""
        yield from whole(self.frame).iter_slices(CHUNK_ROWS)


@dataclass(frozen=True)
class Source:
    """Text by split (`all` where it does not come split), and what is usual for it.

    `defaults` are preparation settings that hold unless the user gives others; `identity` says which
    input this is and takes part in the corpus' fingerprint.
    """

    name: str
    splits: Mapping[str, Sequence[TextFile | Frames]]
    defaults: Mapping[str, object] = field(default_factory=dict)
    identity: Mapping[str, object] = field(default_factory=dict)
    origin: Mapping[str, object] = field(default_factory=dict)
    """What the corpus' manifest says of where it came from."""
    vocabulary: tuple[str, ...] | None = None
    exact: bool = False
    """Whether its likelihood is known, in its own vocabulary."""

    @property
    def files(self) -> list[Path]:
        """Every file that is read, in order."""
        return [part.path for parts in self.splits.values() for part in parts if isinstance(part, TextFile)]
