"""Each kind of encoder and decoder: against cells by hand, whole against in parts, and z through each of its routes."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from model import generation
from model.config import BOS_ID, NetworkSettings
from model.errors import ModelError
from model.network.encoder import Encoder
from model.network.protocols import SequenceEncoder
from model.network.transformer import sinusoids
from model.network.vae import SequenceVAE
from model.registry import DECODERS, ENCODERS, Layers
from model.weights import load_network, save_network

pytestmark = pytest.mark.on_device

KINDS = list(itertools.product(DECODERS, [1, 2]))
ROUTES = [(True, True), (True, False), (False, True)]


def network(vocabulary_size=11, longest=64, **settings) -> SequenceVAE:
    torch.manual_seed(1)
    sizes = {"embedding_size": 6, "hidden_size": 8, "latent_size": 3, "num_heads": 2}
    made = SequenceVAE(NetworkSettings(**(sizes | settings)), vocabulary_size, longest)
    for parameter in made.parameters():
        parameter.data *= 2.0
    return made.eval()


def by_hand_gru(cell, inputs, hidden):
    """Return the states of a GRU's layer by its definition (Cho et al., arXiv 1406.1078, as PyTorch has it)."""
    states = []
    for given in inputs.unbind(1):
        reset, update, new = (given @ cell.weight_ih_l0.T + cell.bias_ih_l0).chunk(3, 1)
        of_reset, of_update, of_new = (hidden @ cell.weight_hh_l0.T + cell.bias_hh_l0).chunk(3, 1)
        reset, update = (reset + of_reset).sigmoid(), (update + of_update).sigmoid()
        new = (new + reset * of_new).tanh()
        hidden = (1 - update) * new + update * hidden
        states.append(hidden)
    return torch.stack(states, 1)


def test_a_gru_decoder_is_the_cell_by_hand_from_tanh_of_z():
    model = network(decoder="gru")
    tokens, latent = torch.tensor([[1, 5, 6, 7]]), torch.randn(1, 3)
    layers = model.decoder.layers
    inputs = torch.cat([model.decoder.embedding(tokens), latent[:, None].expand(-1, 4, -1)], 2)
    expected = by_hand_gru(layers.rnn, inputs, layers.to_state(latent).tanh())
    torch.testing.assert_close(model.decoder.states(tokens, latent)[0], expected)


def by_hand_attention(block, states):
    """Return one block of one sequence without padding, causal, head by head and query by query."""
    normal = block.before_attention(states)
    query, key, value = (normal @ block.to_heads.weight.T + block.to_heads.bias).chunk(3, 1)
    size, rows = query.shape[1] // block.num_heads, []
    for place in range(len(states)):
        heads = []
        for head in range(block.num_heads):
            cut = slice(head * size, (head + 1) * size)
            scores = key[: place + 1, cut] @ query[place, cut] / size**0.5
            heads.append(scores.softmax(0) @ value[: place + 1, cut])
        rows.append(torch.cat(heads))
    states = states + torch.stack(rows) @ block.from_heads.weight.T + block.from_heads.bias
    return states + block.between(block.before_between(states))


def test_a_transformer_decoder_is_attention_by_hand():
    model = network(decoder="transformer", num_decoder_layers=2, latent_to_state=False)
    tokens, latent = torch.tensor([[1, 5, 6, 7, 8]]), torch.randn(1, 3)
    layers = model.decoder.layers
    states = layers.to_width(model.decoder.embedding(tokens))[0] + sinusoids(torch.arange(5), 8)
    states = states + layers.to_embedding(latent)
    for block in layers.blocks:
        states = by_hand_attention(block, states)
    torch.testing.assert_close(model.decoder.states(tokens, latent)[0][0], layers.norm(states))


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize(("to_input", "to_state"), ROUTES)
def test_decoding_in_parts_equals_decoding_at_once(kind, layers, to_input, to_state):
    model = network(decoder=kind, num_decoder_layers=layers, latent_to_input=to_input, latent_to_state=to_state)
    tokens, latent = torch.randint(4, 11, (3, 9)), torch.randn(3, 3)
    tokens[:, 0] = BOS_ID
    whole, _ = model.decoder.states(tokens, latent)
    state, parts = None, []
    for part in tokens.split([1, 3, 1, 4], 1):
        states, state = model.decoder.states(part, latent, state)
        parts.append(states)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "layers"), KINDS)
