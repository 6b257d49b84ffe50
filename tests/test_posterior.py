"""Each family of posteriors against what its paper says must hold, and against plain integration."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special

from model import likelihood
from model import posterior as posteriors
from model.config import NetworkSettings
from model.network.encoder import log_variance_of_rate
from model.network.vae import SequenceVAE
from model.posterior import Posterior, SphericalPosterior, draw_heights, spherical_kl
from study.training.evaluation import score

pytestmark = pytest.mark.on_device


def network(vocabulary_size=20, **settings) -> SequenceVAE:
    torch.manual_seed(2)
    sizes = {"embedding_size": 6, "hidden_size": 8, "latent_size": 4}
    return SequenceVAE(NetworkSettings(**(sizes | settings)), vocabulary_size)


def tokens_and_lengths(rows=64):
    torch.manual_seed(5)
    lengths = torch.randint(3, 9, (rows,))
    tokens = torch.randint(4, 20, (rows, 9)).masked_fill(torch.arange(9) >= lengths[:, None], 0)
    tokens[:, 0] = 1
    return tokens, lengths


def spherical(rows, size, concentration):
    mean = torch.nn.functional.normalize(torch.randn(rows, size, dtype=torch.float64), dim=1)
    return SphericalPosterior(mean, torch.zeros_like(mean), mean, concentration)


@pytest.mark.parametrize("scale", [0.4, 0.9])
@pytest.mark.parametrize("pooling", ["last", "max"])
def test_batch_norm_keeps_the_batchs_mean_kl_over_its_bound(scale, pooling):
    model = network(posterior="batch-norm", batch_norm_scale=scale, pooling=pooling).train()
    kl = model.encode(*tokens_and_lengths()).kl().sum(1).mean()
    assert float(kl) >= 4 * scale**2 / 2 * 0.99  # the small epsilon of the norm
    for parameter in model.encoder.to_posterior.parameters():
        parameter.data *= 1e-3
    kl = model.encode(*tokens_and_lengths()).kl().sum(1).mean()
    assert float(kl) >= 4 * scale**2 / 2 * 0.99  # however small the means are


def test_batch_norms_scale_is_fixed_and_its_bias_learnt():
    model = network(posterior="batch-norm", batch_norm_scale=0.7).train()
    with torch.no_grad():
        model.encoder.batch_norm.bias.fill_(3.0)
    mean = model.encode(*tokens_and_lengths()).mean
    assert mean.mean(0).tolist() == pytest.approx([3.0] * 4, abs=1e-4)
    assert mean.std(0, unbiased=False).tolist() == pytest.approx([0.7] * 4, rel=0.05)
    assert {"encoder.batch_norm.weight"} == {
        name for name, parameter in model.named_parameters() if not parameter.requires_grad
    }


def test_batch_norm_in_evaluation_does_not_depend_on_the_batch():
    model = network(posterior="batch-norm").train()
    tokens, lengths = tokens_and_lengths()
    model.encode(tokens, lengths)
    model.eval()
    torch.testing.assert_close(
        model.encode(tokens[:1], lengths[:1]).mean, model.encode(tokens, lengths).mean[:1], atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("rate", [0.1, 2.0, 12.0])
def test_a_delta_posterior_never_costs_less_than_its_rate(rate):
    model = network(posterior="delta", committed_rate_nats=rate)
    for factor in (0.0, 1.0, 100.0):
        for parameter in model.encoder.to_posterior.parameters():
            parameter.data *= factor
        assert float(model.encode(*tokens_and_lengths()).kl().sum(1).min()) >= rate * (1 - 1e-5)


def test_the_variance_of_a_rate_by_hand():
    log_variance = log_variance_of_rate(0.7)
    assert 0.5 * (math.exp(log_variance) - 1 - log_variance) == pytest.approx(0.7)


@pytest.mark.parametrize(("size", "concentration"), [(2, 3.0), (3, 5.0), (8, 20.0), (32, 80.0)])
def test_heights_on_the_sphere_have_the_mean_that_bessel_functions_give(size, concentration):
    uniform = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    mean = float(draw_heights(size, concentration, uniform).mean())
    assert mean == pytest.approx(
        special.ive(size / 2, concentration) / special.ive(size / 2 - 1, concentration), rel=1e-4
    )


@pytest.mark.parametrize(("size", "concentration"), [(3, 5.0), (8, 20.0)])
def test_the_kl_on_the_sphere_equals_an_integral_over_heights(size, concentration):
    def weight(height):
        return (1 - height**2) ** ((size - 3) / 2)

    def density(height):
        return math.exp(concentration * (height - 1)) * weight(height)

    total = integrate.quad(density, -1, 1)[0]
    even = integrate.quad(weight, -1, 1)[0]
    kl = integrate.quad(
        lambda h: density(h) / total * (math.log(density(h) / total) - math.log(weight(h) / even)), -1 + 1e-9, 1 - 1e-9
    )[0]
    assert spherical_kl(size, concentration) == pytest.approx(kl, rel=1e-5)


def test_spherical_draws_are_unit_vectors_with_a_constant_kl_and_densities_that_integrate_to_one():
    torch.manual_seed(0)
    posterior = spherical(3, 4, 2.0)
    noise = torch.randn(3, 100_000, 5, dtype=torch.float64)
    latent = posterior.sample(noise)
    torch.testing.assert_close(latent.norm(dim=-1), torch.ones(3, 100_000, dtype=torch.float64))
    assert posterior.kl().sum(1).tolist() == pytest.approx([spherical_kl(4, 2.0)] * 3)
    ratio = posterior.log_ratio(noise)
    assert ratio.exp().mean(1).tolist() == pytest.approx([1.0] * 3, rel=0.05)
    assert (-ratio).mean(1).tolist() == pytest.approx([spherical_kl(4, 2.0)] * 3, rel=0.02)


@pytest.mark.parametrize("family", ["gaussian", "spherical"])
def test_own_density_is_the_diagonal_of_all_densities(family):
    torch.manual_seed(0)
    mean, log_variance = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    posterior = Posterior(mean, log_variance, mean) if family == "gaussian" else spherical(6, 3, 4.0)
    noise = torch.randn(6, 3 if family == "gaussian" else 4, dtype=torch.float64)
    torch.testing.assert_close(
        posterior.log_own_density(noise), posterior.log_density(posterior.sample(noise)).diagonal()
    )


def test_scaled_means_reach_the_spread_and_are_charged_as_if_they_did_not():
    model = network(posterior="scaled", scaled_spread=1.5).train()
    tokens, lengths = tokens_and_lengths()
    posterior = model.encode(tokens, lengths)
    assert posterior.mean.std(0).tolist() == pytest.approx([1.5] * 4, rel=1e-4)
    plain = posterior.mean / posterior.factor
    expected = 0.5 * (plain**2 + posterior.log_variance.exp() - 1 - posterior.log_variance)
    torch.testing.assert_close(posterior.charged_kl(), expected)
    # What is reported is the KL of what the decoder is given.
    assert bool((posterior.kl().sum(1).mean() > posterior.charged_kl().sum(1).mean() + 1.0).all())
    # No sequence is scaled by its company once training is over.
    model.eval()
    alone, together = model.encode(tokens[:1], lengths[:1]), model.encode(tokens, lengths)
    torch.testing.assert_close(alone.mean[0], together.mean[0], atol=1e-5, rtol=1e-5)
    # Means that spread enough already stay as they are.
    wide = network(posterior="scaled", scaled_spread=1e-9).train()
    assert bool((wide.encode(tokens, lengths).factor == 1.0).all())


def test_the_running_spread_is_that_of_recent_batches():
    model = network(posterior="scaled").train()
    tokens, lengths = tokens_and_lengths()
    for _ in range(100):
        model.encode(tokens, lengths)
    trained = model.encode(tokens, lengths).factor
    torch.testing.assert_close(model.eval().encode(tokens, lengths).factor, trained, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["gaussian", "batch-norm", "scaled", "delta", "von-mises-fisher"])
def test_gradients_reach_the_encoder_through_every_family(name):
    model = network(posterior=name).train()
    tokens, lengths = tokens_and_lengths()
    posterior = model.encode(tokens, lengths)
    model.reconstruction(tokens, lengths, posterior.sample(torch.randn(64, model.settings.noise_size))).sum().backward()
    assert model.encoder.embedding.weight.grad.abs().sum() > 0


def test_a_language_model_has_an_exact_likelihood_and_no_latent(corpus):
    model = network(len(corpus.vocabulary), posterior="none").eval()
    assert model.encoder is None
    metrics = [score(model, corpus.split("valid"), num_samples=num).metrics() for num in (1, 9)]
    assert metrics[0]["nll"] == metrics[1]["nll"] == pytest.approx(metrics[0]["reconstruction"])
    assert (metrics[0]["kl"], metrics[0]["au"]) == (0.0, 0)
    assert metrics[0]["mi"] == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(metrics[0]["dispersion"])
    tokens, lengths = tokens_and_lengths(4)
    latent = torch.randn(4, 4)
    assert torch.equal(
        model.reconstruction(tokens, lengths, latent), model.reconstruction(tokens, lengths, latent + 9.0)
    )


def test_the_latent_variable_reaches_the_output_alone_in_a_skip_decoder():
    model = network(latent_to_input=False, latent_to_state=False, latent_to_output=True).eval()
    tokens, lengths = tokens_and_lengths(4)
    before = model.reconstruction(tokens, lengths, torch.zeros(4, 4))
    assert not torch.allclose(before, model.reconstruction(tokens, lengths, torch.ones(4, 4)))


def test_the_spherical_likelihood_agrees_with_an_integral_over_the_circle():
    model = network(latent_size=2, posterior="von-mises-fisher", concentration=1.0).eval()
    for parameter in model.parameters():
        parameter.data *= 2.0
    tokens, lengths = torch.tensor([[1, 5, 9, 2]]), torch.tensor([4])
    angles = torch.linspace(0, 2 * math.pi, 2001)[:-1]
    circle = torch.stack([angles.cos(), angles.sin()], 1)[None]
    exact = float((-likelihood.reconstructions(model, tokens, lengths, circle)).logsumexp(1) - math.log(2000))
    with torch.no_grad():
        posterior = model.encode(tokens, lengths)
        noise = likelihood.draw_noise(likelihood.sequence_generators(np.arange(1), 0), 20_000, 3).to(tokens.device)
        losses = likelihood.reconstructions(model, tokens, lengths, posterior.sample(noise))
    estimate = float(likelihood.log_likelihood(likelihood.log_weights(losses, posterior, noise)))
    assert estimate == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(("order", "argument"), [(31.0, 80.0), (60.0, 10.0), (127.0, 80.0)])
def test_the_bessel_function_of_large_spheres_joins_that_of_small_ones(monkeypatch, order, argument):
    exact = posteriors.log_bessel(order, argument)
    monkeypatch.setattr(posteriors, "ive", lambda *_: 0.0)
    assert posteriors.log_bessel(order, argument) == pytest.approx(exact, abs=1e-4)


def test_the_kl_of_large_spheres_goes_on_as_it_did():
    kl = [posteriors.spherical_kl(size, 80.0) for size in (128, 256, 512, 1024, 2048)]
    assert kl == sorted(kl, reverse=True)
    assert kl[-1] > 0.0


@pytest.mark.parametrize("kl_weight", [0.1, 0.4, 1.0])
def test_a_posterior_trained_at_a_kl_weight_is_the_true_one_when_tempered_by_it(kl_weight):
    """Of x ~ N(w z, 1) the best q at weight b is known: precision 1 + w^2 / b, mean w x / b over it."""
    slope, x = torch.tensor([0.5, 2.0, 4.0]), torch.tensor([[1.0, -2.0, 0.3]])
    precision = 1.0 + slope.square() / kl_weight
    learnt = Posterior((slope * x / kl_weight) / precision, -precision.log().expand_as(x), x)
    proposal = learnt.tempered(kl_weight)
    noise = torch.randn(1, 50, 3)
    losses = 0.5 * ((slope * proposal.sample(noise) - x.unsqueeze(1)).square() + math.log(2 * math.pi)).sum(-1)
    weights = likelihood.log_weights(losses, proposal, noise)
    evidence = torch.distributions.Normal(0.0, (1.0 + slope.square()).sqrt()).log_prob(x).sum()
    # Drawn from the true posterior, every weight is p(x).
    assert weights.flatten().tolist() == pytest.approx([float(evidence)] * 50, abs=1e-4)


def test_the_powers_of_a_posterior_lie_between_it_and_the_prior():
    learnt = Posterior(torch.tensor([[2.0, -1.0]]), torch.tensor([[-3.0, 0.5]]), torch.zeros(1, 2))
    for power, other in ((1.0, learnt), (0.0, Posterior(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2)))):
        tempered = learnt.tempered(power)
        assert torch.allclose(tempered.mean, other.mean)
        assert torch.allclose(tempered.log_variance, other.log_variance, atol=1e-6)
    assert spherical(3, 4, 8.0).tempered(0.25).concentration == 2.0
