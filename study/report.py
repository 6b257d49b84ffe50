"""A study, finished or not, as frames, JSON lines and tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from model.collapse import is_collapsed
from study.definition import Definition
from study.markup import code
from study.objectives import pareto_front
from study.outputs import write_output
from study.records import TrialRecord
from study.space import CONDITIONS

JSON_METRICS = ("nll", "elbo", "kl", "mi", "au", "ppl", "bits_per_byte", "dispersion")
LINE_BREAK = "  \n"
"""Markdown's, between the lines of a description: MLflow shows its first 100 pixels until one asks for more."""

USABLE = ("complete", "pruned", "running", "waiting")
"""States of trials that have something to compare."""


def json_line(trial: TrialRecord) -> dict[str, Any]:
    """Return what `study report --json` prints of a trial; `valid` is of its best epoch."""
    return {
        "trial": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "params": trial.params,
        "epochs": len(trial.rows),
        "seconds": trial.seconds,
        "valid": {name: trial.best.get(f"valid/{name}") for name in JSON_METRICS},
        "feasible": trial.feasible,
        "run_id": trial.run_id,
    }


def trials_frame(trials: list[TrialRecord]) -> pl.DataFrame:
    """Return one row a trial: what became of it, its searched settings and the metrics of its best epoch."""
    rows = [
        {
            "trial": trial.number, "state": trial.state, "reason": trial.reason, "feasible": trial.feasible,
            "epochs": len(trial.rows), "seconds": trial.seconds, "best_epoch": trial.best.get("epoch"),
            **trial.params,
            **{name: value for name, value in trial.best.items() if name.startswith("valid/")},
            "run_id": trial.run_id,
        }
        for trial in trials
    ]  # fmt: skip
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], infer_schema_length=None)


def epochs_frame(trials: list[TrialRecord]) -> pl.DataFrame:
    """Return one row an epoch of each trial: its trial, state, settings and every metric."""
    rows = [
        {"trial": trial.number, "state": trial.state, **trial.params, **row} for trial in trials for row in trial.rows
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], infer_schema_length=None)


def has_collapsed(definition: Definition, trial: TrialRecord) -> bool:
    """Say whether a trial was ended as collapsed, or ended collapsed where that ends none; a language model cannot."""
    if trial.state == "collapsed":
        return True
    last = trial.rows[-1] if trial.rows and "valid/kl" in trial.rows[-1] else trial.best
    if not last or trial.params.get("method", definition.space.fixed.method) == "language-model":
        return False
    return is_collapsed(last["valid/kl"], int(last["valid/au"]), definition.goal.collapse_kl_nats)


def best_trial(trials: list[TrialRecord]) -> TrialRecord | None:
    """Return the trial with the lowest validation nll among those that are feasible, if there is one."""
    usable = [trial for trial in trials if trial.feasible and trial.state in USABLE]
    return min(usable, key=lambda trial: trial.best["valid/nll"], default=None)


def pareto_trials(trials: list[TrialRecord], over: str = "mi") -> list[TrialRecord]:
    """Return the trials that no other beats in both nll (low) and mi or kl (high), from the lowest nll on."""
    usable = [trial for trial in trials if trial.best and trial.state != "failed"]
    if not usable:
        return []
    points = np.array([[trial.best["valid/nll"], -trial.best[f"valid/{over}"]] for trial in usable])
    front = [trial for trial, kept in zip(usable, pareto_front(points), strict=True) if kept]
    return sorted(front, key=lambda trial: trial.best["valid/nll"])


def counts(trials: list[TrialRecord]) -> dict[str, int]:
    """Count the trials by state."""
    found: dict[str, int] = {}
    for trial in trials:
        found[trial.state] = found.get(trial.state, 0) + 1
    return found


def summary_metrics(definition: Definition, trials: list[TrialRecord]) -> dict[str, float]:
    """Return the numbers that stand for a whole study in MLflow."""
    best = best_trial(trials)
    summary = {f"num/{state}": float(count) for state, count in counts(trials).items()}
    summary["num/trials"] = float(len(trials))
    summary["seconds"] = sum(trial.seconds for trial in trials)
    if best is not None:
        summary |= {f"best/{name[6:]}": float(value) for name, value in best.best.items() if name.startswith("valid/")}
        summary["best/trial"] = float(best.number)
    return summary


