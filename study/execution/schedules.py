"""Ray's schedules, knowing what may win, and what they say of trials that earlier runs of a study have seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from study.config.run_options import SCHEDULER_NAMES
from study.epoch import Epoch, Stored
from study.errors import StudyError
from study.record.ledger import Ledger
from study.record.states import State
from study.record.trials import TrialRecord
from study.search.definition import Definition
from study.search.objective import Goal

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

Result = Mapping[str, Stored]
"""An epoch as Tune passes it on."""
EPOCH = "epoch"
BEHIND_NATS = 1e6


@dataclass(frozen=True, eq=False)
class EarlierTrial:
    """What a schedule asks of a trial that is over."""

    trial_id: str
    config: Mapping[str, Any]
    """Its `trial` number and `settings`, as `Task` has them."""
    status: str = "TERMINATED"


def ranked(trial: Trial | EarlierTrial, result: Result, goal: Goal) -> Result | None:
    """Return an epoch as schedules rank it: what may not win behind all that may; None of a language model.

    A collapsed trial is a language model, and often a good one: it would end trials at its rungs that can win, which it
    cannot itself; so would one that is under a floor. Among those the one that misses the least comes first. A language
    model that was asked for is a yardstick: it ends none and is not ended.
    """
    if trial.config["settings"]["model"]["posterior"] == "none":
        return None
    metric = f"valid/{goal.ranked}"
    if metric not in result:
        return result
    epoch = Epoch(1, 0, 0.0, {name: float(result[name] or 0) for name in result if name.startswith("valid/")})
    missed = goal.missed_by(epoch)
    return {**result, metric: epoch[metric] + BEHIND_NATS * (1 + missed)} if missed else result


class GoalAware:
    """What makes a schedule of Ray's know what may win, and which trials it must leave alone."""

    definition: Definition

    def on_trial_result(self, tune_controller: TuneController, trial: Trial | EarlierTrial, result: Result) -> str:
        """Return what to do with a trial after an epoch."""
        seen = ranked(trial, result, self.definition.goal)
        if seen is None:
            return "CONTINUE"
        decision = str(super().on_trial_result(tune_controller, trial, seen))  # type: ignore[misc]
        return "CONTINUE" if self.definition.is_tested(trial.config["trial"]) else decision

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial | EarlierTrial, result: Result) -> None:
        """Take the last epoch of a trial."""
        seen = ranked(trial, result, self.definition.goal)
        if seen is not None:
            super().on_trial_complete(tune_controller, trial, seen)  # type: ignore[misc]


class GoalAwareASHA(GoalAware, ASHAScheduler):
    """ASHA on what ranks that knows what may win."""

    def __init__(self, definition: Definition, **options: float) -> None:
        super().__init__(metric=f"valid/{definition.goal.ranked}", mode="min", time_attr=EPOCH, **options)
        self.definition = definition


class GoalAwareMedian(GoalAware, MedianStoppingRule):
    """The median rule on what ranks that knows what may win."""

    def __init__(self, definition: Definition, **options: float) -> None:
        super().__init__(metric=f"valid/{definition.goal.ranked}", mode="min", time_attr=EPOCH, **options)
        self.definition = definition

    def on_trial_result(self, tune_controller: TuneController, trial: Trial | EarlierTrial, result: Result) -> str:
        """Return what to do with a trial after an epoch."""
        if self.definition.is_tested(trial.config["trial"]):
            self.feed(trial, [Epoch.from_json(result)])
            return "CONTINUE"
        return super().on_trial_result(tune_controller, trial, result)

    def feed(self, trial: Trial | EarlierTrial, rows: Sequence[Epoch]) -> None:
        """Take epochs that are past: asked itself, it would stop trials of the past and refuse to hear more of them."""
        seen = [ranked(trial, row.to_json(), self.definition.goal) for row in rows]
        if rows and None not in seen:
            self._results[trial].extend(seen)


