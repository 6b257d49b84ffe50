"""The one exception that this package raises for a user's mistake, and how others' are told."""

import difflib
from collections.abc import Iterable

from data.files import first_line

__all__ = [
    "DamagedRecordError",
    "StudyError",
    "StudyWarning",
    "did_you_mean",
    "first_line",
    "nearest",
    "tells_of_full_disk",
]


class StudyError(ValueError):
    """Settings, a study or an address are not what was asked for; the message says what to do."""


def tells_of_full_disk(text: str) -> bool:
    """Say whether an error says that the disk, or one's share of it, is full: in the system's words, or SQLite's."""
    return any(words in text for words in ("No space left on device", "Disk quota exceeded", "disk is full"))


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return which known name was meant, as the end of an error; else what is said `otherwise`, or all of them."""
    names = list(known)
    close = nearest(name, names)
    return f"did you mean {close}?" if close else otherwise or f"expected one of {', '.join(names)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that a misspelt one is nearest to, or nothing."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), "")


class DamagedRecordError(StudyError):
    """A study's record is not what was written; `study doctor NAME --repair` mends it."""


class StudyWarning(UserWarning):
    """Something that the user should know and that stops nothing; told in one line."""