def show_value(value: Any) -> str:
    """Return a setting's or metric's value, short."""
    if isinstance(value, float):
        return f"{value:.3g}" if math.isfinite(value) else str(value)
    return str(value)


def show_params(params: dict[str, Any]) -> str:
    """Return searched settings in one line, by their last names."""
    return "  ".join(f"{name.rsplit('.', 1)[-1]}={show_value(value)}" for name, value in params.items())


def describe_study(definition: Definition, trials: list[TrialRecord], reason: str) -> str:
    """Return a study's story in Markdown, for the parent run's description."""
    best = best_trial(trials)
    states = ", ".join(f"{count} {state}" for state, count in counts(trials).items())
    lines = [
        f"**{definition.name}**: {len(trials)} of {definition.num_trials} trials on corpus"
        f" {code(definition.corpus_name)} ({definition.corpus_fingerprint}): {states}.",
        f"Ended early: {reason}." if reason else "",
        verdict(trials),
        f"Reproduce: {code(definition.command)}" if definition.command else "",
        f"Best settings: {show_params(best.params)}" if best is not None and best.params else "",
    ]
    return LINE_BREAK.join(line for line in lines if line)


def verdict(trials: list[TrialRecord]) -> str:
    """Return one sentence: the best settings' numbers, or that everything collapsed."""
    best = best_trial(trials)
    if best is None:
        return "No trial is feasible: every one collapsed, failed, missed a floor or has not ended its first epoch."
    row = best.best
    return (
        f"Best: trial {best.number} with nll {row['valid/nll']:.2f} nats, KL {row['valid/kl']:.2f},"
        f" MI {row['valid/mi']:z.2f} nats, {row['valid/au']} active units."
    )


def show_number(value: float | None) -> str:
    """Return a number with two decimals, whole if it is an integer; a dash if there is none."""
    if value is None or math.isnan(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:z.2f}"


def mean_and_spread(mean: float, deviation: float | None) -> str:
    """Return a cell: the mean over seeds, and their standard deviation if there are several."""
    shown, spread = show_number(mean), show_number(deviation)
    return shown if "-" in (shown, spread) else f"{shown} ± {spread}"


def metric_cells(best: dict[str, Any]) -> list[str]:
    """Return the cells that every table of trials shows of a best epoch."""
    if not best:
        return ["-"] * 6
    nll, kl, mi, cosine = (show_number(best[f"valid/{name}"]) for name in ("nll", "kl", "mi", "dispersion"))
    return [nll, kl, mi, str(best["valid/au"]), f"{best['valid/ppl']:.1f}", cosine]


METRIC_COLUMNS = ("NLL", "KL", "MI", "AU", "PPL", "cosine")


