"""Poolings against a plain loop over sequences, and their promises about padding."""

import itertools

import pytest
import torch

from model.config import NetworkSettings
from model.network.encoder import Encoder
from model.network.pooling import logsumexp, pool
from model.registry import POOLING_NAMES, POOLINGS_OF_ALL

pytestmark = pytest.mark.on_device


def by_loop(name, steps, lengths, scores, temperature):
    rows = []
    for row, length, score in zip(steps, lengths.tolist(), scores, strict=True):
        states = row[:length]
        rows.append(
            {
                "last": lambda: states[-1],
                "first": lambda: states[0],
                "first+last": lambda: torch.cat([states[0], states[-1]]),
                "mean": lambda: sum(states) / length,
                "max": lambda: torch.stack([max(unit) for unit in states.T]),
                "max+mean": lambda: torch.cat([states.max(0).values, states.mean(0)]),
                "logsumexp": lambda: temperature * ((states / temperature).exp().mean(0)).log(),
                "attention": lambda: (score[:length].softmax(0) * states).sum(0),
            }[name]()
        )
    return torch.stack(rows)


@pytest.mark.parametrize("name", POOLING_NAMES)
def test_pooling_equals_a_loop_and_ignores_padding(name):
    torch.manual_seed(0)
    steps, lengths = torch.randn(5, 7, 4, dtype=torch.float64), torch.tensor([7, 1, 3, 6, 2])
    scores = torch.randn(5, 7, 1, dtype=torch.float64)
    extras = {"scores": scores, "temperature": 0.7}
    pooled = pool(name, steps, lengths, **extras)
    torch.testing.assert_close(pooled, by_loop(name, steps, lengths, scores, 0.7))
    for row, length in enumerate(lengths.tolist()):
        steps[row, length:] = 1e6
        scores[row, length:] = 1e6
    torch.testing.assert_close(pool(name, steps, lengths, **extras), pooled, rtol=0, atol=0)


def test_logsumexp_lies_between_mean_and_maximum():
    steps, lengths = torch.randn(3, 5, 2, dtype=torch.float64), torch.tensor([5, 4, 2])
    torch.testing.assert_close(logsumexp(steps, lengths, 1e-4), pool("max", steps, lengths), atol=1e-3, rtol=0)
    torch.testing.assert_close(logsumexp(steps, lengths, 1e4), pool("mean", steps, lengths), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("kind", "name", "bidirectional", "layers"),
    [
        *itertools.product(["lstm", "gru"], POOLINGS_OF_ALL, [False], [1, 2]),
        *itertools.product(["lstm", "gru"], POOLING_NAMES, [True], [1, 2]),
        *itertools.product(["transformer"], POOLING_NAMES, [False], [1, 2]),
    ],
)
def test_the_encoder_gives_a_sequence_the_same_posterior_in_any_company(kind, name, bidirectional, layers):
    torch.manual_seed(0)
    settings = NetworkSettings(
        embedding_size=5,
        hidden_size=6,
        latent_size=2,
        encoder=kind,
        num_heads=2,
        pooling=name,
        bidirectional=bidirectional,
        num_encoder_layers=layers,
    )
    encoder = Encoder(settings, 11)
    short, long = torch.tensor([[1, 5, 2]]), torch.tensor([[1, 6, 7, 8, 9, 4, 2]])
    alone = encoder(short, torch.tensor([3]))
    together = encoder(torch.cat([torch.nn.functional.pad(short, (0, 4)), long]), torch.tensor([3, 7]))
    assert alone.features.shape == (1, settings.features_size)
    torch.testing.assert_close(together.mean[:1], alone.mean, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together.features[1:], encoder(long, torch.tensor([7])).features, atol=1e-6, rtol=1e-5)


def test_last_pooling_of_a_bidirectional_encoder_is_where_each_direction_ends():
    torch.manual_seed(0)
    encoder = Encoder(NetworkSettings(hidden_size=6, latent_size=2, pooling="last", bidirectional=True), 11)
    tokens = torch.tensor([[1, 6, 7, 8, 2]])
    final = encoder.layers.rnn(encoder.embedding(tokens))[1][0]
    torch.testing.assert_close(encoder(tokens, torch.tensor([5])).features, torch.cat([final[0], final[1]], 1))
