"""Importance-weighted estimates of log p(x) and their error, the same whatever the batch or chunk size."""

import math
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import MAX_DECODER_TOKENS
from model.network.vae import SequenceVAE
from model.posterior import Posterior
from model.shapes import Float, Int

FIRST_ROUND = 32
"""Samples a sequence before its error is first looked at: fewer say little of the weights' tail."""

POWERS = (1.0, 0.85, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05)
"""Of the posterior in a proposal, `Posterior.tempered`: one of a KL weight below 1 is too narrow for the true one."""

JUDGED_SAMPLES = 100
"""Samples of a sequence from which the tail of its weights is judged."""


def sequence_generators(indices: NDArray[np.int64], seed: int) -> list[np.random.Generator]:
    """Return a generator of noise for each sequence, which depends on its index and the seed only.

    More samples of a sequence begin with the same ones, and its company in a batch does not matter,
    so that estimates can be paired between models, chunked and repeated.
    """
    return [np.random.default_rng([seed, int(index)]) for index in indices]


def draw_noise(
    generators: Sequence[np.random.Generator], num_samples: int, noise_size: int
) -> Float[Tensor, "batch samples noise"]:
    """Draw the next standard normal noise of each sequence."""
    shape = (num_samples, noise_size)
    return torch.from_numpy(np.stack([generator.standard_normal(shape, np.float32) for generator in generators]))


def rounds(num_samples: int, tolerance_nats: float) -> list[tuple[int, int]]:
    """Return which samples are drawn together: all at once, or doubling where the error is looked at between.

    They do not depend on memory limits, and so neither does an estimate that ends between two of them.
    """
    if tolerance_nats == 0.0:
        return [(0, num_samples)]
    ends, end = [], FIRST_ROUND
    while end < num_samples:
        ends.append(end)
        end *= 2
    return list(zip([0, *ends], [*ends, num_samples], strict=True))


@torch.no_grad()
def reconstructions(
    network: SequenceVAE,
    tokens: Int[Tensor, "batch time"],
    lengths: Int[Tensor, " batch"],
    latent: Float[Tensor, "batch samples latent"],
    max_tokens: int = MAX_DECODER_TOKENS,
) -> Float[Tensor, "batch samples"]:
    """Return -log p(x|z) in nats for several z a sequence, decoding no more tokens at once than allowed."""
    num_rows, time = tokens.shape
    rows_at_once = max(1, min(num_rows, max_tokens // time))
    samples_at_once = max(1, max_tokens // (rows_at_once * time))
    found = latent.new_empty(latent.shape[:2])
    for row in range(0, num_rows, rows_at_once):
        rows = slice(row, row + rows_at_once)
        for start in range(0, latent.shape[1], samples_at_once):
            part = latent[rows, start : start + samples_at_once]
            repeats = part.shape[1]
            losses = network.reconstruction(
                tokens[rows].repeat_interleave(repeats, dim=0),
                lengths[rows].repeat_interleave(repeats),
                part.flatten(0, 1),
            )
            found[rows, start : start + repeats] = losses.view(-1, repeats)
    return found


def log_weights(
    reconstruction: Float[Tensor, "batch samples"],
    posterior: Posterior,
    noise: Float[Tensor, "batch samples noise"],
) -> Float[Tensor, "batch samples"]:
    """Return log p(x|z) + log p(z) - log q(z|x) in nats for z = posterior.sample(noise)."""
    return posterior.log_ratio(noise) - reconstruction


def effective_share(weights: Float[Tensor, "batch samples"]) -> float:
    """Return the mean effective sample size of sequences' log weights, as a share of the samples (Kong 1992)."""
    weights = weights.double()
    return float((2 * weights.logsumexp(1) - (2 * weights).logsumexp(1)).exp().mean().detach()) / weights.shape[1]


def log_likelihood(weights: Float[Tensor, "batch samples"]) -> Float[Tensor, " batch"]:
    """Return log mean exp of the log weights: a lower bound on log p(x) in expectation (arXiv 1509.00519).

    Weights that are nan were not drawn.
    """
    return drawn_or_nothing(weights).logsumexp(1) - num_drawn(weights).log()


def debiased_log_likelihood(weights: Float[Tensor, "batch samples"]) -> Float[Tensor, " batch"]:
    """Return `log_likelihood` without the first term of its bias in 1 / samples: no bound, but nearer with few samples.

    The first-order jackknife, S L_S - (S - 1) mean over s of L_{S-1} without sample s (Nowozin 2018, "Debiasing
    evidence approximations", JVI-1). A single sample is left as it is. Samples must not have been stopped at for their
    own sake: a sequence whose large weights have not been seen yet looks done.
    """
    count = num_drawn(weights).unsqueeze(1)
    relative = (drawn_or_nothing(weights) - drawn_or_nothing(weights).amax(1, keepdim=True)).exp()
    total = relative.sum(1, keepdim=True)
    # What one sample fewer would say, less what all say; at most 1 - 1e-12 of all weight is one sample's.
    share = (relative / total).clamp(max=1 - 1e-12)
    fewer = torch.where(weights.isnan(), 0.0, torch.log1p(-share) + (count / (count - 1)).log())
    correction = -(count - 1) * fewer.sum(1, keepdim=True) / count
    return log_likelihood(weights) + torch.where(count > 1, correction, 0.0).squeeze(1)


def standard_error(weights: Float[Tensor, "batch samples"]) -> Float[Tensor, " batch"]:
    """Return the standard error in nats of each `log_likelihood`, by the delta method; nan of a single sample.

    To the same order the estimate is too low by half its square (Nowozin 2018, "Debiasing evidence
    approximations").
    """
    count = num_drawn(weights)
    relative = (weights - drawn_or_nothing(weights).amax(1, keepdim=True)).exp()
    mean = relative.nansum(1) / count
    variance = (relative - mean.unsqueeze(1)).square().nansum(1) / (count - 1)
    return (variance / count).sqrt() / mean


def drawn_or_nothing(weights: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    """Return log weights with those that were not drawn at -infinity."""
    return torch.where(weights.isnan(), -math.inf, weights)


def num_drawn(weights: Float[Tensor, "batch samples"]) -> Float[Tensor, " batch"]:
    """Count the samples of each sequence."""
    return (~weights.isnan()).sum(1).to(weights.dtype)


def can_judge() -> bool:
    """Say whether arviz-stats, which `pareto_shape` asks, is installed."""
    return find_spec("arviz_stats") is not None


def pareto_shape(weights: NDArray[np.float64]) -> float:
    """Return k-hat of one sequence's log weights `[samples]`: how heavy the tail of its weights is.

    Pareto-smoothed importance sampling (Vehtari et al., arXiv 1507.02646). nan where all weights are alike
    or too few to say: below 100 samples the tail is a handful of points.
    """
    if len(weights) < JUDGED_SAMPLES or float(np.ptp(weights)) < 1e-6 or not can_judge():
        return math.nan
    from arviz_stats.base.array import array_stats

    # It takes log-likelihoods whose reciprocals are the weights.
    return float(array_stats.psislw(-weights)[1])  # type: ignore[no-untyped-call]


def largest_trusted_shape(num_samples: int) -> float:
    """Return the k-hat up to which so many samples suffice: min(1 - 1 / log10(S), 0.7), of the same paper."""
    return min(1.0 - 1.0 / math.log10(num_samples), 0.7)
