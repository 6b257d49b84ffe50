"""From tokens to the posterior: an LSTM, its states pooled over time, and one linear layer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from model.config import PAD_ID, NetworkSettings
from model.pooling import POOLINGS


@dataclass(frozen=True)
class Posterior:
    """The diagonal Gaussian q(z|x) of each sequence, and the features it was made from."""

    mean: Float[Tensor, "batch latent"]
    log_variance: Float[Tensor, "batch latent"]
    features: Float[Tensor, "batch features"]

    def sample(self, noise: Float[Tensor, "batch *samples latent"]) -> Float[Tensor, "batch *samples latent"]:
        """Return z = mean + standard deviation * noise, for one or several noises a sequence."""
        shape = (len(self.mean), *[1] * (noise.ndim - 2), -1)
        return self.mean.view(shape) + (0.5 * self.log_variance).exp().view(shape) * noise


class Encoder(nn.Module):
    """LSTM over the whole sequence, `<s>` and `</s>` included, then pooling and a layer without bias."""

    def __init__(self, settings: NetworkSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_size, padding_idx=PAD_ID)
        self.lstm = nn.LSTM(
            settings.embedding_size, settings.hidden_size, settings.num_encoder_layers,
            batch_first=True, bidirectional=settings.bidirectional,
        )  # fmt: skip
        steps_size = settings.hidden_size * (2 if settings.bidirectional else 1)
        self.attention = nn.Linear(steps_size, 1, bias=False) if settings.pooling == "attention" else None
        self.to_posterior = nn.Linear(settings.features_size, 2 * settings.latent_size, bias=False)

    def forward(self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """Return the posterior of each sequence; `lengths` may stay on the CPU."""
        steps = self.steps(tokens, lengths)
        features = self.pool(steps, lengths.to(steps.device, non_blocking=True))
        mean, log_variance = self.to_posterior(features).chunk(2, dim=1)
        return Posterior(mean, log_variance, features)

    def steps(
        self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time hidden"]:
        """Return the top layer's state at each token; what stands at padding has no meaning."""
        embedded = self.embedding(tokens)
        if not self.settings.bidirectional:
            # Padding comes after every real token, so that it cannot reach a state that is used.
            states: Tensor = self.lstm(embedded)[0]
            return states
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])[0]

    def pool(
        self, steps: Float[Tensor, "batch time hidden"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch features"]:
        """Reduce the states over time by the chosen pooling."""
        match self.settings.pooling:
            case "attention":
                assert self.attention is not None
                return POOLINGS["attention"](steps, lengths, self.attention(steps))
            case "logsumexp":
                return POOLINGS["logsumexp"](steps, lengths, self.settings.pooling_temperature)
            case "last" if self.settings.bidirectional:
                # The backward direction ends at the first token.
                forward, _ = steps.chunk(2, dim=2)
                return torch.cat([POOLINGS["last"](forward, lengths), steps[:, 0, forward.shape[2] :]], dim=1)
            case name:
                return POOLINGS[name](steps, lengths)
