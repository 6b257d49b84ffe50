"""A training step against the output layer's product alone, and against the straightforward implementation.

    study corpus prepare chitchat --vocabulary-size 4000 --out corpora/chitchat-4000
    python benchmarks/training_step.py

Everything is timed in one process on one thread, in turns, so that a slow moment hits all alike; medians of ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batches import BatchOrder, gather
from data.corpus import Corpus
from model.config import NetworkSettings, ObjectiveSettings
from model.network.vae import SequenceVAE
from model.objective import negative_elbo
from study.config.settings import Settings
from study.config.training import TrainingSettings
from study.training.devices import choose_device
from study.training.optimizers import clip_gradients, make_optimizers

REPEATS = 15
Step = Callable[[], object]


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    choose_device(TrainingSettings(device="cpu"))
    product_rate()
    poolings()
    straightforward()


def seconds(step: Step, calls: int = 1) -> float:
    """Return the seconds of some calls."""
    started = time.perf_counter()
    for _ in range(calls):
        step()
    return time.perf_counter() - started


def ratios(step: Step, reference: Step, calls: int = 1) -> list[float]:
    """Time both in turns; return what the step takes as multiples of the reference."""
    step(), reference()
    return [seconds(step, calls) / seconds(reference, calls) for _ in range(REPEATS)]


def show(name: str, values: list[float]) -> None:
    """Print the median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    print(f"{name:58s} {middle:6.3f}  [{low:.3f}, {high:.3f}]")


def make_step(network: SequenceVAE, batches: list[tuple[Tensor, Tensor]], training: TrainingSettings) -> Step:
    """Return a step over all batches, as `study.training.loop` takes it."""
    optimizers = make_optimizers(network, Settings(training=training))
    network.train()

    def step() -> None:
        for tokens, lengths in batches:
            posterior = network.encode(tokens, lengths)
            latent = posterior.sample(torch.randn(len(tokens), network.settings.latent_size))
            reconstruction = network.reconstruction(tokens, lengths, latent)
            loss = negative_elbo(reconstruction, posterior.kl(), 1.0, ObjectiveSettings())
            for optimizer in optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip_gradients(network.parameters(), 5.0)
            for optimizer in optimizers.values():
                optimizer.step()

    return step


def ptb_batch() -> list[tuple[Tensor, Tensor]]:
    """Return 32 sequences of 22 targets of 10,000 words."""
    return [(torch.randint(4, 10_000, (32, 23)), torch.full((32,), 23))]


def plain_step(peer: nn.Module, optimizer: torch.optim.Optimizer, batches: list[tuple[Tensor, Tensor]]) -> Step:
    """Return a step of the straightforward implementation over all batches."""

    def step() -> None:
        for tokens, lengths in batches:
            optimizer.zero_grad()
            peer(tokens, lengths).backward()
            torch.nn.utils.clip_grad_norm_(peer.parameters(), 5.0)
            optimizer.step()

    return step


def ptb_step(pooling: str = "mean") -> tuple[Step, SequenceVAE]:
    """Return a step at the field's PTB sizes: 32 sequences of 22 targets, SGD."""
    torch.manual_seed(0)
    settings = NetworkSettings(embedding_size=256, hidden_size=256, latent_size=32, pooling=pooling)
    network = SequenceVAE(settings, 10_000)
    return make_step(network, ptb_batch(), TrainingSettings(optimizer="sgd", learning_rate=1.0)), network


def product_rate() -> None:
    """Compare the rate of a step with that of the output layer's three products: 6 FLOPs a weight and token."""
    step, network = ptb_step()
    rows, weight, gradient = torch.randn(704, 256), torch.randn(256, 10_000), torch.randn(704, 10_000)

    def product() -> None:
        rows @ weight, gradient @ weight.T, rows.T @ gradient

    multiplied = sum(parameter.numel() for name, parameter in network.named_parameters() if "embedding" not in name)
    counted = multiplied / weight.numel()
    peer = Straightforward(network.settings, 10_000)
    plain = plain_step(peer, torch.optim.SGD(peer.parameters(), 1.0), ptb_batch())
    show("rate of a PTB step / rate of its output product", [counted / ratio for ratio in ratios(step, product)])
    show("  of the straightforward implementation's", [counted / ratio for ratio in ratios(plain, product)])
    shares(network, step)


