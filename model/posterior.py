"""Families of approximate posteriors: how each is sampled, what it costs and how dense it is.

A `Posterior` holds one batch's parameters. Noise is always standard normal, `noise_size` numbers a
draw, so that one generator serves every family and draws can be paired between models.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.special import gammaln, ive, xlogy
from torch import Tensor

from model.shapes import Float

Rows = Float[Tensor, "rows latent"]


@dataclass(frozen=True)
class Posterior:
    """The diagonal Gaussian q(z|x) of each sequence, against the prior N(0, I)."""

    mean: Float[Tensor, "batch latent"]
    log_variance: Float[Tensor, "batch latent"]
    features: Float[Tensor, "batch features"]

    def __getitem__(self, rows: Tensor) -> "Posterior":
        """Return the posterior of some sequences."""
        return self.map(lambda tensor: tensor[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> "Posterior":
        """Return the posterior with a function applied to each of its tensors."""
        tensors = {name: function(getattr(self, name)) for name in ("mean", "log_variance", "features")}
        return replace(self, **tensors)

    def without_features(self) -> "Posterior":
        """Return the distribution alone, with features of no width."""
        return replace(self, features=self.features[:, :0])

    @classmethod
    def concatenate(cls, parts: "Sequence[Posterior]") -> "Posterior":
        """Return the posterior of all sequences of several batches of one family."""
        names = ("mean", "log_variance", "features")
        return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def sample(self, noise: Float[Tensor, "batch *samples latent"]) -> Float[Tensor, "batch *samples latent"]:
        """Return z = mean + standard deviation * noise, for one or several noises a sequence."""
        shape = (len(self.mean), *[1] * (noise.ndim - 2), -1)
        return self.mean.view(shape) + (0.5 * self.log_variance).exp().view(shape) * noise

    def tempered(self, power: float) -> "Posterior":
        """Return q(z|x)^power p(z)^(1 - power), normalised: between the prior, at 0, and the posterior, at 1.

        Where the likelihood is Gaussian in z, training with a KL weight of b ends with q ∝ p(z) p(x|z)^(1/b), so that
        q tempered by b is p(z|x): wider than q and nearer to the prior.
        """
        precision = power * (-self.log_variance).exp() + (1.0 - power)
        mean = self.mean * power * (-self.log_variance).exp() / precision
        return replace(self, mean=mean, log_variance=-precision.log())

    def kl(self) -> Float[Tensor, "batch latent"]:
        """Return KL(q(z|x) || p(z)) in nats by sequence and latent dimension."""
        log_variance = self.log_variance.float()
        return 0.5 * (self.mean.float().square() + log_variance.exp() - 1.0 - log_variance)

    def charged_kl(self) -> Float[Tensor, "batch latent"]:
        """Return the KL that training is charged, in nats by sequence and latent dimension: the true one."""
        return self.kl()

    def log_ratio(self, noise: Float[Tensor, "batch samples latent"]) -> Float[Tensor, "batch samples"]:
        """Return log p(z) - log q(z|x) in nats for z = sample(noise)."""
        log_prior = -0.5 * self.sample(noise).square().sum(-1)
        log_posterior = -0.5 * (noise.square() + self.log_variance.unsqueeze(1)).sum(-1)
        # The terms in log(2 pi) cancel.
        return log_prior - log_posterior

    def log_density(self, latent: Rows) -> Float[Tensor, "rows batch"]:
        """Return log q(z_i|x_j) + constant in float64 for every z and every sequence, as products of matrices."""
        mean, log_variance, latent = self.mean.double(), self.log_variance.double(), latent.double()
        precision = (-log_variance).exp()
        weighted = mean * precision
        constant = -0.5 * (mean * weighted + log_variance).sum(1)
        return latent @ weighted.T - 0.5 * latent.square() @ precision.T + constant

    def log_own_density(self, noise: Rows) -> Float[Tensor, " batch"]:
        """Return log q(z_i|x_i) + the same constant for z = sample(noise), without cancellation."""
        return -0.5 * (noise.double().square() + self.log_variance.double()).sum(1)


@dataclass(frozen=True)
class ScaledPosterior(Posterior):
    """A Gaussian whose means are multiplied by a factor of each dimension, and charged as if they were not.

    Scale-VAE (Song et al., LREC-COLING 2024): the factors are those of all sequences alike. `mean` is the scaled mean,
    which the decoder knows; so all that is reported of it, KL and likelihood included, is true of the model as it is.
    """

    factor: Float[Tensor, " latent"] = field(default_factory=lambda: torch.ones(()))

    def charged_kl(self) -> Float[Tensor, "batch latent"]:
        """Return the KL of the posterior with unscaled means."""
        return Posterior(self.mean / self.factor, self.log_variance, self.features).kl()


@dataclass(frozen=True)
class SphericalPosterior(Posterior):
    """The von Mises-Fisher q(z|x) on the unit sphere of fixed concentration, against the uniform prior.

    `mean` is the unit direction; `log_variance` is not used. Its KL is one number, whatever x (Xu and
    Durrett, arXiv 1808.10805); it stands in `kl` spread evenly over the dimensions.
    """

    concentration: float = 1.0

    def tempered(self, power: float) -> "SphericalPosterior":
        """Return q(z|x)^power, normalised: the prior is uniform."""
        return replace(self, concentration=power * self.concentration)

    def sample(self, noise: Float[Tensor, "batch *samples noise"]) -> Float[Tensor, "batch *samples latent"]:
        """Return unit vectors: a height along the mean direction, and a uniform direction across it."""
        size = self.mean.shape[1]
        mean = self.mean.view(len(self.mean), *[1] * (noise.ndim - 2), size)
        uniform = torch.special.ndtr(noise[..., :1].double())
        height = draw_heights(size, self.concentration, uniform).to(noise.dtype)
        across = noise[..., 1:] - (noise[..., 1:] * mean).sum(-1, keepdim=True) * mean
        across = torch.nn.functional.normalize(across, dim=-1)
        return height * mean + (1.0 - height.square()).clamp(min=0.0).sqrt() * across

    def kl(self) -> Float[Tensor, "batch latent"]:
        """Return the constant KL in nats, an equal share for each dimension."""
        size = self.mean.shape[1]
        return torch.full_like(self.mean, spherical_kl(size, self.concentration) / size)

    def log_ratio(self, noise: Float[Tensor, "batch samples noise"]) -> Float[Tensor, "batch samples"]:
        """Return log p(z) - log q(z|x) in nats for z = sample(noise)."""
        size = self.mean.shape[1]
        along = (self.sample(noise) * self.mean.unsqueeze(1)).sum(-1)
        log_uniform = float(gammaln(size / 2)) - math.log(2.0) - size / 2 * math.log(math.pi)
        return log_uniform - log_normaliser(size, self.concentration) - self.concentration * along

    def log_density(self, latent: Rows) -> Float[Tensor, "rows batch"]:
        """Return log q(z_i|x_j) + constant in float64 for every z and every sequence."""
        return self.concentration * latent.double() @ self.mean.double().T

    def log_own_density(self, noise: Float[Tensor, "batch noise"]) -> Float[Tensor, " batch"]:
        """Return log q(z_i|x_i) + the same constant for z = sample(noise)."""
        return self.concentration * (self.sample(noise) * self.mean).double().sum(1)


HEIGHTS = 20_001
"""Points of a table of heights."""


@lru_cache(maxsize=16)
def height_table(size: int, concentration: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return heights along the mean direction on a sphere in so many dimensions, and the probability of lying above.

    Of density exp(c h) (1 - h^2)^((size - 3) / 2), both float64 `[points]`; made once for a device.
    """
    # Angles, not heights: the density in them is smooth at both poles for every size from 2 on.
    angle = np.linspace(0.0, np.pi, HEIGHTS)
    log_density = concentration * np.cos(angle) + xlogy(size - 2, np.sin(angle).clip(0.0))
    density = np.exp(log_density - np.max(log_density))
    above = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return torch.from_numpy(np.cos(angle)).to(device), torch.from_numpy(above / above[-1]).to(device)


