"""Searchers and schedules replayed over recorded learning curves: epochs until a winner is near the table's best.

    study run chitchat --preset quick --trials 64 --sampler random --scheduler none \\
        --set evaluation.collapse_epochs=1000000 --name curves
    study export curves --to curves.parquet
    python benchmarks/search.py --take curves.parquet
    python benchmarks/search.py

A replay proposes settings, is given the nearest of the table that is still free, and trains it epoch by epoch, some at
once; samplers and schedules are those that a study uses. It has arrived when a trial that has not collapsed shows an
nll within 0.5 % (`--within`) of the best such trial of the table. Prints medians and quartiles over repetitions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import optuna
import polars as pl
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from rich.console import Console
from rich.table import Table
from scipy import stats

from study.config.settings import read_preset
from study.epoch import Epoch
from study.execution.schedules import EPOCH, make_scheduler
from study.record.trials import best_row
from study.search.definition import Definition
from study.search.objective import Goal
from study.search.ranges import Range
from study.search.samplers import make_sampler
from study.search.space import build_space
from study.training.ending import collapse_ends, collapsed_so_far

CURVES = Path(__file__).parent / "chitchat-curves.parquet"
GAUSSIAN = {"trial": 0, "settings": {"model": {"posterior": "gaussian"}}}
METRIC = "valid/nll"
ROWS = ("epoch", METRIC, "valid/kl", "valid/mi", "valid/au")


@dataclass
class Curves:
    """The recorded trials: searched settings and epochs of each, and what is to be found among them."""

    definition: Definition
    params: list[dict[str, Any]]
    rows: list[list[Epoch]]
    within: float
    goal_nll: float = field(init=False)

    def __post_init__(self) -> None:
        finals = [best_row(rows, self.definition) for rows in self.rows]
        best = min(row["valid/nll"] for row in finals if self.definition.goal.is_feasible(row))
        self.goal_nll = best * (1 + self.within)

    @classmethod
    def read(cls, path: Path, within: float) -> Curves:
        """Read what `study export` wrote of a study of the quick preset."""
        layer = read_preset("quick")
        layer.pop("study")
        # As the preset was when they were recorded.
        layer["search"].pop("model.pooling")
        layer["training"]["epochs"] = 8
        space = build_space([layer])
        definition = Definition("curves", "", "", "", "", space, Goal(), 0, grace_epochs=space.warm_epoch())
        frame = pl.read_parquet(path)
        names = [name for name in space.ranges if name in frame.columns]
        trials = frame.partition_by("trial", maintain_order=True)
        params = [
            {name: value for name, value in trial.select(names).row(0, named=True).items() if value is not None}
            for trial in trials
        ]
        return cls(
            definition,
            params,
            [[Epoch.from_json(row) for row in trial.select(ROWS).sort("epoch").to_dicts()] for trial in trials],
            within,
        )

    @property
    def num_epochs(self) -> int:
        """The epochs of a trial that is trained to its end."""
        return max(len(rows) for rows in self.rows)

    def nearest(self, values: dict[str, Any], free: set[int]) -> int:
        """Return the free trial whose settings are nearest to proposed ones."""
        return min(free, key=lambda number: (distance(self.definition, values, self.params[number]), number))

    def is_ended_as_collapsed(self, number: int, epochs: int) -> bool:
        """Say whether a study would end a trial after so many epochs: collapsed for some, after its warm-up."""
        settings, collapsed = self.definition.space.settings(self.params[number]), []
        for row in self.rows[number][:epochs]:
            valid = {"mi": row["valid/mi"], "mi_se": row.get("valid/mi_se"), "kl": row["valid/kl"]}
            collapsed = collapsed_so_far(collapsed, row.number, settings, valid)
        return collapse_ends(collapsed, epochs, settings)

    def has_arrived(self, rows: list[Epoch]) -> bool:
        """Say whether a trial's epochs so far would win with what is asked for."""
        best = best_row(rows, self.definition)
        return best["valid/nll"] <= self.goal_nll and self.definition.goal.is_feasible(best)


