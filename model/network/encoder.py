"""From tokens to the posterior: layers over the sequence, their states pooled over time, and one linear layer."""

import math

import torch
from torch import Tensor, nn

from model.config import LONGEST, PAD_ID, NetworkSettings
from model.network.pooling import pool
from model.network.protocols import SequenceEncoder, make, rename_weights
from model.network.recurrence import copied
from model.posterior import Posterior, ScaledPosterior, SphericalPosterior
from model.registry import ENCODERS, POOLINGS
from model.shapes import Float, Int

RENEWED = 0.1
"""Of the running spread of scaled means with each batch."""
LEAST_SPREAD = 1e-6
"""Below it, a dimension is as good as constant, and is not scaled further."""


class Encoder(nn.Module):
    """Layers over the whole sequence, `<s>` and `</s>` included, then pooling and a layer without bias."""

    def __init__(self, settings: NetworkSettings, vocabulary_size: int, longest: int = LONGEST) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_size, padding_idx=PAD_ID)
        self.layers: SequenceEncoder = make(ENCODERS[settings.encoder].factory, settings, longest)
        rename_weights(self, self.layers.renamed)
        learns_scores = "scores" in POOLINGS[settings.pooling].extras
        # Apart from the others' numbers, so that all else starts as it does with another pooling.
        with torch.random.fork_rng(devices=[]):
            self.attention = nn.Linear(settings.states_size, 1, bias=False) if learns_scores else None
        self.to_posterior = nn.Linear(settings.features_size, 2 * settings.latent_size, bias=False)
        # Its own weight is not used: the scale is fixed. The usual epsilon of 1e-5 would swallow the small
        # means of the uniform initialisation, and the bound on the KL with them.
        self.batch_norm = (
            nn.BatchNorm1d(settings.latent_size, eps=1e-12) if settings.posterior == "batch-norm" else None
        )
        if self.batch_norm is not None:
            self.batch_norm.weight.requires_grad_(False)
        if settings.posterior == "scaled":
            self.register_buffer("spread", torch.ones(settings.latent_size))
        self.largest_log_variance = log_variance_of_rate(settings.committed_rate_nats / settings.latent_size)

    def forward(self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """Return the posterior of each sequence; `lengths` may stay on the CPU."""
        steps = self.steps(tokens, lengths)
        features = self.pool(steps, copied(lengths, steps.device))
        mean, log_variance = self.to_posterior(features).chunk(2, dim=1)
        match self.settings.posterior:
            case "batch-norm":
                return Posterior(self.normalise(mean), log_variance, features)
            case "scaled":
                factor = self.scale_up(mean)
                return ScaledPosterior(factor * mean, log_variance, features, factor)
            case "delta":
                # Held under the variance at which a dimension costs its share of the rate with a mean of 0.
                return Posterior(mean, self.largest_log_variance - nn.functional.softplus(log_variance), features)
            case "von-mises-fisher":
                direction = nn.functional.normalize(mean, dim=1)
                return SphericalPosterior(direction, torch.zeros_like(mean), features, self.settings.concentration)
            case _:
                return Posterior(mean, log_variance, features)

    def normalise(self, mean: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
        """Give each dimension of the mean a fixed scale over the batch (BN-VAE, Zhu et al., arXiv 2004.12585).

        The batch's mean KL is then at least latent_size * scale^2 / 2. A batch of one has no scale of its
        own and uses the running one.
        """
        norm = self.batch_norm
        assert norm is not None
        alone = self.training and len(mean) == 1
        normalised = nn.functional.batch_norm(
            mean.to(norm.bias.dtype),
            norm.running_mean,
            norm.running_var,
            None,
            norm.bias,
            self.training and not alone,
            eps=norm.eps,
        )
        return self.settings.batch_norm_scale * (normalised - norm.bias) + norm.bias

    def scale_up(self, mean: Float[Tensor, "batch latent"]) -> Float[Tensor, " latent"]:
        """Return the factor by which each dimension's standard deviation reaches `scaled_spread`, never below 1.

        By the batch in training, by a running mean of its spreads out of it; nothing is learned through a factor.
        """
        spread = running = self.get_buffer("spread")
        if self.training and len(mean) > 1:
            spread = mean.detach().float().std(0)
            running.lerp_(spread, RENEWED)
        return (self.settings.scaled_spread / spread.clamp(min=LEAST_SPREAD)).clamp(min=1.0)

    def steps(
        self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the top layer's state at each token; what stands at padding has no meaning."""
        states: Tensor = self.layers(self.embedding(tokens), lengths)
        return states

    def pool(
        self, steps: Float[Tensor, "batch time hidden"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch features"]:
        """Reduce the states over time by the chosen pooling."""
        return pool(
            self.settings.pooling,
            steps,
            lengths,
            scores=None if self.attention is None else self.attention(steps),
            temperature=self.settings.pooling_temperature,
            both_ways=self.settings.bidirectional,
        )


def log_variance_of_rate(rate_nats: float) -> float:
    """Return the log variance below 0 at which KL(N(0, v) || N(0, 1)) is the given rate.

    delta-VAEs (Razavi et al., arXiv 1901.03416) commit to a rate by keeping the posterior's variance
    away from the prior's; this is the bound for an independent standard normal prior.
    """
    low, high = -2.0 * rate_nats - 3.0, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * (math.exp(middle) - 1.0 - middle) > rate_nats else (low, middle)
    return low
