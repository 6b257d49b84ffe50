"""The one exception that this package raises for a user's mistake."""


class StudyError(ValueError):
    """Settings, a study or an address are not what was asked for; the message says what to do."""
