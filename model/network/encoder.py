"""From tokens to the posterior: an LSTM, its states pooled over time, and one linear layer."""

import math

import torch
from torch import Tensor, nn

from model.config import PAD_ID, NetworkSettings
from model.network.pooling import pool
from model.network.recurrence import copied, run_both_ways, run_lstm
from model.posterior import Posterior, SphericalPosterior
from model.registry import POOLINGS
from model.shapes import Float, Int


class Encoder(nn.Module):
    """LSTM over the whole sequence, `<s>` and `</s>` included, then pooling and a layer without bias."""

    def __init__(self, settings: NetworkSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_size, padding_idx=PAD_ID)
        self.lstm = nn.LSTM(
            settings.embedding_size,
            settings.hidden_size,
            settings.num_encoder_layers,
            batch_first=True,
            bidirectional=settings.bidirectional,
        )
        steps_size = settings.hidden_size * (2 if settings.bidirectional else 1)
        learns_scores = "scores" in POOLINGS[settings.pooling].extras
        # Apart from the others' numbers, so that all else starts as it does with another pooling.
        with torch.random.fork_rng(devices=[]):
            self.attention = nn.Linear(steps_size, 1, bias=False) if learns_scores else None
        self.to_posterior = nn.Linear(settings.features_size, 2 * settings.latent_size, bias=False)
        # Its own weight is not used: the scale is fixed. The usual epsilon of 1e-5 would swallow the small
        # means of the uniform initialisation, and the bound on the KL with them.
        self.batch_norm = (
            nn.BatchNorm1d(settings.latent_size, eps=1e-12) if settings.posterior == "batch-norm" else None
        )
        if self.batch_norm is not None:
            self.batch_norm.weight.requires_grad_(False)
        self.largest_log_variance = log_variance_of_rate(settings.committed_rate_nats / settings.latent_size)

    def forward(self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """Return the posterior of each sequence; `lengths` may stay on the CPU."""
        steps = self.steps(tokens, lengths)
        features = self.pool(steps, copied(lengths, steps.device))
        mean, log_variance = self.to_posterior(features).chunk(2, dim=1)
        match self.settings.posterior:
            case "batch-norm":
                return Posterior(self.normalise(mean), log_variance, features)
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

    def steps(
        self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the top layer's state at each token; what stands at padding has no meaning."""
        embedded = self.embedding(tokens)
        if not self.settings.bidirectional:
            # Padding comes after every real token, so that it cannot reach a state that is used.
            return run_lstm(self.lstm, embedded)[0]
        return run_both_ways(self.lstm, embedded, lengths.cpu())

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
