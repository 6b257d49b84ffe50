"""Ways to train that are more than a step a batch, each following the code of its paper.

`aggressive` is He et al. (arXiv 1901.05534): while it lasts, many encoder steps before each decoder step.
Pretraining as an autoencoder with a decoder reset is Li et al. (arXiv 1909.00868); with per-dimension free
bits it is their best recipe. The minimum rate is Pelsmaeker and Aziz (arXiv 1904.08194), the controlled KL Shao et al.
(ICML 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from data.batches import Batch
from model.config import ObjectiveSettings
from model.network.decoder import Decoder
from model.network.vae import SequenceVAE, initialise_uniformly
from study.config.settings import Settings

INNER_STEPS = 99
COMPARED_STEPS = 15
DAMPING = 1.0
MULTIPLIER_RATE = 0.01
"""How fast the multiplier of the minimum rate rises, in nats of missing KL and steps."""


def train_encoder(step_encoder: Callable[[Batch], Tensor], batch: Batch, others: Iterator[Batch]) -> None:
    """Step the encoder alone, on the batch and then on others, until it stops getting better.

    The mean loss a token of every 15 steps, whose sum each step returns, is compared with that of the 15 before; at
    most 99 steps. The comparison waits for the device.
    """
    previous, loss, tokens = float("inf"), torch.zeros((), dtype=torch.float64), 0
    for step in range(1, INNER_STEPS + 1):
        loss = step_encoder(batch) + loss
        tokens += batch.num_targets
        if step % COMPARED_STEPS == 0:
            mean = float(loss) / tokens
            if mean > previous:
                return
            previous, loss, tokens = mean, torch.zeros((), dtype=torch.float64), 0
        batch = next(others)


def goes_on(mutual_information: float, best: float) -> tuple[bool, float]:
    """Say whether aggressive training goes on after an epoch: until the validation MI first falls."""
    return mutual_information >= best, max(mutual_information, best)


def reset_decoder(network: SequenceVAE, settings: Settings, seed: int) -> None:
    """Draw the decoder's weights anew and keep the encoder's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000_003 * (settings.seed + 1) + seed)
        fresh = Decoder(settings.model, network.vocabulary_size, network.longest)
        if settings.model.init == "uniform":
            initialise_uniformly(fresh)
    network.decoder.load_state_dict(fresh.state_dict())


def rate_penalty(multiplier: Tensor, missing_nats: Tensor) -> Tensor:
    """Return the augmented Lagrangian's term for a mean KL that misses its minimum by so much.

    The square damps what the bare multiplier does, which is to swing about the constraint.
    """
    return multiplier * missing_nats + DAMPING / 2 * missing_nats.clamp(min=0.0).square()


def raise_multiplier(multiplier: Tensor, missing_nats: Tensor) -> None:
    """Move the multiplier of the minimum rate with the KL that is missing from it, never below 0, in place."""
    multiplier.add_(missing_nats, alpha=MULTIPLIER_RATE).clamp_(min=0.0)


def control(state: Tensor, kl_nats: Tensor, most: float | Tensor, objective: ObjectiveSettings) -> Tensor:
    """Return the KL weight for a batch's mean KL, between 0 and `most`; `state` is what was summed, and the weight.

    ControlVAE's non-linear PI controller: Kp / (1 + exp(error)) - Ki * sum of errors, the error being target less KL.
    The sum grows no further than to where the weight is at a bound, so that the weight comes off it as soon as the
    error turns. In place, and without a wait for a GPU.
    """
    assert objective.target_kl_nats is not None
    error = objective.target_kl_nats - kl_nats
    proportional, change = objective.proportional_gain * torch.sigmoid(-error), -objective.integral_gain * error
    summed = state[0] + change
    rising = torch.minimum(summed, torch.maximum(state[0], most - proportional))
    falling = torch.maximum(summed, torch.minimum(state[0], -proportional))
    state[0] = torch.where(change > 0, rising, falling)
    state[1] = (proportional + state[0]).clamp(min=0.0).clamp(max=most)
    return state[1].clone()
