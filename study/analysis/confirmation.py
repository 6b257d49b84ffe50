"""Whether a study's best settings hold over seeds: the finalists, halved as seeds are added, and a paired test.

A search tries each setting with one seed and picks the luckiest; its winner's own number is too good. The
finalists therefore train again with seeds that the search has not seen, the same ones for all.
"""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from scipy import stats

from study.analysis.claims import mean_interval
from study.config.naming import CONFIRMATION
from study.config.provenance import here
from study.config.settings import Params
from study.errors import StudyError
from study.metrics import WIDE
from study.record.final_scores import read_final
from study.record.formats import mean_and_spread, show_params
from study.record.states import State
from study.record.trials import TrialRecord
from study.search.definition import Definition
from study.search.ranges import Range
from study.search.space import SearchSpace

SEED_ROUNDS = (1, 3, 5, 10)
"""Seeds after which the worse half of the settings is left out."""


@dataclass(frozen=True)
class Standing:
    """What the seeds so far say of one setting, validation split."""

    params: Params
    trials: list[int]
    seeds: list[int]
    nll: list[float]
    """The lowest validation nll (or what else ranks) by seed; infinite where the run failed or is not feasible."""
    means: dict[str, float]
    deviations: dict[str, float]

    @property
    def mean_nll(self) -> float:
        """What settings are ranked by: a setting that collapses with any seed comes last."""
        return float(np.mean(self.nll))


@dataclass(frozen=True)
class Confirmation:
    """What confirming found: standings from the best on, and how the winner compares with the second."""

    standings: list[Standing]
    sentence: str
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan


def finalists(trials: list[TrialRecord], top: int) -> list[Params]:
    """Return the searched values, without the seed, of the best feasible trials; raise StudyError if there is none."""
    usable = [trial for trial in trials if trial.feasible and trial.state == State.COMPLETE]
    ranked = [without_seed(trial.params) for trial in sorted(usable, key=lambda trial: trial.score)]
    distinct = [params for place, params in enumerate(ranked) if params not in ranked[:place]]
    if not distinct:
        raise StudyError("no trial of the study is complete and feasible; there is nothing to confirm")
    return distinct[:top]


def without_seed(params: Params) -> Params:
    """Return searched values but for the seed."""
    return {name: value for name, value in params.items() if name != "seed"}


def confirmation_study(source: Definition, seeds: int, command: str) -> Definition:
    """Return the study that trains a study's finalists with seeds of its own."""
    searched = source.space.ranges.get("seed")
    seen = [source.seed] if searched is None else [source.seed, *(int(value) for value in searched.ends())]
    fresh = tuple(range(max(seen) + 1, max(seen) + 1 + seeds))
    ranges = {name: allowed for name, allowed in source.space.searched.items() if name != "seed"}
    return replace(
        source,
        name=f"{source.name}{CONFIRMATION}",
        identifier=uuid.uuid4().hex,
        space=SearchSpace(
            source.space.fixed, {**ranges, "seed": Range(values=fresh)}, source.space.kept, is_own=source.is_own
        ),
        num_trials=0,
        planned=(),
        num_tested=0,
        sampler="random",
        scheduler="none",
        final_num_samples=0,
        compared=(),
        command=command,
        provenance=here(),
    )


def rounds(top: int, seeds: int) -> list[tuple[int, int]]:
    """Return (settings, seeds) of each round: settings are halved, down to the two that a test needs."""
    found, kept = [], top
    for count in [*(number for number in SEED_ROUNDS if number < seeds), seeds]:
        found.append((kept, count))
        kept = min(kept, max(2, math.ceil(kept / 2)))
    return found


def next_points(settings: list[Params], seeds: list[int], trials: list[TrialRecord]) -> list[Params]:
    """Return the points of the first round that is not over; nothing if all are. Follows from the record alone."""
    over = {key(trial.params) for trial in trials if trial.state not in (State.WAITING, State.RUNNING)}
    kept = settings
    for number, count in rounds(len(settings), len(seeds)):
        kept = kept[:number]
        points = [params | {"seed": seed} for params in kept for seed in seeds[:count]]
        if any(key(point) not in over for point in points):
            return points
        kept = [standing.params for standing in rank(kept, seeds[:count], trials)]
    return []


def key(params: Params) -> str:
    """Return searched values as one string, whatever their order."""
    return json.dumps(params, sort_keys=True)


def rank(settings: list[Params], seeds: list[int], trials: list[TrialRecord]) -> list[Standing]:
    """Return what these seeds say of settings, the lowest mean nll first."""
    by_key = {key(trial.params): trial for trial in trials}
    standings = []
    for params in settings:
        runs = [by_key[key(params | {"seed": seed})] for seed in seeds if key(params | {"seed": seed}) in by_key]
        values = {name: [run.best.get(f"valid/{name}") for run in runs] for name in WIDE}
        standings.append(
            Standing(
                params,
                [run.number for run in runs],
                [int(run.params["seed"]) for run in runs],
                [run.score if run.feasible and run.state == State.COMPLETE else math.inf for run in runs],
                {name: float(np.mean(found)) for name, found in values.items()},
                {name: float(np.std(found, ddof=1)) if len(found) > 1 else math.nan for name, found in values.items()},
            )
        )
    return sorted(standings, key=lambda standing: standing.mean_nll)


