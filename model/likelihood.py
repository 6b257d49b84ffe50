"""Importance-weighted estimates of log p(x), the same whatever the batch or chunk size."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from model.posterior import Posterior
from model.vae import SequenceVAE

TOKENS_AT_ONCE = 16_384
"""Decoder tokens of one chunk of samples: what bounds the memory of an estimate."""


def sequence_noise(
    indices: NDArray[np.int64], num_samples: int, noise_size: int, seed: int
) -> Float[Tensor, "batch samples noise"]:
    """Draw standard normal noise that depends on a sequence's index and the seed only.

    More samples of a sequence begin with the same ones, and its company in a batch does not matter,
    so that estimates can be paired between models, chunked and repeated.
    """
    draws = [
        np.random.default_rng([seed, int(index)]).standard_normal((num_samples, noise_size), np.float32)
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
    noise: Float[Tensor, "batch samples noise"],
) -> Float[Tensor, "batch samples"]:
    """Return log p(x|z) + log p(z) - log q(z|x) in nats for z = posterior.sample(noise)."""
    return posterior.log_ratio(noise) - reconstruction


def log_likelihood(weights: Float[Tensor, "batch samples"]) -> Float[Tensor, " batch"]:
    """Return log mean exp of the log weights: a lower bound on log p(x) in expectation (arXiv 1509.00519)."""
    return weights.logsumexp(1) - math.log(weights.shape[1])