def trial_table(title: str, trials: list[TrialRecord]) -> Table:
    """Return a table of trials, a line each."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("trial", "state", *METRIC_COLUMNS):
        table.add_column(name, justify="left" if name == "state" else "right")
    table.add_column("settings", overflow="fold")
    for trial in trials:
        table.add_row(str(trial.number), trial.state, *metric_cells(trial.best), show_params(trial.params))
    return table


def by_pooling(trials: list[TrialRecord]) -> Table | None:
    """Return a table of medians by pooling, where pooling was searched."""
    frame = trials_frame(trials)
    if "model.pooling" not in frame.columns or "valid/nll" not in frame.columns:
        return None
    frame = frame.filter(pl.col("valid/nll").is_not_null())
    grouped = frame.group_by("model.pooling").agg(
        pl.len().alias("trials"),
        (~pl.col("feasible")).sum().alias("collapsed or under a floor"),
        *[pl.col(f"valid/{name}").median().alias(name) for name in ("nll", "kl", "mi", "au", "dispersion")],
    )
    table = Table(
        title="Median over trials by pooling, each at its best epoch; those ended early had fewer",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in grouped.columns:
        table.add_column(name.removeprefix("model."), justify="left" if name == "model.pooling" else "right")
    for row in grouped.sort("nll").iter_rows():
        table.add_row(*(f"{value:z.2f}" if isinstance(value, float) else str(value) for value in row))
    return table


SEED_METRICS = ("nll", "elbo", "kl", "mi", "au", "dispersion")


def seeds_frame(trials: list[TrialRecord]) -> pl.DataFrame | None:
    """Return mean and standard deviation over seeds (`nll`, `nll sd`, ...) of settings equal otherwise, best first.

    None where seeds were not searched.
    """
    frame = trials_frame(trials)
    if "seed" not in frame.columns or "valid/nll" not in frame.columns:
        return None
    others = list(dict.fromkeys(name for trial in trials for name in trial.params if name != "seed"))
    return (
        frame.filter(pl.col("valid/nll").is_not_null())
        .group_by(others or [pl.lit("all").alias("settings")])
        .agg(
            pl.len().alias("seeds"),
            *[pl.col(f"valid/{name}").cast(pl.Float64).mean().alias(name) for name in SEED_METRICS],
            *[
                pl.col(f"valid/{name}").cast(pl.Float64).std().fill_null(0.0).alias(f"{name} sd")
                for name in SEED_METRICS
            ],
        )
        .sort("nll")
    )


def seed_rows(trials: list[TrialRecord]) -> tuple[list[str], list[list[str]]] | None:
    """Return the header and the cells of a table over seeds, or None where seeds were not searched."""
    frame = seeds_frame(trials)
    if frame is None:
        return None
    others = frame.columns[: frame.columns.index("seeds")]
    rows = [
        [*(show_value(row[name]) for name in others), str(row["seeds"]),
         *(mean_and_spread(row[name], row[f"{name} sd"]) for name in SEED_METRICS)]
        for row in frame.iter_rows(named=True)
    ]  # fmt: skip
    return [*(name.rsplit(".", 1)[-1] for name in others), "seeds", *SEED_METRICS], rows


def over_seeds(trials: list[TrialRecord]) -> Table | None:
    """Return a table of mean ± standard deviation over seeds of settings equal otherwise, where seeds were searched."""
    found = seed_rows(trials)
    if found is None:
        return None
    table = Table(title="Mean ± standard deviation over seeds", title_justify="left", box=None, pad_edge=False)
    for name in found[0]:
        table.add_column(name, justify="right" if name in (*SEED_METRICS, "seeds") else "left")
    for row in found[1]:
        table.add_row(*row)
    return table


def study_report(definition: Definition, trials: list[TrialRecord], noise: str) -> RenderableType:
    """Return what `study report` prints; `noise` is what is known of differences between seeds."""
    states = ", ".join(f"{count} {state}" for state, count in counts(trials).items())
    parts: list[RenderableType] = [
        Text(
            f"{definition.name}: {len(trials)} of {definition.num_trials} trials on {definition.corpus_name} ({states})"
        ),
        Text(verdict(trials)),
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
        trial_table("Trade-off: no other trial has both a lower NLL and a higher MI", pareto_trials(trials)),
    ]
    for table in (over_seeds(trials), by_pooling(trials)):
        if table is not None:
            parts += [Text(), table]
    parts += [Text(), trial_table("All trials", trials)]
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed:
        parts += [Text(), Text("Failed")]
        parts += [Text(f"trial {trial.number}: {trial.reason}") for trial in failed]
    parts.append(Text(
        "\nNLL, KL, MI in nats a sequence on the validation split at KL weight 1; AU: active units;"
        " cosine: features' mean cosine similarity."
    ))  # fmt: skip
    return Group(*parts)


def write_export(trials: list[TrialRecord], path: Path, rows: str) -> int:
    """Write trials or epochs as parquet, aside and then renamed; return the number of rows."""
    frame = trials_frame(trials) if rows == "trials" else epochs_frame(trials)
    write_output(path, frame.write_parquet)
    return frame.height


def space_table(definition: Definition) -> Table:
    """Return a table of what is searched, and where."""
    table = Table(title="Searched", title_justify="left", box=None, pad_edge=False)
    for name in ("setting", "values", "only if"):
        table.add_column(name, overflow="fold")
    for name, allowed in definition.space.ranges.items():
        values = (
            ", ".join(map(str, allowed.values))
            if allowed.values is not None
            else f"{allowed.low} to {allowed.high}{' (log)' if allowed.log else ''}"
        )
        other, meaningful = CONDITIONS.get(name, ("", frozenset()))
        table.add_row(name, values, f"{other} is {' or '.join(sorted(meaningful))}" if other else "")
    return table
