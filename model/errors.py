"""The one exception that this package raises for a user's mistake."""


class ModelError(ValueError):
    """A network's settings or weights are not usable; the message says what to do."""
