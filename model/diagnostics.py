"""How much of the input the latent variable carries: mutual information, active units, dispersion."""

import math

import torch
from torch import Tensor

from model.collapse import ACTIVE_VARIANCE
from model.network.pooling import valid_steps
from model.posterior import Posterior
from model.shapes import Float, Int

IN_BATCH_SIZE = 32
"""The mini-batch of the in-batch mutual information, as the field computes it."""

POSITIONS = ("first", *(f"words_{tenth}" for tenth in range(1, 11)), "last")
"""Where a unit's maximum over time can lie: at `<s>`, in each tenth of the words, at `</s>`."""

Rows = Float[Tensor, "rows latent"]
Noise = Float[Tensor, "rows noise"]


def mutual_information_and_error(
    posterior: Posterior, draws: Float[Tensor, "draws rows noise"], elements_at_once: int = 2**23
) -> tuple[float, float]:
    """Return I(x; z) under q in nats from some samples a row, and that mean's standard error from drawing them.

    E[log q(z|x) - log q(z)], q(z) being the mean of q(z|x) over all rows, at most log(rows) (Hoffman and Johnson 2016).
    The same samples stand in both terms, so that their noise cancels: posteriors that are all alike give exactly 0.
    Worked out in float64 where the posterior is, so many numbers at once.

    The error is of the samples, given the rows: the spread over each row's own, pooled. nan of one sample a row.
    """
    posterior = posterior.without_features()
    found = torch.stack([_information_by_row(posterior, noise, elements_at_once) for noise in draws])
    num_draws, num_rows = found.shape
    error = (found.var(0).mean() / (num_draws * num_rows)).sqrt() if num_draws > 1 else found.new_tensor(math.nan)
    mean, error_nats = torch.stack([found.mean(), error]).tolist()
    return mean, error_nats


def _mutual_information(posterior: Posterior, noise: Noise, elements_at_once: int) -> Float[Tensor, ""]:
    return _information_by_row(posterior, noise, elements_at_once).mean()


def _information_by_row(posterior: Posterior, noise: Noise, elements_at_once: int) -> Float[Tensor, " rows"]:
    posterior, noise = posterior.map(torch.Tensor.double), noise.double()
    latent = posterior.sample(noise)
    rows_at_once = max(1, elements_at_once // len(latent))
    log_marginal = torch.cat(
        [posterior.log_density(part).logsumexp(1) for part in torch.split(latent, rows_at_once)]
    ) - math.log(len(latent))
    return posterior.log_own_density(noise) - log_marginal


def mutual_information_in_batch(posterior: Posterior, noise: Noise) -> float:
    """Return the mean over mini-batches of 32 rows, in a fixed shuffled order, of their own I(x; z).

    Each is at most log 32 = 3.47: the quantity of He et al. (arXiv 1901.05534), not comparable with the
    whole set's. Fewer than 32 rows form one batch; rows left over are not used.
    """
    rows = len(posterior.mean)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0), device="cpu").to(posterior.mean.device)
    batches = [part for part in torch.split(order, IN_BATCH_SIZE) if len(part) == min(IN_BATCH_SIZE, rows)]
    posterior = posterior.without_features()
    # One number is asked for at the end: each would have a GPU waited for.
    found = [_mutual_information(posterior[part], noise[part], 2**23) for part in batches]
    return math.fsum(torch.stack(found).tolist()) / len(batches)


def active_dimensions(variance: list[float], threshold: float = ACTIVE_VARIANCE) -> list[int]:
    """Return the latent dimensions whose posterior mean has at least this variance, the most active first."""
    order = sorted(range(len(variance)), key=lambda dimension: -variance[dimension])
    return [dimension for dimension in order if variance[dimension] >= threshold]


def active_units(mean: Rows, threshold: float = ACTIVE_VARIANCE) -> int:
    """Count the latent dimensions whose posterior mean has at least this (unbiased) variance over rows."""
    if len(mean) < 2:
        return 0
    return len(active_dimensions(mean.double().var(0).tolist(), threshold))


def dispersion(features: Float[Tensor, "rows features"]) -> float:
    """Return the mean cosine similarity over all pairs of rows: 1 where features are all alike.

    (||sum_i f_i / ||f_i|| ||^2 - N) / (N (N - 1)), exact without visiting the pairs; nan below two rows, or
    if a row is 0, as a language model's are.
    """
    num_rows = len(features)
    if num_rows < 2 or not bool(features.any(1).all()):
        return math.nan
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    return float((unit.sum(0).square().sum() - num_rows) / (num_rows * (num_rows - 1)))


def count_maxima(
    steps: Float[Tensor, "batch time hidden"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, " positions"]:
    """Count the units of all sequences by where their largest state lies, as `POSITIONS` names it.

    Ties, which the saturated states of a long sequence can have, go to the earliest.
    """
    place = steps.masked_fill(~valid_steps(steps, lengths), -torch.inf).argmax(1)
    last, num_words = (lengths - 1).unsqueeze(1), (lengths - 2).clamp(min=1).unsqueeze(1)
    tenth = 1 + (10 * (place - 1).clamp(min=0)).div(num_words, rounding_mode="floor").clamp(max=9)
    bins = torch.where(place == 0, 0, torch.where(place == last, 11, tenth))
    return torch.bincount(bins.flatten(), minlength=len(POSITIONS)).double()
