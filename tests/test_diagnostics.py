"""Mutual information, active units, dispersion and collapse against cases that are known."""

import math

import pytest
import torch

from model import diagnostics
from model.posterior import Posterior

pytestmark = pytest.mark.on_device


def gaussian(mean, log_variance):
    return Posterior(mean, log_variance, mean)


def information(posterior, noise, **more):
    return diagnostics.mutual_information_and_error(posterior, noise.unsqueeze(0), **more)[0]


def test_mutual_information_is_zero_when_all_posteriors_are_alike():
    noise = torch.randn(50, 4)
    mean, log_variance = torch.full((50, 4), 0.3), torch.full((50, 4), -0.7)
    assert information(gaussian(mean, log_variance), noise) == pytest.approx(0.0, abs=1e-9)
    assert diagnostics.mutual_information_in_batch(gaussian(mean, log_variance), noise) == pytest.approx(0.0, abs=1e-9)


def test_mutual_information_reaches_its_caps_when_posteriors_are_apart():
    mean = torch.arange(200.0)[:, None].repeat(1, 2)
    log_variance, noise = torch.full((200, 2), -12.0), torch.randn(200, 2)
    assert information(gaussian(mean, log_variance), noise) == pytest.approx(math.log(200))
    assert diagnostics.mutual_information_in_batch(gaussian(mean, log_variance), noise) == pytest.approx(math.log(32))


def test_mutual_information_equals_a_plain_computation_for_any_chunk():
    torch.manual_seed(0)
    mean, log_variance, noise = torch.randn(40, 3), torch.randn(40, 3), torch.randn(40, 3)
    latent = mean + (0.5 * log_variance).exp() * noise
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    every = normal.log_prob(latent[:, None, :]).sum(2)
    plain = float((every.diagonal() - every.logsumexp(1) + math.log(40)).mean())
    assert information(gaussian(mean, log_variance), noise) == pytest.approx(plain, rel=1e-5)
    assert information(gaussian(mean, log_variance), noise, elements_at_once=280) == pytest.approx(plain, rel=1e-5)


def test_active_units_use_the_unbiased_variance():
    mean = torch.zeros(3, 3)
    mean[0, 0] = math.sqrt(0.0301)  # unbiased variance just above 0.01, biased 0.0067
    mean[0, 1] = 1.0
    assert diagnostics.active_units(mean) == 2
    assert diagnostics.active_units(mean[:1]) == 0


def test_dispersion_of_equal_opposite_and_orthogonal_features():
    assert diagnostics.dispersion(torch.ones(9, 4)) == pytest.approx(1.0)
    assert diagnostics.dispersion(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-1.0)
    assert diagnostics.dispersion(torch.eye(5)) == pytest.approx(0.0)
    assert math.isnan(diagnostics.dispersion(torch.ones(1, 4)))


def test_the_error_of_mutual_information_is_that_of_drawing_again():
    rows = 200
    draw = torch.Generator().manual_seed(0)
    mean = torch.randn(rows, 3, generator=draw)
    posterior = Posterior(mean, torch.full((rows, 3), -1.0), mean)
    found = [
        diagnostics.mutual_information_and_error(posterior, torch.randn(4, rows, 3, generator=draw)) for _ in range(60)
    ]
    spread = torch.tensor([value for value, _ in found]).std()
    assert sum(error for _, error in found) / len(found) == pytest.approx(float(spread), rel=0.3)
    one, error = diagnostics.mutual_information_and_error(posterior, torch.zeros(1, rows, 3))
    assert one == information(posterior, torch.zeros(rows, 3))
    assert math.isnan(error)


def test_positions_of_maxima_against_a_plain_loop():
    torch.manual_seed(0)
    steps, lengths = torch.randn(9, 40, 5), torch.tensor([40, 3, 2, 12, 13, 25, 22, 7, 4])
    steps[0, 0, 0] = 99.0
    steps[3, 30, 1] = 99.0  # padding never wins
    by_hand = torch.zeros(len(diagnostics.POSITIONS))
    for row, length in enumerate(lengths.tolist()):
        for unit in range(5):
            place = int(steps[row, :length, unit].argmax())
            words = length - 2
            bin_ = 0 if place == 0 else 11 if place == length - 1 else 1 + 10 * (place - 1) // words
            by_hand[bin_] += 1
    assert torch.equal(diagnostics.count_maxima(steps, lengths).float(), by_hand)


def test_active_dimensions_are_named_most_active_first():
    assert diagnostics.active_dimensions([0.02, 0.0, 1.0, 0.009]) == [2, 0]