def draw_heights(size: int, concentration: float, uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the heights above which so much probability lies, between the points of the table in straight lines."""
    height, above = height_table(size, concentration, uniform.device)
    place = torch.searchsorted(above, uniform.contiguous(), right=True).clamp(1, HEIGHTS - 1).flatten()
    left, right, low, high = (
        table.index_select(0, at).view(uniform.shape) for table in (above, height) for at in (place - 1, place)
    )
    # At the far end the density is too small for a number, and the table flat.
    return torch.where(right > left, (high - low) / (right - left) * (uniform - left) + low, high)


def log_normaliser(size: int, concentration: float) -> float:
    """Return log C of the density C exp(concentration mean.z) on the unit sphere in so many dimensions."""
    order = size / 2 - 1
    return order * math.log(concentration) - size / 2 * math.log(2 * math.pi) - log_bessel(order, concentration)


def log_bessel(order: float, argument: float) -> float:
    """Return log I_order(argument); by Debye's expansion (DLMF 10.41.3) where that is too small for a number."""
    scaled = float(ive(order, argument))
    if scaled > 0.0:
        return math.log(scaled) + argument
    slope = math.hypot(1.0, argument / order)
    exponent = slope + math.log(argument / order / (1.0 + slope))
    correction = 1.0 + (3.0 / slope - 5.0 / slope**3) / (24.0 * order)
    return order * exponent - 0.5 * math.log(2.0 * math.pi * order * slope) + math.log(correction)


def spherical_kl(size: int, concentration: float) -> float:
    """Return KL(vMF || uniform) in nats: it depends on neither the input nor the mean direction."""
    order = size / 2 - 1
    mean_height = math.exp(log_bessel(order + 1, concentration) - log_bessel(order, concentration))
    log_area = math.log(2.0) + size / 2 * math.log(math.pi) - float(gammaln(size / 2))
    return concentration * mean_height + log_normaliser(size, concentration) + log_area
