"""A study, finished or not, as frames, JSON lines and tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from study.analysis.answer import answer_of, sentences
from study.epoch import BEST_EPOCH, MEASURED, Epoch
from study.metrics import METRICS, SHOWN, WIDE, with_ranked
from study.record.formats import LINE_BREAK, code, mean_and_spread, show_params, show_value
from study.record.states import State
from study.record.trials import (
    TrialRecord,
    best_trial,
    counts,
    epochs_frame,
    pareto_trials,
    seeds_frame,
    shown_state,
    trials_frame,
)
from study.reporting.outputs import write_output
from study.reporting.pooling import pooling_tables
from study.search.definition import Definition

if TYPE_CHECKING:
    from study.training.run_folder import RunNote


def describe_study(definition: Definition, trials: list[TrialRecord], reason: str) -> str:
    """Return a study's story in Markdown, for the parent run's description."""
    best = best_trial(trials)
    states = ", ".join(f"{count} {state}" for state, count in counts(definition, trials).items())
    lines = [
        f"**{definition.name}**: {len(trials)} of {definition.num_trials} trials on corpus"
        f" {code(definition.corpus_name)} ({definition.corpus_fingerprint}): {states}.",
        f"Ended early: {reason}." if reason else "",
        *sentences(definition, answer_of(definition, trials)),
        f"Reproduce: {code(definition.command)}" if definition.command else "",
        f"Best settings: {show_params(best.params)}" if best is not None and best.params else "",
    ]
    return LINE_BREAK.join(line for line in lines if line)


def verdict(trials: list[TrialRecord]) -> str:
    """Return one sentence: the best settings' numbers, or that none may win."""
    best = best_trial(trials)
    if not any(trial.rows for trial in trials):
        return "No trial has ended its first epoch yet."
    if best is None:
        return "No trial may win: each collapsed, failed, is under a floor or was dropped."
    row, early = best.best, "" if best.state == State.COMPLETE else f" ({best.state}, not at its end)"
    return (
        f"Best: trial {best.number}{early} with {best.ranked} {best.score:.2f} nats, KL {row['valid/kl']:.2f},"
        f" MI {row['valid/mi']:z.2f} nats, {row['valid/au']} active units."
    )


def shown_metrics(definition: Definition) -> tuple[str, ...]:
    """Return the metrics that every table of a study's trials shows."""
    return with_ranked(SHOWN, definition.goal.ranked)


def headings(names: tuple[str, ...]) -> list[str]:
    """Return what metrics are called."""
    return [METRICS[name].heading for name in names]


def metric_cells(best: Epoch, names: tuple[str, ...] = SHOWN) -> list[str]:
    """Return the cells that a table shows of a best epoch."""
    return [METRICS[name].show(best.get(f"valid/{name}")) for name in names]


