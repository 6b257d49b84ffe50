"""The importance-weighted likelihood against quadrature, and its independence of how it is cut up."""

import math

import numpy as np
import pytest
import torch

from data.batches import gather
from data.sources.synthetic import Topics, exact_nll
from model import likelihood
from model.config import NetworkSettings
from model.network.vae import SequenceVAE
from study.training.evaluation import score

pytestmark = pytest.mark.on_device


def sequence_noise(indices, num_samples, size, seed):
    noise = likelihood.draw_noise(likelihood.sequence_generators(indices, seed), num_samples, size)
    return noise.to(torch.get_default_device())


def sharp_network(latent_size: int, vocabulary_size: int = 20, pooling: str = "max", **more) -> SequenceVAE:
    """A network whose decoder really depends on z, and whose posterior really depends on x."""
    torch.manual_seed(3)
    settings = NetworkSettings(embedding_size=6, hidden_size=8, latent_size=latent_size, pooling=pooling, **more)
    network = SequenceVAE(settings, vocabulary_size).eval()
    for parameter in network.parameters():
        parameter.data *= 2.0
    return network


def by_quadrature(network, tokens, lengths, latent_size):
    points = torch.linspace(-7, 7, 1401 if latent_size == 1 else 141)
    grid = torch.cartesian_prod(*[points] * latent_size).view(-1, latent_size)
    log_cell = latent_size * math.log(float(points[1] - points[0]))
    log_prior = -0.5 * grid.square().sum(1) - 0.5 * latent_size * math.log(2 * math.pi)
    losses = likelihood.reconstructions(network, tokens, lengths, grid.expand(len(tokens), -1, -1))
    return (log_prior - losses + log_cell).logsumexp(1)


@pytest.mark.parametrize(
    ("latent_size", "more"),
    [
        (1, {}),
        (2, {}),
        (2, {"encoder": "gru", "decoder": "gru", "num_decoder_layers": 2}),
        (2, {"decoder": "transformer", "num_heads": 2}),
        (2, {"posterior": "scaled"}),
    ],
)
def test_importance_weighted_likelihood_agrees_with_quadrature(latent_size, more):
    network = sharp_network(latent_size, **more)
    tokens, lengths = torch.tensor([[1, 5, 9, 7, 2], [1, 12, 2, 0, 0], [1, 4, 4, 2, 0]]), torch.tensor([5, 3, 4])
    with torch.no_grad():
        exact = by_quadrature(network, tokens, lengths, latent_size)
        posterior = network.encode(tokens, lengths)
        noise = sequence_noise(np.arange(3), 20_000, latent_size, 0)
        losses = likelihood.reconstructions(network, tokens, lengths, posterior.sample(noise))
        weights = likelihood.log_weights(losses, posterior, noise).double()
    estimate = likelihood.log_likelihood(weights)
    relative = (weights - weights.amax(1, keepdim=True)).exp()
    error = relative.std(1) / relative.mean(1) / math.sqrt(weights.shape[1])
    assert error.max() < 0.1
    assert ((estimate - exact).abs() < 4 * error + 1e-4).all()
    elbo = weights.mean(1)
    assert (elbo < exact).all()


@pytest.mark.parametrize("latent_size", [1, 2])
def test_the_stated_error_and_bias_hold_against_quadrature(latent_size):
    network, num_samples, repeats = sharp_network(latent_size), 64, 400
    tokens, lengths = torch.tensor([[1, 5, 9, 7, 2]]), torch.tensor([5])
    with torch.no_grad():
        exact = float(by_quadrature(network, tokens, lengths, latent_size))
        posterior = network.encode(tokens, lengths)
        noise = sequence_noise(np.arange(1), num_samples * repeats, latent_size, 0)
        losses = likelihood.reconstructions(network, tokens, lengths, posterior.sample(noise))
        weights = likelihood.log_weights(losses, posterior, noise).double().view(repeats, num_samples)
    estimates, errors = likelihood.log_likelihood(weights), likelihood.standard_error(weights)
    spread = float(estimates.std())
    assert float(errors.mean()) == pytest.approx(spread, rel=0.25)
    bias = exact - float(estimates.mean())
    bound = float(errors.square().mean())
    assert -4 * spread / math.sqrt(repeats) < bias < bound + 4 * spread / math.sqrt(repeats)
    assert spread > 0.005  # there is something to bound