def distance(definition: Definition, one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return how far settings lie apart: each from 0 to 1, half where only one of them has it."""
    total = 0.0
    for name, allowed in definition.space.ranges.items():
        if (name in one) != (name in other):
            total += 0.5
        elif name in one:
            total += (
                abs(place(allowed, one[name]) - place(allowed, other[name]))
                if is_ordered(allowed)
                else float(one[name] != other[name])
            )
    return total


def is_ordered(allowed: Range) -> bool:
    """Say whether a range's values lie on a line."""
    return allowed.values is None or all(isinstance(value, int | float) for value in allowed.values)


def place(allowed: Range, value: float) -> float:
    """Return where in its range a value lies, from 0 to 1."""
    if allowed.values is not None:
        return allowed.values.index(value) / max(1, len(allowed.values) - 1)
    assert allowed.low is not None
    assert allowed.high is not None
    return (value - allowed.low) / (allowed.high - allowed.low)


class Proposals:
    """Hands out the table's trials in the order of a sampler; tells it what became of them."""

    def __init__(self, curves: Curves, seed: int, sampler: str | None, *, knows_collapse: bool) -> None:
        self.curves, self.seed, self.sampler = curves, seed, sampler
        self.knows_collapse = knows_collapse
        self.free = set(range(len(curves.rows)))
        self.study = optuna.create_study()
        self.open: dict[int, optuna.Trial] = {}
        self.order = list(np.random.default_rng(seed).permutation(len(curves.rows)))

    def ask(self) -> int | None:
        """Return the next trial, or None after the last."""
        if not self.free:
            return None
        if self.sampler is None:
            number = int(next(each for each in self.order if each in self.free))
        else:
            number = self._propose()
        self.free.remove(number)
        return number

    def _propose(self) -> int:
        definition = self.curves.definition
        num = len(self.study.get_trials(deepcopy=False))
        if self.sampler == "ours":
            self.study.sampler = make_sampler("tpe", definition.space, definition.goal, self.seed, num)
        elif num == 0:
            self.study.sampler = optuna.samplers.TPESampler(seed=self.seed)
        asked = self.study.ask()
        number = self.curves.nearest(definition.space.suggest(asked), self.free)
        # What is tried is the table's trial, not what was proposed.
        self.study.tell(asked, state=optuna.trial.TrialState.FAIL)
        self.study.enqueue_trial(self.curves.params[number])
        self.open[number] = self.study.ask()
        definition.space.suggest(self.open[number])
        return number

    def tell(self, number: int, rows: list[Epoch], *, complete: bool) -> None:
        """Tell the sampler of a trial that is over."""
        if number not in self.open:
            return
        trial, best = self.open.pop(number), best_row(rows, self.curves.definition)
        for row in rows:
            trial.report(row["valid/nll"], row.number)
        if self.knows_collapse:
            for name, violation in self.curves.definition.goal.constraints(best).items():
                trial.set_constraint(name, violation)
        if complete:
            self.study.tell(trial, best["valid/nll"])
        else:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def replay(curves: Curves, proposals: Proposals, schedule: TrialScheduler, at_once: int, *, ends_collapse: bool) -> int:
    """Return the epochs trained until the goal; those of the whole table if its trials were ended before it."""
    running: dict[int, Any] = {}
    spent = 0
    while True:
        while len(running) < at_once and (number := proposals.ask()) is not None:
            running[number] = SimpleNamespace(trial_id=f"{number}", status="RUNNING", epochs=0, config=GAUSSIAN)
            schedule.on_trial_add(None, running[number])
        if not running:
            return curves.num_epochs * len(curves.rows)
        for number, trial in list(running.items()):
            trial.epochs += 1
            spent += 1
            rows = curves.rows[number][: trial.epochs]
            if curves.has_arrived(rows):
                return spent
            complete = trial.epochs == len(curves.rows[number])
            collapsed = ends_collapse and curves.is_ended_as_collapsed(number, trial.epochs)
            result = rows[-1].to_json() | {EPOCH: trial.epochs, METRIC: rows[-1]["valid/nll"]}
            stopped = schedule.on_trial_result(None, trial, result) == TrialScheduler.STOP
            if complete or collapsed or stopped:
                schedule.on_trial_complete(None, trial, result)
                proposals.tell(number, rows, complete=complete)
                del running[number]


def one_epoch_then_best(curves: Curves, seed: int) -> int:
    """Train each trial for one epoch, then the rest of them in the order of their nll."""
    order = sorted(range(len(curves.rows)), key=lambda number: curves.rows[number][0]["valid/nll"])
    spent = len(order)
    for number in order:
        for epochs in range(2, len(curves.rows[number]) + 1):
            spent += 1
            if curves.has_arrived(curves.rows[number][:epochs]):
                return spent
    return curves.num_epochs * len(order)


def strategies(curves: Curves, at_once: int) -> dict[str, Callable[[int], int]]:
    """Return each way to search, as what gives its epochs for a seed."""

    def with_schedule(sampler: str | None, make: Callable[[], TrialScheduler], *, ours: bool) -> Callable[[int], int]:
        return lambda seed: replay(
            curves, Proposals(curves, seed, sampler, knows_collapse=ours), make(), at_once, ends_collapse=ours
        )

    def as_shipped() -> TrialScheduler:
        return ASHAScheduler(time_attr=EPOCH, metric=METRIC, mode="min", max_t=curves.num_epochs)

    def as_studies_have_it() -> TrialScheduler:
        return make_scheduler(curves.definition, SimpleNamespace(trials=list))  # type: ignore[arg-type]

    def knowing_no_collapse() -> TrialScheduler:
        grace = curves.definition.grace_epochs
        return ASHAScheduler(
            time_attr=EPOCH,
            metric=METRIC,
            mode="min",
            max_t=curves.num_epochs + 1,
            grace_period=grace,
            reduction_factor=3,
        )

    return {
        "random, full budget": with_schedule(None, FIFOScheduler, ours=False),
        "one epoch each, then the best": lambda seed: one_epoch_then_best(curves, seed),
        "TPE, full budget": with_schedule("tpe", FIFOScheduler, ours=False),
        "ASHA as Ray ships it": with_schedule(None, as_shipped, ours=False),
        "ours: TPE, ASHA, collapse": with_schedule("ours", as_studies_have_it, ours=True),
        "ours without TPE": with_schedule(None, as_studies_have_it, ours=True),
        "ours without ASHA": with_schedule("ours", FIFOScheduler, ours=True),
        "ours without knowledge of collapse": with_schedule("ours", knowing_no_collapse, ours=False),
    }


def rank_correlations(curves: Curves) -> Iterator[tuple[int, float, float]]:
    """Yield epoch and Spearman's correlation of its nll with the best, over all trials and those not collapsed."""
    final = [best_row(rows, curves.definition) for rows in curves.rows]
    usable = [curves.definition.goal.is_feasible(row) for row in final]
    best = np.array([row["valid/nll"] for row in final])
    for epoch in range(1, curves.num_epochs + 1):
        at = np.array([rows[min(epoch, len(rows)) - 1]["valid/nll"] for rows in curves.rows])
        yield epoch, *(float(stats.spearmanr(at[chosen], best[chosen]).statistic) for chosen in (slice(None), usable))


def take(path: Path) -> None:
    """Keep what replays need of an export: not the time it took nor the machines' names."""
    frame = pl.read_parquet(path)
    frame.select("trial", *[name for name in frame.columns if "." in name], *ROWS).write_parquet(CURVES)


@click.command()
@click.option("--repetitions", default=100)
@click.option("--within", default=0.5, help="How near to the best of the table, per cent.")
@click.option("--at-once", default=4, help="Trials trained at once.")
@click.option("--take", "exported", type=click.Path(path_type=Path), help="Make the table from an export, and end.")
@click.option("--curves", "path", default=CURVES, type=click.Path(path_type=Path))
def main(repetitions: int, within: float, at_once: int, exported: Path | None, path: Path) -> None:
    """Print the tables."""
    if exported is not None:
        take(exported)
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    curves = Curves.read(path, within / 100)
    finals = [best_row(rows, curves.definition) for rows in curves.rows]
    feasible = [row["valid/nll"] for row in finals if curves.definition.goal.is_feasible(row)]
    near = sum(nll <= curves.goal_nll for nll in feasible)
    console = Console(width=120)
    console.print(
        f"{len(finals)} trials of {curves.num_epochs} epochs, {len(finals) - len(feasible)} collapsed; best nll of the"
        f" others {min(feasible):.2f}, {near} within {within:g} %; {repetitions} repetitions, {at_once} at once"
    )
    table = Table("search", "median epochs", "quartiles", "mean", "of random's median", "never", box=None)
    whole = curves.num_epochs * len(finals)
    reference = math.nan
    for name, search in strategies(curves, at_once).items():
        spent = np.array([search(seed) for seed in range(repetitions)])
        low, median, high = np.quantile(spent, (0.25, 0.5, 0.75))
        reference = median if math.isnan(reference) else reference
        missed = f"{np.mean(spent >= whole):.0%}"
        table.add_row(
            name,
            f"{median:.0f}",
            f"{low:.0f} to {high:.0f}",
            f"{spent.mean():.0f}",
            f"{median / reference:.2f}",
            missed,
        )
    console.print(table)
    table = Table("epoch", "rank correlation with the best nll", "of those not collapsed", box=None)
    for epoch, every, usable in rank_correlations(curves):
        table.add_row(f"{epoch}", f"{every:.2f}", f"{usable:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
