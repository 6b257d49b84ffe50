"""Ending a search when it has settled, replayed over recorded learning curves: epochs saved, winners lost.

    python benchmarks/settling.py --noise 0.13

A replay tries so many settings of benchmarks/chitchat-curves.parquet as the default sampler proposes them, each to its
end, and asks after each trial whether the search has settled (`study.search.settled`). A winner is lost where the best
at that moment is more than the noise worse than the best at the end. Prints shares over repetitions, with 95 %
intervals (Wilson).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import click
import numpy as np
import optuna
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from benchmarks.search import CURVES, Curves, Proposals
from study.record.trials import best_row
from study.search.settled import LEAST_TRIALS, expected_best, expected_gain

Rule = Callable[[list[float]], float]


def next_one(values: list[float]) -> float:
    """Return what one more trial can be expected to gain, from what the last one gained on average over all orders."""
    if len(values) < LEAST_TRIALS:
        return math.inf
    return expected_best(values, len(values) - 1) - expected_best(values, len(values))


RULES: dict[str, Rule] = {
    "what one more trial gains": next_one,
    "what as many again gain": expected_gain,
}


def values_of(curves: Curves, seed: int, num_trials: int) -> tuple[list[float], list[int]]:
    """Return nll (infinite for what may not win) and epochs of each trial of a search, in order."""
    proposals, found, epochs = Proposals(curves, seed, "ours", knows_collapse=True), [], []
    for _ in range(num_trials):
        number = proposals.ask()
        assert number is not None
        rows = curves.rows[number]
        best = best_row(rows, curves.definition)
        found.append(best["valid/nll"] if curves.definition.goal.is_feasible(best) else math.inf)
        epochs.append(len(rows))
        proposals.tell(number, rows, complete=True)
    return found, epochs


@click.command()
@click.option("--noise", type=float, required=True, help="Seed noise in nats, as `study report` says it.")
@click.option("--trials", default=24, show_default=True, help="Of each search.")
@click.option("--repetitions", default=200, show_default=True)
def main(noise: float, trials: int, repetitions: int) -> None:
    """Print what ending at each rule saves and loses."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    curves = Curves.read(CURVES, 0.005)
    table = Table(
        "ends when less than the noise is", "epochs saved", "ended early", "winners lost", "nats lost", box=None
    )
    searches = [values_of(curves, seed, trials) for seed in range(repetitions)]
    for name, rule in RULES.items():
        saved, lost, nats, ended = [], 0, [], 0
        for values, epochs in searches:
            stop = next((n for n in range(1, trials) if rule(values[:n]) < noise), trials)
            worse = min(values[:stop]) - min(values)
            saved.append(1 - sum(epochs[:stop]) / sum(epochs))
            nats.append(worse if math.isfinite(worse) else 0.0)
            lost += worse > noise
            ended += stop < trials
        interval = binomtest(lost, repetitions).proportion_ci(method="wilson")
        table.add_row(
            name,
            f"{np.mean(saved):.0%}",
            f"{ended / repetitions:.0%}",
            f"{lost / repetitions:.1%} [{interval.low:.1%}, {interval.high:.1%}]",
            f"{np.mean(nats):.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