@pytest.mark.parametrize("power", likelihood.POWERS)
def test_the_estimate_is_the_same_whatever_the_power_of_the_proposal(power):
    network = sharp_network(2)
    tokens, lengths = torch.tensor([[1, 5, 9, 7, 2], [1, 12, 2, 0, 0]]), torch.tensor([5, 3])
    with torch.no_grad():
        exact = by_quadrature(network, tokens, lengths, 2)
        proposal = network.encode(tokens, lengths).tempered(power)
        noise = sequence_noise(np.arange(2), 20_000, 2, 0)
        losses = likelihood.reconstructions(network, tokens, lengths, proposal.sample(noise))
        weights = likelihood.log_weights(losses, proposal, noise).double()
    error = likelihood.standard_error(weights)
    assert error.max() < 0.05
    assert ((likelihood.log_likelihood(weights) - exact).abs() < 4 * error + 1e-4).all()


def test_a_wider_proposal_is_chosen_where_posteriors_are_too_narrow(corpus):
    network, split = sharp_network(3, len(corpus.vocabulary)), corpus.split("valid")
    encode = network.encode
    # As a KL weight of 0.25 leaves them.
    network.encode = lambda tokens, lengths: encode(tokens, lengths).tempered(4.0)
    narrow, widened = (score(network, split, num_samples=200, widen=widen) for widen in (False, True))
    assert narrow.power == 1.0
    assert widened.power <= 0.35
    one, other = narrow.metrics(), widened.metrics()
    assert other["nll_bias_bound"] < 0.6 * one["nll_bias_bound"]
    assert other["nll"] < one["nll"]  # less biased
    for name in ("elbo", "reconstruction", "kl", "mi", "au", "dispersion"):
        assert other[name] == pytest.approx(one[name], rel=1e-5)


def test_effective_share_of_weights():
    assert likelihood.effective_share(torch.zeros(2, 50)) == pytest.approx(1.0)
    one_counts = torch.full((1, 50), -1000.0)
    one_counts[0, 3] = 5.0
    assert likelihood.effective_share(one_counts) == pytest.approx(1 / 50)


def test_samples_that_were_not_drawn_do_not_count():
    weights = torch.randn(3, 40, dtype=torch.float64)
    padded = torch.cat([weights, torch.full((3, 60), math.nan, dtype=torch.float64)], dim=1)
    assert torch.equal(likelihood.log_likelihood(weights), likelihood.log_likelihood(padded))
    assert torch.allclose(likelihood.standard_error(weights), likelihood.standard_error(padded))
    relative = weights.exp()
    by_hand = relative.std(1) / relative.mean(1) / math.sqrt(40)
    assert torch.allclose(likelihood.standard_error(weights), by_hand)


def test_weights_of_nothing_are_not_taken_for_finite():
    assert float(likelihood.log_likelihood(torch.full((1, 4), -math.inf, dtype=torch.float64))) == -math.inf


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_pareto_shape_of_weights_whose_tail_is_known(shape):
    pytest.importorskip("arviz_stats")
    log_weights = shape * np.random.default_rng(0).exponential(size=20_000)
    assert likelihood.pareto_shape(log_weights) == pytest.approx(shape, abs=0.1)
    assert math.isnan(likelihood.pareto_shape(np.zeros(100)))
    assert math.isnan(likelihood.pareto_shape(log_weights[:99]))


def test_rounds_cover_every_sample_once_whatever_the_number():
    for num_samples in (1, 31, 32, 33, 64, 500):
        parts = likelihood.rounds(num_samples, 0.1)
        assert [place for start, end in parts for place in range(start, end)] == list(range(num_samples))
    assert likelihood.rounds(500, 0.0) == [(0, 500)]


def test_the_jackknife_is_what_its_definition_says_and_leaves_out_what_was_not_drawn():
    weights = torch.tensor(np.random.default_rng(0).normal(size=(5, 9))) - 700.0
    fewer = [likelihood.log_likelihood(weights[:, [k for k in range(9) if k != left_out]]) for left_out in range(9)]
    by_hand = 9 * likelihood.log_likelihood(weights) - 8 * torch.stack(fewer).mean(0)
    assert torch.allclose(likelihood.debiased_log_likelihood(weights), by_hand)
    padded = torch.cat([weights, torch.full((5, 4), math.nan, dtype=torch.float64)], dim=1)
    assert torch.allclose(likelihood.debiased_log_likelihood(padded), by_hand)
    single = weights[:, :1]
    assert torch.equal(likelihood.debiased_log_likelihood(single), likelihood.log_likelihood(single))


