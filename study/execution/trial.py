"""What runs on a Ray worker: one trial, from its settings to its last epoch."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import lock
from study.config.stored import write_sealed
from study.errors import StudyError
from study.record.final_scores import read_final
from study.record.places import FINAL, FINAL_SCORES, LOCK, SAMPLES

if TYPE_CHECKING:
    from data.corpus import Corpus
    from study.config.settings import Settings
    from study.epoch import Epoch
    from study.execution.task import Task
    from study.trainable.loading import Trainable


GRACE_SECONDS = 60
"""How long a process that was told to end waits for its trial's checkpoint; a spot instance has two minutes."""
FAILURE = "failure"
"""The result key under which a trial reports why it cannot go on, instead of an epoch."""
ENDED = "ended"
"""The result key under which the trial of a trainable of the user's own reports that it has ended by itself."""


def run_trial(config: Mapping[str, object], function: Trainable | None = None) -> None:
    """Train a trial and report each epoch to Ray Tune; a retry goes on from the last checkpoint.

    `config` is a `Task` as Tune passes it on; `function` is a trainable of the user's own that no module has.
    """
    import torch
    from ray import tune

    from data.corpus import Corpus
    from study.execution import mps
    from study.execution.task import Task
    from study.trainable.loop import TrainableError
    from study.training.devices import limit_gpu_memory, system_metrics
    from study.training.loop import Diverged, train

    task = Task.model_validate(config)
    torch.set_num_threads(max(1, int(task.cpus)))
    if task.gpus and mps.is_running():
        # Of a daemon that the node runs; before CUDA starts. Ray shows a trial one GPU.
        for name, value in mps.limits(task.gpus, mps.memory_bytes()[:1]).items():
            os.environ.setdefault(name, value)
    limit_gpu_memory(task.gpus)
    settings, folder = task.settings, Path(task.folder)
    # Where the user's own code trains, it alone knows the data.
    corpus = Corpus.open(task.corpus) if task.code is None else None
    ended_by_itself, reported = threading.Event(), False
    try:
        with alone_in(folder):
            start: Callable[..., Iterator[Epoch]]
            if corpus is None:
                start = start_own(task, function, ended_by_itself)
            else:
                start = partial(train, settings, corpus, folder, rows_seen=task.rows_seen, share=task.gpus)
            for row in until_told_to_end(start):
                if row.outcome and corpus is not None:
                    write_samples(folder, corpus)
                    write_final(folder, corpus, task.final_num_samples, settings, task.gpus)
                tune.report(replace(row.with_metrics(system_metrics()), node=os.uname().nodename).to_json())
                reported = True
            if ended_by_itself.is_set():
                tune.report({ENDED: True})
            elif not reported:
                # Every epoch was on record already; Tune must hear something of a trial.
                tune.report({"epoch": task.rows_seen})
    except (Diverged, TrainableError) as error:
        tune.report({FAILURE: str(error)})
    finally:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def start_own(
    task: Task, function: Trainable | None, ended_by_itself: threading.Event
) -> Callable[..., Iterator[Epoch]]:
    """Return what has a trainable of the user's own train a trial, and notes if it ended before its last epoch was due.

    Raises TrainableError if there is none.
    """
    from study.trainable.loading import find
    from study.trainable.loop import TrainableError, train_own

    assert task.code is not None
    try:
        trainable = function or find(task.code)
    except StudyError as error:
        raise TrainableError(str(error)) from None

    def rows(should_stop: Callable[[], bool]) -> Iterator[Epoch]:
        outcome = ""
        for row in train_own(trainable, task.settings, Path(task.folder), ranked=task.ranked, should_stop=should_stop):
            outcome = row.outcome
            yield row
        if not outcome and not should_stop():
            ended_by_itself.set()

    return rows


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a trial's folder: a worker of a killed driver may live on in it for some seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as stream:
        lock(stream)
        yield


def until_told_to_end(train: Callable[..., Iterator[Epoch]]) -> Iterator[Epoch]:
    """Yield what `train(should_stop=...)` yields; a process told to end (SIGTERM) waits until it has stopped.

    Ray has the signal and Tune the main thread: what they leave to the trial's thread is the interpreter's exit.
    """
    ending, is_saved = threading.Event(), threading.Event()

    def hold_exit() -> None:
        ending.set()
        is_saved.wait(GRACE_SECONDS)

    atexit.register(hold_exit)
    try:
        rows = train(should_stop=ending.is_set)
        while (row := next(rows, None)) is not None:
            # Training saves an epoch before it yields it, and nobody may be left to take it.
            is_saved.set()
            yield row
            is_saved.clear()
    finally:
        is_saved.set()
        atexit.unregister(hold_exit)


def write_samples(folder: Path, corpus: Corpus, num_rows: int = 16) -> None:
    """Write reconstructions of validation sequences and samples from the prior, by the best weights so far."""
    from study.inference.trained_model import TrainedModel
    from study.training.best_weights import best_folders

    newest = best_folders(folder)[-1]
    model = TrainedModel.open(newest, "cpu")
    texts = model.texts(corpus.split("valid"), num_rows)
    table = {"input": texts, "reconstruction": model.reconstruct(texts), "prior_sample": model.sample(num_rows)}
    write_sealed(folder / SAMPLES, table)


def write_final(folder: Path, corpus: Corpus, num_samples: int, settings: Settings, share: float | None = None) -> None:
    """Evaluate the best weights on the test split: metrics, and each sequence's log-likelihood for pairing.

    Once: what is there already stays. Raises StudyError if that was of another number of importance samples.
    """
    from safetensors.torch import save_file

    from model.weights import load_network
    from study.training.best_weights import best_folders
    from study.training.devices import choose_device, use_tf32
    from study.training.evaluation import score

    if num_samples == 0:
        return
    if (folder / FINAL).exists():
        found = read_final(folder).get("most_samples", num_samples)
        if found != num_samples:
            raise StudyError(
                f"{folder} was evaluated on the test split with {found} importance samples, and is once: ask for"
                f" {found}, or see other numbers by `study evaluate --samples {num_samples}`"
            )
        return
    evaluation = settings.evaluation
    network = load_network(best_folders(folder)[-1], choose_device(settings.training, share))
    use_tf32(False)
    scores = score(
        network,
        corpus.split("test"),
        num_samples=num_samples,
        tolerance_nats=evaluation.final_tolerance_nats,
        widen=evaluation.final_widen,
        num_sequences=evaluation.final_num_sequences,
        batch_size=evaluation.batch_size,
        max_decoder_tokens=evaluation.max_decoder_tokens,
    )
    save_file({"log_p": scores.log_p}, folder / FINAL_SCORES)
    write_sealed(folder / FINAL, scores.metrics() | scores.reliability() | {"most_samples": num_samples})
