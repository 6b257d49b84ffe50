"""Every metric of a network on a split: likelihood at KL weight 1, and use of the latent variable."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

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


def evaluate(
    network: SequenceVAE, split: Split, *, num_samples: int, num_sequences: int | None = None, batch_size: int = 64
) -> dict[str, float]:
    """Return `METRICS` of the first `num_sequences` of a split (a random subset: corpora are stored shuffled).

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
    return summarise(
        log_p=torch.cat(log_p)[order],
        reconstruction=torch.cat(reconstruction)[order],
        posterior=Posterior.concatenate(parts)[order],
        noise=torch.cat(first_noise)[order],
        num_tokens=int(lengths.sum()) + len(lengths),
        num_bytes=int(split.num_bytes[:num_sequences].sum()),
    )


def summarise(
    *, log_p: Tensor, reconstruction: Tensor, posterior: Posterior, noise: Tensor, num_tokens: int, num_bytes: int
) -> dict[str, float]:
    """Return `METRICS` from what each sequence gave; `num_tokens` includes each `</s>`."""
    kl = float(posterior.kl().double().sum(1).mean())
    total_nll = -float(log_p.sum())
    return {
        "nll": total_nll / len(log_p),
        "elbo": float(reconstruction.mean()) + kl,
        "reconstruction": float(reconstruction.mean()),
        "kl": kl,
        "mi": diagnostics.mutual_information(posterior, noise),
        "mi_in_batch": diagnostics.mutual_information_in_batch(posterior, noise),
        "au": diagnostics.active_units(posterior.mean),
        "ppl": math.exp(min(total_nll / num_tokens, 700.0)),
        "bits_per_byte": total_nll / math.log(2) / num_bytes,
        "dispersion": diagnostics.dispersion(posterior.features),
    }
