"""The ledger as Ray Tune wants it: a searcher that asks it, a callback that records in it, a schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from study.config.settings import Params
from study.epoch import MEASURED, Epoch, Stored
from study.errors import StudyError, tells_of_full_disk
from study.execution import mps
from study.execution.failures import why_it_failed
from study.execution.schedules import earlier, ended_by_schedule, feed, replay, was_stopped
from study.execution.task import Task
from study.execution.trial import ENDED, FAILURE
from study.record.ledger import Ledger
from study.record.states import COMPLETE, COUNTED, INTERRUPTED, Ending, State, StudyEnd
from study.record.trials import TrialRecord, make_record

MPS_RETRIES = 16
"""How often a trial may fall with others on its GPU, beyond its own retries: each of them may be the cause once."""
ALL_FAILED = 5
"""The study is given up when its first so many trials have all failed."""


class LedgerSearcher(Searcher):
    """Hands out the ledger's trials, interrupted ones first, until the number asked for is reached.

    Tune's own snapshot of a searcher is not used: the ledger is on disk already.
    """

    def __init__(self, ledger: Ledger, callback: LedgerCallback, is_settled: Callable[[], bool] | None = None) -> None:
        super().__init__(metric=f"valid/{ledger.definition.goal.ranked}", mode="min")
        self.ledger = ledger
        self.callback = callback
        self.left = ledger.num_left()
        self.is_settled, self.has_settled = is_settled, False

    def suggest(self, trial_id: str) -> dict[str, object] | str:
        """Return the next trial's `Task` as Tune's configuration, or FINISHED."""
        definition = self.ledger.definition
        if self.left and self.is_settled is not None and not self.ledger.has_waiting() and self.is_settled():
            # Those that run go on to their ends.
            self.has_settled, self.left = True, 0
        while self.left > 0:
            number, params = self.ledger.ask()
            self.left -= 1
            try:
                settings = definition.settings(number, params)
            except StudyError as error:
                self.callback.finish(number, params, State.FAILED, str(error))
                continue
            if end := self.callback.end_on_record(number):
                # A kill came between its last epoch and the note that this ended it.
                self.callback.finish_on_record(number, params, *end)
                continue
            return Task(
                trial=number,
                params=params,
                settings=settings,
                corpus=definition.corpus,
                folder=str(self.ledger.trial_folder(number).absolute()),
                rows_seen=len(self.ledger.rows(number)),
                cpus=definition.cpus_per_trial,
                gpus=definition.gpus_per_trial,
                code=definition.code,
                ranked=definition.goal.ranked,
                final_num_samples=definition.final_num_samples,
            ).model_dump()
        return Searcher.FINISHED  # type: ignore[no-any-return]

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Stored] | None = None, error: bool = False) -> None:
        """Nothing: the callback, which knows the reason, tells the ledger."""

    def save(self, checkpoint_path: str) -> None:
        """Write the empty snapshot that Tune expects."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class LedgerCallback(Callback):
    """Records every epoch and every end of a trial, in the order: ledger, MLflow, the screen."""

    def __init__(self, ledger: Ledger, on_change: Callable[[TrialRecord], None]) -> None:
        self.ledger = ledger
        self.on_change = on_change
        self.states = {trial.number: trial.state for trial in ledger.trials() if trial.state in COUNTED}
        self.scheduler: TrialScheduler | None = None
        self._failures: dict[int, str] = {}
        self._shared_faults: dict[int, int] = {}
        self._ended: set[int] = set()
        self._known: set[int] = set()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Note that a trial has a worker; show the schedule what it did before it was interrupted."""
        number = trial.config["trial"]
        if self.scheduler is not None and number not in self._known:
            feed(self.scheduler, trial, self.ledger.rows(number))
        self._known.add(number)
        self._note(trial, State.RUNNING)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: Mapping[str, Stored], **info: object
    ) -> None:
        """Record an epoch, or the reason why there is none."""
        number = trial.config["trial"]
        if FAILURE in result:
            self._failures[number] = str(result[FAILURE])
        elif ENDED in result:
            self._ended.add(number)
        elif f"valid/{self.ledger.definition.goal.ranked}" in result:
            row = {name: value for name, value in result.items() if is_recorded(name)}
            if self.ledger.add_row(number, Epoch.from_json(row)):
                # Retries count from the last epoch: a trial that goes on may lose its machine any number of times.
                trial.run_metadata.num_failures = 0
                self._note(trial, State.RUNNING)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Record the end of a trial: by itself, by collapse, by its own failure or by the schedule."""
        number = trial.config["trial"]
        rows = self.ledger.rows(number)
        if number in self._failures:
            self._finish(trial, State.FAILED, self._failures[number])
        elif rows and rows[-1].outcome:
            self._finish(trial, *self._own_end(rows))
        elif number in self._ended:
            self._finish(trial, State.COMPLETE, "")
        else:
            self._finish(trial, State.PRUNED, ended_by_schedule(rows))

    def end_on_record(self, number: int) -> tuple[State, str] | None:
        """Return state and reason of a trial whose last epoch on record ended it, or None if it goes on."""
        rows = self.ledger.rows(number)
        if not rows:
            return None
        if rows[-1].outcome:
            return self._own_end(rows)
        if was_stopped(self.ledger, number):
            return State.PRUNED, ended_by_schedule(rows)
        return None

    def finish_on_record(self, number: int, params: Params, state: State, reason: str) -> None:
        """Record the end of a trial that an earlier run has seen; the schedule knows it from then on."""
        if self.scheduler is not None:
            record = next(trial for trial in self.ledger.trials() if trial.number == number)
            replay(self.scheduler, earlier(self.ledger.definition, record), record.rows)
        self.finish(number, params, state, reason)

    def _own_end(self, rows: Sequence[Epoch]) -> tuple[State, str]:
        settings = self.ledger.definition.space.fixed.evaluation
        reason = (
            f"mutual information below {settings.collapse_mi_nats:g} nats, beyond its error, for"
            f" {settings.collapse_epochs} epochs at the final KL weight"
        )
        outcome = State(rows[-1].outcome)
        return outcome, reason if outcome == State.COLLAPSED else ""

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Give back the retry of a trial that fell with its GPU's other clients, as often as `MPS_RETRIES` allows."""
        number = trial.config["trial"]
        is_shared = mps.is_running() and mps.is_fault(why_it_failed(trial))
        if is_shared and self._shared_faults.get(number, 0) < MPS_RETRIES:
            self._shared_faults[number] = self._shared_faults.get(number, 0) + 1
            trial.run_metadata.num_failures = max(0, trial.run_metadata.num_failures - 1)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Record a trial whose retries are spent; raise OSError if it was the disk that failed."""
        reason = why_it_failed(trial)
        if tells_of_full_disk(reason):
            # Not the trial's fault: it waits to be gone on with.
            raise OSError(reason)
        self._finish(trial, State.FAILED, reason)

    def _finish(self, trial: Trial, state: State, reason: str) -> None:
        self.finish(trial.config["trial"], trial.config["params"], state, reason)

    def finish(self, number: int, params: Params, state: State, reason: str) -> None:
        """Record the end of a trial, and tell everyone."""
        rows = list(self.ledger.rows(number))
        state, reason = self.ledger.finish(number, state, reason)
        self.states[number] = state
        self.on_change(make_record(self.ledger.definition, number, state, reason, params, rows))

    def _note(self, trial: Trial, state: State) -> None:
        number = trial.config["trial"]
        rows = list(self.ledger.rows(number))
        self.on_change(make_record(self.ledger.definition, number, state, "", trial.config["params"], rows))


class EndOfStudy(Stopper):
    """Ends the study when its first trials all failed, or when told to."""

    def __init__(
        self, callback: LedgerCallback, deadline_seconds: float | None, gpus_are_spent: Callable[[], bool]
    ) -> None:
        self.callback = callback
        self.gpus_are_spent = gpus_are_spent
        self.deadline = time.monotonic() + deadline_seconds if deadline_seconds is not None else math.inf
        self.stopping = False
        self.ending = COMPLETE

    def __getstate__(self) -> dict[str, object]:
        """Leave everything out of Tune's snapshot, which nothing is restored from."""
        return {}

    def __call__(self, trial_id: str, result: Mapping[str, Stored]) -> bool:
        """Say whether one trial is over: never."""
        return False

    def stop_all(self) -> bool:
        """Say whether the study is over before its number of trials is reached."""
        states = list(self.callback.states.values())
        if len(states) >= ALL_FAILED and set(states) == {State.FAILED}:
            self.ending = Ending(StudyEnd.ALL_FAILED, f"the first {len(states)} trials all failed")
        elif time.monotonic() > self.deadline:
            self.ending = Ending(StudyEnd.BUDGET_SPENT, "the time budget is spent")
        elif self.gpus_are_spent():
            self.ending = Ending(StudyEnd.BUDGET_SPENT, "the GPU hours are spent")
        elif self.stopping:
            self.ending = INTERRUPTED
        return self.ending is not COMPLETE


def is_recorded(name: str) -> bool:
    """Say whether a key of a Tune result is one of ours."""
    own = ("epoch", "step", "seconds", "outcome", "phase", "node")
    return name in own or name.startswith(("train/", "valid/", "system/", "own/", MEASURED))
