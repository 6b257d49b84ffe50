"""LSTMs and GRUs as an encoder's and a decoder's layers."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from model.config import NetworkSettings
from model.network.protocols import SequenceDecoder, SequenceEncoder, State
from model.network.recurrence import run, run_both_ways
from model.shapes import Float, Int


class LSTMEncoder(SequenceEncoder):
    """One or more layers of an LSTM, one-way or both ways."""

    kind: ClassVar[type[nn.LSTM] | type[nn.GRU]] = nn.LSTM
    renamed: ClassVar[dict[str, str]] = {"lstm.": "layers.rnn."}

    def __init__(self, settings: NetworkSettings, longest: int) -> None:
        super().__init__(settings, longest)
        self.rnn = self.kind(
            settings.embedding_size,
            settings.hidden_size,
            settings.num_encoder_layers,
            batch_first=True,
            bidirectional=settings.bidirectional,
            dropout=settings.inner_dropout if settings.num_encoder_layers > 1 else 0.0,
        )

    def forward(
        self, embedded: Float[Tensor, "batch time embedding"], lengths: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch time states"]:
        """Return the top layer's state at each token, of both directions side by side."""
        if not self.rnn.bidirectional:
            # Padding comes after every real token, so that it cannot reach a state that is used.
            return run(self.rnn, embedded)[0]
        return run_both_ways(self.rnn, embedded, lengths.cpu())


class GRUEncoder(LSTMEncoder):
    """The same of a GRU."""

    kind = nn.GRU
    renamed: ClassVar[dict[str, str]] = {}


class LSTMDecoder(SequenceDecoder):
    """Layers of an LSTM that see z beside each embedding, in their first state, or both."""

    kind: ClassVar[type[nn.LSTM] | type[nn.GRU]] = nn.LSTM
    renamed: ClassVar[dict[str, str]] = {"lstm.": "layers.rnn.", "to_state.": "layers.to_state."}

    def __init__(self, settings: NetworkSettings, longest: int) -> None:
        super().__init__(settings, longest)
        self.settings = settings
        self.latent_to_input = settings.latent_to_input and settings.has_latent
        self.rnn = self.kind(
            settings.embedding_size + (settings.latent_size if self.latent_to_input else 0),
            settings.hidden_size,
            settings.num_decoder_layers,
            batch_first=True,
            dropout=settings.inner_dropout if settings.num_decoder_layers > 1 else 0.0,
        )
        in_all_layers = settings.num_decoder_layers * settings.hidden_size
        has_state = settings.latent_to_state and settings.has_latent
        self.to_state = nn.Linear(settings.latent_size, in_all_layers, bias=False) if has_state else None

    def initial_state(self, latent: Float[Tensor, "batch latent"]) -> State:
        """Return h = tanh(W z), in an LSTM beside c = W z, or zeros where the latent variable does not enter it."""
        shape = len(latent), self.settings.num_decoder_layers, self.settings.hidden_size
        if self.to_state is None:
            zeros = latent.new_zeros(*shape).transpose(0, 1)
            hidden, cell = zeros, zeros
        else:
            cell = self.to_state(latent).view(shape).transpose(0, 1).contiguous()
            hidden = cell.tanh()
        return (hidden, cell) if self.kind is nn.LSTM else (hidden,)

    def forward(
        self,
        embedded: Float[Tensor, "batch steps embedding"],
        latent: Float[Tensor, "batch latent"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch steps hidden"], State]:
        """Return the top layer's state after each token, and the last state of every layer."""
        if self.latent_to_input:
            repeated = latent.unsqueeze(1).expand(-1, embedded.shape[1], -1)
            embedded = torch.cat([embedded, repeated], dim=2)
        return run(self.rnn, embedded, self.initial_state(latent) if state is None else state)

    def reorder(self, state: State, rows: Int[Tensor, " kept"]) -> State:
        """Return the state of some sequences."""
        return tuple(part.index_select(1, rows) for part in state)


class GRUDecoder(LSTMDecoder):
    """The same of a GRU."""

    kind = nn.GRU
    renamed: ClassVar[dict[str, str]] = {}
