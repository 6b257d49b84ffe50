"""Every metric of a network on a split: likelihood at KL weight 1, and use of the latent variable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.batches import BatchOrder, gather
from data.corpus import Split
from model import diagnostics, likelihood
from model.posterior import Posterior
from model.vae import SequenceVAE

METRICS = (
    "nll", "elbo", "reconstruction", "kl", "mi", "mi_in_batch", "au", "ppl", "bits_per_byte", "dispersion",
)  # fmt: skip
"""Names as the field uses them: `nll` is importance-weighted, `elbo` is -ELBO = reconstruction + kl, in
nats a sequence; `ppl` and `bits_per_byte` are of `nll`; `mi` is over the whole split, `mi_in_batch` over
batches of 32; `au` counts active units; `dispersion` is the features' mean cosine similarity."""

NOISE_SEED = 20_191_103


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

    log_p: Tensor
    """Importance-weighted log-likelihood in nats, float64 `[rows]`."""
    reconstruction: Tensor
    """-log p(x|z) in nats of one z, float64 `[rows]`."""
    posterior: Posterior
    noise: Tensor
    """The noise of that z, `[rows, noise]`."""
    num_tokens: int
    """Tokens of all sequences, each `</s>` included."""
    num_bytes: int

    def metrics(self) -> dict[str, float]:
        """Return `METRICS` of the split."""
        kl = float(self.posterior.kl().double().sum(1).mean())
        total_nll = -float(self.log_p.sum())
        return {
            "nll": total_nll / len(self.log_p),
            "elbo": float(self.reconstruction.mean()) + kl,
            "reconstruction": float(self.reconstruction.mean()),
            "kl": kl,
            "mi": diagnostics.mutual_information(self.posterior, self.noise),
            "mi_in_batch": diagnostics.mutual_information_in_batch(self.posterior, self.noise),
            "au": diagnostics.active_units(self.posterior.mean),
            "ppl": math.exp(min(total_nll / self.num_tokens, 700.0)),
            "bits_per_byte": total_nll / math.log(2) / self.num_bytes,
            "dispersion": diagnostics.dispersion(self.posterior.features),
        }


def evaluate(
    network: SequenceVAE, split: Split, *, num_samples: int, num_sequences: int | None = None, batch_size: int = 64
) -> dict[str, float]:
    """Return `METRICS` of the first `num_sequences` of a split (a random subset: corpora are stored shuffled)."""
    return score(network, split, num_samples=num_samples, num_sequences=num_sequences, batch_size=batch_size).metrics()


def score(
    network: SequenceVAE, split: Split, *, num_samples: int, num_sequences: int | None = None, batch_size: int = 64
) -> Scores:
    """Evaluate each of the first `num_sequences` of a split.

    The same noise is used for a sequence whatever the network, so that differences between networks
    are less noisy than either number; batch size and memory limits do not change a result.
    """
    device = next(network.parameters()).device
    lengths = split.lengths[:num_sequences]
    # Without a latent variable every sample is the same.
    num_samples = num_samples if network.settings.has_latent else 1
    noise_size = network.settings.noise_size
    log_p, reconstruction, parts, first_noise = [], [], [], []
    batches = BatchOrder(lengths, batch_size).in_order_of_length()
    with evaluating(network):
        for indices in batches:
            batch = gather(split, indices).to(device)
            posterior = network.encode(batch.tokens, batch.lengths).map(torch.Tensor.float)
            noise = likelihood.sequence_noise(indices, num_samples, noise_size, NOISE_SEED).to(device)
            losses = likelihood.reconstructions(network, batch.tokens, batch.lengths, posterior.sample(noise))
            log_p.append(likelihood.log_likelihood(likelihood.log_weights(losses, posterior, noise).double()).cpu())
            reconstruction.append(losses[:, 0].double().cpu())
            parts.append(posterior.map(torch.Tensor.cpu))
            first_noise.append(noise[:, 0].cpu())
    # Back to the split's order, which does not depend on the batches.
    order = torch.from_numpy(np.argsort(np.concatenate(batches)))
    return Scores(
        log_p=torch.cat(log_p)[order],
        reconstruction=torch.cat(reconstruction)[order],
        posterior=Posterior.concatenate(parts)[order],
        noise=torch.cat(first_noise)[order],
        num_tokens=int(lengths.sum()) + len(lengths),
        num_bytes=int(split.num_bytes[:num_sequences].sum()),
    )
