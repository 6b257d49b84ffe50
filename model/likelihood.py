"""Importance-weighted estimates of log p(x), the same whatever the batch or chunk size."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from model.encoder import Posterior
from model.vae import SequenceVAE

TOKENS_AT_ONCE = 16_384
"""Decoder tokens of one chunk of samples: what bounds the memory of an estimate."""


def sequence_noise(
    indices: NDArray[np.int64], num_samples: int, latent_size: int, seed: int
) -> Float[Tensor, "batch samples latent"]:
    """Draw standard normal noise that depends on a sequence's index and the seed only.

    More samples of a sequence begin with the same ones, and its company in a batch does not matter,
    so that estimates can be paired between models, chunked and repeated.
    """
    draws = [
        np.random.default_rng([seed, int(index)]).standard_normal((num_samples, latent_size), np.float32)
        for index in indices
    ]
    return torch.from_numpy(np.stack(draws))


@torch.no_grad()
def reconstructions(
    network: SequenceVAE,
    tokens: Int[Tensor, "batch time"],
    lengths: Int[Tensor, " batch"],
    latent: Float[Tensor, "batch samples latent"],
) -> Float[Tensor, "batch samples"]:
    """Return -log p(x|z) in nats for several z a sequence, decoding a bounded number of tokens at once."""
    num_samples = latent.shape[1]
    at_once = max(1, TOKENS_AT_ONCE // tokens.numel())
    parts = []
    for start in range(0, num_samples, at_once):
        part = latent[:, start : start + at_once]
        repeats = part.shape[1]
        losses = network.reconstruction(
            tokens.repeat_interleave(repeats, dim=0), lengths.repeat_interleave(repeats), part.flatten(0, 1)
        )
        parts.append(losses.view(-1, repeats))
    return torch.cat(parts, dim=1)


def log_weights(
    reconstruction: Float[Tensor, "batch samples"],
    posterior: Posterior,
    noise: Float[Tensor, "batch samples latent"],
) -> Float[Tensor, "batch samples"]:
    """Return log p(x|z) + log p(z) - log q(z|x) in nats for z = posterior.sample(noise)."""
    latent = posterior.sample(noise)
    # The terms in log(2 pi) of prior and posterior cancel.
    log_prior = -0.5 * latent.square().sum(-1)
    log_posterior = -0.5 * (noise.square() + posterior.log_variance.unsqueeze(1)).sum(-1)
    return log_prior - log_posterior - reconstruction


def log_likelihood(weights: Float[Tensor, "batch samples"]) -> Float[Tensor, " batch"]:
    """Return log mean exp of the log weights: a lower bound on log p(x) in expectation (arXiv 1509.00519)."""
    return weights.logsumexp(1) - math.log(weights.shape[1])
