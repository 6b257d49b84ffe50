"""Trying settings: the search, its record and its command line, over `model` and `data`.

`from study import Study` opens a study's results in Python.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Study"]

if TYPE_CHECKING:
    from study.api import Study


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: the command line starts without it."""
    if name in __all__:
        from study import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
