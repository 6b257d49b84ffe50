"""Where text goes that people read."""

from __future__ import annotations

import os

from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that keeps to plain text where it is not a terminal, and to $COLUMNS there, or full width."""
    console = Console(stderr=stderr, highlight=False, emoji=False)
    columns = os.environ.get("COLUMNS", "")
    if not console.is_terminal:
        console = Console(
            stderr=stderr,
            highlight=False,
            emoji=False,
            width=int(columns) if columns.isdecimal() and int(columns) >= 40 else 200,
        )
    return console
