"""Semi-amortized inference (Kim et al., arXiv 1802.02550): the encoder's posterior, then steps of descent on it.

Training differentiates through the steps, so that the encoder learns where to start and the decoder what to
expect. The Hessian products that this takes are differences of gradients, as in the paper, here central ones;
dropout masks and noise are drawn once for each step and used again in every product.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.shapes import Float

Parameters = Float[Tensor, "batch two_latents"]
"""A posterior's mean and log-variance side by side."""

Loss = Callable[[int, Parameters], Float[Tensor, ""]]
"""The loss that a numbered step descends, summed over sequences; the same whenever it is asked for a step."""

DIFFERENCE = 1e-3
"""Length, for the sequence that moves most, of the step over which gradients are differenced."""

NOISE_SEED = 1_802_02550


@dataclass(frozen=True)
class Descent:
    """Gradient descent with momentum on each sequence's own posterior.

    The paper's code takes steps of 1 on a batch's mean loss; with its batches of 32 that is 1 / 32 of a
    sequence's own gradient, which is what keeps a result from depending on its batch.
    """

    steps: int
    rate: float = 1 / 32
    momentum: float = 0.5

    def path(self, loss: Loss, start: Parameters) -> list[Parameters]:
        """Return where descent starts, each place that it comes by, and where it ends."""
        places, velocity = [start.detach()], torch.zeros_like(start)
        for step in range(self.steps):
            velocity = self.momentum * velocity - gradients(loss, step, places[-1], [])[0]
            places.append(places[-1] + self.rate * velocity)
        return places


def gradients(loss: Loss, step: int, place: Parameters, others: list[Tensor]) -> list[Tensor]:
    """Return the gradient of a step's loss by the posterior's parameters, and by other tensors."""
    with torch.enable_grad():
        place = place.detach().requires_grad_()
        return list(torch.autograd.grad(loss(step, place), [place, *others], allow_unused=True))


class Refine(torch.autograd.Function):
    """Descent as a differentiable function of where it starts and of the decoder's weights."""

    @staticmethod
    def forward(ctx: Any, loss: Loss, descent: Descent, start: Tensor, *weights: Tensor) -> Tensor:
        """Return where descent ends."""
        ctx.loss, ctx.descent, ctx.weights = loss, descent, weights
        ctx.places = descent.path(loss, start)
        last: Tensor = ctx.places[-1]
        return last

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient by the start and the weights, walking the path back."""
        descent, weights = ctx.descent, [weight for weight in ctx.weights if weight.requires_grad]
        by_place, by_velocity = outer[0], torch.zeros_like(outer[0])
        by_weight: dict[int, Tensor] = {}
        for step in reversed(range(descent.steps)):
            by_velocity = by_velocity + descent.rate * by_place
            length = by_velocity.norm(dim=1).max().double()
            # Where nothing moves, both gradients are the same, whatever the width. Asking would have a GPU waited for.
            width = torch.where(length > 0.0, DIFFERENCE / length, 1.0)
            place = ctx.places[step]
            ahead = gradients(ctx.loss, step, place + width * by_velocity, weights)
            behind = gradients(ctx.loss, step, place - width * by_velocity, weights)
            product, *cross = [
                None if one is None else (one - other) / (2 * width) for one, other in zip(ahead, behind, strict=True)
            ]
            by_place = by_place - product
            for weight, change in zip(weights, cross, strict=True):
                if change is not None:
                    by_weight[id(weight)] = by_weight.get(id(weight), 0.0) - change
            by_velocity = descent.momentum * by_velocity
        return None, None, by_place, *(by_weight.get(id(weight)) for weight in ctx.weights)
