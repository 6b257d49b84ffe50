"""A training step of each kind of network against the straightforward one, and against an LSTM's.

    PYTHONPATH=. python benchmarks/networks.py

At the field's PTB sizes (256 units, 10,000 words, 32 sequences of 22 targets), one thread, one process, in turns;
medians and quartiles of ratios. Transformers have two layers a side, as does the straightforward one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.training_step import Step, Straightforward, make_step, plain_step, ptb_batch, ratios, show
from model.config import NetworkSettings
from model.network.vae import SequenceVAE
from study.config.training import TrainingSettings
from study.training.devices import choose_device

SIZES = {"embedding_size": 256, "hidden_size": 256, "latent_size": 32, "pooling": "last"}
TRAINING = TrainingSettings(optimizer="adamw", learning_rate=1e-3)
VOCABULARY = 10_000
LAYERS = {"lstm": 1, "gru": 1, "transformer": 2}


class PlainGRU(Straightforward):
    """The straightforward implementation with GRUs."""

    def __init__(self, settings: NetworkSettings, vocabulary_size: int) -> None:
        super().__init__(settings, vocabulary_size)
        size = settings.hidden_size
        self.encoder = nn.GRU(settings.embedding_size, size, batch_first=True)  # type: ignore[assignment]
        self.decoder = nn.GRU(settings.embedding_size + settings.latent_size, size, batch_first=True)  # type: ignore[assignment]

    def decode(self, inputs: Tensor, latent: Tensor) -> Tensor:
        """Return the states of the decoder."""
        states: Tensor = self.decoder(inputs, self.to_state(latent).tanh().unsqueeze(0))[0]  # type: ignore[arg-type]
        return states


class PlainTransformer(nn.Module):
    """PyTorch's own layers: learned positions, z added to every input, a mask for padding and one for the future."""

    def __init__(self, settings: NetworkSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings, size = settings, settings.hidden_size
        self.source, self.target = (nn.Embedding(vocabulary_size, size) for _ in range(2))
        self.places = nn.Embedding(512, size)

        def layers() -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(size, 4, 4 * size, 0.0, "gelu", batch_first=True, norm_first=True)
            return nn.TransformerEncoder(layer, 2, nn.LayerNorm(size), enable_nested_tensor=False)

        self.encoder, self.decoder = layers(), layers()
        self.to_posterior = nn.Linear(size, 2 * settings.latent_size, bias=False)
        self.to_input = nn.Linear(settings.latent_size, size, bias=False)
        self.to_logits = nn.Linear(size, vocabulary_size, bias=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return the batch's mean negative ELBO."""
        places = self.places(torch.arange(tokens.shape[1]))
        padding = torch.arange(tokens.shape[1]) >= lengths[:, None]
        states = self.encoder(self.source(tokens) + places, src_key_padding_mask=padding)
        mean, log_variance = self.to_posterior(states[torch.arange(len(tokens)), lengths - 1]).chunk(2, 1)
        latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        inputs = F.dropout(self.target(tokens[:, :-1]), self.settings.input_dropout, self.training)
        inputs = inputs + places[:-1] + self.to_input(latent).unsqueeze(1)
        future = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1])
        hidden = self.decoder(inputs, mask=future, is_causal=True)
        hidden = F.dropout(hidden, self.settings.output_dropout, self.training)
        losses = F.cross_entropy(self.to_logits(hidden).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        valid = torch.arange(tokens.shape[1] - 1) < lengths[:, None] - 1
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return ((losses.view(len(tokens), -1) * valid).sum(1) + kl).mean()


PLAIN = {"lstm": Straightforward, "gru": PlainGRU, "transformer": PlainTransformer}


def step_of(kind: str) -> tuple[Step, NetworkSettings]:
    """Return a training step of one kind of encoder and decoder, and its settings."""
    torch.manual_seed(0)
    layers = LAYERS[kind]
    settings = NetworkSettings(
        **SIZES, encoder=kind, decoder=kind, num_encoder_layers=layers, num_decoder_layers=layers, latent_to_state=True
    )
    return make_step(SequenceVAE(settings, VOCABULARY), ptb_batch(), TRAINING), settings


def main() -> None:
    """Print both comparisons."""
    torch.set_num_threads(1)
    choose_device(TrainingSettings(device="cpu"))
    lstm, _ = step_of("lstm")
    for kind, plain in PLAIN.items():
        step, settings = step_of(kind)
        peer = plain(settings, VOCABULARY)
        optimizer = torch.optim.AdamW(peer.parameters(), TRAINING.learning_rate)
        straightforward = plain_step(peer, optimizer, ptb_batch())
        show(f"seconds of the straightforward step / ours, {kind}", ratios(straightforward, step))
        if kind != "lstm":
            show(f"seconds of our step, {kind} / lstm", ratios(step, lstm))


if __name__ == "__main__":
    main()
