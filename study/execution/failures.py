"""Why a trial failed, in words that help, and what keeps Ray Tune alive when Ray kills a trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from study.execution.mps import is_fault

OUT_OF_MEMORY = ("OutOfMemoryError", "running low on memory", "can't allocate memory", "MemoryError")
"""How PyTorch on a GPU, Ray, PyTorch on a CPU and Python say it."""


def why_it_failed(trial: Any) -> str:
    """Return the last line of a Tune trial's error, which is the exception itself; and the mend if it was memory.

    From the driver's own folder: the copy on the storage is missing or cut short when that is full.
    """
    text = Path(trial.error_file).read_text("utf-8").rpartition("\nFailure # ")[2]
    lines = [line.strip()[:500] for line in text.splitlines() if line.strip()]
    if fault := next(filter(is_fault, lines), ""):
        # CUDA says more below it, the same for every error.
        return fault
    for line in lines:
        if any(words in line for words in OUT_OF_MEMORY):
            return f"out of memory; lower training.batch_size, training.max_batch_tokens or the model's sizes ({line})"
    return lines[-1] if lines else "its process ended without a word"


@contextmanager
def outliving_killed_trials() -> Iterator[None]:
    """Have Tune try a trial again wherever its worker was killed, as it does while the trial trains.

    For want of memory: Ray 2.60 raises OutOfMemoryError, which is none of the errors that Tune knows, and the whole
    study would end. Between two trials: Tune is told twice of a worker that died before the next trial was its own, and
    ends that trial at the second word, retries or not.
    """
    from ray.air.execution._internal.actor_manager import RayActorManager
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.tune.execution.tune_controller import TuneController

    known, known_of_trial = RayActorManager._actor_task_failed, TuneController._trial_task_failure

    def actor_task_failed(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        known(manager, tracked_actor_task, exception)

    def trial_task_failure(controller: TuneController, trial: Any, exception: Exception) -> None:
        # Else the trial is taken for one that is still being given its worker, and never starts.
        controller._resetting_trials.discard(trial)
        if trial.status == trial.PENDING and isinstance(exception, RayActorError):
            return
        known_of_trial(controller, trial, exception)

    RayActorManager._actor_task_failed = actor_task_failed
    TuneController._trial_task_failure = trial_task_failure
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = known
        TuneController._trial_task_failure = known_of_trial
