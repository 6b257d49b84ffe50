"""A study's answer: whether pooling helps here, which settings are best, and what a language model comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from model.collapse import LITTLE_MI_NATS
from study.analysis.claims import NOT_TESTABLE, TRUSTED
from study.analysis.pooling_test import PoolingVerdict, verdicts
from study.analysis.seed_noise import BEYOND_LUCK, seed_noise
from study.config.settings import Params
from study.record.states import State
from study.record.trials import TrialRecord, best_trial, is_language_model, nearest_to_feasible
from study.search.definition import Definition


@dataclass(frozen=True)
class Best:
    """The best settings that were found."""

    trial: int
    settings: Params
    nll: float
    nll_se: float
    at_most: bool
    """Whether its nll may be lower than this: more of its importance weights than may be are beyond trust, or its
    samples are so few that the bias which was taken off was large."""
    kl: float
    mi: float
    mi_se: float
    to_its_end: bool
    """Whether it was trained to its end."""
    feasible: bool
    """Whether it reaches what is asked of a winner; False of the one that comes nearest where none does."""


@dataclass(frozen=True)
class LanguageModel:
    """The yardstick: a decoder without a latent variable, which is what a collapsed VAE is."""

    trial: int
    nll: float
    best_less_this: float | None
    """The best trial's nll less this."""
    seed_noise: float | None
    """Standard deviation of the nll over seeds alone, in nats; None where no setting ran with several."""


@dataclass(frozen=True)
class Answer:
    """What a study has to say."""

    pooling: list[PoolingVerdict]
    best: Best | None
    language_model: LanguageModel | None
    ranked: str = "nll"
    """What is called nll here: the metric by which the study ranks."""

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values, in which what ranks has its own name."""
        found = {name: value for name, value in asdict(self).items() if name != "ranked"}
        return found if self.ranked == "nll" else renamed(found, self.ranked)


def renamed(found: dict[str, object], ranked: str) -> dict[str, object]:
    """Return JSON values whose keys that speak of nll speak of what ranks; names of settings are the user's."""

    def inside(name: str, value: object) -> object:
        if isinstance(value, list):
            return [inside(name, each) for each in value]
        return renamed(value, ranked) if isinstance(value, dict) and name != "settings" else value

    return {name.replace("nll", ranked): inside(name, value) for name, value in found.items()}


TRUSTED_BIAS = 0.15
"""Nats of bias, at most, of which the first term alone makes a number that can be trusted."""


def answer_of(definition: Definition, trials: Sequence[TrialRecord]) -> Answer:
    """Return a study's answer: pooling by its pooling test, the best settings by all its trials."""
    found = verdicts(definition, trials), best_of(definition, trials), language_model_of(definition, trials)
    return Answer(*found, definition.goal.ranked)


def best_of(definition: Definition, trials: Sequence[TrialRecord]) -> Best | None:
    """Return the best settings, or those that come nearest to what is asked where none reaches it."""
    best = best_trial(list(trials))
    found = best or nearest_to_feasible(definition, list(trials))
    if found is None:
        return None
    row = found.best
    return Best(
        trial=found.number,
        settings=found.params,
        nll=found.score,
        nll_se=row.get(f"valid/{found.ranked}_se"),
        at_most=row.get("valid/untrusted") > TRUSTED or row.get("valid/nll_bias_bound") > TRUSTED_BIAS,
        kl=row["valid/kl"],
        mi=row["valid/mi"],
        mi_se=row.get("valid/mi_se"),
        to_its_end=found.state == State.COMPLETE,
        feasible=best is not None,
    )


def language_model_of(definition: Definition, trials: Sequence[TrialRecord]) -> LanguageModel | None:
    """Return the language model that the pooling test trained, beside the best trial."""
    for trial in trials:
        if definition.is_tested(trial.number) and is_language_model(definition, trial) and trial.best:
            best = best_trial(list(trials))
            less = None if best is None else best.score - trial.score
            noise = seed_noise(list(trials))[0]
            return LanguageModel(trial.number, trial.score, less, None if math.isnan(noise) else noise)
    return None


def in_short(pooling: Sequence[PoolingVerdict], likelihood_name: str = "likelihood") -> str:
    """Return what the pooling test comes to, in a sentence."""
    told = []
    for one in pooling:
        if one.verdict in ("more", "less"):
            better = "better" if one.nll.high < 0 else "worse" if one.nll.low > 0 else ""
            beside = (
                f"at a {better} {likelihood_name}" if better else f"at a {likelihood_name} that is not seen to differ"
            )
            told.append(f"{one.pooling} pooling carries {one.verdict} of the input than {one.against}, {beside}")
    return f"In short: {'; '.join(told) or 'this test does not show that pooling makes a difference here'}."


def sentences(definition: Definition, found: Answer) -> list[str]:
    """Return the answer in words: pooling first, then the best settings, then what a latent variable costs or gains."""
    ranked = found.ranked
    told = [in_short(found.pooling, "likelihood" if ranked == "nll" else ranked)] if found.pooling else []
    told += [f"Pooling: {one.pooling} against {one.against}: {one.verdict}; {one.why}." for one in found.pooling]
    for one in found.pooling:
        if one.verdict != NOT_TESTABLE:
            interval = f"{one.nll.difference:z.2f} nats, 95 % interval [{one.nll.low:z.2f}, {one.nll.high:z.2f}]"
            told.append(
                f"The {ranked} of {one.pooling} less that of {one.against}: {interval}; of {one.pairs} such pairs a"
                f" difference below {one.detectable_nll:.2f} may stay unseen."
            )
    best = found.best
    if best is None:
        return [*told, "Best settings: no trial has ended an epoch."]
    bound = "at most " if best.at_most else ""
    numbers = (
        f"{ranked} {bound}{best.nll:.2f} nats (KL {best.kl:.2f}, mutual information {best.mi:z.2f} ± {best.mi_se:.2f})"
    )
    early = "" if best.to_its_end else ", which was ended early"
    if best.feasible:
        told.append(f"Best settings: trial {best.trial}{early}, {numbers}.")
    else:
        floors = ", ".join(f"{name} of at least {least:g}" for name, least in definition.goal.floors) or "no collapse"
        told.append(
            f"Best settings: none reaches what is asked ({floors}); nearest is trial {best.trial}{early}, {numbers}."
        )
    if found.language_model is not None:
        model, less = found.language_model, found.language_model.best_less_this
        beside = "" if less is None else f"; the best trial is {abs(less):.2f} nats {'better' if less < 0 else 'worse'}"
        if less is not None and model.seed_noise is not None and abs(less) < BEYOND_LUCK * model.seed_noise:
            beside += ", as seeds alone may make two runs differ"
        told.append(f"A language model of the same decoder has an {ranked} of {model.nll:.2f}{beside}.")
    if best.feasible and best.mi < LITTLE_MI_NATS:
        told.append(f"The latent variable carries little: {best.mi:.2f} nats.")
    return told
