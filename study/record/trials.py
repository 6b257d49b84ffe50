"""Trials as a study's record has them: the best epoch of each, the best of all, counts and frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from model.collapse import is_collapsed
from study.config.settings import Params
from study.epoch import BEST_EPOCH, MEASURED, NO_EPOCH, Epoch
from study.metrics import METRICS, WIDE
from study.record.states import ENDS, USABLE, State
from study.search.definition import Definition
from study.search.objective import pareto_front


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger has it."""

    number: int
    state: State
    reason: str
    """Why it ended as it did; empty where it needs none."""
    params: Params
    rows: Sequence[Epoch] = field(repr=False)
    """Its epochs so far, oldest first."""
    best: Epoch = field(repr=False)
    """The best of them by the study's criterion; `NO_EPOCH` before the first one."""
    feasible: bool
    """Whether it may win: not collapsed and over every floor."""
    run_id: str | None = None
    """Its run in MLflow."""
    started: bool = True
    """Whether it has ever been handed out: an enqueued trial waits before that."""
    ranked: str = "nll"
    """The metric by which trials rank, see `study.search.objective.Goal`."""

    @property
    def score(self) -> float:
        """What ranks it: that metric of its best epoch; raise KeyError without one."""
        return self.best[f"valid/{self.ranked}"]

    @property
    def seconds(self) -> float:
        """Time of training so far, validation included."""
        return self.rows[-1].seconds if self.rows else 0.0

    @property
    def epochs(self) -> int:
        """Epochs so far: the number of the last."""
        return self.rows[-1].number if self.rows else 0

    def dropped(self, why: str | None) -> TrialRecord:
        """Return it as one that counts nowhere for a reason, if it is over; its epochs and their cost stay."""
        if why is None or self.state not in ENDS:
            return self
        return replace(self, state=State.DROPPED, reason=why, best=NO_EPOCH, feasible=False)

    @property
    def is_running(self) -> bool:
        """Whether the trial is being trained."""
        return self.state == State.RUNNING


def make_record(
    definition: Definition,
    number: int,
    state: State,
    reason: str,
    params: Params,
    rows: Sequence[Epoch],
    *,
    run_id: str | None = None,
    started: bool = True,
) -> TrialRecord:
    """Return a trial with what follows from its epochs: the best of them, and whether it may win."""
    best, goal = best_row(rows, definition), definition.goal
    return TrialRecord(number, state, reason, params, rows, best, goal.is_feasible(best), run_id, started, goal.ranked)


def best_row(rows: Sequence[Epoch], definition: Definition) -> Epoch:
    """Return the epoch with the best validation by the study's criterion, or `NO_EPOCH`.

    Of a trial that was trained to its end it has the metrics that were measured there, and is known by it.
    """
    last = rows[-1].metrics if rows else {}
    if BEST_EPOCH in last:
        found = {name: value for name, value in last.items() if name.startswith(MEASURED) and name != BEST_EPOCH}
        measured = {
            f"valid/{name.removeprefix(MEASURED)}": value for name, value in found.items() if name != BEST_EPOCH
        }
        for row in rows:
            if row.number == int(last[BEST_EPOCH]):
                return row.with_metrics({**measured, BEST_EPOCH: last[BEST_EPOCH]})
    ranked = definition.goal.ranked
    criterion = f"valid/{definition.space.fixed.evaluation.criterion if ranked == 'nll' else ranked}"
    finite = [row for row in rows if math.isfinite(row.get(criterion)) and row.counts]
    return min(finite, key=lambda row: row[criterion], default=NO_EPOCH)


def json_line(trial: TrialRecord) -> dict[str, object]:
    """Return what `study report --json` prints of a trial; `valid` is of its best epoch."""
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "reason": trial.reason,
        "params": trial.params,
        "epochs": len(trial.rows),
        "seconds": trial.seconds,
        "valid": {name: trial.best.metrics.get(f"valid/{name}") for name in METRICS},
        "feasible": trial.feasible,
        "run_id": trial.run_id,
    }


def trials_frame(trials: list[TrialRecord]) -> pl.DataFrame:
    """Return one row a trial: what became of it, its searched settings and the metrics of its best epoch."""
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.value,
            "reason": trial.reason,
            "feasible": trial.feasible,
            "epochs": len(trial.rows),
            "seconds": trial.seconds,
            "best_epoch": trial.best.number or None,
            **trial.params,
            **{f"valid/{name}": value for name, value in trial.best.valid.items()},
            "run_id": trial.run_id,
        }
        for trial in trials
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], infer_schema_length=None)


