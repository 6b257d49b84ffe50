"""What options take: numbers that are finite and no larger than anything can be, and names that text can hold."""

from __future__ import annotations

import math
from typing import Any

import click

LARGEST = 10**9
"""Of any count: beyond it, a number is a slip."""
MOST_DRAWN = 100_000
"""Texts, tokens, samples or seeds that one command makes."""


class Whole(click.IntRange):
    """A whole number within a range, and within reason."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        found = super().convert(value, param, ctx)
        if abs(found) > LARGEST:
            self.fail(f"expected a number of at most {LARGEST:,}, got one of {len(str(found))} digits.", param, ctx)
        return found


class Number(click.FloatRange):
    """A number that is finite, within a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no finite number.", param, ctx)
        return found


class Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the names, each once."""
        found = tuple(dict.fromkeys(each.strip() for each in str(value).split(",")))
        if not all(found):
            self.fail(f"{value!r}: expected names with commas between", param, ctx)
        return found


class NewFolder(click.Path):
    """A folder to be made, by a name that no library takes for a pattern or an address."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if any(mark in str(value) for mark in "*?[") or "://" in str(value) or not str(value).strip():
            self.fail(f"{value!r}: expected a folder's name, without *, ?, [ and ://", param, ctx)
        return super().convert(value, param, ctx)


def was_given(context: click.Context, name: str) -> bool:
    """Say whether an option was given, on the command line or in the environment, even with its default value."""
    from click.core import ParameterSource

    return context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
