"""A corpus' folder written aside and put in its place, with nothing of anyone else's touched."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.corpus import VOCABULARY
from data.errors import CorpusError
from data.files import lock, remove_files
from data.manifest import MANIFEST

MARK = ".making"
"""The file by which a folder is known to be one that is being written, and by which one process holds it."""
OWN_FILE = re.compile(rf"{MANIFEST}|{VOCABULARY}|{MARK}|(train|valid|test)-\d+\.arrow")


def check_nothing_foreign(folder: Path) -> None:
    """Raise CorpusError if a folder that is to be replaced holds anything that is not of a corpus."""
    foreign = [path.name for path in folder.iterdir() if not is_own(path)] if folder.exists() else []
    if foreign:
        raise CorpusError(
            f"{folder} holds files that are not the corpus' and are left alone: {', '.join(sorted(foreign)[:5])};"
            " move them away, or choose another --out"
        )


def is_own(path: Path) -> bool:
    """Say whether a file in a corpus' folder is one that preparing writes."""
    return OWN_FILE.fullmatch(path.name) is not None and not path.is_symlink() and path.is_file()


@contextmanager
def writing_aside(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside another, alone; what a killed process left there is removed first.

    Raises CorpusError if another process is at it, or the name is taken by something else.
    """
    aside = folder.parent / f".{folder.name}.writing"
    if aside.exists() and not (aside / MARK).is_file() and any(aside.iterdir()):
        raise CorpusError(f"{aside} is in the way and no leftover of this command's; move it away")
    aside.mkdir(exist_ok=True)
    with (aside / MARK).open("a") as stream:
        if not lock(stream, wait=False):
            raise CorpusError(f"{folder} is being prepared by another process; wait for it")
        for left in aside.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != MARK:
                left.unlink()
        try:
            yield aside
        finally:
            # Ours alone by its mark, and gone from here once it is in its place.
            shutil.rmtree(aside, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put a new corpus in the place of an old one, which may not exist; files of neither stay where they are."""
    if folder.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent)) / "old"
        folder.rename(old)
        new.rename(folder)
        remove_files(old, [path.name for path in old.iterdir() if is_own(path)])
        remove_files(old.parent, [])
    else:
        new.rename(folder)
    (folder / MARK).unlink()