def shares(network: SequenceVAE, step: Step) -> None:
    """Where a PTB step's time goes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            step()
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:10]:
        print(f"    {event.self_cpu_time_total / total:6.1%}  {event.key}")


def poolings() -> None:
    """Print what pooling adds to a step with the last state."""
    last, _ = ptb_step("last")
    for name in ("mean", "max", "max+mean"):
        step, _ = ptb_step(name)
        show(f"seconds of a PTB step, {name} / last", ratios(step, last))


class Straightforward(nn.Module):
    """The same model written the plain way: z beside every input, log-softmax of every position, padding masked."""

    def __init__(self, settings: NetworkSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings, size = settings, settings.hidden_size
        self.source = nn.Embedding(vocabulary_size, settings.embedding_size)
        self.target = nn.Embedding(vocabulary_size, settings.embedding_size)
        self.encoder = nn.LSTM(settings.embedding_size, size, batch_first=True)
        self.to_posterior = nn.Linear(size, 2 * settings.latent_size, bias=False)
        self.to_state = nn.Linear(settings.latent_size, size, bias=False)
        self.decoder = nn.LSTM(settings.embedding_size + settings.latent_size, size, batch_first=True)
        self.to_logits = nn.Linear(size, vocabulary_size, bias=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the batch's mean negative ELBO."""
        states, _ = self.encoder(self.source(tokens))
        last = states[torch.arange(len(tokens)), lengths - 1]
        mean, log_variance = self.to_posterior(last).chunk(2, 1)
        latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        inputs = F.dropout(self.target(tokens[:, :-1]), self.settings.input_dropout, self.training)
        inputs = torch.cat([inputs, latent.unsqueeze(1).expand(-1, inputs.shape[1], -1)], 2)
        hidden = self.decode(inputs, latent)
        hidden = F.dropout(hidden, self.settings.output_dropout, self.training)
        losses = F.nll_loss(
            self.to_logits(hidden).log_softmax(2).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
        ).view(len(tokens), -1)
        valid = torch.arange(losses.shape[1]) < lengths[:, None] - 1
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return ((losses * valid).sum(1) + kl).mean()

    def decode(self, inputs: Tensor, latent: Tensor) -> Tensor:
        """Return the states of the decoder."""
        cell = self.to_state(latent).unsqueeze(0)
        states: Tensor = self.decoder(inputs, (cell.tanh(), cell))[0]
        return states


def straightforward() -> None:
    """Compare at the quick preset's sizes on 1,600 chat messages; the plain way batches them in random order."""
    corpus = Corpus.open("corpora/chitchat-4000")
    split = corpus.split("train")
    lengths = split.lengths[:1600]
    settings = NetworkSettings(
        embedding_size=64, hidden_size=64, latent_size=16, pooling="last", input_dropout=0.2, output_dropout=0.2
    )
    random = np.random.default_rng(0).permutation(len(lengths))
    batches = [
        [gather(split, rows) for rows in order] for order in (BatchOrder(lengths, 32).epoch(0), np.split(random, 50))
    ]
    ours, plain = ([(batch.tokens, batch.lengths) for batch in order] for order in batches)
    torch.manual_seed(0)
    network = SequenceVAE(settings, len(corpus.vocabulary))
    step = make_step(network, ours, TrainingSettings(optimizer="adamw"))
    peer = Straightforward(settings, len(corpus.vocabulary))
    optimizer = torch.optim.AdamW(peer.parameters())
    for name, batches in (("seconds of the straightforward / ours, quick sizes", plain), ("  with our batches", ours)):
        show(name, [1 / ratio for ratio in ratios(step, plain_step(peer, optimizer, batches))])


if __name__ == "__main__":
    main()
