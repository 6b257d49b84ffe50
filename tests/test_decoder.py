"""Teacher forcing against single steps, and decoding against what it must find."""

import itertools

import pytest
import torch

from model import generation
from model.config import BOS_ID, EOS_ID, NetworkSettings
from model.errors import ModelError
from model.network.vae import SequenceVAE

pytestmark = pytest.mark.on_device


def network(vocabulary_size=9, **settings) -> SequenceVAE:
    torch.manual_seed(1)
    made = SequenceVAE(NetworkSettings(embedding_size=4, hidden_size=6, latent_size=2, **settings), vocabulary_size)
    for parameter in made.parameters():
        parameter.data *= 3.0
    return made.eval()


def log_probability(model, latent, tokens):
    """Add up one step's log probabilities after another, up to `</s>`."""
    state, token, total = None, torch.tensor([BOS_ID]), 0.0
    for chosen in tokens:
        logits, state = model.decoder.step(token, latent, state)
        total += float(logits.log_softmax(1)[0, chosen].detach())
        token = torch.tensor([chosen])
        if chosen == EOS_ID:
            break
    return total


@pytest.mark.parametrize(("to_input", "to_state"), [(True, True), (True, False), (False, True)])
def test_reconstruction_is_the_sum_of_single_steps(to_input, to_state):
    model = network(latent_to_input=to_input, latent_to_state=to_state)
    tokens, lengths = torch.tensor([[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]]), torch.tensor([5, 3])
    latent = torch.randn(2, 2)
    losses = model.reconstruction(tokens, lengths, latent)
    for row in range(2):
        alone = -log_probability(model, latent[row : row + 1], tokens[row, 1 : lengths[row]].tolist())
        assert float(losses[row].detach()) == pytest.approx(alone, rel=1e-5)
    assert not torch.allclose(losses, model.reconstruction(tokens, lengths, latent + 1.0))


def test_padding_never_changes_a_reconstruction():
    model, latent = network(), torch.randn(1, 2)
    short = model.reconstruction(torch.tensor([[1, 5, 2]]), torch.tensor([3]), latent)
    padded = model.reconstruction(torch.tensor([[1, 5, 2, 0, 0, 0]]), torch.tensor([3]), latent)
    torch.testing.assert_close(short, padded)


def test_word_dropout_hides_words_in_training_only_and_never_the_start():
    model = network(word_dropout=1.0)
    tokens = torch.tensor([[1, 5, 6, 7]])
    assert torch.equal(model.decoder.drop_words(tokens), tokens)
    model.train()
    assert model.decoder.drop_words(tokens).tolist() == [[1, 3, 3, 3]]


def test_beam_search_of_full_width_finds_the_best_of_all_sequences():
    model, latent = network(vocabulary_size=6), torch.tensor([[0.5, -1.0]])
    choices = [EOS_ID, 4, 5]
    candidates = []
    for length in (1, 2, 3):
        for words in itertools.product(choices, repeat=length):
            if EOS_ID not in words[:-1] and (words[-1] == EOS_ID or length == 3):
                candidates.append((log_probability_without_unknown(model, latent, words), words))
    best = max(candidates)[1]
    found = generation.beam(model, latent, 3, width=100)[0].tolist()
    assert tuple(found[: len(best)]) == best


def log_probability_without_unknown(model, latent, tokens):
    state, token, total = None, torch.tensor([BOS_ID]), 0.0
    for chosen in tokens:
        logits, state = model.decoder.step(token, latent, state)
        logits = logits.detach().clone()
        logits[:, generation.NEVER_GENERATED] = -torch.inf
        total += float(logits.log_softmax(1)[0, chosen])
        token = torch.tensor([chosen])
    return total


def test_a_beam_of_one_and_sampling_from_one_token_are_greedy():
    model, latent = network(), torch.randn(4, 2)
    greedy = generation.greedy(model, latent, 8)
    assert torch.equal(generation.beam(model, latent, 8, width=1), greedy)
    assert torch.equal(generation.sample(model, latent, 8, top_k=1), greedy)
    assert torch.equal(generation.sample(model, latent, 8, top_p=1e-9), greedy)


def test_decoding_is_the_same_alone_and_in_a_batch_and_ends_at_the_end_token():
    model, latent = network(), torch.randn(5, 2)
    together = generation.greedy(model, latent, 12)
    for row in range(5):
        alone = generation.greedy(model, latent[row : row + 1], 12)[0]
        assert torch.equal(together[row, : len(alone)], alone)
    after = (together == EOS_ID).cumsum(1) - (together == EOS_ID).int() > 0
    assert (together[after] == 0).all()


def test_nucleus_and_top_k_keep_the_head_of_the_distribution():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert generation.restrict(logits, 2, 1.0).isfinite().tolist() == [[True, True, False, False]]
    assert generation.restrict(logits, None, 0.79).isfinite().tolist() == [[True, True, False, False]]
    assert generation.restrict(logits, None, 0.81).isfinite().tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ModelError, match=next(iter(wrong))):
        generation.sample(network(), torch.zeros(1, 2), 3, **wrong)


def test_interpolation_runs_straight_from_end_to_end():
    points = generation.interpolate(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]), 3)
    assert points.tolist() == [[0.0, 2.0], [0.5, 1.0], [1.0, 0.0]]


def test_uniform_initialisation_has_the_fields_ranges():
    model = SequenceVAE(NetworkSettings(init="uniform"), 50)
    for name, parameter in model.named_parameters():
        limit = 0.1 if "embedding" in name else 0.01
        assert 0.9 * limit < parameter.abs().max() <= limit, name
    assert model.encoder.to_posterior.bias is None
    assert model.decoder.to_logits.bias is None
