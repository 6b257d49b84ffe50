"""Every metric of a network on a split: likelihood at KL weight 1, and use of the latent variable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from data.batches import Batch, BatchOrder, gather
from data.corpus import Split
from model import diagnostics, likelihood
from model.config import MAX_DECODER_TOKENS
from model.network.vae import SequenceVAE
from model.posterior import Posterior

NOISE_SEED = 20_191_103
CPU = torch.device("cpu")

INFORMATION_DRAWS, MANY_SEQUENCES = 4, 5000
"""Samples a sequence from which the mutual information is estimated, two where there are more sequences than that: it
takes the square of their number."""

PILOT_SEQUENCES, PILOT_SAMPLES = 64, 32
"""What the power of a proposal is chosen on."""


@contextmanager
def evaluating(network: SequenceVAE) -> Iterator[None]:
    """Switch a network to evaluation without gradients, and back to what it was."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(was_training)


@dataclass(frozen=True)
class Scores:
    """What evaluation found of each sequence of a split, in the split's order."""

    log_weights: Tensor
    """Log importance weights in nats, float64 `[rows, samples]`; nan where none was drawn."""
    reconstruction: Tensor
    """-log p(x|z) in nats of one z, float64 `[rows]`."""
    posterior: Posterior
    noise: Tensor
    """The noise of that z, `[rows, noise]`."""
    num_targets: Tensor
    """Tokens of each sequence, `</s>` included, `[rows]`."""
    num_bytes: int
    has_latent: bool = True
    stopped_early: bool = False
    """Whether a sequence got no more samples once its error was small enough."""
    device: torch.device = CPU
    """Where the network is, and what takes long is worked out; the tensors are on the CPU."""
    power: float = 1.0
    """Of the posterior in what the importance samples were drawn from, see `Posterior.tempered`."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences, each `</s>` included."""
        return int(self.num_targets.sum())

    @cached_property
    def log_p(self) -> Tensor:
        """Importance-weighted log-likelihood in nats, `[rows]`."""
        return likelihood.log_likelihood(self.log_weights)

    @cached_property
    def standard_error(self) -> Tensor:
        """Of `log_p`, in nats, `[rows]`."""
        if not self.has_latent:
            return torch.zeros_like(self.log_p)
        return likelihood.standard_error(self.log_weights)

    @cached_property
    def on_device(self) -> tuple[Posterior, Tensor]:
        """The posterior without its features, and the noise, where what takes long is worked out."""
        return self.posterior.without_features().map(lambda tensor: tensor.to(self.device)), self.noise.to(self.device)

    def metrics(self, *, debiased: bool = False) -> dict[str, float]:
        """Return the metrics of the split that `study.metrics` names; `debiased`, nll without its first-order bias."""
        kl = float(self.posterior.kl().double().sum(1).mean())
        posterior, noise = self.on_device
        mi, mi_se = self.mutual_information()
        log_p = likelihood.debiased_log_likelihood(self.log_weights) if debiased and self.has_latent else self.log_p
        total_nll = -float(log_p.sum())
        return {
            "nll": total_nll / len(self.log_p),
            "nll_se": float(self.standard_error.square().sum().sqrt()) / len(self.log_p),
            "nll_bias_bound": float(self.standard_error.square().mean()),
            "elbo": float(self.reconstruction.mean()) + kl,
            "reconstruction": float(self.reconstruction.mean()),
            "kl": kl,
            "mi": mi,
            "mi_se": mi_se,
            "mi_in_batch": diagnostics.mutual_information_in_batch(posterior, noise),
            "au": diagnostics.active_units(self.posterior.mean),
            "ppl": math.exp(min(total_nll / self.num_tokens, 700.0)),
            "bits_per_byte": total_nll / math.log(2) / self.num_bytes,
            "dispersion": diagnostics.dispersion(self.posterior.features),
        }

    def mutual_information(self) -> tuple[float, float]:
        """Return I(x; z) in nats and its standard error, from several draws of each sequence's z."""
        if not self.has_latent:
            return 0.0, 0.0
        draws = INFORMATION_DRAWS if len(self.noise) <= MANY_SEQUENCES else 2
        generator = torch.Generator().manual_seed(NOISE_SEED)
        others = torch.randn(draws - 1, *self.noise.shape, generator=generator)
        posterior, noise = self.on_device
        draws_of_all = torch.cat([noise.unsqueeze(0), others.to(self.device)])
        return diagnostics.mutual_information_and_error(posterior, draws_of_all)

    def dimensions(self) -> dict[str, list[float]]:
        """Return, for each latent dimension, the variance over rows of its posterior mean, and its mean KL in nats."""
        return {
            "variance": self.posterior.mean.double().var(0).nan_to_num(0.0).tolist(),
            "kl": self.posterior.kl().double().mean(0).tolist(),
        }

    def reliability(self) -> dict[str, float]:
        """Return `nll` without its first-order bias, what it cost, and the share of sequences not to be trusted.

        `nll_debiased` needs fewer samples, as many for each sequence: nan where sequences were stopped at by their
        error; it is no upper bound. `untrusted` counts those whose Pareto k-hat is above what their number of samples
        allows; a sequence that needed fewer than 100 is not judged, and nan says that none could be.
        """
        drawn = likelihood.num_drawn(self.log_weights)
        shapes = [
            (likelihood.pareto_shape(row[~row.isnan()].numpy()), likelihood.largest_trusted_shape(int(count)))
            for row, count in zip(self.log_weights, drawn, strict=True)
            if count > 1
        ]
        enough = int(drawn.max()) >= likelihood.JUDGED_SAMPLES or self.stopped_early
        can_be_judged = not self.has_latent or (enough and likelihood.can_judge())
        debiased = -float(likelihood.debiased_log_likelihood(self.log_weights).mean())
        return {
            "nll_debiased": math.nan if self.stopped_early else debiased,
            "proposal_power": self.power,
            "samples": float(drawn.mean()),
            "decoder_tokens": float((drawn * self.num_targets).sum()),
            "untrusted": sum(shape > limit for shape, limit in shapes) / len(drawn) if can_be_judged else math.nan,
        }


