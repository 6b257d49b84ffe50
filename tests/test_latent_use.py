"""What z tells the decoder at each position: it adds up, and a decoder that ignores z saves nothing."""

import math

import numpy as np
import pytest
import torch

from data.batches import gather
from model.config import NetworkSettings
from model.network.vae import SequenceVAE
from study.inference.latent_use import END, FIRSTS, by_group, groups, latent_use
from study.training.evaluation import evaluating

KINDS = [
    {"decoder": "lstm"},
    {"decoder": "gru", "num_decoder_layers": 2},
    {"decoder": "transformer", "encoder": "transformer", "num_heads": 2},
]


def network_of(corpus, **changes):
    torch.manual_seed(0)
    settings = NetworkSettings(
        **({"embedding_size": 8, "hidden_size": 12, "latent_size": 3, "pooling": "mean"} | changes)
    )
    network = SequenceVAE(settings, corpus.vocabulary_size)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)
    return network


@pytest.mark.parametrize("changes", KINDS)
def test_losses_by_place_are_those_of_the_prefixes(corpus, changes):
    network, split = network_of(corpus, **changes), corpus.split("valid")
    batch = gather(split, np.arange(6))
    latent = torch.randn(6, 3)
    with evaluating(network):
        found = network.decoder.reconstruction_by_place(batch.tokens, batch.lengths, latent)
        whole = network.reconstruction(batch.tokens, batch.lengths, latent)
        assert torch.allclose(found.sum(1), whole, atol=1e-4)
        for row, length in enumerate(batch.lengths.tolist()):
            assert not found[row, length - 1 :].any()
            before = 0.0
            for place in range(1, length):
                # A prefix as a sequence of its own: its last target is what the place adds.
                tokens = batch.tokens[row : row + 1, : place + 1]
                cost = float(network.reconstruction(tokens, torch.tensor([place + 1]), latent[row : row + 1]))
                assert cost - before == pytest.approx(float(found[row, place - 1]), abs=1e-4)
                before = cost


@pytest.mark.parametrize("changes", KINDS)
def test_what_is_saved_adds_up_to_the_whole_difference(corpus, changes):
    network, split = network_of(corpus, **changes), corpus.split("valid")
    found = latent_use(network, split, 30)
    assert list(found.saved) == groups() == list(found.saved_se)
    assert sum(found.saved.values()) == pytest.approx(found.nll_shuffled_z - found.nll_own_z, abs=1e-4)
    assert abs(found.saved[END]) > 0
    assert found == latent_use(network, split, 30)


def test_a_decoder_that_is_not_told_z_saves_nothing(corpus):
    network = network_of(corpus, latent_to_state=False)
    with torch.no_grad():
        # Of its input, the part that is z.
        for name, parameter in network.decoder.named_parameters():
            if "latent" in name or "weight_ih_l0" in name:
                parameter[..., -3:].zero_() if "weight_ih_l0" in name else parameter.zero_()
    found = latent_use(network, corpus.split("valid"), 30)
    assert max(map(abs, found.saved.values())) < 1e-6
    assert found.nll_own_z == pytest.approx(found.nll_prior_z, abs=1e-6)


def test_groups_hold_each_position_once_and_the_end_by_itself():
    lengths = np.array([2, 3, 60, 8])
    nats = np.where(np.arange(58)[None] <= lengths[:, None] - 2, 1.0, 99.0) * np.ones((4, 58))
    nats = np.where(np.arange(59)[None] < 58, np.pad(nats, ((0, 0), (0, 1)), constant_values=1.0), 0.0)
    found = by_group(nats, lengths)
    assert found[:, -1].tolist() == [1.0, 1.0, 0.0, 1.0]
    # A sequence of 58 words and its end: `</s>` is the target at place 59.
    assert found[2, :-1].tolist() == [1, 1, 1, 1, 1, 3, 4, 8, 20, 18]
    assert found[0, :-1].tolist() == [0] * len(FIRSTS)
    assert found[1, :-1].tolist() == [1] + [0] * (len(FIRSTS) - 1)
    assert found[3, :-1].tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert groups() == ["1", "2", "3", "4", "5", "6-8", "9-12", "13-20", "21-40", "41+", END]


def test_one_sequence_has_no_error(corpus):
    found = latent_use(network_of(corpus), corpus.split("valid"), 1)
    assert math.isnan(found.saved_se["1"])
    assert sum(found.saved.values()) == 0.0
