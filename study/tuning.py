"""The ledger as Ray Tune wants it: a searcher that asks it, a callback that records in it, a schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from model.collapse import is_collapsed
from study.definition import Definition
from study.errors import StudyError, tells_of_full_disk
from study.failures import why_it_failed
from study.ledger import ENDS, Ledger
from study.trial import FAILURE

METRIC, EPOCH = "valid/nll", "epoch"
BEHIND_NATS = 1e6
SCHEDULER_NAMES = ("asha", "median", "none")
ALL_FAILED = 5
"""The study is given up when its first so many trials have all failed."""


@dataclass(frozen=True, eq=False)
class EarlierTrial:
    """What a schedule asks of a trial that is over."""

    trial_id: str
    config: dict[str, Any]
    status: str = "TERMINATED"


def ranked(trial: Any, result: dict[str, Any], collapse_kl_nats: float) -> dict[str, Any] | None:
    """Return an epoch as schedules rank it: collapsed trials behind all others; None of a language model.

    A collapsed trial is a language model, and often a good one: it would end trials at its rungs that can win, which it
    cannot itself. A language model that was asked for is a yardstick: it ends none and is not ended.
    """
    if trial.config["settings"]["model"]["posterior"] == "none":
        return None
    if METRIC in result and is_collapsed(result["valid/kl"], int(result["valid/au"]), collapse_kl_nats):
        return result | {METRIC: result[METRIC] + BEHIND_NATS}
    return result


class CollapseLast:
    """What makes a schedule of Ray's know collapse."""

    collapse_kl_nats: float

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return what to do with a trial after an epoch."""
        seen = ranked(trial, result, self.collapse_kl_nats)
        return "CONTINUE" if seen is None else str(super().on_trial_result(tune_controller, trial, seen))  # type: ignore[misc]

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Take the last epoch of a trial."""
        seen = ranked(trial, result, self.collapse_kl_nats)
        if seen is not None:
            super().on_trial_complete(tune_controller, trial, seen)  # type: ignore[misc]


class KnowingASHA(CollapseLast, ASHAScheduler):
    """ASHA on nll that knows collapse."""

    def __init__(self, collapse_kl_nats: float, **options: Any) -> None:
        super().__init__(metric=METRIC, mode="min", time_attr=EPOCH, **options)
        self.collapse_kl_nats = collapse_kl_nats


class KnowingMedian(CollapseLast, MedianStoppingRule):
    """The median rule on nll that knows collapse."""

    def __init__(self, collapse_kl_nats: float, **options: Any) -> None:
        super().__init__(metric=METRIC, mode="min", time_attr=EPOCH, **options)
        self.collapse_kl_nats = collapse_kl_nats

    def show(self, trial: Any, rows: list[dict[str, Any]]) -> None:
        """Take epochs that are past: asked itself, it would stop trials of the past and refuse to hear more of them."""
        seen = [ranked(trial, row, self.collapse_kl_nats) for row in rows]
        if rows and None not in seen:
            self._results[trial].extend(seen)


