"""What the shell completes beside commands and options: names of studies and of presets."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from study.record.journal import study_names


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
