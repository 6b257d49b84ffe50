"""The sequence VAE: an encoder, a decoder and their initialisation."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.config import PAD_ID, NetworkSettings
from model.decoder import Decoder
from model.encoder import Encoder
from model.posterior import Posterior


class SequenceVAE(nn.Module):
    """A VAE of token sequences with a standard normal prior and an autoregressive decoder.

    Pooling follows Long, Cao and Cheung (arXiv 1911.03976), the rest the base set-up of He et al.
    (arXiv 1901.05534). Raises nothing; settings are validated by `NetworkSettings`.
    """

    def __init__(self, settings: NetworkSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.vocabulary_size = vocabulary_size
        self.encoder = Encoder(settings, vocabulary_size) if settings.has_latent else None
        self.decoder = Decoder(settings, vocabulary_size)
        if settings.init == "uniform":
            initialise_uniformly(self)

    def encode(self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"]) -> Posterior:
        """Return q(z|x) of each sequence; of a language model, the prior, so that every KL is 0."""
        if self.encoder is None:
            zeros = torch.zeros(len(tokens), self.settings.latent_size, device=tokens.device)
            return Posterior(zeros, zeros, torch.zeros(len(tokens), 1, device=tokens.device))
        posterior: Posterior = self.encoder(tokens, lengths)
        return posterior

    def reconstruction(
        self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"], latent: Float[Tensor, "batch latent"]
    ) -> Float[Tensor, " batch"]:
        """Return each sequence's -log p(x|z) in nats."""
        return self.decoder.reconstruction(tokens, lengths, latent)


def initialise_uniformly(network: nn.Module) -> None:
    """Draw every weight from U(-0.01, 0.01) and embeddings from U(-0.1, 0.1), as the field's base set-up does."""
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -0.01, 0.01)
    for module in network.modules():
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -0.1, 0.1)
            module.weight.data[PAD_ID].zero_()
