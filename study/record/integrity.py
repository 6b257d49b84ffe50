"""A trial as Optuna's database and its journal have it together, and whether they say the same of it."""

from __future__ import annotations

import math

from optuna.trial import FrozenTrial, TrialState

from data.files import sealed
from study.config.settings import Params
from study.epoch import Epoch
from study.record.proposal import VALUES_DIGEST, digest_of_values, values_of
from study.record.states import State
from study.record.trials import TrialRecord, make_record
from study.search.definition import Definition

OPTUNA_STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.COLLAPSED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}


def seal_of(params: Params, state: State, reason: str) -> str:
    """Return a digest of what only the database knows of a trial that is over."""
    return str(sealed({"params": params, "state": state, "reason": reason})["digest"])


def record_of(definition: Definition, trial: FrozenTrial, rows: list[Epoch], run_id: str | None) -> TrialRecord:
    """Return a trial's record: what the database knows of it, with the epochs of its journal."""
    waiting = State.WAITING if trial.state == TrialState.WAITING else State.RUNNING
    values, order = values_of(trial), list(definition.space.ranges)
    return make_record(
        definition,
        trial.number,
        State(trial.user_attrs.get("state", State.FAILED)) if trial.state.is_finished() else waiting,
        trial.user_attrs.get("reason", ""),
        # In the order of the space, whatever the database's is.
        dict(sorted(values.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))),
        rows,
        run_id=run_id,
        started=trial.datetime_start is not None,
    )


def disagreement(  # noqa: PLR0911 - one a difference
    trial: FrozenTrial, rows: list[Epoch], best: Epoch, definition: Definition
) -> str:
    """Return in what a trial's database entry and its journal differ, or nothing."""
    unknown = trial.params.keys() - definition.space.ranges.keys()
    if unknown:
        return f"the database gives it {min(unknown)}, which the study does not search"
    strange = [name for name, value in trial.params.items() if not isinstance(value, bool | int | float | str)]
    if strange:
        return f"the database gives it a value of {strange[0]} that no setting can have"
    stored = trial.user_attrs.get(VALUES_DIGEST)
    if stored is not None and stored != digest_of_values(trial.params):
        return "its values in the database are not those that it was given"
    ranked = definition.goal.ranked
    if any(f"valid/{ranked}" not in row.metrics for row in rows):
        return f"an epoch of its journal has no {ranked}, by which the study ranks"
    journal = {row.number: float(row[f"valid/{ranked}"]) for row in rows if row.counts}
    for epoch, value in trial.intermediate_values.items():
        if epoch not in journal:
            return f"the database knows epoch {epoch}, which is not in its journal of {len(rows)} epochs"
        if not equal(journal[epoch], value):
            return f"{ranked} of epoch {epoch} is {value!r} in the database and {journal[epoch]!r} in its journal"
    return of_ended(trial, rows, best, definition, len(journal)) if trial.state.is_finished() else ""


def of_ended(  # noqa: PLR0911 - one a difference
    trial: FrozenTrial, rows: list[Epoch], best: Epoch, definition: Definition, num_told: int
) -> str:
    """Return in what they differ about a trial that is over, or nothing."""
    told, goal = trial.user_attrs, definition.goal
    if not all(isinstance(name, str) for name in told):
        return "the database has an attribute of it without a name"
    state = told.get("state", State.FAILED)
    if OPTUNA_STATES.get(state) != trial.state:
        return f"the database says both {str(state)[:40]!r} and {trial.state.name}"
    if "digest" in told and told["digest"] != seal_of(values_of(trial), state, told.get("reason", "")):
        return "its values, state or reason in the database are not those that were stored"
    if not goal.is_pareto and len(trial.intermediate_values) != num_told:
        return f"the database knows {len(trial.intermediate_values)} epochs, its journal has {num_told}"
    if "seconds" in told and not equal(told["seconds"], rows[-1].seconds if rows else 0.0):
        return f"the database has {told['seconds']!r} seconds, its journal {rows[-1].seconds if rows else 0.0!r}"
    for name, value in told.items():
        if name.startswith("best/") and not equal(value, best.get(f"valid/{name[5:]}")):
            return f"its {name} is {value!r} in the database and {best.get(f'valid/{name[5:]}')!r} in its journal"
    if trial.state == TrialState.COMPLETE and not all(map(equal, trial.values or [], goal.values(best))):
        return f"its objective is {trial.values} in the database and {goal.values(best)} in its journal"
    return ""


def equal(one: object, other: object) -> bool:
    """Say whether two numbers are the same; so are two that are no number."""
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        return False
    return one == other or (math.isnan(one) and math.isnan(other))
