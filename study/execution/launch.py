"""Running a study: Ray Tune over the ledger, MLflow beside it, and a truthful end whatever happens."""

from __future__ import annotations

import inspect
import math
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from study.analysis.answer import answer_of
from study.analysis.seed_noise import is_settled
from study.config.stored import write_json
from study.errors import StudyError, first_line, tells_of_full_disk
from study.execution.connection import ray_cluster
from study.execution.live import LiveView
from study.execution.nodes import check_code, check_nodes
from study.record.journal import storage_hint
from study.record.ledger import Ledger
from study.record.places import TUNE
from study.record.states import COMPLETE, INTERRUPTED, SETTLED, Ending, State, StudyEnd
from study.record.trials import TrialRecord, seeds_frame, summary_metrics, trials_frame
from study.reporting.tables import describe_study
from study.tracking import Tracker

if TYPE_CHECKING:
    from study.execution.tuning import EndOfStudy
    from study.trainable.loading import Trainable

ANSWER_SECONDS = 8.0
"""How long Ray may take to end the trials of a study that was told to end (SIGTERM)."""

EXIT_INTERRUPTED = 130
"""The exit code of a study that was told to end."""

STATE_OF = {
    StudyEnd.COMPLETE: State.COMPLETE,
    StudyEnd.SETTLED: State.COMPLETE,
    StudyEnd.ALL_FAILED: State.FAILED,
    StudyEnd.BUDGET_SPENT: State.WAITING,
    StudyEnd.INTERRUPTED: State.WAITING,
}
"""What MLflow shows of a study that ended so."""


@dataclass(frozen=True)
class Outcome:
    """How a run of a study ended, and whether MLflow has heard everything."""

    ending: Ending
    recorded: bool


@dataclass(frozen=True)
class Budget:
    """What a run of a study may use: wall time, and GPU hours of the whole study; unlimited if not given."""

    seconds: float | None = None
    gpu_hours: float = math.inf
    until_settled: bool = False
    """End when nothing more than the luck of a seed is to be gained."""


def run_study(
    ledger: Ledger,
    view: LiveView,
    *,
    address: str | None,
    budget: Budget,
    with_report: bool = True,
    function: Trainable | None = None,
) -> Outcome:
    """Run what is left of a study; the ledger must be locked by this process.

    `function` trains its trials, where they are the user's own and no module has it.

    Ends with no trial left RUNNING anywhere: interrupted ones wait to be resumed. Raises StudyError if
    MLflow or the Ray cluster cannot be reached.
    """
    with naming_a_full_disk(ledger):
        tracker = Tracker(ledger, view.problem)
        ledger.release_interrupted()
        view.load(ledger.trials())
        tracker.start()
        ending = INTERRUPTED
        try:
            # With nothing left to try, only MLflow may have something to hear.
            with ray_cluster(ledger.definition, address) if ledger.num_left() else nullcontext():
                if ledger.num_left():
                    check_workers(ledger, address, function)
                tracker.wait_until_ready()
                catch_up(ledger, tracker)
                ending = tune_trials(ledger, tracker, view, budget, function)
        except KeyboardInterrupt:
            view.problem("interrupted again: ending at once")
        finally:
            recorded = finalize(ledger, tracker, ending, view.problem, with_report=with_report)
        return Outcome(ending, recorded)


def check_workers(ledger: Ledger, address: str | None, function: Trainable | None) -> None:
    """Raise StudyError unless the connected workers have what the study's trials need."""
    definition = ledger.definition
    # A function that is at hand goes along with each trial.
    code = definition.code if function is None else None
    if address is not None:
        check_nodes(replace(definition, code=code), ledger.folder)
    elif code is not None:
        check_code(definition)


@contextmanager
def naming_a_full_disk(ledger: Ledger) -> Iterator[None]:
    """Raise StudyError if the disk is full, which every library says in its own way; the study can be resumed."""
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        hint = storage_hint(ledger.folder.parent)
        raise StudyError(
            f"no room is left on the disk of {ledger.folder}; free some (`study gc --delete{hint}` removes what studies"
            f" no longer need), then go on with `study run --resume {ledger.definition.name}{hint}`"
        ) from None


