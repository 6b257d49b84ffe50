"""Does pooling help on this corpus: each pooling against `last` in the trials of the pooling test, paired.

A pair is two runs of one KL weight and one seed, which began with equal weights and saw equal batches. Whether a pooled
encoder carries more is decided by a permutation test of the mean difference in log(MI + 0.1 nats): under the null
hypothesis poolings can be exchanged within each weight and seed, whatever weights and seeds do. A permutation is
counted by the largest difference of all poolings (Westfall and Young 1993), so that the chance of any verdict without a
cause is at most 5 %. Intervals are Student's, of the mean over weights and seeds, the error from seeds in a weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from model.collapse import COLLAPSED_MI_NATS
from study.analysis.claims import CONFIDENCE, NOT_TESTABLE
from study.record.states import State
from study.record.trials import TrialRecord, has_collapsed, is_language_model
from study.search.definition import Definition
from study.search.pooling_test import POOLING, REFERENCE, SEED, WEIGHT

Block = tuple[float, int]
"""KL weight and seed of runs that differ by pooling alone."""
POWER = 0.8
PERMUTATIONS = 20_000
FEWEST_PAIRS = 3
PRIOR_SCALE = 2.5
"""Standard deviation of the coefficients that a penalised logistic curve is drawn towards 0 by (Gelman et al. 2008)."""


@dataclass(frozen=True)
class Interval:
    """A mean paired difference and its 95 % interval, in nats; infinite where no error is known."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Collapsed:
    """How many runs collapsed, and the exact interval (Clopper and Pearson) of the share."""

    number: int
    runs: int
    low: float
    high: float


@dataclass(frozen=True)
class PoolingVerdict:
    """What a study says of one pooling against another."""

    pooling: str
    against: str
    pairs: int
    mi: Interval
    kl: Interval
    nll: Interval
    """Of the nll, or of what else ranks the study's trials."""
    detectable_nll: float
    """The smallest difference in nll that so many pairs would have shown in 8 of 10 studies, in nats."""
    p: float
    """Of the difference in mutual information, for all poolings together."""
    collapsed: Collapsed
    against_collapsed: Collapsed
    collapses_at: float | None
    """The KL weight at which half of the runs collapse, by a penalised logistic curve; None where none or all did."""
    verdict: str
    """Whether it carries `more` or `less`, `undecided`, or `not testable`."""
    why: str


