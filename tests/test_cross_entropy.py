"""The fused layer against PyTorch's separate ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from model.network.cross_entropy import LinearCrossEntropy


def losses_and_gradients(function, hidden, weight, targets, upstream):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    losses = function(hidden, weight, targets)
    return losses, *torch.autograd.grad(losses @ upstream, (hidden, weight))


def separate(hidden, weight, targets):
    return F.cross_entropy(hidden @ weight.T, targets, reduction="none")


@settings(max_examples=30)
@given(
    rows=st.integers(0, 40),
    size=st.integers(1, 7),
    vocabulary=st.integers(1, 50),
    scale=st.sampled_from([1e-3, 1.0, 100.0]),
    seed=st.integers(0, 9),
)
def test_losses_and_gradients_are_those_of_the_separate_layers(rows, size, vocabulary, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (
        scale * torch.randn(length, size, generator=generator, dtype=torch.float64) for length in (rows, vocabulary)
    )
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    upstream = torch.randn(rows, generator=generator, dtype=torch.float64)
    fused = losses_and_gradients(LinearCrossEntropy.apply, hidden, weight, targets, upstream)
    expected = losses_and_gradients(separate, hidden, weight, targets, upstream)
    torch.testing.assert_close(fused, expected, rtol=1e-9, atol=1e-9 * scale)


def test_a_second_backward_pass_gives_the_same_gradients():
    hidden, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    loss = LinearCrossEntropy.apply(hidden, weight, torch.arange(5)).sum()
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, (hidden, weight)), first, rtol=0, atol=0)


def test_differentiating_twice_is_refused_rather_than_wrong():
    hidden, weight = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3)
    loss = LinearCrossEntropy.apply(hidden, weight, torch.arange(5)).sum()
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