def test_the_jackknife_takes_most_of_the_bias_of_few_samples_away():
    # Weights whose mean is 1, so that the log-likelihood is 0.
    weights = torch.from_numpy(np.random.default_rng(1).normal(-0.32, 0.8, size=(40_000, 16)))
    plain, debiased = likelihood.log_likelihood(weights), likelihood.debiased_log_likelihood(weights)
    error = float(debiased.std()) / 200
    assert float(plain.mean()) < -6 * error
    assert abs(float(debiased.mean())) < max(3 * error, 0.15 * abs(float(plain.mean())))


def test_adaptive_estimates_spend_samples_where_they_are_needed(corpus):
    network, split = sharp_network(3, len(corpus.vocabulary)), corpus.split("train")
    full = score(network, split, num_samples=500)
    adaptive = score(network, split, num_samples=500, tolerance_nats=0.1)
    drawn = likelihood.num_drawn(adaptive.log_weights)
    assert 32 <= float(drawn.min()) < float(drawn.max())
    enough = drawn < 500
    assert float(adaptive.standard_error[enough].max()) <= 0.1
    assert adaptive.metrics()["nll"] == pytest.approx(full.metrics()["nll"], abs=0.02)
    assert adaptive.reliability()["decoder_tokens"] < 0.7 * full.reliability()["decoder_tokens"]
    # What was drawn is what the full estimate drew first.
    row = int(drawn.argmin())
    count = int(drawn[row])
    assert torch.allclose(adaptive.log_weights[row, :count], full.log_weights[row, :count], atol=1e-4)


def test_adaptive_estimates_do_not_depend_on_batch_or_chunk(corpus):
    network, split = sharp_network(3, len(corpus.vocabulary)), corpus.split("valid")
    whole = score(network, split, num_samples=200, tolerance_nats=0.05, batch_size=1000)
    cut = score(network, split, num_samples=200, tolerance_nats=0.05, batch_size=3, max_decoder_tokens=20)
    assert cut.metrics() == pytest.approx(whole.metrics(), rel=1e-4)
    assert cut.reliability() == pytest.approx(whole.reliability(), rel=1e-3, nan_ok=True)


def test_a_language_model_has_an_exact_likelihood(corpus):
    settings = NetworkSettings(embedding_size=6, hidden_size=8, latent_size=2, posterior="none")
    network = SequenceVAE(settings, len(corpus.vocabulary))
    metrics = score(network, corpus.split("valid"), num_samples=50, tolerance_nats=0.1).metrics()
    assert metrics["nll_se"] == metrics["nll_bias_bound"] == metrics["kl"] == 0.0
    assert metrics["nll"] == pytest.approx(metrics["elbo"])


def test_noise_of_a_sequence_depends_on_nothing_but_its_index_and_the_seed():
    several = sequence_noise(np.array([4, 9, 2]), 6, 5, seed=1)
    alone = sequence_noise(np.array([9]), 11, 5, seed=1)
    assert torch.equal(several[1], alone[0, :6])
    assert not torch.equal(several[1], sequence_noise(np.array([9]), 6, 5, seed=2)[0])


@pytest.mark.parametrize("max_decoder_tokens", [1, 20, 70])
def test_chunks_and_batches_do_not_change_a_metric(corpus, max_decoder_tokens):
    network, split = sharp_network(3, len(corpus.vocabulary)), corpus.split("valid")
    whole = score(network, split, num_samples=7, batch_size=1000).metrics()
    cut = score(network, split, num_samples=7, batch_size=5, max_decoder_tokens=max_decoder_tokens).metrics()
    assert cut == pytest.approx(whole, rel=1e-5)


def test_more_samples_tighten_the_bound_and_the_elbo_is_above(corpus):
    network, split = sharp_network(3, len(corpus.vocabulary)), corpus.split("train")
    by_samples = [score(network, split, num_samples=num).metrics()["nll"] for num in (1, 10, 100)]
    assert by_samples[0] > by_samples[1] > by_samples[2]
    assert score(network, split, num_samples=50).metrics()["elbo"] > by_samples[2]