def tested(definition: Definition, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Return the runs of a study's pooling test that are over, without the language model."""
    return [
        trial
        for trial in trials
        if definition.is_tested(trial.number)
        and trial.state in (State.COMPLETE, State.COLLAPSED)
        and trial.best
        and not is_language_model(definition, trial)
    ]


def by_block(definition: Definition, runs: Sequence[TrialRecord]) -> dict[Block, dict[str, TrialRecord]]:
    """Return the runs by KL weight and seed, and there by pooling."""
    found: dict[Block, dict[str, TrialRecord]] = {}
    for run in runs:
        weight = float(run.params.get(WEIGHT, definition.space.fixed.objective.kl_weight))
        found.setdefault((weight, int(run.params[SEED])), {})[str(run.params[POOLING])] = run
    return dict(sorted(found.items()))


def verdicts(definition: Definition, trials: Sequence[TrialRecord]) -> list[PoolingVerdict]:
    """Return a verdict on each pooling of a study's test against `last`; none without a test."""
    runs = tested(definition, trials)
    poolings = list(dict.fromkeys(str(run.params[POOLING]) for run in runs))
    blocks = by_block(definition, runs)
    others = [name for name in poolings if name != REFERENCE]
    whole = {place: found for place, found in blocks.items() if all(name in found for name in (REFERENCE, *others))}
    chances = permutation_p(whole, others)
    collapse = collapse_weights(definition, runs)
    return [judge(definition, blocks, name, chances.get(name, math.nan), collapse) for name in others]


def judge(
    definition: Definition,
    blocks: Mapping[Block, Mapping[str, TrialRecord]],
    pooling: str,
    p_value: float,
    collapse: Mapping[str, float | None],
) -> PoolingVerdict:
    """Return what pairs of runs say of a pooling against `last`."""
    needed = {pooling, REFERENCE}
    pairs = {place: (found[pooling], found[REFERENCE]) for place, found in blocks.items() if needed <= set(found)}

    ranked = definition.goal.ranked

    def interval(metric: str) -> tuple[Interval, float]:
        differences: dict[float, list[float]] = {}
        for (weight, _), (own, other) in pairs.items():
            differences.setdefault(weight, []).append(own.best[f"valid/{metric}"] - other.best[f"valid/{metric}"])
        return stratified(list(differences.values()))

    (mi, _), (kl, _), (nll, detectable) = interval("mi"), interval("kl"), interval(ranked)
    own = count_collapsed(definition, [pair[0] for pair in pairs.values()])
    other = count_collapsed(definition, [pair[1] for pair in pairs.values()])
    verdict, why = conclude(pooling, len(pairs), mi, p_value, (own, other))
    return PoolingVerdict(
        pooling=pooling,
        against=REFERENCE,
        pairs=len(pairs),
        mi=mi,
        kl=kl,
        nll=nll,
        detectable_nll=detectable,
        p=p_value,
        collapsed=own,
        against_collapsed=other,
        collapses_at=collapse.get(pooling),
        verdict=verdict,
        why=why,
    )


def conclude(pooling: str, pairs: int, mi: Interval, p_value: float, counts: Sequence[Collapsed]) -> tuple[str, str]:
    """Return the verdict on a pooling, and why."""
    if pairs < FEWEST_PAIRS:
        return NOT_TESTABLE, f"{pairs} pairs of runs are over, and {FEWEST_PAIRS} are the fewest that say anything"
    if all(count.number == count.runs for count in counts):
        return (
            NOT_TESTABLE,
            f"every run with {pooling} and with {REFERENCE} collapsed; ask at lower KL weights (--test-weights)",
        )
    told = (
        f"its mutual information is {abs(mi.difference):.2f} nats {'higher' if mi.difference > 0 else 'lower'} in the"
        f" mean of {pairs} pairs of equal KL weight and seed"
    )
    if p_value < 1 - CONFIDENCE:
        return ("more" if mi.difference > 0 else "less"), f"{told}, {shown_p(p_value)}"
    return "undecided", f"{told}, as much as chance alone gives with p = {p_value:.2f}"


def shown_p(p_value: float) -> str:
    """Return a p-value in words: no smaller one than so many permutations can tell."""
    return f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001"


def stratified(groups: Sequence[Sequence[float]]) -> tuple[Interval, float]:
    """Return the mean of paired differences, given by KL weight, with its interval; and what could have been detected.

    Weights are as they were chosen: the error is of seeds within a weight, pooled; over all pairs where each weight has
    one seed.
    """
    values = np.array([value for group in groups for value in group])
    if len(values) == 0:
        return Interval(math.nan, -math.inf, math.inf), math.inf
    mean = float(values.mean())
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    if freedom < 1:
        freedom, squares = len(values) - 1, float(np.var(values)) * len(values)
    if freedom < 1:
        return Interval(mean, -math.inf, math.inf), math.inf
    error = math.sqrt(squares / freedom / len(values))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return Interval(mean, mean - reach, mean + reach), reach + float(stats.t.ppf(POWER, freedom)) * error


def permutation_p(blocks: Mapping[Block, Mapping[str, TrialRecord]], others: Sequence[str]) -> dict[str, float]:
    """Return each pooling's p-value: how often any would differ as much if poolings were exchanged at random."""
    if not blocks or not others:
        return {}
    values = np.array(
        [[found[name].best["valid/mi"] for name in (REFERENCE, *others)] for found in blocks.values()], np.float64
    )
    return dict(zip(others, max_difference_p(values), strict=True))


def max_difference_p(mi_nats: NDArray[np.float64], permutations: int = PERMUTATIONS, seed: int = 0) -> list[float]:
    """Return the p-value of each column of `[blocks, poolings]` against the first, for all of them together."""
    amount = np.log(np.maximum(mi_nats, 0.0) + COLLAPSED_MI_NATS)

    def differences(each: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.abs((each[..., 1:] - each[..., :1]).mean(-2)))

    observed = differences(amount)
    draw = np.random.default_rng(seed)
    drawn = draw.permuted(np.broadcast_to(amount, (permutations, *amount.shape)), axis=-1)
    largest = differences(drawn).max(-1)
    return [float((1 + (largest >= one - 1e-12).sum()) / (1 + permutations)) for one in observed]


def count_collapsed(definition: Definition, runs: Sequence[TrialRecord]) -> Collapsed:
    """Return how many runs collapsed."""
    number = sum(has_collapsed(definition, run) for run in runs)
    if not runs:
        return Collapsed(0, 0, 0.0, 1.0)
    found = stats.binomtest(number, len(runs)).proportion_ci(CONFIDENCE, "exact")
    return Collapsed(number, len(runs), float(found.low), float(found.high))


def collapse_weights(definition: Definition, runs: Sequence[TrialRecord]) -> dict[str, float | None]:
    """Return the KL weight at which half of the runs with each pooling collapse; None where none or all did.

    A logistic curve of the weight's logarithm with a level for each pooling and one slope. It is penalised, since
    collapse often separates at a weight, where the likeliest curve is a step of infinite slope.
    """
    poolings = list(dict.fromkeys(str(run.params[POOLING]) for run in runs))
    weights = [float(run.params.get(WEIGHT, definition.space.fixed.objective.kl_weight)) for run in runs]
    collapsed = np.array([has_collapsed(definition, run) for run in runs], np.float64)
    if len(set(weights)) < 2:
        return dict.fromkeys(poolings)
    places = np.log(weights)
    center, spread = float(places.mean()), float(places.std())
    columns = np.array([[str(run.params[POOLING]) == name for name in poolings] for run in runs], np.float64)
    design = np.column_stack([columns, (places - center) / spread])

    def loss(coefficients: NDArray[np.float64]) -> float:
        logits = design @ coefficients
        misfit = float((np.logaddexp(0.0, logits) - collapsed * logits).sum())
        return misfit + 0.5 * float(np.square(coefficients / PRIOR_SCALE).sum())

    found = optimize.minimize(loss, np.zeros(design.shape[1]), method="BFGS").x
    slope = float(found[-1])
    halves: dict[str, float | None] = {}
    for name, level in zip(poolings, found[:-1], strict=True):
        own = collapsed[columns[:, poolings.index(name)] == 1]
        mixed = 0 < own.sum() < len(own)
        halves[name] = math.exp(center - spread * float(level) / slope) if mixed and slope > 0 else None
    return halves
