"""Training as a generator of epoch metrics; it knows neither Ray nor MLflow.

Every number of an epoch follows from the settings, the corpus and the seed: training stopped anywhere
and resumed from its last checkpoint yields, on the same CPU, bit for bit what it would have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from data.batches import Batch, BatchOrder, gather, iterate
from data.corpus import Corpus
from model.network.vae import SequenceVAE
from model.weights import WEIGHTS, load_weights
from study.config.settings import Settings
from study.epoch import PRETRAINING, Epoch
from study.errors import StudyError
from study.record.places import CHECKPOINTS, best_folder
from study.training.best_weights import keep_if_best
from study.training.checkpoints import (
    Progress,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from study.training.devices import choose_device, peak_memory_bytes, reset_peak_memory, wait_for
from study.training.ending import outcome
from study.training.evaluation import feature_dispersion, score
from study.training.learning_rate import must_halve, rate_factor
from study.training.procedures import goes_on, train_encoder
from study.training.ranking import chosen_power, measure_best
from study.training.step import Stepper, padded

BATCHES_AHEAD = 2
"""Batches that are ready before a GPU asks for them."""


class Diverged(ArithmeticError):
    """Training left the finite numbers; repeating it would do the same."""


def train(
    settings: Settings,
    corpus: Corpus,
    folder: Path,
    *,
    rows_seen: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    share: float | None = None,
    weights: Path | None = None,
) -> Iterator[Epoch]:
    """Yield each epoch once it is over, from the folder's last checkpoint on; keep the best weights in it.

    Epochs after the first `rows_seen` that an earlier run made before it ended are yielded again, so
    that a caller who lost some gets each exactly once. `should_stop` is asked after every step: once
    true, a checkpoint is written and the generator ends without an outcome. `share` is the part of a GPU
    that a study gave the trial, see `study.training.devices.choose_device`. A run without a checkpoint begins from the
    `weights` in a folder, if one is given. Raises Diverged, and StudyError if the folder belongs to other settings or
    another corpus.
    """
    run = TrainingRun(settings, corpus, folder, share, weights)
    yield from map(Epoch.from_json, run.progress.history[rows_seen:])
    while not run.progress.outcome:
        if not run.train_epoch(should_stop):
            return
        row = run.finish_epoch()
        run.save()
        if row.number > rows_seen:
            yield row


class TrainingRun:
    """The network, its optimisers and how far they are."""

    def __init__(
        self, settings: Settings, corpus: Corpus, folder: Path, share: float | None = None, weights: Path | None = None
    ) -> None:
        self.settings, self.corpus, self.folder = settings, corpus, folder
        self.device = choose_device(settings.training, share)
        torch.manual_seed(settings.seed)
        self.network = SequenceVAE(settings.model, corpus.vocabulary_size, padded(corpus.longest)).to(self.device)
        self.stepper = Stepper(self.network, settings, self.device)
        self.train_split, self.valid_split = corpus.split("train"), corpus.split("valid")
        training = settings.training
        self.order = BatchOrder(
            self.train_split.lengths[: training.num_sequences],
            training.batch_size,
            training.max_batch_tokens,
            settings.seed,
        )
        self._batches = 0, self.order.epoch(0)
        self.num_batches = len(self._batches[1])
        self.progress = Progress(
            settings.model_dump(),
            corpus.fingerprint,
            learning_rate=training.learning_rate,
            aggressive=training.procedure == "aggressive",
        )
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        if weights is not None:
            load_weights(self.network, weights / WEIGHTS)
        self.resume()
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Continue from the newest whole checkpoint, if there is one."""
        found = load_checkpoint(self.folder / CHECKPOINTS)
        if found is None:
            return
        progress, tensors = found
        if not self._is_same(progress.settings) or progress.corpus != self.progress.corpus:
            raise StudyError(f"{self.folder} holds a run with other settings or another corpus; choose another folder")
        self.progress = progress
        self.network.load_state_dict(
            {name[8:]: tensor for name, tensor in tensors.items() if name.startswith("network.")}
        )
        for name, optimizer in self.stepper.optimizers.items():
            restore_optimizer(name, optimizer, tensors)
        self.stepper.set_learning_rate(self.learning_rate())
        self.stepper.decoder_tokens = progress.decoder_tokens
        self.sums = tensors["sums"].to(self.device)
        self.stepper.multiplier.copy_(tensors["multiplier"])
        # Older versions had none.
        self.stepper.control.copy_(tensors.get("control", self.stepper.control))
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)

    def _is_same(self, stored: Mapping[str, object]) -> bool:
        try:
            return Settings.model_validate(stored) == self.settings
        except ValidationError:
            return False

    def save(self) -> None:
        """Write a checkpoint, and remove best weights that no kept checkpoint needs."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, optimizer in self.stepper.optimizers.items():
            tensors |= optimizer_tensors(name, optimizer)
        tensors |= {"sums": self.sums, "multiplier": self.stepper.multiplier, "rng.cpu": torch.get_rng_state()}
        tensors["control"] = self.stepper.control
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(
            self.folder / CHECKPOINTS, self.progress, {name: tensor.cpu() for name, tensor in tensors.items()}
        )
        self.saved_at = time.monotonic()

    def train_epoch(self, should_stop: Callable[[], bool]) -> bool:
        """Train to the end of the epoch; return False if told to stop before."""
        progress, training = self.progress, self.settings.training
        if progress.step == 0 and self.settings.model.has_latent:
            # What the encoder is before it has learned anything: later it may have had no gradient for epochs.
            progress.initial_dispersion = feature_dispersion(
                self.network, self.valid_split, num_sequences=self.settings.evaluation.num_sequences
            )
        reset_peak_memory(self.device)
        self.network.train()
        started = time.monotonic()
        batches = self.batches()
        self.num_batches = len(batches)
        ahead = BATCHES_AHEAD if self.device.type == "cuda" else 0
        for batch in iterate(self.train_split, batches, progress.batch, ahead):
            self.step(batch.to(self.device))
            progress.batch += 1
            progress.step += 1
            progress.decoder_tokens = self.stepper.decoder_tokens
            stopping = should_stop()
            if stopping or time.monotonic() - self.saved_at > 60 * training.checkpoint_minutes:
                progress.seconds += time.monotonic() - started
                started = time.monotonic()
                self.save()
            if stopping:
                return False
        # What a GPU was told is not yet done.
        wait_for(self.device)
        progress.seconds += time.monotonic() - started
        return True

    def batches(self) -> list[NDArray[np.int64]]:
        """Return this epoch's batches of sequence indices, shuffled once an epoch."""
        epoch, batches = self._batches
        if epoch != self.progress.epoch:
            epoch, batches = self._batches = self.progress.epoch, self.order.epoch(self.progress.epoch)
        return batches

    def step(self, batch: Batch) -> None:
        """Take one optimiser step; nothing in it waits for the device, but for aggressive training's rule."""
        parts: tuple[str, ...] = ()
        if self.settings.training.moves_every_step:
            self.stepper.set_learning_rate(self.learning_rate())
        if self.progress.aggressive:
            train_encoder(
                lambda each: self.stepper(each, self.kl_weight(), ("encoder",))[0], batch, self.random_batches()
            )
            parts = ("decoder",)
        self.sums += self.stepper(batch, self.kl_weight(), parts)

    def random_batches(self) -> Iterator[Batch]:
        """Yield batches of this epoch, drawn by the seed and the step, so that a resumed run draws the same."""
        draw = np.random.default_rng([self.settings.seed, 2, self.progress.step])
        batches = self.batches()
        while True:
            yield gather(self.train_split, batches[draw.integers(len(batches))]).to(self.device)

    def kl_weight(self) -> float:
        """Return the KL weight of the step that comes next."""
        training = self.settings.training
        if self.is_pretraining:
            return 0.0
        done = self.progress.epoch - training.pretraining_epochs + self.progress.batch / self.num_batches
        # Of all steps the first is at 0 and the last at 1, so that a weight that moves to the end gets there.
        steps = training.epochs * self.num_batches
        return self.settings.objective.weight(min(1.0, done / training.epochs * steps / max(1, steps - 1)))

    def learning_rate(self) -> float:
        """Return the learning rate of the step that comes next, the first of all being above 0 whatever the warm-up."""
        training = self.settings.training
        epochs = training.pretraining_epochs + training.epochs
        done = self.progress.epoch + (self.progress.batch + 1) / self.num_batches
        return self.progress.learning_rate * rate_factor(training, min(1.0, done / epochs))

    @property
    def is_pretraining(self) -> bool:
        """Whether the network still trains as an autoencoder, whose decoder will be reset."""
        return self.progress.epoch < self.settings.training.pretraining_epochs

    def finish_epoch(self) -> Epoch:
        """Validate, record the epoch, adapt the learning rate and decide whether training is over."""
        progress, evaluation = self.progress, self.settings.evaluation
        progress.epoch, progress.batch = progress.epoch + 1, 0
        metrics = self._training_metrics()
        started = time.monotonic()
        # As the posterior changes, at epochs 1, 2, 4, 8, ...: it takes as long as some samples of all sequences.
        if progress.epoch & (progress.epoch - 1) == 0:
            progress.power = chosen_power(self.network, self.valid_split, evaluation)
        scores = score(
            self.network,
            self.valid_split,
            num_samples=evaluation.num_samples,
            power=progress.power,
            num_sequences=evaluation.num_sequences,
            batch_size=evaluation.batch_size,
            max_decoder_tokens=evaluation.max_decoder_tokens,
        )
        valid = scores.metrics(debiased=True)
        took = time.monotonic() - started
        progress.seconds, progress.validation_seconds = progress.seconds + took, progress.validation_seconds + took
        if not math.isfinite(valid["nll"]):
            raise Diverged(
                f"the validation nll became {valid['nll']} in epoch {progress.epoch}; lower the learning rate"
            )
        metrics |= {f"valid/{name}": value for name, value in valid.items()}
        if progress.epoch == 1 and progress.initial_dispersion is not None:
            metrics["valid/initial_dispersion"] = progress.initial_dispersion
        row = Epoch(progress.epoch, progress.step, progress.seconds, metrics)
        if progress.epoch <= self.settings.training.pretraining_epochs:
            row = replace(row, phase=PRETRAINING)
            if progress.epoch == self.settings.training.pretraining_epochs:
                self.stepper.reset_decoder(progress.epoch)
        else:
            self._after_validation(valid, scores.dimensions())
            row = replace(row, outcome=progress.outcome)
            if progress.outcome:
                row = self._measured(row)
        progress.history.append(row.to_json())
        return row

    def _measured(self, row: Epoch) -> Epoch:
        """Return the last epoch with what the best one comes to when it is measured again."""
        progress, started = self.progress, time.monotonic()
        found = measure_best(self.folder, progress, self.valid_split, self.settings.evaluation, self.device)
        took = time.monotonic() - started
        progress.seconds, progress.validation_seconds = progress.seconds + took, progress.validation_seconds + took
        return replace(row.with_metrics(found), seconds=progress.seconds)

    def _after_validation(self, valid: dict[str, float], dimensions: dict[str, list[float]]) -> None:
        progress, value = self.progress, valid[self.settings.evaluation.criterion]
        keep_if_best(self.folder, progress, value, self.network, self.corpus, valid=valid, dimensions=dimensions)
        if must_halve(progress, value, self.settings.training):
            load_weights(self.network, best_folder(self.folder, progress.best_epoch) / WEIGHTS)
            self.stepper.renew_optimizers()
            progress.learning_rate /= 2
            self.stepper.set_learning_rate(self.learning_rate())
        if progress.aggressive:
            progress.aggressive, progress.best_mi = goes_on(valid["mi_in_batch"], progress.best_mi)
        progress.outcome = outcome(progress, self.settings, valid) or ""

    def _training_metrics(self) -> dict[str, float]:
        progress = self.progress
        loss, reconstruction, kl, norm = self.sums.tolist()
        self.sums.zero_()
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise Diverged(
                f"the training loss became {loss} (gradient norm {norm}) in epoch {progress.epoch}"
                f" at learning rate {progress.learning_rate:g}; lower it"
            )
        controlled = self.settings.objective.target_kl_nats
        rows, tokens = len(self.order.lengths), int(self.order.lengths.sum()) + len(self.order.lengths)
        seconds = progress.seconds - (Epoch.from_json(progress.history[-1]).seconds if progress.history else 0.0)
        return {
            "train/loss": loss / rows,
            "train/reconstruction": reconstruction / rows,
            "train/kl": kl / rows,
            "train/kl_weight": self.kl_weight() if controlled is None else float(self.stepper.control[1]),
            "train/gradient_norm": norm / self.num_batches,
            "train/learning_rate": self.learning_rate(),
            "train/decoder_tokens": progress.decoder_tokens,
            "train/seconds": progress.seconds - progress.validation_seconds,
            "train/tokens_per_second": tokens / max(seconds, 1e-9),
            "train/peak_memory_mb": peak_memory_bytes(self.device) / 2**20,
        }