def conclude(settings: list[Params], seeds: list[int], trials: list[TrialRecord]) -> Confirmation:
    """Return the standings of every setting by the seeds that it got, and the paired test of the first two."""
    by_round, kept = [], settings
    for number, count in rounds(len(settings), len(seeds)):
        standings = rank(kept[:number], seeds[:count], trials)
        by_round.append(standings)
        kept = [standing.params for standing in standings]
    best = by_round[-1]
    last = {key(standing.params) for standing in best}
    # Of those that were left out, what their last round said.
    others = {key(standing.params): standing for standings in by_round[:-1] for standing in standings}
    left_out = [standing for name, standing in others.items() if name not in last]
    left_out.sort(key=lambda standing: (-len(standing.seeds), standing.mean_nll))
    earlier = [count for _, count in rounds(len(settings), len(seeds))][:-1]
    # Where no setting was left out, none was chosen.
    chosen_by = seeds[: earlier[-1]] if earlier and len(best) < len(settings) else []
    return compare_first_two([*best, *left_out], len(best), chosen_by)


def compare_first_two(standings: list[Standing], finalists_left: int, chosen_by: list[int]) -> Confirmation:
    """Return the confirmation with the paired test of the first two of the last round, on seeds not `chosen_by`."""
    first = standings[0]
    if not math.isfinite(first.mean_nll):
        return Confirmation(standings, "No finalist is feasible with every seed: the search's best was luck.")
    if finalists_left < 2 or len(first.nll) < 2:
        return Confirmation(standings, "One setting or one seed: there is no pair to test.")
    second = standings[1]
    if not math.isfinite(second.mean_nll):
        return Confirmation(standings, "The winner alone is feasible with every seed.")
    # The seeds that the two were chosen by say nothing new of them.
    fresh = [place for place, seed in enumerate(first.seeds) if seed not in chosen_by]
    if len(fresh) < 2:
        return Confirmation(
            standings, f"{len(fresh)} fresh seeds are too few to test the first two; give more --seeds."
        )
    differences = np.array(second.nll)[fresh] - np.array(first.nll)[fresh]
    low, high = mean_interval(differences)
    p_value = float(stats.ttest_1samp(differences, 0.0).pvalue)
    told = "The winner is better than" if low > 0 else "The winner cannot be told apart from"
    sentence = (
        f"{told} the second: {differences.mean():z.2f} nats [{low:z.2f}, {high:z.2f}] over {len(differences)} seeds"
        " that did not choose them,"
        f" paired t-test p = {p_value:.3f}."
    )
    return Confirmation(standings, sentence, float(differences.mean()), low, high, p_value)


def scores_on_test(folders: list[Path]) -> dict[str, float]:
    """Return mean and standard deviation over seeds of what the test split said of the winner's runs."""
    finals = [read_final(folder) for folder in folders]
    rows = [{name: math.nan if value is None else value for name, value in final.items()} for final in finals]
    found = {name: float(np.mean([row[name] for row in rows])) for name in WIDE}
    # Of a mean of runs: the errors of estimating, the largest bias, the largest share that cannot be trusted.
    found["nll_se"] = float(np.sqrt(np.mean([row["nll_se"] ** 2 for row in rows]) / len(rows)))
    found |= {
        name: max(row[name] for row in rows)
        for name in ("nll_bias_bound", "untrusted")
        if not any(math.isnan(row[name]) for row in rows)
    }
    if len(rows) > 1:
        found |= {f"{name}_sd": float(np.std([row[name] for row in rows], ddof=1)) for name in WIDE}
    return found


def confirmation_tables(confirmation: Confirmation, test: dict[str, float]) -> RenderableType:
    """Return what `study confirm` prints."""
    table = Table(title="Validation, mean ± s.d. over seeds", title_justify="left", box=None, pad_edge=False)
    # Code of a user's own says nothing of some.
    names = [name for name in WIDE if not all(math.isnan(each.means[name]) for each in confirmation.standings)]
    for name in ("seeds", *names, "settings"):
        table.add_column(name, justify="left" if name == "settings" else "right", overflow="fold")
    for standing in confirmation.standings:
        cells = [mean_and_spread(standing.means[name], standing.deviations[name]) for name in names]
        table.add_row(str(len(standing.seeds)), *cells, show_params(standing.params))
    parts: list[RenderableType] = [table, Text(confirmation.sentence)]
    if test:
        shown = [f"{name} {mean_and_spread(test[name], test.get(f'{name}_sd'))}" for name in WIDE]
        shown.append(f"standard error of estimating nll {test['nll_se']:.3f}")
        if "untrusted" in test:
            shown.append(f"importance weights not to be trusted {test['untrusted']:.0%}")
        parts.append(Text("Winner on the test split: " + ", ".join(shown)))
    return Group(*parts)


def as_json(confirmation: Confirmation, test: dict[str, float]) -> dict[str, object]:
    """Return a confirmation as JSON values."""
    return asdict(confirmation) | {"test": test}


def as_metrics(confirmation: Confirmation, test: dict[str, float]) -> dict[str, float]:
    """Return the numbers that stand for a confirmation in MLflow."""
    first = confirmation.standings[0]
    found = {f"confirmed/{name}": value for name, value in first.means.items()}
    found |= {f"confirmed/{name}_sd": value for name, value in first.deviations.items()}
    found |= {f"test/{name}": value for name, value in test.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}
