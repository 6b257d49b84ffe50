"""The sequence VAE: an encoder, a decoder and their initialisation."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from model.config import LONGEST, PAD_ID, NetworkSettings
from model.network.decoder import Decoder
from model.network.encoder import Encoder
from model.network.recurrence import differentiable
from model.posterior import Posterior
from model.refinement import NOISE_SEED, Descent, Refine
from model.shapes import Float, Int


class SequenceVAE(nn.Module):
    """A VAE of token sequences with a standard normal prior and an autoregressive decoder.

    Pooling follows Long, Cao and Cheung (arXiv 1911.03976), the rest the base set-up of He et al.
    (arXiv 1901.05534). Raises nothing; settings are validated by `NetworkSettings`.
    """

    def __init__(self, settings: NetworkSettings, vocabulary_size: int, longest: int = LONGEST) -> None:
        """Make a network with a random initialisation; learned positions are as many as the `longest` sequence has."""
        super().__init__()
        self.settings = settings
        self.vocabulary_size = vocabulary_size
        self.longest = longest
        self.encoder = Encoder(settings, vocabulary_size, longest) if settings.has_latent else None
        self.decoder = Decoder(settings, vocabulary_size, longest)
        if settings.init == "uniform":
            initialise_uniformly(self)

    def encode(
        self, tokens: Int[Tensor, "batch time"], lengths: Int[Tensor, " batch"], kl_weight: float | Tensor = 1.0
    ) -> Posterior:
        """Return q(z|x) of each sequence; of a language model, the prior, so that every KL is 0.

        The KL weight is the one that semi-amortized inference descends with; others do not look at it.
        """
        if self.encoder is None:
            zeros = torch.zeros(len(tokens), self.settings.latent_size, device=tokens.device)
            return Posterior(zeros, zeros, torch.zeros(len(tokens), 1, device=tokens.device))
        posterior: Posterior = self.encoder(tokens, lengths)
        if not self.settings.refinement_steps:
            return posterior
        return self.refine(posterior, tokens, lengths, kl_weight)

    def refine(
        self,
        posterior: Posterior,
        tokens: Int[Tensor, "batch time"],
        lengths: Int[Tensor, " batch"],
        kl_weight: float | Tensor,
    ) -> Posterior:
        """Return each sequence's posterior after steps of descent on its own negative ELBO.

        Out of training the noise of each step is the same for every sequence and call, so that a posterior
        depends on its sequence alone.
        """
        steps, latent_size = self.settings.refinement_steps, self.settings.latent_size
        if self.training:
            noise = torch.randn(steps, len(tokens), latent_size, device=tokens.device)
        else:
            generator = torch.Generator().manual_seed(NOISE_SEED)
            noise = torch.randn(steps, 1, latent_size, generator=generator, device="cpu").to(tokens.device)
        seed = int(torch.randint(2**31, (), device="cpu")) if self.training else 0

        def loss(step: int, parameters: Tensor) -> Tensor:
            mean, log_variance = parameters.chunk(2, dim=1)
            q = Posterior(mean, log_variance, posterior.features)
            devices = [tokens.device] if tokens.device.type == "cuda" else []
            with differentiable(self.decoder), torch.random.fork_rng(devices=devices, enabled=self.training):
                if self.training:
                    torch.manual_seed(seed + step)
                reconstruction = self.reconstruction(tokens, lengths, q.sample(noise[step].expand_as(mean)))
            return reconstruction.sum() + kl_weight * q.kl().sum()

        start = torch.cat([posterior.mean, posterior.log_variance], dim=1).float()
        refined: Tensor = Refine.apply(loss, Descent(steps), start, *self.decoder.parameters())  # type: ignore[no-untyped-call]
        mean, log_variance = refined.chunk(2, dim=1)
        return replace(posterior, mean=mean, log_variance=log_variance)

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
