"""Semi-amortized inference: its gradient against an exact one, and what refinement must not depend on."""

import numpy as np
import pytest
import torch
from conftest import tiny_settings

from data.batches import gather
from model.config import NetworkSettings
from model.network.vae import SequenceVAE
from model.refinement import Descent, Refine
from study.errors import StudyError
from study.training.loop import train

pytestmark = pytest.mark.on_device


def exact_path(loss, descent, start):
    """Descent written as one differentiable expression: what `Refine` must agree with."""
    place, velocity = start, torch.zeros_like(start)
    for step in range(descent.steps):
        (gradient,) = torch.autograd.grad(loss(step, place), place, create_graph=True)
        velocity = descent.momentum * velocity - gradient
        place = place + descent.rate * velocity
    return place


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_gradient_through_the_steps_agrees_with_double_differentiation(steps):
    torch.manual_seed(0)
    weight = torch.randn(6, 6, requires_grad=True)
    start, target = torch.randn(5, 6, requires_grad=True), torch.randn(5, 6)
    outer = torch.randn(5, 6)

    def loss(step, place):
        return ((place @ weight).tanh() - (step + 1) * target).square().sum() + 0.1 * place.exp().sum()

    descent = Descent(steps, rate=0.05)
    exact = torch.autograd.grad((exact_path(loss, descent, start) * outer).sum(), [start, weight])
    refined = Refine.apply(loss, descent, start, weight)
    found = torch.autograd.grad((refined * outer).sum(), [start, weight])
    assert torch.allclose(refined, exact_path(loss, descent, start), atol=1e-5)
    for one, other in zip(found, exact, strict=True):
        assert torch.allclose(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))


def network_and_batch(corpus, steps):
    torch.manual_seed(1)
    settings = NetworkSettings(embedding_size=8, hidden_size=12, latent_size=3, refinement_steps=steps)
    network = SequenceVAE(settings, len(corpus.vocabulary)).eval()
    for parameter in network.parameters():
        parameter.data *= 2.0
    return network, gather(corpus.split("valid"), np.arange(8)).to(torch.get_default_device())


def mean_elbo(network, batch, posterior):
    torch.manual_seed(5)
    with torch.no_grad():
        losses = [
            network.reconstruction(batch.tokens, batch.lengths, posterior.sample(torch.randn(8, 3))) for _ in range(400)
        ]
    return float((torch.stack(losses).mean(0) + posterior.kl().sum(1)).mean())


def test_refinement_lowers_the_elbo_and_depends_on_the_sequence_alone(corpus):
    network, batch = network_and_batch(corpus, 20)
    with torch.no_grad():
        amortized = network.encoder(batch.tokens, batch.lengths)
        refined = network.encode(batch.tokens, batch.lengths)
        few = network.encode(batch.tokens[2:4], batch.lengths[2:4])
    assert mean_elbo(network, batch, refined) < mean_elbo(network, batch, amortized)
    assert torch.allclose(few.mean, refined.mean[2:4], atol=1e-5)
    assert not any(parameter.grad is not None for parameter in network.parameters())


def test_encoder_and_decoder_are_trained_through_the_steps(corpus):
    network, batch = network_and_batch(corpus, 3)
    network.train()
    torch.manual_seed(2)
    posterior = network.encode(batch.tokens, batch.lengths, 0.5)
    (posterior.mean.sum() + posterior.log_variance.sum()).backward()
    assert float(network.encoder.to_posterior.weight.grad.abs().max()) > 0
    assert float(network.decoder.layers.rnn.weight_ih_l0.grad.abs().max()) > 0


def test_semi_amortized_training_counts_every_pass_through_the_decoder(corpus, tmp_path):
    plain = list(train(tiny_settings(training={"epochs": 1}), corpus, tmp_path / "plain"))
    settings = tiny_settings(training={"epochs": 1}, model={"refinement_steps": 2})
    refined = list(train(settings, corpus, tmp_path / "refined"))
    assert refined[-1]["train/decoder_tokens"] == 7 * plain[-1]["train/decoder_tokens"]
    assert refined[-1]["valid/nll"] > 0


@pytest.mark.parametrize("family", ["batch-norm", "delta", "von-mises-fisher", "none"])
def test_refinement_of_a_family_that_it_would_leave_is_refused(family):
    with pytest.raises(StudyError, match="gaussian"):
        tiny_settings(model={"refinement_steps": 2, "posterior": family})
