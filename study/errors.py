"""The one exception that this package raises for a user's mistake, and how others' are told."""

from data.files import first_line

__all__ = ["DamagedRecordError", "StudyError", "StudyWarning", "first_line", "tells_of_full_disk"]


class StudyError(ValueError):
    """Settings, a study or an address are not what was asked for; the message says what to do."""


def tells_of_full_disk(text: str) -> bool:
    """Say whether an error says that the disk, or one's share of it, is full: in the system's words, or SQLite's."""
    return any(words in text for words in ("No space left on device", "Disk quota exceeded", "disk is full"))


class DamagedRecordError(StudyError):
    """A study's record is not what was written; `study doctor NAME --repair` mends it."""


class StudyWarning(UserWarning):
    """Something that the user should know and that stops nothing; told in one line."""
