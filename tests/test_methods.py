"""The field's fixes by name: each is a bundle of settings that trains with every pooling."""

import pytest
from conftest import TINY, tiny_settings

from model.registry import POOLINGS_OF_ALL
from study.config.methods import METHODS, PLAIN, SOURCES
from study.config.settings import setting_names, validate
from study.errors import StudyError
from study.search.space import build_space
from study.training.loop import train


def test_methods_name_known_settings_and_their_source():
    assert set(SOURCES) == set(METHODS)
    for bundle in METHODS.values():
        assert set(bundle) <= set(setting_names())
    assert set(PLAIN) <= set(setting_names())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pooling", POOLINGS_OF_ALL)
def test_every_method_is_valid_with_every_pooling(method, pooling):
    assert validate({"method": method, "model": {"pooling": pooling}}).model.pooling == pooling


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(corpus, tmp_path, method):
    tables = {**TINY, "method": method, "training": TINY["training"] | {"epochs": 1}}
    rows = list(train(validate(tables), corpus, tmp_path))
    assert rows[-1].outcome == "complete"
    assert rows[-1]["train/decoder_tokens"] > 0


def test_settings_given_beside_a_method_win_over_its_bundle():
    settings = validate({"method": "bn-vae", "model": {"batch_norm_scale": 0.9}})
    assert (settings.model.posterior, settings.model.batch_norm_scale) == ("batch-norm", 0.9)
    again = settings.with_values({"model.latent_size": 5})
    assert (again.model.posterior, again.model.batch_norm_scale) == ("batch-norm", 0.9)
    other = settings.with_values({"method": "vae"})
    assert other.model.posterior == "gaussian"


def test_a_fixed_method_fixes_what_it_decides():
    space = build_space([{"method": "cyclical"}])
    assert space.fixed.objective.annealing == "cyclical"
    assert set(space.ranges) == {"model.pooling", "model.latent_size"}


def test_searched_methods_decide_for_themselves_and_a_language_model_has_no_pooling():
    space = build_space([{"search": {"method": ["language-model", "aggressive"], "model.word_dropout": [0.0, 0.5]}}])
    assert set(space.ranges) == {"method", "model.pooling", "model.latent_size", "model.word_dropout"}
    assert not space.applies("model.pooling", {"method": "language-model"})
    assert space.settings({"method": "aggressive", "model.pooling": "last"}).training.procedure == "aggressive"


def test_aggressive_training_costs_more_decoder_tokens_than_plain(corpus, tmp_path):
    tokens = {
        name: list(train(tiny_settings(training={"procedure": name, "epochs": 1}), corpus, tmp_path / name))[-1]
        for name in ("plain", "aggressive")
    }
    assert tokens["aggressive"]["train/decoder_tokens"] > 10 * tokens["plain"]["train/decoder_tokens"]


def test_an_unknown_method_is_refused_with_a_hint():
    with pytest.raises(StudyError, match="did you mean cyclical"):
        validate({"method": "cyclicall"})