def make_scheduler(definition: Definition, ledger: Ledger) -> TrialScheduler:
    """Return the schedule of a definition, knowing what earlier runs of the study have seen.

    Rungs count epochs, come after the longest warm-up that is searched, and rank `valid/nll` (or what else ranks),
    which is at KL weight 1 whatever a trial trains with, collapsed trials last. Raises StudyError if the name is
    unknown.
    """
    scheduler = new_scheduler(definition)
    for trial in ledger.trials():
        if trial.state not in (State.WAITING, State.DROPPED):
            replay(scheduler, earlier(definition, trial), trial.rows)
    return scheduler


def new_scheduler(definition: Definition) -> TrialScheduler:
    """Return the schedule of a definition before its first trial."""
    epochs = definition.space.most_epochs()
    match definition.scheduler:
        case "none":
            return FIFOScheduler()
        case "asha":
            return GoalAwareASHA(
                definition,
                max_t=epochs + 1,
                grace_period=min(definition.grace_epochs, epochs),
                reduction_factor=3,
            )
        case "median":
            return GoalAwareMedian(definition, grace_period=definition.grace_epochs, min_samples_required=3)
        case name:
            raise StudyError(f"unknown scheduler {name!r}; expected one of {', '.join(SCHEDULER_NAMES)}")


def earlier(definition: Definition, trial: TrialRecord) -> EarlierTrial:
    """Return a recorded trial as a schedule knows it."""
    try:
        settings = definition.settings(trial.number, trial.params)
    except StudyError:
        # A combination that was refused; it has no epochs that anything could be made of.
        settings = definition.space.fixed
    return EarlierTrial(
        f"earlier-{trial.number}",
        {"trial": trial.number, "settings": {"model": {"posterior": settings.model.posterior}}},
    )


def was_stopped(ledger: Ledger, number: int) -> bool:
    """Say whether the schedule stops a trial on its last epoch on record, by what was known when that was recorded.

    A study that is killed after an epoch is recorded and before the schedule's decision is takes it then.
    """
    definition = ledger.definition
    if definition.scheduler == "none":
        return False
    schedule, last = new_scheduler(definition), ledger.rows(number)[-1]
    found = ledger.trials()
    records = {trial.number: trial for trial in found if trial.state != State.DROPPED or trial.number == number}
    own = earlier(definition, records[number])
    others = {each: earlier(definition, trial) for each, trial in records.items() if each != number}
    for trial in (own, *others.values()):
        schedule.on_trial_add(None, trial)
    until = math.inf if last.recorded_at is None else last.recorded_at
    rows = [(row.recorded_at or 0.0, each, row) for each in others for row in records[each].rows]
    for at, each, row in sorted(rows, key=lambda found: (found[0], found[1], found[2].number)):
        if at <= until:
            feed(schedule, others[each], [row])
    feed(schedule, own, ledger.rows(number)[:-1])
    return str(schedule.on_trial_result(NoController, own, last.to_json())) == "STOP"


class NoController:
    """What a schedule asks Tune for, where none runs."""

    @staticmethod
    def get_live_trials() -> list[Trial]:
        """Return no trial."""
        return []


def ended_by_schedule(rows: Sequence[Epoch]) -> str:
    """Return why a trial was ended by its schedule."""
    return f"worse than its peers at epoch {rows[-1].number if rows else 0}"


def replay(scheduler: TrialScheduler, trial: EarlierTrial, rows: Sequence[Epoch]) -> None:
    """Show a schedule the epochs of a trial of an earlier run, so that its rungs stand as they stood."""
    scheduler.on_trial_add(None, trial)
    feed(scheduler, trial, rows)
    if rows:
        scheduler.on_trial_complete(None, trial, rows[-1].to_json())


def feed(scheduler: TrialScheduler, trial: Trial | EarlierTrial, rows: Sequence[Epoch]) -> None:
    """Show a schedule some epochs that are past, whatever it decides."""
    if isinstance(scheduler, GoalAwareMedian):
        scheduler.feed(trial, rows)
        return
    for row in rows:
        scheduler.on_trial_result(None, trial, row.to_json())