def test_metrics_of_a_split_by_hand(corpus):
    network, split = sharp_network(2, len(corpus.vocabulary)), corpus.split("valid")
    metrics = score(network, split, num_samples=4).metrics()
    total, features = 0.0, []
    with torch.no_grad():
        for index in range(len(split)):
            batch = gather(split, np.array([index])).to(torch.get_default_device())
            posterior = network.encode(batch.tokens, batch.lengths)
            noise = sequence_noise(np.array([index]), 4, 2, 20_191_103)
            parts = []
            for sample in noise[0]:
                z = posterior.sample(sample[None])
                log_p = -network.reconstruction(batch.tokens, batch.lengths, z)
                prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
                q = torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_variance).exp()).log_prob(z).sum(1)
                parts.append(log_p + prior - q)
            total -= float(torch.cat(parts).logsumexp(0)) - math.log(4)
            features.append(posterior.features[0])
    num_tokens = int(split.lengths.sum()) + len(split)
    assert metrics["nll"] == pytest.approx(total / len(split), rel=1e-5)
    assert metrics["ppl"] == pytest.approx(math.exp(total / num_tokens), rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / split.num_bytes.sum(), rel=1e-5)
    cosines = [
        float(torch.nn.functional.cosine_similarity(a, b, dim=0))
        for place, a in enumerate(features)
        for b in features[:place]
    ]
    assert metrics["dispersion"] == pytest.approx(sum(cosines) / len(cosines), rel=1e-4)


def test_exact_likelihood_of_topics_is_normalised():
    topics = Topics(num_topics=2, num_words=3, min_length=1, max_length=2, num_sequences=5)
    words = range(3)
    sequences = [[a] for a in words] + [[a, b] for a in words for b in words]
    total = sum(math.exp(topics.log_likelihood(np.array(sequence))) for sequence in sequences)
    assert total == pytest.approx(1.0)


@pytest.mark.slow
def test_nll_of_a_trained_model_is_not_below_the_exact_one(tmp_path):
    from data.prepare import prepare
    from data.settings import PrepareSettings
    from data.sources.named import NAMED
    from study.config.settings import validate
    from study.training.loop import train

    source = NAMED["synthetic-topics"](None, 0)
    topics, _ = prepare(source, PrepareSettings.resolve(source, {}), tmp_path / "topics")
    settings = validate(
        {
            "model": {"embedding_size": 32, "hidden_size": 64, "latent_size": 8},
            "objective": {"kl_weight": 0.5},
            "training": {"epochs": 6, "learning_rate": 3e-3},
            "evaluation": {"num_samples": 10},
        }
    )
    rows = list(train(settings, topics, tmp_path / "run"))
    exact = exact_nll(topics.split("valid"), 0)
    assert min(row["valid/nll"] for row in rows) > exact - 0.5
    assert rows[-1]["valid/nll"] < rows[0]["valid/nll"]


def test_no_more_tokens_are_decoded_at_once_than_allowed_whatever_the_samples_and_lengths(corpus, monkeypatch):
    network, split = sharp_network(3, len(corpus.vocabulary)), corpus.split("valid")
    seen, longest, decode = [], int(split.lengths.max()) + 2, network.reconstruction

    def reconstruction(tokens, lengths, latent):
        seen.append(tokens.numel())
        return decode(tokens, lengths, latent)

    monkeypatch.setattr(network, "reconstruction", reconstruction)
    for num_samples in (1, 100):
        score(network, split, num_samples=num_samples, widen=True, max_decoder_tokens=3 * longest)
    assert longest < max(seen) <= 3 * longest


def test_weights_that_nobody_judged_are_not_said_to_be_trusted(corpus):
    network, split = sharp_network(3, len(corpus.vocabulary)), corpus.split("valid")
    assert math.isnan(score(network, split, num_samples=64).reliability()["untrusted"])
    found = score(network, split, num_samples=200).reliability()
    assert 0.0 <= found["untrusted"] <= 1.0
    assert math.isfinite(found["nll_debiased"])
    # Samples that were stopped at for their own sake have another bias.
    assert math.isnan(score(network, split, num_samples=200, tolerance_nats=0.1).reliability()["nll_debiased"])
