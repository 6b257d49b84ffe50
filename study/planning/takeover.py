"""What a new study takes over of an earlier one: `--from`.

A trial that the new study could have made itself is known to its sampler. Of the others, whose numbers another corpus,
other fixed settings or values outside the space make not comparable, the best are tried again, first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from study.config.settings import Params, flatten
from study.errors import StudyError
from study.record.ledger import Ledger
from study.record.states import COUNTED, State
from study.record.trials import TrialRecord
from study.search.definition import Definition
from study.search.learned import Learned

MODELLING = ("tpe", "gp")
"""Samplers that make use of trials which they have not proposed."""
MOST_TRIED = 5
"""How many points of an earlier study are tried again."""
NOT_DECIDING = (
    "seed",
    "method",
    "training.device",
    "training.checkpoint_minutes",
    "evaluation.collapse_epochs",
    "evaluation.collapse_mi_nats",
    "evaluation.batch_size",
    "evaluation.max_decoder_tokens",
    "evaluation.final_num_samples",
    "evaluation.final_tolerance_nats",
    "evaluation.final_num_sequences",
)
"""Settings that may differ: what they change of a trial's nll is noise, or nothing."""


@dataclass(frozen=True)
class TakenOver:
    """Trials for the sampler, points to try first, and what is to be said about both."""

    learned: tuple[Learned, ...]
    points: tuple[Params, ...]
    notes: tuple[str, ...]


def take_over(earlier: Ledger, definition: Definition, num_searched: int) -> TakenOver:
    """Return what a study that searches so many trials takes over of an earlier one; raise StudyError if it is nothing.

    Numbers are those of the earlier record, judged by the new study's objective and floors.
    """
    name, old = earlier.folder.name, earlier.definition
    trials = [trial for trial in earlier.trials() if trial.best and trial.state in COUNTED]
    learned: list[Learned] = []
    others: list[tuple[TrialRecord, Params]] = []
    reasons: Counter[str] = Counter()
    for trial in trials:
        flat = flatten(old.space.settings(trial.params).model_dump())
        inside, _ = definition.space.divide(definition.space.values_in(flat))
        reason = why_not(flat, inside, old, definition)
        known = None if reason else as_learned(name, trial, inside, definition)
        if known is not None:
            learned.append(known)
        else:
            other = f"it ranks by {trial.ranked}, the new study by {definition.goal.ranked}"
            finite = "its numbers are not all finite"
            reasons[reason or (finite if trial.ranked == definition.goal.ranked else other)] += 1
            if inside and trial.feasible and trial.state == State.COMPLETE:
                others.append((trial, inside))
    others.sort(key=lambda each: each[0].score)
    most = min(MOST_TRIED, max(1, num_searched // 2))
    points = list({str(sorted(point.items())): point for _, point in others}.values())[:most]
    if not learned and not points:
        why = "; ".join(reasons) or "it has no trial that is over"
        raise StudyError(f"nothing of {name} can be taken over: {why}; start without --from")
    notes = [f"from {name}: the sampler knows {len(learned)} of its {len(trials)} trials that are over"]
    notes += [f"from {name}: {count} it does not know: {reason}" for reason, count in reasons.items()]
    if points:
        notes.append(f"from {name}: its best {len(points)} of those are tried first")
    if old.learned:
        notes.append(
            f"from {name}: what it had itself from {old.learned[0].study} is not passed on; name that by --from"
        )
    if old.goal != definition.goal:
        notes.append(f"from {name}: its trials are judged by this study's objective and floors, not by their own")
    return TakenOver(tuple(learned), tuple(points), tuple(notes))


def why_not(flat: Mapping[str, object], inside: Params, old: Definition, definition: Definition) -> str:
    """Return why the new study could not have made a trial with these settings, or nothing."""
    if old.corpus_fingerprint != definition.corpus_fingerprint:
        return f"its corpus is {old.corpus_name}, another one"
    if definition.sampler not in MODELLING:
        return f"the sampler {definition.sampler} uses no trials but its own"
    space, fixed = definition.space, flatten(definition.space.fixed.model_dump())
    for name, allowed in space.searched.items():
        if name not in inside and space.applies(name, flat):  # type: ignore[arg-type]
            return f"{name} is outside {allowed}"
    for name, value in flat.items():
        is_free = name in space.searched or name in NOT_DECIDING
        if not is_free and value != fixed.get(name) and space.applies(name, flat):  # type: ignore[arg-type]
            return f"{name} was {shown(value)}, not {shown(fixed.get(name))}"
    return ""


def shown(value: object) -> str:
    """Return a setting's value as it is shown."""
    return "unset" if value is None else str(value)


def as_learned(name: str, trial: TrialRecord, inside: Params, definition: Definition) -> Learned | None:
    """Return a trial as the sampler is to know it; None of one that ranks by others, or not all finite ones."""
    goal, is_whole = definition.goal, trial.state == State.COMPLETE
    if goal.ranked != trial.ranked:
        return None
    values: list[float] = goal.values(trial.best)
    constraints = goal.constraints(trial.best)
    if not all(map(math.isfinite, [*values, *constraints.values()])):
        return None
    epochs = {row.number: float(row[f"valid/{goal.ranked}"]) for row in trial.rows if row.counts and not goal.is_pareto}
    return Learned(
        study=name,
        trial=trial.number,
        params=inside,
        values=tuple(values) if is_whole else None,
        epochs={number: nll for number, nll in epochs.items() if math.isfinite(nll)},
        constraints=constraints,
    )
