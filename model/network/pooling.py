"""Reductions of an encoder's states over time; padding never changes a result."""

import sys

import torch
from torch import Tensor

from model.registry import POOLINGS
from model.shapes import Bool, Float, Int

Steps = Float[Tensor, "batch time hidden"]
Lengths = Int[Tensor, " batch"]
Pooled = Float[Tensor, "batch features"]


def valid_steps(steps: Steps, lengths: Lengths) -> Bool[Tensor, "batch time 1"]:
    """Return a mask that is true where a step belongs to its sequence."""
    return (torch.arange(steps.shape[1], device=steps.device) < lengths[:, None]).unsqueeze(-1)


def final_step(steps: Steps, lengths: Lengths, both_ways: bool = False) -> Pooled:
    """Return each sequence's last state; of a bidirectional LSTM, the one at which each direction ends."""
    if both_ways:
        # The backward direction ends at the first token.
        forward, backward = steps.chunk(2, dim=2)
        return torch.cat([final_step(forward, lengths), backward[:, 0]], dim=1)
    # Not steps[rows, lengths - 1]: on a GPU its gradient sorts.
    place = (lengths - 1)[:, None, None].expand(-1, 1, steps.shape[2])
    return steps.gather(1, place).squeeze(1)


def first_step(steps: Steps, lengths: Lengths) -> Pooled:
    """Return each sequence's state at `<s>`: of a Transformer what others call CLS."""
    return steps[:, 0]


def first_and_last(steps: Steps, lengths: Lengths) -> Pooled:
    """Return each sequence's first and last state side by side."""
    return torch.cat([steps[:, 0], final_step(steps, lengths)], dim=1)


def mean(steps: Steps, lengths: Lengths) -> Pooled:
    """Return the mean over each sequence's states."""
    return steps.masked_fill(~valid_steps(steps, lengths), 0.0).sum(1) / lengths[:, None]


def maximum(steps: Steps, lengths: Lengths) -> Pooled:
    """Return the largest value of each unit over a sequence's states."""
    return steps.masked_fill(~valid_steps(steps, lengths), -torch.inf).amax(1)


def max_and_mean(steps: Steps, lengths: Lengths) -> Pooled:
    """Return maximum and mean side by side."""
    return torch.cat([maximum(steps, lengths), mean(steps, lengths)], dim=1)


def logsumexp(steps: Steps, lengths: Lengths, temperature: float = 1.0) -> Pooled:
    """Return temperature * log mean exp(state / temperature), between mean (hot) and maximum (cold)."""
    masked = (steps / temperature).masked_fill(~valid_steps(steps, lengths), -torch.inf)
    return temperature * (masked.logsumexp(1) - lengths[:, None].log())


def attention(steps: Steps, lengths: Lengths, scores: Float[Tensor, "batch time 1"]) -> Pooled:
    """Return the mean of a sequence's states weighted by the softmax of their scores."""
    weights = scores.masked_fill(~valid_steps(steps, lengths), -torch.inf).softmax(1)
    return (weights * steps).sum(1)


def pool(name: str, steps: Steps, lengths: Lengths, **extras: object) -> Pooled:
    """Reduce states by the pooling of a name; of the extras it takes those that it uses."""
    pooling = POOLINGS[name]
    function = getattr(sys.modules[__name__], pooling.function)
    found: Tensor = function(steps, lengths, **{extra: extras[extra] for extra in pooling.extras if extra in extras})
    return found