def score(
    network: SequenceVAE,
    split: Split,
    *,
    num_samples: int,
    tolerance_nats: float = 0.0,
    widen: bool = False,
    power: float = 1.0,
    num_sequences: int | None = None,
    batch_size: int = 64,
    max_decoder_tokens: int = MAX_DECODER_TOKENS,
) -> Scores:
    """Evaluate each of the first `num_sequences` of a split.

    Each sequence gets `num_samples` importance samples, or fewer once the standard error of its log-likelihood is
    within the tolerance. They are drawn from the posterior, as the field does it, from that tempered by `power`, or, to
    `widen`, by the power that a few sequences choose: of any proposal the estimate tends to the same value. The same
    noise is used for a sequence whatever the network, so that differences between networks are less noisy than
    either number. `max_decoder_tokens` are decoded at once, which bounds the memory; neither it nor the batch size
    changes a result.
    """
    device = next(network.parameters()).device
    lengths = split.lengths[:num_sequences]
    # Without a latent variable every sample is the same.
    num_samples = num_samples if network.settings.has_latent else 1
    weights, reconstruction, parts, first_noise = [], [], [], []
    batches = BatchOrder(lengths, batch_size).in_order_of_length()
    with evaluating(network):
        if widen and network.settings.has_latent:
            power = choose_power(network, split, len(lengths), batch_size, max_decoder_tokens)
        for indices in batches:
            batch = gather(split, indices).to(device)
            posterior = network.encode(batch.tokens, batch.lengths).map(torch.Tensor.float)
            drawn, loss, noise = importance_weights(
                network, batch, posterior, num_samples, tolerance_nats, power, max_decoder_tokens
            )
            weights.append(drawn.cpu())
            reconstruction.append(loss.double().cpu())
            parts.append(posterior.map(torch.Tensor.cpu))
            first_noise.append(noise.cpu())
    # Back to the split's order, which does not depend on the batches.
    order = torch.from_numpy(np.argsort(np.concatenate(batches)))
    return Scores(
        log_weights=torch.cat(weights)[order],
        reconstruction=torch.cat(reconstruction)[order],
        posterior=Posterior.concatenate(parts)[order],
        noise=torch.cat(first_noise)[order],
        num_targets=torch.from_numpy(lengths + 1),
        num_bytes=int(split.num_bytes[:num_sequences].sum()),
        has_latent=network.settings.has_latent,
        stopped_early=tolerance_nats > 0.0 and network.settings.has_latent,
        device=device,
        power=power,
    )


