"""The one exception that this package raises for a user's mistake."""


class CorpusError(ValueError):
    """A source or a prepared corpus is not what was asked for; the message says what to do."""
