"""Verdicts on the four claims made for pooled encoders, each with the interval that says so.

The claims are those of the two abstracts of arXiv 1911.03976. A verdict compares two settings seed by seed
and, for likelihoods, sequence by sequence on the test split; a run that failed leaves its seed out of both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy import stats

from model.collapse import COLLAPSED_MI_NATS, is_collapsed
from model.registry import POOLINGS
from study.record.places import FINAL_SCORES

POOLED = tuple(name for name, pooling in POOLINGS.items() if pooling.uses_all_states)
PREVIOUS_BEST = ("aggressive", "last")
CLAIMS = ("dispersion", "collapse", "likelihood", "cost")
CONFIDENCE = 0.95
RESAMPLES = 2000
COMPARABLE = 0.005
"""Likelihoods within this fraction of each other count as comparable: half of the field's whole spread."""
NOT_TESTABLE = "not testable"
"""The verdict on a claim that says nothing of what happened."""
TRUSTED = 0.05
"""Of at most this share of a run's sequences the importance weights may be beyond trust (k-hat)."""
BASES = ("vae", "annealing")
"""Methods that are a plain VAE but for their pooling, with and without annealing; the claims are about these."""
CHEAP = 1.25
"""A cost of at most this many times the plain VAE's counts as about the same."""


@dataclass(frozen=True)
class Verdict:
    """What the measurements say of one claim for one pooling."""

    claim: str
    pooling: str
    verdict: str
    evidence: str
    low: float | None = None
    high: float | None = None
    method: str = ""
    """The method that was run with pooling last and with this one."""


