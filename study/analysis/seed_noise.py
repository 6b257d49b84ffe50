"""How much of a study's differences is luck: what seeds alone do to the nll, where the record can say."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict

import numpy as np

from study.analysis.confirmation import key, without_seed
from study.config.naming import CONFIRMATION
from study.config.settings import Value
from study.errors import StudyError, StudyWarning
from study.record.journal import storage_hint
from study.record.ledger import Ledger
from study.record.places import DEFINITION
from study.record.states import COUNTED, State
from study.record.trials import TrialRecord, best_trial
from study.search.definition import Definition
from study.search.settled import has_settled

BEYOND_LUCK = 2 * math.sqrt(2)
"""A difference of two single runs counts above so many s.d. of one: it varies by the square root of 2 more."""


def seed_noise(trials: list[TrialRecord]) -> tuple[float, int]:
    """Return the pooled standard deviation in nats of what ranks over seeds, and how many settings it rests on.

    Trials that were ended early, collapsed or pruned, are left out: they did not train for as long. (nan, 0) where no
    setting was tried with two seeds.
    """
    groups: dict[str, dict[Value | None, float]] = defaultdict(dict)
    for trial in trials:
        if trial.best and trial.state == State.COMPLETE:
            # The same setting with the same seed is the same run again.
            groups[key(without_seed(trial.params))][trial.params.get("seed")] = trial.score
    repeated = [list(found.values()) for found in groups.values() if len(found) > 1]
    if not repeated:
        return math.nan, 0
    freedom = sum(len(found) - 1 for found in repeated)
    return math.sqrt(sum(np.var(found) * len(found) for found in repeated) / freedom), len(repeated)


def known_noise(ledger: Ledger, trials: list[TrialRecord]) -> tuple[float, str]:
    """Return the seed noise in nats, and what to say of it: from the study's own seeds, else from its confirmation.

    nan where neither has tried a setting with two seeds.
    """
    name, place = ledger.definition.name, ledger.folder.with_name(f"{ledger.definition.name}{CONFIRMATION}")
    noise, settings = seed_noise(trials)
    source = "that ran with several"
    if not settings and (place / DEFINITION).is_file():
        try:
            noise, settings = seed_noise(Ledger.open(place).trials())
        except StudyError as error:
            # No reason to lose the rest of what is looked at.
            warnings.warn(StudyWarning(f"the seed noise is not taken from {place.name}: {error}"), stacklevel=2)
        source = f"of {place.name}"
    if not settings:
        hint = storage_hint(ledger.folder.parent)
        return (
            math.nan,
            "Seed noise: not measured, so that small differences may be luck;"
            f" `study confirm {name}{hint}` measures it.",
        )
    ranked = ledger.definition.goal.ranked
    sentence = (
        f"Seed noise: {ranked} varies by {noise:.2f} nats (s.d.) over seeds alone, in {settings} settings {source}"
    )
    best = best_trial(trials)
    if best is None:
        return noise, f"{sentence}."
    near = sum(
        trial.feasible and trial.score - best.score < BEYOND_LUCK * noise
        for trial in trials
        if trial.best and trial.state == State.COMPLETE
    )
    return (
        noise,
        f"{sentence}; {near - 1} other feasible trials are less than {BEYOND_LUCK * noise:.2f} nats behind the best:"
        " luck may be all of that.",
    )


def is_settled(definition: Definition, trials: list[TrialRecord]) -> bool:
    """Say whether a study's search can be expected to gain less than its seed noise; never where that is not known."""
    search = [trial for trial in trials if not definition.is_tested(trial.number) and trial.state in COUNTED]
    values = [trial.score if trial.feasible else math.inf for trial in search]
    return has_settled(values, seed_noise(trials)[0])
