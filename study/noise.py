"""How much of a study's differences is luck: what seeds alone do to the nll, where the record can say."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from study.ledger import DEFINITION, Ledger, TrialRecord
from study.report import best_trial
from study.standings import key, without_seed


def seed_noise(trials: list[TrialRecord]) -> tuple[float, int]:
    """Return the pooled standard deviation in nats of the validation nll over seeds, and how many settings it rests on.

    Trials that were pruned are left out: they did not train for as long. (nan, 0) where no setting was
    tried with two seeds.
    """
    groups: dict[str, dict[int | None, float]] = defaultdict(dict)
    for trial in trials:
        if trial.best and trial.state in ("complete", "collapsed"):
            # The same setting with the same seed is the same run again.
            groups[key(without_seed(trial.params))][trial.params.get("seed")] = trial.best["valid/nll"]
    repeated = [list(found.values()) for found in groups.values() if len(found) > 1]
    if not repeated:
        return math.nan, 0
    freedom = sum(len(found) - 1 for found in repeated)
    return math.sqrt(sum(np.var(found) * len(found) for found in repeated) / freedom), len(repeated)


def known_noise(ledger: Ledger, trials: list[TrialRecord]) -> tuple[float, int, str]:
    """Return `seed_noise` of the study, else of its confirmation, and which of them it is from."""
    noise, settings = seed_noise(trials)
    place = ledger.folder.with_name(f"{ledger.definition.name}-confirm")
    if not settings and (place / DEFINITION).is_file():
        return (*seed_noise(Ledger.open(place).trials()), place.name)
    return noise, settings, "its own seeds"


def noise_sentence(ledger: Ledger, trials: list[TrialRecord]) -> str:
    """Return what is known of seed noise: from the study's own seeds, else from its confirmation."""
    name = ledger.definition.name
    noise, settings, source = known_noise(ledger, trials)
    if not settings:
        return f"Seed noise: not measured, so that small differences may be luck; `study confirm {name}` measures it."
    sentence = (
        f"Seed noise: nll varies by {noise:.2f} nats (s.d.) over seeds alone, from {settings} settings of {source}"
    )
    best = best_trial(trials)
    if best is None:
        return f"{sentence}."
    # The difference of two single runs varies by the square root of 2 more.
    near = sum(
        trial.feasible and trial.best["valid/nll"] - best.best["valid/nll"] < 2 * math.sqrt(2) * noise
        for trial in trials
        if trial.best and trial.state == "complete"
    )
    return f"{sentence}; {near} feasible trials, the best among them, lie within twice what that makes of a difference."