def trial_table(definition: Definition, title: str, trials: list[TrialRecord]) -> Table:
    """Return a table of trials, a line each."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    names = shown_metrics(definition)
    for name in ("trial", "state", *headings(names)):
        table.add_column(name, justify="left" if name == "state" else "right")
    table.add_column("settings", overflow="fold")
    for trial in trials:
        table.add_row(
            str(trial.number),
            shown_state(definition, trial),
            *metric_cells(trial.best, names),
            show_params(trial.params),
        )
    return table


def seed_rows(trials: list[TrialRecord]) -> tuple[list[str], list[list[str]]] | None:
    """Return the header and the cells of a table over seeds, or None where seeds were not searched."""
    frame = seeds_frame(trials)
    if frame is None:
        return None
    names = [name for name in with_ranked(WIDE, trials[0].ranked) if name in frame.columns]
    others = frame.columns[: frame.columns.index("seeds")]
    rows = [
        [
            *(show_value(row[name]) for name in others),
            str(row["seeds"]),
            *(mean_and_spread(row[name], row[f"{name} sd"]) for name in names),
        ]
        for row in frame.iter_rows(named=True)
    ]
    return [*(name.rsplit(".", 1)[-1] for name in others), "seeds", *names], rows


def over_seeds(definition: Definition, trials: list[TrialRecord]) -> Table | None:
    """Return a table of mean ± standard deviation over seeds of settings equal otherwise, where seeds were searched."""
    # Of a pooling test there are tables of its own.
    found = None if definition.num_tested else seed_rows(trials)
    if found is None:
        return None
    table = Table(title="Mean ± standard deviation over seeds", title_justify="left", box=None, pad_edge=False)
    for name in found[0]:
        table.add_column(name, justify="right" if name in (*WIDE, "seeds") else "left")
    for row in found[1]:
        table.add_row(*row)
    return table


def study_report(definition: Definition, trials: list[TrialRecord], noise: str) -> RenderableType:
    """Return what `study report` prints; `noise` is what is known of differences between seeds."""
    states = ", ".join(f"{count} {state}" for state, count in counts(definition, trials).items())
    parts: list[RenderableType] = [
        Text(
            f"{definition.name}: {len(trials)} of {definition.num_trials} trials on {definition.corpus_name} ({states})"
        ),
        *map(Text, sentences(definition, answer_of(definition, trials))),
        Text(noise),
    ]
    best = best_trial(trials)
    if best is not None:
        settings = Table(title="Best settings", title_justify="left", box=None, pad_edge=False, show_header=False)
        for name, value in best.params.items():
            settings.add_row(name, show_value(value))
        parts += [Text(), settings]
    parts += [
        Text(),
        trial_table(
            definition,
            f"Trade-off: no other trial has both a lower {METRICS[definition.goal.ranked].heading} and a higher MI",
            pareto_trials(trials),
        ),
    ]
    for table in (*pooling_tables(definition, trials), over_seeds(definition, trials)):
        if table is not None:
            parts += [Text(), table]
    parts += [Text(), trial_table(definition, "All trials", trials)]
    for state in (State.FAILED, State.DROPPED):
        if found := [trial for trial in trials if trial.state == state]:
            parts += [Text(), Text(state.capitalize())]
            parts += [Text(f"trial {trial.number}: {trial.reason}") for trial in found]
    parts.append(
        Text(
            f"\n{METRICS[definition.goal.ranked].heading}, KL, MI in nats a sequence on the validation split at KL"
            " weight 1; AU: active units; cosine: features' mean cosine similarity."
            " An MI of 0 is estimated a little above or below it.\n"
            "Other terms: docs/glossary.md."
        )
    )
    return Group(*parts)


def run_report(folder: Path, note: RunNote, rows: list[Epoch]) -> RenderableType:
    """Return what `study report` prints of a run of its own: where it came from, its epochs and the best of them."""
    changed = ", ".join(f"{name}={value}" for name, value in note.changed.items())
    begun = f"from the weights {note.weights}" if note.weights else "anew"
    lines = [f"{folder}: {len(rows)} epochs on {note.corpus}, begun {begun}"]
    if note.origin:
        lines.append(f"Settings of {note.origin}{f', but {changed}' if changed else ''}")
    table = Table(box=None, pad_edge=False)
    for name in ("epoch", *headings(SHOWN)):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(str(row.number), *metric_cells(row))
    # Of a run there is no study whose criterion says which is best; its last epoch says it.
    measured = {name.removeprefix(MEASURED): value for name, value in (rows[-1].metrics if rows else {}).items()}
    if BEST_EPOCH in (rows[-1].metrics if rows else {}):
        lines.append(
            f"Best: epoch {measured['epoch']:.0f}, measured again: nll {measured['nll']:.2f} nats, KL"
            f" {measured['kl']:.2f}, MI {measured['mi']:z.2f} nats"
        )
    return Group(*map(Text, lines), Text(), table)


def write_export(trials: list[TrialRecord], path: Path, rows: str) -> int:
    """Write trials or epochs as parquet or CSV by the path's ending, whole or not at all; return how many."""
    frame = trials_frame(trials) if rows == "trials" else epochs_frame(trials)
    write_output(path, frame.write_csv if path.suffix == ".csv" else frame.write_parquet)
    return frame.height


def space_table(definition: Definition) -> Table:
    """Return a table of what is searched, and where."""
    table = Table(title="Searched", title_justify="left", box=None, pad_edge=False)
    for name in ("setting", "values", "only if"):
        table.add_column(name, overflow="fold")
    for name, allowed in definition.space.searched.items():
        table.add_row(name, str(allowed), definition.space.condition(name))
    return table
