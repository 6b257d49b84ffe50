"""The objective's parts against torch.distributions and by hand; the KL weight's schedules."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from model import objective
from model.annealing import ANNEALING_NAMES, AnnealingSettings
from model.config import ObjectiveSettings
from model.posterior import Posterior

pytestmark = pytest.mark.on_device


def test_kl_equals_torch_distributions():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(6, 3), torch.randn(6, 3)
    ours = Posterior(mean, log_variance, mean).kl()
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(ours, theirs)


def test_each_form_of_free_bits():
    kl = torch.tensor([[0.1, 3.0], [0.2, 0.3]])

    def penalised(kind):
        return float(objective.penalised_kl(kl, ObjectiveSettings(free_bits=kind, free_bits_nats=1.0)))

    assert penalised("none") == pytest.approx((3.1 + 0.5) / 2)
    assert penalised("total") == pytest.approx((3.1 + 1.0) / 2)
    assert penalised("per-dimension") == pytest.approx((0.5 + 3.0 + 0.5 + 0.5) / 2)
    assert penalised("batch-mean") == pytest.approx(1.8)


@pytest.mark.parametrize("kind", ["total", "per-dimension", "batch-mean"])
def test_free_bits_leave_no_gradient_below_their_target(kind):
    kl = torch.tensor([[0.1, 0.1], [0.2, 0.1]], requires_grad=True)
    objective.penalised_kl(kl, ObjectiveSettings(free_bits=kind, free_bits_nats=1.0)).backward()
    assert kl.grad.abs().sum() == 0


def test_linear_schedule_reaches_its_end_at_its_fraction():
    schedule = AnnealingSettings(kl_weight=0.8, initial_kl_weight=0.1, annealing="linear", annealing_fraction=0.5)
    assert [schedule.weight(place) for place in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.1, 0.45, 0.8, 0.8])


def test_cyclical_schedule_rises_in_the_first_half_of_each_cycle():
    schedule = AnnealingSettings(annealing="cyclical", annealing_fraction=1.0, num_cycles=4)
    places = (0.0, 0.0625, 0.125, 0.2, 0.25, 0.3125, 0.9)
    assert [schedule.weight(place) for place in places] == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 1.0])


@given(
    st.sampled_from(ANNEALING_NAMES),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.floats(0, 2),
    st.floats(0, 2),
    st.integers(1, 9),
)
def test_every_schedule_stays_between_its_ends_and_finishes_at_the_final_weight(kind, place, part, low, high, cycles):
    schedule = AnnealingSettings(
        annealing=kind, annealing_fraction=part, initial_kl_weight=low, kl_weight=high, num_cycles=cycles
    )
    assert min(low, high) - 1e-9 <= schedule.weight(place) <= max(low, high) + 1e-9
    assert schedule.weight(1.0) == high


def test_logistic_schedule_is_symmetric_about_its_middle():
    schedule = AnnealingSettings(annealing="logistic", annealing_fraction=1.0)
    assert schedule.weight(0.0) == pytest.approx(0.0)
    assert schedule.weight(0.5) == pytest.approx(0.5)
    assert schedule.weight(0.3) + schedule.weight(0.7) == pytest.approx(1.0)
