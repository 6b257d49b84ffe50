"""Which searched settings matter: PED-ANOVA by Optuna, with the uncertainty that so few trials leave."""

from __future__ import annotations

import warnings

import numpy as np
import optuna
import polars as pl
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from study.record.states import State
from study.record.trials import TrialRecord
from study.search.definition import Definition
from study.search.ranges import Range

RESAMPLES = 60
INTERVAL = (0.05, 0.95)
LEAST_TRIALS = 8
BEST_TRIALS = 5
"""At least so many trials make up the best ones that the others are compared with."""


def importances(definition: Definition, trials: list[TrialRecord]) -> pl.DataFrame:
    """Return `metric`, `setting`, `importance`, `low`, `high`: shares of 1, with a bootstrap interval over trials.

    How much a setting's values differ between the best trials and all of them (Watanabe et al.,
    arXiv 2304.10255). Settings that not every trial has are left out, and there is no row below 8 trials.
    Trials are compared after equally many epochs, those of the first rung: later, who trained longer is better.
    """
    usable = [
        trial for trial in trials if trial.best and trial.state in (State.COMPLETE, State.COLLAPSED, State.PRUNED)
    ]
    names = [
        name
        for name in definition.space.searched
        if name != "seed"
        and all(name in trial.params for trial in usable)
        and len({trial.params[name] for trial in usable}) > 1
    ]
    rows: list[dict[str, object]] = []
    if len(usable) < LEAST_TRIALS or not names:
        return pl.DataFrame(
            schema={
                "metric": pl.String,
                "setting": pl.String,
                "importance": pl.Float64,
                "low": pl.Float64,
                "high": pl.Float64,
            }
        )
    distributions = {name: as_distribution(definition.space.searched[name]) for name in names}
    # The sign makes less of them better.
    for metric, sign in ((definition.goal.ranked, 1.0), ("mi", -1.0)):
        found = evaluate(usable, definition.grace_epochs, names, distributions, metric, sign)
        draw = np.random.default_rng(0)
        resampled = np.array(
            [
                list(
                    evaluate(
                        [usable[row] for row in draw.integers(len(usable), size=len(usable))],
                        definition.grace_epochs,
                        names,
                        distributions,
                        metric,
                        sign,
                    ).values()
                )
                for _ in range(RESAMPLES)
            ]
        )
        low, high = np.quantile(resampled, INTERVAL, axis=0)
        rows += [
            {
                "metric": metric,
                "setting": name,
                "importance": found[name],
                "low": float(low[place]),
                "high": float(high[place]),
            }
            for place, name in enumerate(names)
        ]
    return pl.DataFrame(rows)


def evaluate(
    trials: list[TrialRecord],
    epochs: int,
    names: list[str],
    distributions: dict[str, BaseDistribution],
    metric: str,
    sign: float,
) -> dict[str, float]:
    """Return each setting's importance for one metric after so many epochs, as shares of 1 in the order of `names`."""
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.create_trial(
                params={name: trial.params[name] for name in names},
                distributions=distributions,
                value=sign * early(trial, epochs, f"valid/{metric}"),
            )
            for trial in trials
        ]
    )
    quantile = min(0.5, max(0.1, BEST_TRIALS / len(trials)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    total = sum(found.values()) or 1.0
    return {name: float(found.get(name, 0.0)) / total for name in names}


def early(trial: TrialRecord, epochs: int, name: str) -> float:
    """Return a trial's metric after so many epochs, or after its last one before."""
    rows = [row for row in trial.rows if row.number <= epochs and name in row.metrics]
    return float(rows[-1][name] if rows else trial.best[name])


def as_distribution(allowed: Range) -> BaseDistribution:
    """Return a search range as Optuna names it."""
    if allowed.values is not None:
        return CategoricalDistribution(allowed.values)
    assert allowed.low is not None
    assert allowed.high is not None
    if isinstance(allowed.low, int) and isinstance(allowed.high, int):
        return IntDistribution(allowed.low, allowed.high, step=int(allowed.step or 1), log=allowed.log)
    return FloatDistribution(float(allowed.low), float(allowed.high), step=allowed.step, log=allowed.log)
