"""Files that a user names to be written: checked before any work is done, then written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from data.files import written_aside
from study.errors import StudyError


def check_output(path: Path, endings: tuple[str, ...], option: str = "") -> None:
    """Raise StudyError unless a file with one of these endings can be written there."""
    subject = f"{option} {path}".strip()
    expected = f"{subject}: expected a {', '.join(endings)} file in a folder that exists"
    if path.suffix not in endings or path.is_dir() or not path.absolute().parent.is_dir():
        raise StudyError(expected)
    if path.exists() and not path.is_file():
        raise StudyError(f"{expected}; it is a device")
    if not os.access(path.absolute().parent, os.W_OK):
        raise StudyError(f"{expected} and can be written to")


def write_output(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` write a file aside, with the ending of `path`, and put it there once it is whole."""
    with written_aside(path) as aside:
        write(aside)


def refuse_foreign(paths: list[Path], document: Path) -> None:
    """Raise StudyError if files that go beside a document would replace others that it did not bring there itself."""
    there = [path for path in paths if os.path.lexists(path)]
    if not there:
        return
    text = document.read_text("utf-8", "replace") if document.is_file() else ""
    foreign = [path.name for path in there if path.name not in text]
    if foreign:
        raise StudyError(
            f"{document} brings files beside it, and {', '.join(foreign[:3])} of that name are there already; move them"
            " away, or choose another name"
        )
