"""Variants beside each other over seeds: the values of some settings, all else equal, on the validation split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table
from rich.text import Text

from study.analysis.claims import CONFIDENCE, mean_interval
from study.analysis.pooling_test import Collapsed, Interval, count_collapsed
from study.config.settings import Params
from study.metrics import METRICS, WIDE, with_ranked
from study.record.formats import mean_and_spread, show_value
from study.record.states import State
from study.record.trials import TrialRecord
from study.search.definition import Definition
from study.search.pooling_test import SEED


@dataclass(frozen=True)
class Variant:
    """What the seeds say of one variant: mean and standard deviation of the metrics of its best epochs."""

    values: Params
    """Of the settings that are compared."""
    seeds: int
    means: dict[str, float]
    deviations: dict[str, float]
    collapsed: Collapsed
    seconds: float
    """Mean time of a run, validation included."""


@dataclass(frozen=True)
class VariantDifference:
    """How a variant differs from the first: the mean of its pairs of equal seed, with an interval for all together."""

    values: Params
    against: Params
    pairs: int
    intervals: dict[str, Interval]
    """By metric: what ranks, `mi` and `kl`, in nats."""


def variants(definition: Definition, trials: Sequence[TrialRecord]) -> list[Variant]:
    """Return what is known of each variant that has a run which is over, in the order in which they were named."""
    found = []
    for runs in grouped(definition, trials):
        names = [name for name in with_ranked(WIDE, definition.goal.ranked) if f"valid/{name}" in runs[0].best.metrics]
        values = {name: np.array([run.best.get(f"valid/{name}") for run in runs]) for name in names}
        found.append(
            Variant(
                values=values_of(definition, runs[0]),
                seeds=len(runs),
                means={name: float(each.mean()) for name, each in values.items()},
                deviations={
                    name: float(each.std(ddof=1)) if len(each) > 1 else math.nan for name, each in values.items()
                },
                collapsed=count_collapsed(definition, runs),
                seconds=float(np.mean([run.seconds for run in runs])),
            )
        )
    return found


def differences(definition: Definition, trials: Sequence[TrialRecord]) -> list[VariantDifference]:
    """Return how each variant differs from the first that was named, over seeds that both have; Student's intervals.

    They hold for all variants together (Bonferroni), of each metric by itself.
    """
    groups = grouped(definition, trials)
    first_named = tuple(definition.planned[0].get(name) for name in definition.compared)
    if len(groups) < 2 or place_of(definition, groups[0][0]) != first_named:
        # Without a run of the first there is nothing to hold the others against.
        return []
    first, found = {run.params[SEED]: run for run in groups[0]}, []
    for runs in groups[1:]:
        pairs = [(run, first[run.params[SEED]]) for run in runs if run.params[SEED] in first]
        if not pairs:
            continue
        intervals = {}
        for name in (definition.goal.ranked, "mi", "kl"):
            by_seed = np.array([own.best[f"valid/{name}"] - other.best[f"valid/{name}"] for own, other in pairs])
            low, high = mean_interval(by_seed, confidence=1 - (1 - CONFIDENCE) / (len(groups) - 1))
            intervals[name] = Interval(float(by_seed.mean()), low, high)
        own, other = (values_of(definition, each[0]) for each in (runs, groups[0]))
        found.append(VariantDifference(own, other, len(pairs), intervals))
    return found


def place_of(definition: Definition, run: TrialRecord) -> tuple[object, ...]:
    """Return which variant a run is of."""
    return tuple(run.params.get(name) for name in definition.compared)


def values_of(definition: Definition, run: TrialRecord) -> Params:
    """Return a run's values of the settings that are compared; one that depends on another it may not have."""
    return {name: run.params[name] for name in definition.compared if name in run.params}


def grouped(definition: Definition, trials: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """Return the runs that are over, seed by seed, of each variant."""
    found: dict[tuple[object, ...], list[TrialRecord]] = {
        tuple(point.get(name) for name in definition.compared): [] for point in definition.planned
    }
    for trial in sorted(trials, key=lambda trial: trial.number):
        place = place_of(definition, trial)
        if trial.best and trial.state in (State.COMPLETE, State.COLLAPSED) and place in found:
            found[place].append(trial)
    return [runs for runs in found.values() if runs]


def as_json(definition: Definition, trials: Sequence[TrialRecord]) -> dict[str, object]:
    """Return all of it as JSON values."""
    return {
        "variants": [asdict(each) for each in variants(definition, trials)],
        "differences": [asdict(each) for each in differences(definition, trials)],
    }


def variant_tables(definition: Definition, trials: Sequence[TrialRecord]) -> list[Table]:
    """Return the tables of a comparison of variants that have rows."""
    names = [name.rsplit(".", 1)[-1] for name in definition.compared]
    found, against = variants(definition, trials), differences(definition, trials)
    metrics = list(dict.fromkeys(name for each in found for name in each.means))
    runs = Table(title="Validation split, mean ± s.d. over seeds", title_justify="left", box=None, pad_edge=False)
    for name in (*names, "seeds", *(METRICS[name].heading for name in metrics), "collapsed", "seconds"):
        runs.add_column(name, justify="left" if name in names else "right", overflow="fold")
    for each in found:
        numbers = [
            mean_and_spread(each.means.get(name, math.nan), each.deviations.get(name, math.nan)) for name in metrics
        ]
        of_seeds = f"{each.collapsed.number} of {each.collapsed.runs}"
        runs.add_row(
            *map(Text, shown(definition, each.values)), str(each.seeds), *numbers, of_seeds, f"{each.seconds:.1f}"
        )
    ranked = definition.goal.ranked
    pairs = Table(
        title=Text(
            f"Less {' '.join(shown(definition, found[0].values)) if found else 'the first'}'s, pairs of equal seed;"
            " intervals of 95 % for all rows together"
        ),
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in (*names, "pairs", *(METRICS[name].heading for name in (ranked, "mi", "kl"))):
        pairs.add_column(name, justify="left" if name in names else "right", overflow="fold")
    for one in against:
        cells = [
            f"{interval.difference:+z.2f} [{interval.low:z.2f}, {interval.high:z.2f}]"
            for interval in one.intervals.values()
        ]
        pairs.add_row(*map(Text, shown(definition, one.values)), str(one.pairs), *cells)
    return [table for table in (runs, pairs) if table.row_count]


def shown(definition: Definition, values: Params) -> list[str]:
    """Return a variant's values as cells."""
    return [show_value(values[name]) if name in values else "-" for name in definition.compared]
