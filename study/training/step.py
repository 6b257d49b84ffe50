"""One optimiser step of training: loss, gradients, clipping; on a GPU also recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from data.batches import Batch
from data.vocabulary import PAD_ID
from model.network.recurrence import copied
from model.network.vae import SequenceVAE
from model.objective import negative_elbo
from study.config.settings import Settings
from study.training.devices import autocast
from study.training.optimizers import clip_gradients, make_optimizers
from study.training.procedures import control, raise_multiplier, rate_penalty, reset_decoder

MULTIPLE = 8
"""Of the steps of batches whose step is recorded."""
Work = Callable[[Tensor, Tensor], Tensor]
"""A step on tokens `[batch, time]` and lengths `[batch]`; returns its sums."""


class Stepper:
    """The network and its optimisers; nothing in a step waits for the device."""

    def __init__(self, network: SequenceVAE, settings: Settings, device: torch.device) -> None:
        self.network, self.settings, self.device = network, settings, device
        self.multiplier = torch.zeros((), device=device)
        self.control = torch.zeros(2, device=device)
        """Of a controlled KL: what the controller has summed up, and the weight that it chose last."""
        self.decoder_tokens = 0
        """Tokens that the decoder has read since this object was made."""
        self.renew_optimizers()

    def renew_optimizers(self) -> None:
        """Start the optimisers anew; graphs that hold the old ones go."""
        self.optimizers = make_optimizers(self.network, self.settings)
        self._prepare_graphs()

    def reset_decoder(self, seed: int) -> None:
        """Draw the decoder's weights anew, and start the optimisers anew."""
        reset_decoder(self.network, self.settings, seed)
        self.renew_optimizers()

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of every parameter."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(learning_rate)
                else:
                    group["lr"] = learning_rate

    def __call__(self, batch: Batch, kl_weight: float, parts: tuple[str, ...] = ()) -> Tensor:
        """Step the optimisers of some parts, or of all; return sums of loss, reconstruction and KL, and the norm.

        The sums are over the batch's sequences, float64 `[4]`, on the device.
        """
        self.decoder_tokens += batch.num_targets * self.settings.model.decoder_passes
        if self.graphs is None or parts:
            return self.work(batch.tokens, batch.lengths, kl_weight, parts or tuple(self.optimizers))
        self.weight.fill_(kl_weight)
        return self.graphs(batch.tokens, copied(batch.lengths, self.device))

    def work(self, tokens: Tensor, lengths: Tensor, kl_weight: float | Tensor, parts: tuple[str, ...]) -> Tensor:
        """Take the step."""
        with autocast(self.device, self.settings.training):
            posterior = self.network.encode(tokens, lengths, kl_weight)
            latent = posterior.sample(self.draw_noise(len(tokens)))
            reconstruction = self.network.reconstruction(tokens, lengths, latent)
        kl, objective = posterior.kl(), self.settings.objective
        if objective.target_kl_nats is not None:
            kl_weight = control(self.control, kl.detach().sum(1).mean(), kl_weight, objective)
        loss = negative_elbo(reconstruction, posterior.charged_kl(), kl_weight, objective)
        least = objective.minimum_rate_nats
        if least is not None:
            loss = loss + rate_penalty(self.multiplier, least - kl.sum(1).mean())
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if least is not None:
            raise_multiplier(self.multiplier, least - kl.detach().sum(1).mean())
        norm = clip_gradients(self.network.parameters(), self.settings.training.clip_norm)
        for part in parts:
            self.optimizers[part].step()
        return torch.stack(
            [loss.detach() * len(tokens), reconstruction.detach().sum(), kl.detach().sum(), norm]
        ).double()

    def draw_noise(self, num_rows: int) -> Tensor:
        """Draw the noise of one latent sample a sequence."""
        return torch.randn(num_rows, self.settings.model.noise_size, device=self.device)

    def _prepare_graphs(self) -> None:
        self.graphs: StepGraphs | None = None
        if self.settings.training.cuda_graph and self.device.type == "cuda":
            self.weight = torch.zeros((), device=self.device)
            parts = tuple(self.optimizers)
            # One pool of memory for all: they are replayed one after another, and their sums are added up at once.
            pool = torch.cuda.graph_pool_handle()
            self.graphs = StepGraphs(
                lambda tokens, lengths: self.work(tokens, lengths, self.weight, parts), partial(record, pool)
            )


def padded(num_steps: int) -> int:
    """Return how many steps a batch of so many has once it is padded, where steps are recorded."""
    return num_steps + -num_steps % MULTIPLE


class StepGraphs:
    """A step recorded once for each shape of a batch, and replayed: one launch in place of some hundreds.

    Batches are padded to a multiple of some steps, so that shapes are few. The first batch of a shape is stepped on
    plainly, which has libraries set up what they keep; the second is recorded.
    """

    MOST = 64
    """Shapes that are recorded; what comes beyond them is stepped on plainly."""

    def __init__(self, work: Work, record: Callable[[Work, Tensor, Tensor], Work]) -> None:
        self.work, self.record = work, record
        self.seen: set[tuple[int, ...]] = set()
        self.recorded: dict[tuple[int, ...], Work] = {}

    def __call__(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Take a step; lengths are on the device."""
        tokens = F.pad(tokens, (0, padded(tokens.shape[1]) - tokens.shape[1]), value=PAD_ID)
        shape = tuple(tokens.shape)
        if shape not in self.seen:
            self.seen.add(shape)
            return self.work(tokens, lengths)
        if shape not in self.recorded:
            if len(self.recorded) == self.MOST:
                return self.work(tokens, lengths)
            self.recorded[shape] = self.record(self.work, tokens, lengths)
        return self.recorded[shape](tokens, lengths)


def record(pool: Any, work: Work, tokens: Tensor, lengths: Tensor) -> Work:
    """Record a step as a CUDA graph, without taking it; return what replays it on other tokens of that shape.

    Threads that make batches meanwhile pin memory, which a recording of all threads would not allow.
    """
    inputs = tokens.clone(), lengths.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        sums = work(*inputs)

    def replay(tokens: Tensor, lengths: Tensor) -> Tensor:
        inputs[0].copy_(tokens)
        inputs[1].copy_(lengths)
        graph.replay()
        return sums

    return replay