def mean_interval(
    differences: NDArray[np.float64], sampling_error: float = 0.0, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return Student's interval of the mean of one difference a seed; infinite with a single seed.

    `sampling_error` is a standard error that all seeds share, such as that of the sequences in a split. It is known
    far better than the spread of a few seeds, so that the degrees of freedom are Welch and Satterthwaite's; an error
    more never makes the interval narrower than that of the seeds alone.
    """
    if len(differences) < 2:
        return -np.inf, np.inf
    of_seeds = float(stats.sem(differences))
    error = float(np.hypot(of_seeds, sampling_error))
    of_one = len(differences) - 1
    freedom = of_one * (error / of_seeds) ** 4 if of_seeds else np.inf
    quantiles = stats.t.ppf((1 + confidence) / 2, [freedom, of_one])
    reach = float(max(quantiles * [error, of_seeds]))
    return float(differences.mean()) - reach, float(differences.mean()) + reach


def paired_interval(differences: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of the mean of `[seeds, sequences]` differences: both vary, sequences alike in all seeds.

    The error over sequences is a bootstrap's, that over seeds Student's, and the two add.
    """
    by_sequence = differences.mean(0)
    if by_sequence.size < 2:
        return -np.inf, np.inf
    found = stats.bootstrap((by_sequence,), np.mean, n_resamples=RESAMPLES, batch=100, method="basic", rng=0)
    return mean_interval(differences.mean(1), float(found.standard_error), confidence)


@dataclass(frozen=True)
class Difference:
    """How a method and pooling differ from a reference, on the test split, over the seeds that both have."""

    method: str
    pooling: str
    nll_difference: float
    """Mean nll less the reference's, nats a sequence; below 0 is better than the reference."""
    low: float
    high: float
    collapsed: int
    """How many of its runs collapsed, of one for each of the `seeds`; below, of the reference's."""
    reference_collapsed: int
    seeds: int
    untrusted: float
    """The largest share of a run's sequences, the reference's too, whose importance weights cannot be trusted."""


def differences(frame: pl.DataFrame) -> list[Difference]:
    """Return how each method and pooling differs from the plain VAE with pooling last, if they share seeds.

    The intervals hold for all rows together (Bonferroni).
    """
    plain = plainest(frame) or ""
    rows = frame.select("method", "pooling").unique(maintain_order=True).iter_rows()
    others = [row for row in rows if row != (plain, "last")]
    found = [difference(frame, row, (plain, "last"), len(others)) for row in others]
    return [each for each in found if each is not None]


def gains_of_pooling(frame: pl.DataFrame) -> list[Difference]:
    """Return how each method with a pooled encoder differs from the same method with pooling last.

    The intervals hold for all rows together (Bonferroni).
    """
    pooled = frame.filter(pl.col("pooling").is_in(POOLED)).select("method", "pooling").unique(maintain_order=True)
    rows = [row for row in pooled.iter_rows() if select(frame, row[0], "last").height]
    found = [difference(frame, row, (row[0], "last"), len(rows)) for row in rows]
    return [each for each in found if each is not None]


def difference(
    frame: pl.DataFrame, row: tuple[str, str], reference: tuple[str, str], rows: int = 1
) -> Difference | None:
    """Return how a method and pooling differ from others, one of so many rows; None where no seed was run with both."""
    own, other = pair(select(frame, *row), select(frame, *reference))
    if own.height == 0:
        return None
    by_sequence = nll_of_sequences(own) - nll_of_sequences(other)
    untrusted = float(np.max([column(each, "untrusted") for each in (own, other)]))
    return Difference(
        *row,
        float(by_sequence.mean()),
        *paired_interval(by_sequence, 1 - (1 - CONFIDENCE) / rows),
        num_collapsed(own),
        num_collapsed(other),
        own.height,
        untrusted,
    )


def decide(low: float, high: float) -> str:
    """Return the verdict on a claim that a difference is above 0."""
    return "supported" if low > 0 else "not supported" if high < 0 else "undecided"


def select(frame: pl.DataFrame, method: str, pooling: str) -> pl.DataFrame:
    """Return the runs of a method and pooling by seed."""
    return frame.filter((pl.col("method") == method) & (pl.col("pooling") == pooling)).sort("seed")


def pair(one: pl.DataFrame, other: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return two settings' runs with the seeds that both have, in one order."""
    return one.join(other.select("seed"), on="seed", how="semi"), other.join(one.select("seed"), on="seed", how="semi")


def column(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """Return one metric of each run."""
    return frame[name].cast(pl.Float64).to_numpy()


def nll_of_sequences(frame: pl.DataFrame) -> NDArray[np.float64]:
    """Return each test sequence's nll in nats by run, `[seeds, sequences]`."""
    return -np.stack([load_file(Path(folder) / FINAL_SCORES)["log_p"] for folder in frame["folder"]])


def plainest(frame: pl.DataFrame) -> str | None:
    """Return the method that stands for the plain VAE in costs: the first of BASES run with pooling last."""
    return next((name for name in BASES if select(frame, name, "last").height), None)


def judged(frame: pl.DataFrame) -> tuple[str, list[str]]:
    """Return the first of BASES that was run with pooling last and with pooled encoders, and those encoders."""
    for method in BASES:
        poolings = [name for name in POOLED if select(frame, method, name).height]
        if poolings and select(frame, method, "last").height:
            return method, poolings
    return "", []


def verdicts(frame: pl.DataFrame) -> list[Verdict]:
    """Return a verdict on each claim for each pooling that was run; undecided where runs that it needs are missing.

    All else is equal in what a verdict compares: the method is the same, the simplest that was run with both.
    """
    if frame.height == 0:
        return []
    method, poolings = judged(frame)
    if not method:
        missing = f"needs {' or '.join(BASES)} with pooling last and with a pooled encoder"
        return [Verdict(claim, "", "undecided", missing) for claim in CLAIMS]
    plain = select(frame, method, "last")
    found: list[Verdict] = []
    for name in poolings:
        pooled = select(frame, method, name)
        if pair(plain, pooled)[0].height == 0:
            found += [Verdict(claim, name, "undecided", f"last and {name} share no seed") for claim in CLAIMS]
            continue
        previous = select(frame, *PREVIOUS_BEST)
        if pair(previous, pooled)[0].height == 0:
            previous = previous.clear()
        found += [
            dispersion_verdict(*pair(plain, pooled), name),
            collapse_verdict(*pair(plain, pooled), name),
            likelihood_verdict(plain, pooled, previous, name),
            cost_verdict(*pair(plain, pooled), previous, name),
        ]
    return [replace(each, method=method) for each in found]


def dispersion_verdict(plain: pl.DataFrame, pooled: pl.DataFrame, name: str) -> Verdict:
    """Judge: a last-state encoder's features are more alike than a pooled encoder's, after the first epoch.

    Later, the encoder of a collapsed model has had no gradient for epochs, and says nothing of what led there.
    """
    difference = column(plain, "first_dispersion") - column(pooled, "first_dispersion")
    low, high = mean_interval(difference)
    evidence = (
        f"cosine similarity of last minus {name} after the first epoch: {difference.mean():.3f} [{low:.3f}, {high:.3f}]"
    )
    return Verdict("dispersion", name, decide(low, high), evidence, low, high)


def num_collapsed(frame: pl.DataFrame) -> int:
    """Count the runs whose posterior carries nothing, by the threshold of their study, if it has one."""
    rows = zip(column(frame, "mi"), column(frame, "mi_se"), column(frame, "collapse_mi_nats"), strict=True)
    return sum(is_collapsed(float(mi), float(error), float(below or COLLAPSED_MI_NATS)) for mi, error, below in rows)


def collapse_verdict(plain: pl.DataFrame, pooled: pl.DataFrame, name: str) -> Verdict:
    """Judge: at equal settings the last-state VAE collapses and the pooled one does not.

    Where neither collapses, or both do, the claim cannot be tested at these settings.
    """
    difference = column(pooled, "mi") - column(plain, "mi")
    low, high = mean_interval(difference)
    seeds, of_plain, of_pooled = plain.height, num_collapsed(plain), num_collapsed(pooled)
    if of_plain == of_pooled and of_plain in (0, seeds):
        verdict = NOT_TESTABLE
    elif seeds <= 2 or of_plain not in (0, seeds) or of_pooled not in (0, seeds):
        verdict = "undecided"
    else:
        as_claimed = of_plain == seeds and of_pooled == 0
        verdict = ("supported" if low > 0 else "undecided") if as_claimed else "not supported"
    evidence = (
        f"collapsed seeds: last {of_plain} of {seeds}, {name} {of_pooled} of {seeds};"
        f" mutual information of {name} minus last: {difference.mean():z.2f} nats [{low:z.2f}, {high:z.2f}]"
    )
    return Verdict("collapse", name, verdict, evidence, low, high)


def likelihood_verdict(plain: pl.DataFrame, pooled: pl.DataFrame, previous: pl.DataFrame, name: str) -> Verdict:
    """Judge: the pooled VAE's nll is below the last-state VAE's, and comparable to aggressive training's."""
    gain = nll_of_sequences(pair(plain, pooled)[0]) - nll_of_sequences(pair(plain, pooled)[1])
    low, high = paired_interval(gain)
    evidence = f"nll of last minus {name}: {gain.mean():z.2f} nats [{low:z.2f}, {high:z.2f}]"
    verdict = decide(low, high)
    doubtful = max(float(column(each, "untrusted").max()) for each in (plain, pooled) if each.height)
    if np.isnan(doubtful):
        evidence += "; with fewer than 100 samples a sequence nothing is known of its importance weights"
        return Verdict("likelihood", name, "undecided", evidence, low, high)
    if doubtful > TRUSTED:
        evidence += f"; importance weights of {doubtful:.0%} of the sequences of a run cannot be trusted"
        return Verdict("likelihood", name, "undecided", evidence, low, high)
    if previous.height == 0:
        evidence += "; aggressive training was not run"
        return Verdict("likelihood", name, "undecided" if verdict == "supported" else verdict, evidence, low, high)
    if not float(column(previous, "untrusted").max()) <= TRUSTED:
        evidence += "; the importance weights of aggressive training cannot be trusted, so that it is not compared with"
        return Verdict("likelihood", name, "undecided" if verdict == "supported" else verdict, evidence, low, high)
    other, own = pair(previous, pooled)
    behind = nll_of_sequences(own) - nll_of_sequences(other)
    margin = COMPARABLE * float(column(other, "nll").mean())
    behind_low, behind_high = paired_interval(behind)
    evidence += (
        f"; behind aggressive: {behind.mean():z.2f} nats [{behind_low:z.2f}, {behind_high:z.2f}], margin {margin:z.2f}"
    )
    if behind_low > margin:
        verdict = "not supported"
    elif verdict == "supported" and behind_high > margin:
        verdict = "undecided"
    return Verdict("likelihood", name, verdict, evidence, low, high)


def cost_verdict(plain: pl.DataFrame, pooled: pl.DataFrame, previous: pl.DataFrame, name: str) -> Verdict:
    """Judge: a pooled VAE costs about what a plain one does, and less than aggressive training.

    By decoder tokens, which are exact, and by the seconds of training, whose ratio over seeds has the interval.
    """

    def ratio(one: pl.DataFrame, metric: str) -> float:
        return float(column(one, metric).mean() / column(plain, metric).mean())

    tokens = ratio(pooled, "decoder_tokens")
    seconds = np.log(column(pooled, "seconds")) - np.log(column(plain, "seconds"))
    low, high = (float(np.exp(end)) for end in mean_interval(seconds))
    evidence = (
        f"{name} against last: {tokens:z.2f} times the decoder tokens,"
        f" {np.exp(seconds.mean()):z.2f} times the seconds [{low:z.2f}, {high:z.2f}]"
    )
    if previous.height == 0:
        return Verdict("cost", name, "undecided", evidence + "; aggressive training was not run", low, high)
    more = ratio(previous, "decoder_tokens")
    evidence += f"; aggressive: {more:z.2f} times, {ratio(previous, 'seconds'):z.2f} times"
    own, other = cost_of_reaching(pooled, previous)
    if own:
        evidence += f"; to the validation nll that both reach: aggressive {other / own:z.2f} times the tokens of {name}"
    verdict = "undecided"
    if tokens > min(CHEAP, more) or low > CHEAP:
        verdict = "not supported"
    elif high < CHEAP:
        verdict = "supported"
    return Verdict("cost", name, verdict, evidence, low, high)


def cost_of_reaching(one: pl.DataFrame, other: pl.DataFrame) -> tuple[float, float]:
    """Return the mean decoder tokens that two settings take to the lowest validation nll that both reach, by seed."""
    one, other = pair(one, other)
    costs = []
    for left, right in zip(one.iter_rows(named=True), other.iter_rows(named=True), strict=True):
        target = max(left["curve_nll"][-1], right["curve_nll"][-1])
        costs.append([tokens_to(row, target) for row in (left, right)])
    means = np.mean(costs, axis=0) if costs else np.zeros(2)
    return float(means[0]), float(means[1])


def tokens_to(row: dict[str, list[float]], target: float) -> float:
    """Return the decoder tokens of a run's first epoch whose validation nll is no higher than a target."""
    return next(tokens for nll, tokens in zip(row["curve_nll"], row["curve_tokens"], strict=True) if nll <= target)
