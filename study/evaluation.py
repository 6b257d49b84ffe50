"""Every metric of a network on a split: likelihood at KL weight 1, and use of the latent variable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.batches import BatchOrder, gather
from data.corpus import Split
from model import diagnostics, likelihood
from model.objective import kl_divergence
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


def evaluate(
    network: SequenceVAE, split: Split, *, num_samples: int, num_sequences: int | None = None, batch_size: int = 64
) -> dict[str, float]:
    """Return `METRICS` of the first `num_sequences` of a split (a random subset: corpora are stored shuffled).

    The same noise is used for a sequence whatever the network, so that differences between networks
    are less noisy than either number; batch size and memory limits do not change a result.
    """
    device = next(network.parameters()).device
    lengths = split.lengths[:num_sequences]
    rows = len(lengths)
    latent_size = network.settings.latent_size
    nll, reconstruction = torch.empty(rows, dtype=torch.float64), torch.empty(rows, dtype=torch.float64)
    mean, log_variance, first_noise = (torch.empty(rows, latent_size) for _ in range(3))
    features = torch.empty(rows, network.settings.features_size)
    with evaluating(network):
        for indices in BatchOrder(lengths, batch_size).in_order_of_length():
            batch = gather(split, indices).to(device)
            posterior = network.encode(batch.tokens, batch.lengths)
            noise = likelihood.sequence_noise(indices, num_samples, latent_size, NOISE_SEED).to(device)
            losses = likelihood.reconstructions(network, batch.tokens, batch.lengths, posterior.sample(noise))
            weights = likelihood.log_weights(losses, posterior, noise)
            nll[indices] = -likelihood.log_likelihood(weights.double()).cpu()
            reconstruction[indices] = losses[:, 0].double().cpu()
            mean[indices], log_variance[indices] = posterior.mean.float().cpu(), posterior.log_variance.float().cpu()
            features[indices], first_noise[indices] = posterior.features.float().cpu(), noise[:, 0].cpu()
    return summarise(
        nll, reconstruction, mean, log_variance, features, first_noise, lengths, split.num_bytes[:num_sequences]
    )


def summarise(
    nll: Tensor, reconstruction: Tensor, mean: Tensor, log_variance: Tensor, features: Tensor, noise: Tensor,
    lengths: NDArray[np.int64], num_bytes: NDArray[np.int64],
) -> dict[str, float]:  # fmt: skip
    """Return `METRICS` from what each sequence gave; a token count includes `</s>`."""
    from model.encoder import Posterior

    kl = float(kl_divergence(Posterior(mean, log_variance, features)).double().sum(1).mean())
    total_nll, num_tokens = float(nll.sum()), int(lengths.sum()) + len(lengths)
    return {
        "nll": float(nll.mean()),
        "elbo": float(reconstruction.mean()) + kl,
        "reconstruction": float(reconstruction.mean()),
        "kl": kl,
        "mi": diagnostics.mutual_information(mean, log_variance, noise),
        "mi_in_batch": diagnostics.mutual_information_in_batch(mean, log_variance, noise),
        "au": diagnostics.active_units(mean),
        "ppl": math.exp(min(total_nll / num_tokens, 700.0)),
        "bits_per_byte": total_nll / math.log(2) / int(num_bytes.sum()),
        "dispersion": diagnostics.dispersion(features),
    }
