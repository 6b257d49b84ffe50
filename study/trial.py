"""What runs on a Ray worker: one trial, from its settings to its last epoch."""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from study.errors import StudyError
from study.journal import read_sealed, write_sealed

if TYPE_CHECKING:
    from study.settings import Settings

FINAL, FINAL_SCORES, SAMPLES = "final.json", "final.safetensors", "samples.json"


class FinalMetrics(BaseModel):
    """What must be known of a test evaluation; more is kept as it is."""

    model_config = ConfigDict(extra="allow")

    nll: float
    nll_se: float
    elbo: float
    kl: float
    mi: float
    au: float
    ppl: float
    nll_bias_bound: float | None = None
    untrusted: float | None = None


class SampleTexts(BaseModel):
    """The texts that a trial writes at its end."""

    model_config = ConfigDict(extra="forbid")

    input: list[str]
    reconstruction: list[str]
    prior_sample: list[str]


GRACE_SECONDS = 60
"""How long a process that was told to end waits for its trial's checkpoint; a spot instance has two minutes."""
FAILURE = "failure"
"""The result key under which a trial reports why it cannot go on, instead of an epoch."""


def run_trial(config: dict[str, Any]) -> None:
    """Train a trial and report each epoch to Ray Tune; a retry goes on from the last checkpoint.

    `config` holds `settings`, the `corpus` and trial `folder`s, `rows_seen` epochs that are on record,
    the `cpus` and `gpus` that the trial was given, and the `final_num_samples` of a last evaluation.
    """
    import torch
    from ray import tune

    from data.corpus import Corpus
    from study import mps
    from study.devices import limit_gpu_memory, system_metrics
    from study.settings import Settings
    from study.training import Diverged, train

    torch.set_num_threads(max(1, int(config["cpus"])))
    if config["gpus"] and mps.is_running():
        # Of a daemon that the node runs; before CUDA starts.
        os.environ.setdefault(mps.THREADS, mps.limits(config["gpus"], ())[mps.THREADS])
    limit_gpu_memory(config["gpus"])
    settings = Settings.model_validate(config["settings"])
    corpus = Corpus.open(config["corpus"])
    folder = Path(config["folder"])
    start = partial(train, settings, corpus, folder, rows_seen=config["rows_seen"], share=config["gpus"])
    try:
        with alone_in(folder):
            reported = False
            for row in until_told_to_end(start):
                if row["outcome"]:
                    write_samples(folder, corpus)
                    write_final(folder, corpus, config["final_num_samples"], settings, config["gpus"])
                tune.report(row | system_metrics() | {"node": os.uname().nodename})
                reported = True
            if not reported:
                # Every epoch was on record already; Tune must hear something of a trial.
                tune.report({"epoch": config["rows_seen"]})
    except Diverged as error:
        tune.report({FAILURE: str(error)})
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a trial's folder: a worker of a killed driver may live on in it for some seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def until_told_to_end(train: Callable[..., Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
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


def write_samples(folder: Path, corpus: Any, num_rows: int = 16) -> None:
    """Write reconstructions of validation sequences and samples from the prior, by the best weights so far."""
    from study.best_weights import best_folders
    from study.models import TrainedModel

    newest = best_folders(folder)[-1]
    model = TrainedModel.open(newest, "cpu")
    texts = model.texts(corpus.split("valid"), num_rows)
    table = {"input": texts, "reconstruction": model.reconstruct(texts), "prior_sample": model.sample(num_rows)}
    write_sealed(folder / SAMPLES, table)


def read_final(folder: Path) -> dict[str, Any]:
    """Return what the test split said of a trial; raise StudyError if the file is damaged."""
    again = "remove it, and the same command evaluates the trial again"
    found: dict[str, Any] = read_sealed(folder / FINAL, FinalMetrics, again)
    return found


def read_samples(folder: Path) -> dict[str, list[str]]:
    """Return the texts that a trial wrote at its end, by columns of equal length; raise StudyError if damaged."""
    table: dict[str, list[str]] = read_sealed(folder / SAMPLES, SampleTexts, "remove it to go on without them")
    if len({len(column) for column in table.values()}) > 1:
        raise StudyError(f"{folder / SAMPLES} is damaged: its columns differ in length; remove it")
    return table


def write_final(folder: Path, corpus: Any, num_samples: int, settings: Settings, share: float | None = None) -> None:
    """Evaluate the best weights on the test split: metrics, and each sequence's log-likelihood for pairing.

    Once: what is there already stays. Raises StudyError if that was of another number of importance samples.
    """
    from safetensors.torch import save_file

    from model.weights import load_network
    from study.best_weights import best_folders
    from study.devices import choose_device, use_tf32
    from study.evaluation import score

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
        network, corpus.split("test"), num_samples=num_samples, tolerance_nats=evaluation.final_tolerance_nats,
        widen=evaluation.final_widen, num_sequences=evaluation.final_num_sequences, batch_size=evaluation.batch_size,
        max_decoder_tokens=evaluation.max_decoder_tokens,
    )  # fmt: skip
    save_file({"log_p": scores.log_p}, folder / FINAL_SCORES)
    write_sealed(folder / FINAL, scores.metrics() | scores.reliability() | {"most_samples": num_samples})