def choose_power(
    network: SequenceVAE,
    split: Split,
    num_sequences: int,
    batch_size: int,
    max_decoder_tokens: int,
    pilot_sequences: int = PILOT_SEQUENCES,
    powers: tuple[float, ...] = likelihood.POWERS,
) -> float:
    """Return the power of the proposal that makes the most of its samples, on sequences from all over the split."""
    chosen = np.unique(np.linspace(0, num_sequences - 1, min(pilot_sequences, num_sequences), dtype=np.int64))
    device = next(network.parameters()).device
    shares = np.zeros(len(powers))
    with evaluating(network):
        for place in BatchOrder(split.lengths[chosen], batch_size).in_order_of_length():
            batch = gather(split, chosen[place]).to(device)
            posterior = network.encode(batch.tokens, batch.lengths).map(torch.Tensor.float)
            generators = likelihood.sequence_generators(batch.indices, NOISE_SEED)
            noise = likelihood.draw_noise(generators, PILOT_SAMPLES, network.settings.noise_size).to(device)
            for number, power in enumerate(powers):
                proposal = posterior.tempered(power)
                losses = likelihood.reconstructions(
                    network, batch.tokens, batch.lengths, proposal.sample(noise), max_decoder_tokens
                )
                weights = likelihood.log_weights(losses, proposal, noise)
                shares[number] += likelihood.effective_share(weights) * len(place)
    return powers[int(shares.argmax())]


def importance_weights(
    network: SequenceVAE,
    batch: Batch,
    posterior: Posterior,
    num_samples: int,
    tolerance_nats: float,
    power: float,
    max_decoder_tokens: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch's log weights (nan where none was needed), and of one z of q(z|x) -log p(x|z) and its noise."""
    device, noise_size = batch.tokens.device, network.settings.noise_size
    generators = likelihood.sequence_generators(batch.indices, NOISE_SEED)
    weights = torch.full((len(batch.indices), num_samples), math.nan, dtype=torch.float64, device=device)
    active = torch.arange(len(batch.indices), device=CPU)
    proposal = posterior.tempered(power) if power != 1.0 else posterior
    first: tuple[Tensor, Tensor] | None = None
    for start, end in likelihood.rounds(num_samples, tolerance_nats):
        noise = likelihood.draw_noise([generators[row] for row in active], end - start, noise_size).to(device)
        rows, tokens, lengths = proposal[active.to(device)], batch.tokens[active.to(device)], batch.lengths[active]
        losses = likelihood.reconstructions(network, tokens, lengths, rows.sample(noise), max_decoder_tokens)
        weights[active.to(device), start:end] = likelihood.log_weights(losses, rows, noise).double()
        if first is None:
            own = losses
            if power != 1.0:
                own = likelihood.reconstructions(
                    network, tokens, lengths, posterior.sample(noise[:, :1]), max_decoder_tokens
                )
            first = own[:, 0], noise[:, 0]
        if tolerance_nats:
            error = likelihood.standard_error(weights[active.to(device), :end]).cpu()
            active = active[error > tolerance_nats]
            if len(active) == 0:
                break
    assert first is not None
    return weights, *first


def feature_dispersion(
    network: SequenceVAE, split: Split, *, num_sequences: int | None = None, batch_size: int = 64
) -> float:
    """Return the mean cosine similarity of the features of the first sequences of a split; nan of a language model."""
    device = next(network.parameters()).device
    features = []
    with evaluating(network):
        for indices in BatchOrder(split.lengths[:num_sequences], batch_size).in_order_of_length():
            batch = gather(split, indices).to(device)
            features.append(network.encode(batch.tokens, batch.lengths).features.float().cpu())
    return diagnostics.dispersion(torch.cat(features))


def positions_of_maxima(
    network: SequenceVAE, split: Split, *, num_sequences: int | None = None, batch_size: int = 64
) -> dict[str, float]:
    """Return where each encoder unit's largest value over time lies: shares by `diagnostics.POSITIONS`.

    Whatever the pooling; with a max pooling these are the states that the features come from.
    """
    if network.encoder is None:
        return {}
    device = next(network.parameters()).device
    counts = torch.zeros(len(diagnostics.POSITIONS), dtype=torch.float64)
    with evaluating(network):
        for indices in BatchOrder(split.lengths[:num_sequences], batch_size).in_order_of_length():
            batch = gather(split, indices).to(device)
            steps = network.encoder.steps(batch.tokens, batch.lengths)
            counts += diagnostics.count_maxima(steps, batch.lengths.to(device)).cpu()
    return dict(zip(diagnostics.POSITIONS, (counts / counts.sum()).tolist(), strict=True))
