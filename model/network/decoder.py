"""From the latent variable to tokens: autoregressive layers, teacher-forced or one step at a time."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import EVALUATION_ROWS, LONGEST, PAD_ID, UNK_ID, NetworkSettings
from model.network.cross_entropy import LinearCrossEntropy
from model.network.protocols import SequenceDecoder, State, make, rename_weights
from model.network.recurrence import copied
from model.registry import DECODERS
from model.shapes import Float, Int


class Decoder(nn.Module):
    """Layers that see z at every input, in their initial state and, if so set, at every output.

    Each can be switched off; z at the output is the skip-VAE of Dieng et al. (arXiv 1807.04863). Without
    a latent variable it is a language model.
    """

    def __init__(self, settings: NetworkSettings, vocabulary_size: int, longest: int = LONGEST) -> None:
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_size, padding_idx=PAD_ID)
        self.layers: SequenceDecoder = make(DECODERS[settings.decoder].factory, settings, longest)
        rename_weights(self, self.layers.renamed)
        has_output = settings.latent_to_output and settings.has_latent
        self.to_output = nn.Linear(settings.latent_size, settings.hidden_size, bias=False) if has_output else None
        self.to_logits = nn.Linear(settings.hidden_size, vocabulary_size, bias=False)

    def states(
        self, tokens: Int[Tensor, "batch steps"], latent: Float[Tensor, "batch latent"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch steps hidden"], State]:
        """Return the state after reading each token, and the last one; dropout where training."""
        embedded = F.dropout(self.embedding(tokens), self.settings.input_dropout, self.training)
        hidden, state = self.layers(embedded, latent, state)
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
        sum_losses = self.sum_of_targets if tokens.device.type == "cpu" else self.sum_of_all_places
        return sum_losses(hidden, tokens[:, 1:], lengths)

    def reconstruction_by_place(
        self,
        tokens: Int[Tensor, "batch time"],
        lengths: Int[Tensor, " batch"],
        latent: Float[Tensor, "batch latent"],
    ) -> Float[Tensor, "batch steps"]:
        """Return -log p of each token after `<s>` given z and those before it, in nats; 0 at padding."""
        hidden, _ = self.states(self.drop_words(tokens[:, :-1]), latent)
        return self.losses_by_place(hidden, tokens[:, 1:], lengths)

    def sum_of_targets(
        self,
        hidden: Float[Tensor, "batch steps hidden"],
        targets: Int[Tensor, "batch steps"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """Return the sum of each sequence's losses, without a thought for padding: fewer products."""
        place, row = target_places(targets.shape[1], lengths)
        losses = self.token_losses(
            hidden.flatten(0, 1).index_select(0, place), targets.flatten().index_select(0, place)
        )
        return losses.new_zeros(len(targets)).index_add(0, row, losses)

    def sum_of_all_places(
        self,
        hidden: Float[Tensor, "batch steps hidden"],
        targets: Int[Tensor, "batch steps"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, " batch"]:
        """Return the same with the losses at padding left out at the end.

        For a GPU: of one size whatever the lengths, no index to bring there, and sums whose order does not vary.
        """
        return self.losses_by_place(hidden, targets, lengths).sum(1)

    def losses_by_place(
        self,
        hidden: Float[Tensor, "batch steps hidden"],
        targets: Int[Tensor, "batch steps"],
        lengths: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch steps"]:
        """Return the loss of each target, 0 at padding."""
        losses = self.token_losses(hidden.flatten(0, 1), targets.flatten()).view(targets.shape)
        steps = torch.arange(targets.shape[1], device=losses.device)
        at_padding = steps >= copied(lengths, losses.device)[:, None] - 1
        return losses.masked_fill(at_padding, 0.0)

    def token_losses(
        self, hidden: Float[Tensor, "targets hidden"], targets: Int[Tensor, " targets"]
    ) -> Float[Tensor, " targets"]:
        """Return -log p of each target, in float32 whatever the precision of the network."""
        rows = len(hidden) if torch.is_grad_enabled() else EVALUATION_ROWS
        return torch.cat(
            [
                self._part_losses(part, target)
                for part, target in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True)
            ]
        )

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
    """Return where each target lies in a flattened `[batch, num_steps]`, and its sequence."""
    valid = torch.arange(num_steps, device=lengths.device) < lengths[:, None] - 1
    place = valid.flatten().nonzero().squeeze(1)
    return place, place // num_steps
