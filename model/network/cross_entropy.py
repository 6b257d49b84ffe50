"""Cross-entropy of a linear layer's logits, fused with the layer: one pass of exponentials a step.

The output layer is most of a training step. Separate layers keep the logits and their log-softmax, exponentiate
both ways and divide; here the exponentials of the forward pass stand where the logits stood, and the backward pass
multiplies them by the weights without touching them again (benchmarks/training_step.py measures the gain).
"""

from typing import Any

import torch
from torch import Tensor

from model.shapes import Float, Int

ROWS_AT_ONCE = 16
"""Rows of logits that are exponentiated together: few enough to stay in a core's cache."""


class LinearCrossEntropy(torch.autograd.Function):
    """Return -log softmax(hidden W^T)[target] of each row in nats; differentiable once, by `hidden` and W."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "rows hidden"],
        weight: Float[Tensor, "vocabulary hidden"],
        targets: Int[Tensor, " rows"],
    ) -> Float[Tensor, " rows"]:
        """Keep exp(logit - largest) of each row, and their sums."""
        exponentials = hidden @ weight.T
        losses = exponentials.gather(1, targets[:, None])
        sums = torch.empty_like(losses)
        parts = (torch.split(tensor, ROWS_AT_ONCE) for tensor in (losses, sums, exponentials))
        for loss, total, part in zip(*parts, strict=True):
            largest = part.amax(1, keepdim=True)
            torch.sum(part.sub_(largest).exp_(), 1, keepdim=True, out=total)
            loss.neg_().add_(total.log()).add_(largest)
        ctx.save_for_backward(hidden, weight, targets, exponentials, sums)
        return losses.squeeze(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, " rows"]) -> tuple[Tensor | None, Tensor | None, None]:
        """Return softmax minus one-hot, scaled by row, times W and times `hidden`."""
        hidden, weight, targets, exponentials, sums = ctx.saved_tensors
        gradient = gradient.unsqueeze(1)
        scale = gradient / sums
        by_hidden = by_weight = None
        if ctx.needs_input_grad[0]:
            by_hidden = (exponentials @ weight).mul_(scale).sub_(weight[targets].mul_(gradient))
        if ctx.needs_input_grad[1]:
            by_weight = (exponentials.T @ (hidden * scale)).index_add_(0, targets, hidden * gradient, alpha=-1)
        return by_hidden, by_weight, None
