"""From the latent variable to tokens: an autoregressive LSTM, teacher-forced or one step at a time."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import PAD_ID, UNK_ID, NetworkSettings
from model.cross_entropy import LinearCrossEntropy
from model.recurrence import State, copied, run_lstm

EVALUATION_ROWS = 2048
"""Targets whose logits are held at once when no gradient is needed."""


class Decoder(nn.Module):
    """One-layer LSTM that sees z at every input, in its initial state and, if so set, at every output.

    Each can be switched off; z at the output is the skip-VAE of Dieng et al. (arXiv 1807.04863). Without
    a latent variable it is an LSTM language model.
    """

    def __init__(self, settings: NetworkSettings, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_size, padding_idx=PAD_ID)
        self.latent_to_input = settings.latent_to_input and settings.has_latent
        input_size = settings.embedding_size + (settings.latent_size if self.latent_to_input else 0)
        self.lstm = nn.LSTM(input_size, settings.hidden_size, batch_first=True)
        self.to_state = self._from_latent() if settings.latent_to_state and settings.has_latent else None
        self.to_output = self._from_latent() if settings.latent_to_output and settings.has_latent else None
        self.to_logits = nn.Linear(settings.hidden_size, vocabulary_size, bias=False)

    def _from_latent(self) -> nn.Linear:
        return nn.Linear(self.settings.latent_size, self.settings.hidden_size, bias=False)

    def initial_state(self, latent: Float[Tensor, "batch latent"]) -> State:
        """Return c = W z and h = tanh(c), or zeros where the latent variable does not enter the state."""
        if self.to_state is None:
            zeros = latent.new_zeros(1, len(latent), self.settings.hidden_size)
            return zeros, zeros
        cell = self.to_state(latent).unsqueeze(0)
        return cell.tanh(), cell

    def states(
        self, tokens: Int[Tensor, "batch steps"], latent: Float[Tensor, "batch latent"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch steps hidden"], State]:
        """Return the state after reading each token, and the last one; dropout where training."""
        embedded = F.dropout(self.embedding(tokens), self.settings.input_dropout, self.training)
        if self.latent_to_input:
            repeated = latent.unsqueeze(1).expand(-1, tokens.shape[1], -1)
            embedded = torch.cat([embedded, repeated], dim=2)
        hidden, state = run_lstm(self.lstm, embedded, self.initial_state(latent) if state is None else state)
        hidden = F.dropout(hidden, self.settings.output_dropout, self.training)
        if self.to_output is not None:
            hidden = hidden + self.to_output(latent).unsqueeze(1)
        return hidden, state

    def drop_words(self, tokens: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
        """Replace each token but the first by `<unk>` with the word-dropout probability (Bowman et al. 2016)."""
        if not (self.training and self.settings.word_dropout):
            return tokens
        dropped = torch.rand(tokens.shape, device=tokens.device) < self.settings.word_dropout
        dropped[:, 0] = False
        return tokens.masked_fill(dropped, UNK_ID)

    def reconstruction(
        self,
        tokens: Int[Tensor, "batch time"],
        lengths: Int[Tensor, " batch"],
        latent: Float[Tensor, "batch latent"],
    ) -> Float[Tensor, " batch"]:
        """Return each sequence's -log p(x|z) in nats: every token after `<s>`, `</s>` included."""
        hidden, _ = self.states(self.drop_words(tokens[:, :-1]), latent)
        place, row = target_places(tokens.shape[1] - 1, lengths)
        place, row = (copied(index, tokens.device) for index in (place, row))
        losses = self.token_losses(hidden.flatten(0, 1)[place], tokens[:, 1:].flatten()[place])
        return losses.new_zeros(len(tokens)).index_add(0, row, losses)

    def token_losses(
        self, hidden: Float[Tensor, "targets hidden"], targets: Int[Tensor, " targets"]
    ) -> Float[Tensor, " targets"]:
        """Return -log p of each target, in float32 whatever the precision of the network."""
        rows = len(hidden) if torch.is_grad_enabled() else EVALUATION_ROWS
        return torch.cat([
            self._part_losses(part, target)
            for part, target in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
        ])  # fmt: skip

    def _part_losses(
        self, hidden: Float[Tensor, "rows hidden"], targets: Int[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        if hidden.device.type == "cpu":
            losses: Tensor = LinearCrossEntropy.apply(hidden, self.to_logits.weight, targets)  # type: ignore[no-untyped-call]
            return losses
        return F.cross_entropy(self.to_logits(hidden).float(), targets, reduction="none")

    def step(
        self, tokens: Int[Tensor, " batch"], latent: Float[Tensor, "batch latent"], state: State | None
    ) -> tuple[Float[Tensor, "batch vocabulary"], State]:
        """Read one token a sequence; return the logits of the next and the new state."""
        hidden, state = self.states(tokens.unsqueeze(1), latent, state)
        return self.to_logits(hidden[:, 0]), state


def target_places(
    num_steps: int, lengths: Int[Tensor, " batch"]
) -> tuple[Int[Tensor, " targets"], Int[Tensor, " targets"]]:
    """Return where each target lies in a flattened `[batch, num_steps]`, and its sequence.

    Worked out where `lengths` is: on the CPU, so that a GPU is not waited for.
    """
    valid = torch.arange(num_steps, device=lengths.device) < lengths[:, None] - 1
    place = valid.flatten().nonzero().squeeze(1)
    return place, place // num_steps