class LedgerSearcher(Searcher):
    """Hands out the ledger's trials, interrupted ones first, until the number asked for is reached.

    Tune's own snapshot of a searcher is not used: the ledger is on disk already.
    """

    def __init__(self, ledger: Ledger, callback: LedgerCallback) -> None:
        super().__init__(metric=METRIC, mode="min")
        self.ledger = ledger
        self.callback = callback
        self.left = ledger.num_left()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the configuration of the next trial, or FINISHED."""
        definition = self.ledger.definition
        while self.left > 0:
            number, params = self.ledger.ask()
            self.left -= 1
            try:
                settings = definition.space.settings(params)
            except StudyError as error:
                self.callback.finish(number, params, "failed", str(error))
                continue
            return {
                "trial": number,
                "params": params,
                "settings": settings.model_dump(),
                "corpus": definition.corpus,
                "folder": str(self.ledger.trial_folder(number).absolute()),
                "rows_seen": len(self.ledger.rows(number)),
                "cpus": definition.cpus_per_trial,
                "gpus": definition.gpus_per_trial,
                "final_num_samples": definition.final_num_samples,
            }
        return Searcher.FINISHED  # type: ignore[no-any-return]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback, which knows the reason, tells the ledger."""

    def save(self, checkpoint_path: str) -> None:
        """Write the empty snapshot that Tune expects."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class LedgerCallback(Callback):
    """Records every epoch and every end of a trial, in the order: ledger, MLflow, the screen."""

    def __init__(self, ledger: Ledger, on_change: Callable[[int, dict[str, Any], str, str], None]) -> None:
        self.ledger = ledger
        self.on_change = on_change
        self.states = {trial.number: trial.state for trial in ledger.trials() if trial.state in ENDS}
        self.scheduler: TrialScheduler | None = None
        self._failures: dict[int, str] = {}
        self._known: set[int] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note that a trial has a worker; show the schedule what it did before it was interrupted."""
        number = trial.config["trial"]
        if self.scheduler is not None and number not in self._known:
            show(self.scheduler, trial, self.ledger.rows(number))
        self._known.add(number)
        self._note(trial, "running")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record an epoch, or the reason why there is none."""
        number = trial.config["trial"]
        if FAILURE in result:
            self._failures[number] = result[FAILURE]
        elif METRIC in result:
            row = {name: result[name] for name in result if is_recorded(name)}
            if self.ledger.add_row(number, row):
                # Retries count from the last epoch: a trial that goes on may lose its machine any number of times.
                trial.run_metadata.num_failures = 0
                self._note(trial, "running")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the end of a trial: by itself, by collapse, by its own failure or by the schedule."""
        number = trial.config["trial"]
        rows = self.ledger.rows(number)
        if number in self._failures:
            self._finish(trial, "failed", self._failures[number])
        elif rows and rows[-1]["outcome"]:
            outcome = rows[-1]["outcome"]
            settings = self.ledger.definition.space.fixed.evaluation
            reason = (
                f"KL below {settings.collapse_kl_nats} nats and no active unit for {settings.collapse_epochs} epochs"
            )
            self._finish(trial, outcome, reason if outcome == "collapsed" else "")
        else:
            epoch = rows[-1]["epoch"] if rows else 0
            self._finish(trial, "pruned", f"worse than its peers at epoch {epoch}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a trial whose retries are spent; raise OSError if it was the disk that failed."""
        reason = why_it_failed(trial)
        if tells_of_full_disk(reason):
            # Not the trial's fault: it waits to be gone on with.
            raise OSError(reason)
        self._finish(trial, "failed", reason)

    def _finish(self, trial: Any, state: str, reason: str) -> None:
        self.finish(trial.config["trial"], trial.config["params"], state, reason)

    def finish(self, number: int, params: dict[str, Any], state: str, reason: str) -> None:
        """Record the end of a trial, and tell everyone."""
        rows = list(self.ledger.rows(number))
        state, reason = self.ledger.finish(number, state, reason)
        self.states[number] = state
        self.on_change(number, {"params": params, "rows": rows}, state, reason)

    def _note(self, trial: Any, state: str) -> None:
        number = trial.config["trial"]
        self.on_change(number, {"params": trial.config["params"], "rows": self.ledger.rows(number)}, state, "")


class EndOfStudy(Stopper):
    """Ends the study when its first trials all failed, or when told to."""

    def __init__(
        self, callback: LedgerCallback, deadline_seconds: float | None, gpus_are_spent: Callable[[], bool]
    ) -> None:
        self.callback = callback
        self.gpus_are_spent = gpus_are_spent
        self.deadline = time.monotonic() + deadline_seconds if deadline_seconds is not None else math.inf
        self.stopping = False
        self.reason = ""

    def __getstate__(self) -> dict[str, Any]:
        """Leave everything out of Tune's snapshot, which nothing is restored from."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Say whether one trial is over: never."""
        return False

    def stop_all(self) -> bool:
        """Say whether the study is over before its number of trials is reached."""
        states = list(self.callback.states.values())
        if len(states) >= ALL_FAILED and set(states) == {"failed"}:
            self.reason = f"the first {len(states)} trials all failed"
        elif time.monotonic() > self.deadline:
            self.reason = "the time budget is spent"
        elif self.gpus_are_spent():
            self.reason = "the GPU hours are spent"
        elif self.stopping:
            self.reason = "interrupted"
        return bool(self.reason)


def make_scheduler(definition: Definition, ledger: Ledger) -> TrialScheduler:
    """Return the schedule of a definition, knowing what earlier runs of the study have seen.

    Rungs count epochs, come after the longest warm-up that is searched, and rank `valid/nll`, which is
    at KL weight 1 whatever a trial trains with, collapsed trials last. Raises StudyError if the name is unknown.
    """
    epochs, collapse_kl_nats = definition.space.most_epochs(), definition.goal.collapse_kl_nats
    match definition.scheduler:
        case "none":
            return FIFOScheduler()
        case "asha":
            scheduler: TrialScheduler = KnowingASHA(
                collapse_kl_nats, max_t=epochs + 1,
                grace_period=min(definition.grace_epochs, epochs), reduction_factor=3,
            )  # fmt: skip
        case "median":
            scheduler = KnowingMedian(collapse_kl_nats, grace_period=definition.grace_epochs, min_samples_required=3)
        case name:
            raise StudyError(f"unknown scheduler {name!r}; expected one of {', '.join(SCHEDULER_NAMES)}")
    for trial in ledger.trials():
        if trial.state not in ("waiting", "failed"):
            settings = definition.space.settings(trial.params).model_dump()
            replay(scheduler, EarlierTrial(f"earlier-{trial.number}", {"settings": settings}), trial.rows)
    return scheduler


def replay(scheduler: TrialScheduler, trial: EarlierTrial, rows: list[dict[str, Any]]) -> None:
    """Show a schedule the epochs of a trial of an earlier run, so that its rungs stand as they stood."""
    scheduler.on_trial_add(None, trial)
    show(scheduler, trial, rows)
    if rows:
        scheduler.on_trial_complete(None, trial, dict(rows[-1]))


def show(scheduler: TrialScheduler, trial: Any, rows: list[dict[str, Any]]) -> None:
    """Show a schedule some epochs that are past, whatever it decides."""
    if isinstance(scheduler, KnowingMedian):
        scheduler.show(trial, rows)
        return
    for row in rows:
        scheduler.on_trial_result(None, trial, dict(row))


def is_recorded(name: str) -> bool:
    """Say whether a key of a Tune result is one of ours."""
    own = ("epoch", "step", "seconds", "outcome", "phase", "node")
    return name in own or name.startswith(("train/", "valid/", "system/"))