def is_full_disk(error: BaseException | None) -> bool:
    """Say whether an error, or one that it came from, is that of a full disk."""
    while error is not None:
        if tells_of_full_disk(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def catch_up(ledger: Ledger, tracker: Tracker) -> None:
    """Send MLflow what an earlier run of the study recorded but may not have sent."""
    for trial in ledger.trials():
        # Those that wait are about to be handed out again.
        if trial.state != State.WAITING:
            tracker.update(trial)


def close_records(ledger: Ledger, on_problem: Callable[[str], None]) -> bool:
    """Tell Optuna and MLflow the truth about a locked study that nobody runs; return whether all arrived."""
    tracker = Tracker(ledger, on_problem)
    tracker.start()
    tracker.wait_until_ready()
    ledger.release_interrupted()
    catch_up(ledger, tracker)
    is_over = ledger.num_left() == 0
    return finalize(ledger, tracker, COMPLETE if is_over else INTERRUPTED, on_problem, with_report=is_over)


def tell_mlflow(ledger: Ledger, on_problem: Callable[[str], None]) -> bool:
    """Send MLflow what was changed of a study that nobody runs; return whether all arrived. It must be locked."""
    try:
        return close_records(ledger, on_problem)
    except StudyError as error:
        on_problem(first_line(error))
        return False


def finalize(
    ledger: Ledger, tracker: Tracker, ending: Ending, on_problem: Callable[[str], None], *, with_report: bool
) -> bool:
    """Leave the record truthful: nothing RUNNING, MLflow told; return whether MLflow has everything."""
    ledger.release_interrupted()
    trials = ledger.trials()
    for trial in trials:
        if trial.state == State.WAITING and trial.started:
            tracker.update(trial)
    state = STATE_OF[ending.end]
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / "trials.parquet"]
        trials_frame(trials).write_parquet(files[0])
        files.append(Path(scratch) / "answer.json")
        write_json(files[-1], answer_of(ledger.definition, trials).as_json())
        # Not where someone waits for the end.
        if with_report and ending.end != StudyEnd.INTERRUPTED:
            files += draw_report(ledger, Path(scratch), on_problem)
        description = describe_study(ledger.definition, trials, ending.reason)
        seeds = seeds_frame(trials)
        return tracker.close(state, summary_metrics(ledger.definition, trials), description, files, seeds)


def draw_report(ledger: Ledger, folder: Path, on_problem: Callable[[str], None]) -> list[Path]:
    """Write the report and figures of a study that is over; a study is not lost for want of a drawing."""
    from study.inference.portrait import store_portrait
    from study.record.trials import best_trial
    from study.reporting.document import write_artifacts

    try:
        best = best_trial(ledger.trials())
        if best is not None:
            store_portrait(ledger, best)
        return write_artifacts(ledger, folder)
    except Exception as error:
        on_problem(f"the report was not drawn: {first_line(error)}")
        return []


def tune_trials(
    ledger: Ledger, tracker: Tracker, view: LiveView, budget: Budget, function: Trainable | None = None
) -> Ending:
    """Run Ray Tune until the study's trials are over; return how it ended."""
    from ray import tune

    from study.execution import mps
    from study.execution.failures import outliving_killed_trials
    from study.execution.schedules import make_scheduler
    from study.execution.trial import run_trial
    from study.execution.tuning import EndOfStudy, LedgerCallback, LedgerSearcher

    definition = ledger.definition

    def on_change(trial: TrialRecord) -> None:
        tracker.update(trial)
        view.update(trial)

    callback = LedgerCallback(ledger, on_change)
    searcher = LedgerSearcher(
        ledger, callback, (lambda: is_settled(definition, ledger.trials())) if budget.until_settled else None
    )
    if searcher.left == 0:
        return COMPLETE
    callback.scheduler = make_scheduler(definition, ledger)
    stopper = EndOfStudy(callback, budget.seconds, lambda: view.gpu_hours() >= budget.gpu_hours)

    def give_up() -> None:
        hint = storage_hint(ledger.folder.parent)
        view.problem(f"Ray does not answer; go on with `study run --resume {definition.name}{hint}`")
        finalize(ledger, tracker, INTERRUPTED, view.problem, with_report=False)
        os._exit(EXIT_INTERRUPTED)

    with view, stop_on_signals(stopper, give_up), outliving_killed_trials(), carried(function):
        # Not tune.Tuner, which pickles searcher and callbacks: nothing here is restored from a pickle.
        tune.run(
            run_trial if function is None else tune.with_parameters(run_trial, function=function),
            name=TUNE,
            storage_path=str(ledger.folder.absolute()),
            resources_per_trial={"cpu": definition.cpus_per_trial, "gpu": definition.gpus_per_trial},
            search_alg=searcher,
            scheduler=callback.scheduler,
            num_samples=searcher.left,
            max_concurrent_trials=definition.concurrent,
            reuse_actors=True,
            # Under MPS a neighbour's fault may come when a trial has spent its own retries.
            max_failures=definition.max_retries + mps.is_running(),
            raise_on_failed_trial=False,
            stop=stopper,
            callbacks=[callback],
            trial_dirname_creator=lambda trial: f"trial-{trial.config['trial']:05d}",
            verbose=0,
        )
    ending: Ending = stopper.ending
    return SETTLED if searcher.has_settled and ending == COMPLETE else ending


@contextmanager
def carried(function: Trainable | None) -> Iterator[None]:
    """Have Ray carry a function of the user's own to workers that may not find its module, as it does a notebook's."""
    from ray import cloudpickle

    module = inspect.getmodule(function)
    if module is None or module.__name__ == "__main__":
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


@contextmanager
def stop_on_signals(stopper: EndOfStudy, give_up: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM end the study in order, and a second one at once.

    A SIGTERM that every process was sent, as systemd, Slurm and `timeout` do, has ended Ray as well, whose calls do not
    return then: a thread calls `give_up` in their place.
    """
    is_over = threading.Lock()

    def end_alone() -> None:
        if is_over.acquire(blocking=False):
            give_up()

    timer = threading.Timer(ANSWER_SECONDS, end_alone)
    timer.daemon = True

    def stop(number: int, frame: object) -> None:
        if stopper.stopping:
            raise KeyboardInterrupt
        stopper.stopping = True
        if number == signal.SIGTERM:
            timer.start()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        is_over.acquire()
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
