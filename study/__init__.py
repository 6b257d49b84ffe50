"""Trying settings: the search, its record and its command line, over `model` and `data`.

`from study import Study` opens a study's results in Python.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.api import Study as Study


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: the command line starts without it."""
    if name == "Study":
        from study.api import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
