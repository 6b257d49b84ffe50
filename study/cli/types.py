"""What options take: numbers that are finite and within reason, names, folders; and what the shell completes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from study.record.journal import study_names

LARGEST = 10**9
"""Of any count: beyond it, a number is a slip."""
MOST_DRAWN = 100_000
"""Texts, tokens, samples or seeds that one command makes."""


class Whole(click.IntRange):
    """A whole number within a range, and within reason."""

    name = "integer"

    def __init__(self, min: int | None = None, max: int | None = None) -> None:
        super().__init__(min=min, max=max)

    def _describe_range(self) -> str:
        """Return the range as help shows it; of one without ends nothing."""
        return "" if self.min is None and self.max is None else super()._describe_range()

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


class OneOf(click.ParamType[str]):
    """One of a few names, which help and the shell show."""

    name = "name"

    def __init__(self, *names: str) -> None:
        self.names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the names as help shows them."""
        return f"[{'|'.join(self.names)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name."""
        from study.errors import did_you_mean

        if value not in self.names:
            self.fail(f"no {str(value)[:80]!r}; {did_you_mean(str(value), self.names)}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so."""
        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


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


class Folder(click.Path):
    """A folder; an object store's address, which looks like a relative path, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if not str(value).strip():
            self.fail("expected a folder, got an empty name", param, ctx)
        if "://" in str(value):
            self.fail(f"{value}: expected a folder, such as an NFS mount; object stores do not do", param, ctx)
        return super().convert(value, param, ctx)


storage_option = click.option(
    "--storage",
    default="runs",
    show_default=True,
    type=Folder(path_type=Path, file_okay=False),
    help="Folder of all studies; on a cluster, one that every node shares.",
)


def complete_study(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the studies whose names begin so, in the folder that `--storage` names or in `runs`."""
    storage = Path(context.params.get("storage") or "runs")
    return [CompletionItem(name) for name in study_names(storage) if name.startswith(incomplete)]


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the studies whose names begin so, and have the shell offer files too."""
    return [*complete_study(context, parameter, incomplete), CompletionItem(incomplete, type="file")]


def complete_preset(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the presets whose names begin so."""
    from study.config.settings import preset_names

    return [CompletionItem(name) for name in preset_names() if name.startswith(incomplete)]