def test_no_state_depends_on_a_later_token(kind, layers):
    model = network(decoder=kind, num_decoder_layers=layers)
    tokens, latent = torch.randint(4, 11, (1, 9)), torch.randn(1, 3)
    changed = tokens.clone()
    changed[0, 5] = 4 + (changed[0, 5] - 3) % 7
    before, after = (model.decoder.states(each, latent)[0] for each in (tokens, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5], atol=0, rtol=0)
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize(
    ("encoder", "decoder"), [("gru", "gru"), ("transformer", "transformer"), ("gru", "transformer")]
)
def test_a_loss_moves_with_neither_padding_nor_company(encoder, decoder):
    model = network(encoder=encoder, decoder=decoder, num_encoder_layers=2, num_decoder_layers=2)
    tokens, lengths = torch.tensor([[1, 5, 2, 0, 0], [1, 8, 9, 4, 2]]), torch.tensor([3, 5])
    noise = torch.randn(2, 3)
    together = model.reconstruction(tokens, lengths, model.encode(tokens, lengths).sample(noise))
    short, alone = torch.tensor([[1, 5, 2]]), torch.tensor([3])
    apart = model.reconstruction(short, alone, model.encode(short, alone).sample(noise[:1]))
    wide = F.pad(tokens, (0, 4))
    padded = model.reconstruction(wide, lengths, model.encode(wide, lengths).sample(noise))
    torch.testing.assert_close(together[:1], apart, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, padded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize(("to_input", "to_state"), ROUTES)
def test_gradients_reach_z_through_each_route(kind, layers, to_input, to_state):
    model = network(decoder=kind, num_decoder_layers=layers, latent_to_input=to_input, latent_to_state=to_state)
    latent = torch.randn(1, 3, requires_grad=True)
    model.reconstruction(torch.tensor([[1, 5, 6, 2]]), torch.tensor([4]), latent).sum().backward()
    assert float(latent.grad.abs().min()) > 0


@pytest.mark.parametrize(("kind", "layers"), KINDS)
def test_beams_keep_the_state_of_the_hypothesis_that_they_keep(kind, layers):
    """With a beam as wide as all sequences of so few tokens, the best one is found whatever was dropped before."""
    model = network(vocabulary_size=7, decoder=kind, num_decoder_layers=layers)
    latent = torch.randn(2, 3)
    wide = generation.beam(model, latent, 4, width=200)
    for row in range(2):
        best = max(
            (log_probability(model, latent[row : row + 1], tokens), tokens)
            for length in range(4)
            for tokens in itertools.product([4, 5, 6], repeat=length)
        )
        found = [token for token in wide[row].tolist() if token not in (0, 2)]
        if 2 in wide[row].tolist():
            assert tuple(found) == best[1]


def log_probability(model, latent, tokens):
    framed = torch.tensor([[1, *tokens, 2]])
    logits = model.decoder.to_logits(model.decoder.states(framed[:, :-1], latent)[0])
    logits[:, :, generation.NEVER_GENERATED] = -torch.inf
    return float(logits.log_softmax(2)[0].gather(1, framed[0, 1:, None]).sum())


def test_learned_positions_end_and_sinusoids_do_not():
    tokens, lengths = torch.tensor([[1, 5, 6, 7, 2]]), torch.tensor([5])
    encoding = network(longest=4, positions="learned", encoder="transformer")
    decoding = network(longest=4, positions="learned", decoder="transformer")
    too_long = r"5 tokens is longer than the 4 .* sinusoidal has no end"
    with pytest.raises(ModelError, match=too_long):
        encoding.encode(tokens, lengths)
    with pytest.raises(ModelError, match=too_long):
        decoding.decoder.states(tokens, torch.zeros(1, 3))
    model = network(longest=4, encoder="transformer", decoder="transformer")
    assert model.reconstruction(tokens, lengths, model.encode(tokens, lengths).mean).isfinite().all()


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_transformer_tells_orders_apart(positions):
    model = network(encoder="transformer", pooling="mean", positions=positions)
    lengths = torch.tensor([4])
    one, other = (model.encode(torch.tensor([each]), lengths).features for each in ([1, 5, 6, 2], [1, 6, 5, 2]))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_every_kind_is_saved_and_loaded_whole(kind, tmp_path):
    model = network(longest=9, encoder=kind, decoder=kind, positions="learned", num_decoder_layers=2)
    save_network(model, tmp_path)
    again = load_network(tmp_path)
    assert again.longest == 9
    tokens, lengths = torch.tensor([[1, 5, 6, 2]]), torch.tensor([4])
    latent = model.encode(tokens, lengths).mean
    assert torch.equal(again.encode(tokens, lengths).mean, latent)
    assert torch.equal(again.reconstruction(tokens, lengths, latent), model.reconstruction(tokens, lengths, latent))


def test_weights_of_older_versions_are_read_by_their_older_names():
    model = network()
    weights = {
        name.replace("layers.rnn.", "lstm.").replace("layers.to_state.", "to_state."): value
        for name, value in model.state_dict().items()
    }
    assert {"encoder.lstm.weight_ih_l0", "decoder.lstm.weight_ih_l0", "decoder.to_state.weight"} <= set(weights)
    fresh = SequenceVAE(model.settings, 11)
    fresh.load_state_dict(weights)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"encoder": "transformer", "bidirectional": True}, "sees both ways anyway"),
        ({"decoder": "transformer", "num_heads": 3}, "cannot be divided among num_heads 3"),
        ({"decoder": "transformer", "init": "uniform"}, "starts norms near 0"),
        ({"pooling": "first"}, "the same for every sequence"),
        ({"encoder": "rnn"}, "expected one of lstm, gru, transformer"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(settings, reason):
    with pytest.raises(ValueError, match=reason):
        NetworkSettings(**({"hidden_size": 8} | settings))


class Averages(SequenceEncoder):
    """An encoder added from outside: the mean of the embeddings so far."""

    def __init__(self, settings, longest):
        super().__init__(settings, longest)
        self.to_states = torch.nn.Linear(settings.embedding_size, settings.hidden_size)

    def forward(self, embedded, lengths):
        return self.to_states(embedded.cumsum(1) / torch.arange(1, embedded.shape[1] + 1)[:, None])


def test_an_encoder_is_added_by_its_class_and_one_entry(monkeypatch):
    monkeypatch.setitem(ENCODERS, "averages", Layers(f"{__name__}:Averages"))
    settings = NetworkSettings(encoder="averages", embedding_size=5, hidden_size=6, latent_size=2, pooling="mean")
    posterior = Encoder(settings, 11)(torch.tensor([[1, 5, 6, 2]]), torch.tensor([4]))
    assert posterior.features.shape == (1, 6)
