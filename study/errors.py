"""The one exception that this package raises for a user's mistake, and how others' are told."""


class StudyError(ValueError):
    """Settings, a study or an address are not what was asked for; the message says what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def tells_of_full_disk(text: str) -> bool:
    """Say whether an error says that the disk, or one's share of it, is full: in the system's words, or SQLite's."""
    return any(words in text for words in ("No space left on device", "Disk quota exceeded", "disk is full"))
