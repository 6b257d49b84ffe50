"""What z tells the decoder, and where in the sequence: text VAEs tend to keep first words and length.

The measure is that of Bosc and Vincent (arXiv 2004.07683) by position: how many nats the decoder saves on each token by
a sequence's own z in place of another's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from data.batches import BatchOrder, gather
from data.corpus import Split
from model.network.vae import SequenceVAE
from study.training.evaluation import NOISE_SEED, evaluating

FIRSTS = (1, 2, 3, 4, 5, 6, 9, 13, 21, 41)
"""The positions, from 1, with which the groups of positions begin."""
END = "</s>"
BATCH = 64


@dataclass(frozen=True)
class LatentUse:
    """What reconstruction costs in nats a sequence with different z, and where a sequence's own saves some of it."""

    nll_own_z: float
    nll_shuffled_z: float
    """With another sequence's."""
    nll_prior_z: float
    """With a draw of the prior."""
    saved: dict[str, float]
    """Nats a sequence that its own z saves against another's, by group of positions; together the whole difference."""
    saved_se: dict[str, float]
    """Their standard errors, over sequences."""


def groups() -> list[str]:
    """Return what the groups of positions are called, `</s>` last."""
    ends = [*(first - 1 for first in FIRSTS[1:]), None]
    names = [
        f"{first}+" if end is None else str(first) if end == first else f"{first}-{end}"
        for first, end in zip(FIRSTS, ends, strict=True)
    ]
    return [*names, END]


def latent_use(network: SequenceVAE, split: Split, num: int) -> LatentUse:
    """Return how the decoder uses z on the first `num` sequences of a split (corpora are stored shuffled).

    Of a split with a single sequence there is no other one, and nothing is saved.
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(NOISE_SEED)
    batches = [gather(split, indices) for indices in BatchOrder(split.lengths[:num], BATCH).in_order_of_length()]
    with evaluating(network):
        drawn = []
        for batch in batches:
            noise = torch.randn(len(batch.tokens), network.settings.noise_size, generator=generator)
            drawn.append(network.encode(batch.tokens.to(device), batch.lengths.to(device)).sample(noise.to(device)))
        own = torch.cat(drawn)
        # Another one's of any length: those of a batch are alike in it.
        order = torch.randperm(len(own), generator=generator)
        other = torch.empty_like(own)
        other[order] = own[order.roll(1)]
        prior = torch.randn(own.shape, generator=generator).to(device)
        if network.settings.posterior == "von-mises-fisher":
            prior = torch.nn.functional.normalize(prior, dim=1)
        costs: list[list[np.ndarray]] = [[], [], []]
        saved: list[np.ndarray] = []
        place = 0
        for batch in batches:
            rows = slice(place, place := place + len(batch.tokens))
            tokens, lengths = batch.tokens.to(device), batch.lengths.to(device)
            losses = [
                network.decoder.reconstruction_by_place(tokens, lengths, latent[rows]).double().cpu()
                for latent in (own, other, prior)
            ]
            for cost, loss in zip(costs, losses, strict=True):
                cost.append(loss.sum(1).numpy())
            saved.append(by_group((losses[1] - losses[0]).numpy(), batch.lengths.cpu().numpy()))
    own_cost, other_cost, prior_cost = (float(np.concatenate(cost).mean()) for cost in costs)
    by_sequence = np.concatenate(saved)
    errors = by_sequence.std(0, ddof=1) / np.sqrt(len(by_sequence)) if len(by_sequence) > 1 else by_sequence[0] * np.nan
    return LatentUse(
        nll_own_z=own_cost,
        nll_shuffled_z=other_cost,
        nll_prior_z=prior_cost,
        saved=dict(zip(groups(), by_sequence.mean(0).tolist(), strict=True)),
        saved_se=dict(zip(groups(), errors.tolist(), strict=True)),
    )


def by_group(nats: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the sums of `[sequences, positions]` numbers over each group of positions, `[sequences, groups]`.

    Of lengths that count `<s>` and `</s>`, the last target is `</s>`.
    """
    num, steps = nats.shape
    found = np.zeros((num, len(FIRSTS) + 1))
    group = np.searchsorted(FIRSTS, np.arange(1, steps + 1), side="right") - 1
    where = np.broadcast_to(group, nats.shape).copy()
    ends = lengths - 2
    where[np.arange(num), ends] = len(FIRSTS)
    inside = np.arange(steps)[None] <= ends[:, None]
    np.add.at(found, (np.nonzero(inside)[0], where[inside]), nats[inside])
    return found
