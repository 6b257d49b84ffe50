"""What a trainable of the user's own may want: saving a file whole or not at all, and how far it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from study.record.journal import read_journal


@contextmanager
def set_aside(path: Path | str) -> Iterator[Path]:
    """Give the path of another file to write, and put it in the place of `path` once that went well.

    So that whoever is killed while a checkpoint is written keeps the one before.

    >>> with set_aside(folder / "checkpoint.pt") as aside:      # doctest: +SKIP
    ...     torch.save(state, aside)
    """
    path = Path(path)
    folder = Path(mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield folder / path.name
        if (folder / path.name).exists():
            (folder / path.name).replace(path)
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()


def epochs_done(folder: Path | str) -> int:
    """Return the number of the last epoch of a trial that is on record, from its folder; 0 before the first."""
    rows = read_journal(Path(folder))
    return rows[-1].number if rows else 0