def epochs_frame(trials: list[TrialRecord]) -> pl.DataFrame:
    """Return one row an epoch of each trial: its trial, state, settings and every metric."""
    rows = [
        {"trial": trial.number, "state": trial.state.value, **trial.params, **row.to_json()}
        for trial in trials
        for row in trial.rows
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame([{name: row.get(name) for name in names} for row in rows], infer_schema_length=None)


def has_collapsed(definition: Definition, trial: TrialRecord) -> bool:
    """Say whether a trial was ended as collapsed, or its best epoch is; a language model cannot collapse.

    Of a trial that its schedule ended, the last epoch counts: it had no more.
    """
    if trial.state == State.COLLAPSED:
        return True
    judged = trial.rows[-1] if trial.state == State.PRUNED and trial.rows else trial.best
    if not judged or is_language_model(definition, trial):
        return False
    return is_collapsed(float(judged["valid/mi"]), float(judged.get("valid/mi_se")), definition.goal.collapse_mi_nats)


def is_language_model(definition: Definition, trial: TrialRecord) -> bool:
    """Say whether a trial has no latent variable."""
    return trial.params.get("method", definition.space.fixed.method) == "language-model"


def best_trial(trials: list[TrialRecord]) -> TrialRecord | None:
    """Return the trial with the lowest nll (or what else ranks) among those that are feasible, if there is one.

    One that was ended early never wins over one that was trained to its end.
    """
    usable = [trial for trial in trials if trial.feasible and trial.state in USABLE]
    return min(usable, key=lambda trial: (trial.state != State.COMPLETE, trial.score), default=None)


def nearest_to_feasible(definition: Definition, trials: list[TrialRecord]) -> TrialRecord | None:
    """Return which trial comes nearest to what is asked of a winner where none reaches it: misses it by the least."""
    usable = [trial for trial in trials if trial.best and trial.state in (*USABLE, State.COLLAPSED)]
    return min(usable, key=lambda trial: (definition.goal.missed_by(trial.best), trial.score), default=None)


def pareto_trials(trials: list[TrialRecord], over: str = "mi") -> list[TrialRecord]:
    """Return the trials that no other beats in both nll (low) and mi or kl (high), from the lowest nll on."""
    usable = [trial for trial in trials if trial.best and trial.state != State.FAILED]
    if not usable:
        return []
    points = np.array([[trial.score, -trial.best[f"valid/{over}"]] for trial in usable])
    front = [trial for trial, kept in zip(usable, pareto_front(points), strict=True) if kept]
    return sorted(front, key=lambda trial: trial.score)


def counts(definition: Definition, trials: list[TrialRecord]) -> dict[str, int]:
    """Count the trials by state; those that have collapsed as such, whatever ended them."""
    found: dict[str, int] = {}
    for trial in trials:
        state = shown_state(definition, trial)
        found[state] = found.get(state, 0) + 1
    return found


def shown_state(definition: Definition, trial: TrialRecord) -> State:
    """Return what tables and figures say of a trial: that it has collapsed, whatever ended it, or else its state."""
    return State.COLLAPSED if has_collapsed(definition, trial) else trial.state


def summary_metrics(definition: Definition, trials: list[TrialRecord]) -> dict[str, float]:
    """Return the numbers that stand for a whole study in MLflow."""
    best = best_trial(trials)
    summary = {f"num/{state}": float(count) for state, count in counts(definition, trials).items()}
    summary["num/trials"] = float(len(trials))
    summary["seconds"] = sum(trial.seconds for trial in trials)
    if best is not None:
        summary |= {f"best/{name}": float(value) for name, value in best.best.valid.items()}
        summary["best/trial"] = float(best.number)
    elif any(trial.state == State.DROPPED for trial in trials):
        # What was the best may be what was dropped; a metric cannot be taken back.
        summary |= {f"best/{definition.goal.ranked}": math.nan, "best/trial": math.nan}
    return summary


def seeds_frame(trials: list[TrialRecord]) -> pl.DataFrame | None:
    """Return mean and standard deviation over seeds (`nll`, `nll sd`, ...) of settings equal otherwise, best first.

    None where seeds were not searched.
    """
    frame, ranked = trials_frame(trials), trials[0].ranked if trials else "nll"
    if "seed" not in frame.columns or f"valid/{ranked}" not in frame.columns:
        return None
    others = list(dict.fromkeys(name for trial in trials for name in trial.params if name != "seed"))
    # A trainable of the user's own may know fewer.
    known = [name for name in WIDE if f"valid/{name}" in frame.columns]
    return (
        frame.filter(pl.col(f"valid/{ranked}").is_not_null() & pl.col("seed").is_not_null())
        .group_by(others or [pl.lit("all").alias("settings")])
        .agg(
            pl.len().alias("seeds"),
            *[pl.col(f"valid/{name}").cast(pl.Float64).mean().alias(name) for name in known],
            *[pl.col(f"valid/{name}").cast(pl.Float64).std().fill_null(0.0).alias(f"{name} sd") for name in known],
        )
        .sort(ranked)
    )
