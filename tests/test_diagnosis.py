"""Diagnosis: a collapsed encoder, a healthy one, and feature dumps of strangers."""

import numpy as np
import polars as pl
import pytest
import torch
from conftest import json_lines, tiny_settings
from studies import row as make_row

from study.errors import StudyError
from study.inference.diagnosis import collapsed_since, diagnose_features
from study.trainable.posteriors import read_dump
from study.training.loop import train


def dump(num=400, size=4, *, collapsed=False, seed=0):
    draw = np.random.default_rng(seed)
    codes = draw.normal(size=(num, size))
    mean = codes * np.array([1.5, 0.0, 1.0, 0.0]) * (0.0 if collapsed else 1.0)
    active = np.array([1, 0, 1, 0]) * (0 if collapsed else 1)
    log_variance = np.where(active, np.log(0.1), 0.0) + np.zeros((num, size))
    features = np.ones((num, 8)) + (0.01 if collapsed else 3.0) * draw.normal(size=(num, 8))
    return features, mean, log_variance


def test_a_healthy_encoder_is_said_to_be_one_with_its_active_dimensions():
    found = diagnose_features(*dump())
    assert found.verdict == "not collapsed"
    assert found.metrics["active_dimensions"] == [0, 2]
    assert found.advice == []
    by_hand = 0.5 * (1.5**2 + 0.1 - 1 - np.log(0.1)) + 0.5 * (1.0 + 0.1 - 1 - np.log(0.1))
    assert found.metrics["kl"] == pytest.approx(by_hand, rel=0.1)
    assert "dispersed" in " ".join(found.findings)


def test_of_a_large_dump_a_random_part_is_looked_at_and_said_to_be():
    found = diagnose_features(*dump(20_000))
    assert "over 5,000 inputs of 20,000" in found.findings[0]
    assert found.metrics["kl"] == pytest.approx(diagnose_features(*dump(4000)).metrics["kl"], rel=0.05)
    assert "over 400 inputs" in diagnose_features(*dump()).findings[0] + "|"


def test_a_collapsed_encoder_gets_advice_in_order_and_features_that_are_alike():
    found = diagnose_features(*dump(collapsed=True))
    assert found.verdict.startswith("collapsed")
    assert found.metrics["au"] == 0
    assert found.metrics["mi"] == pytest.approx(0.0, abs=1e-9)
    assert "nearly all alike" in " ".join(found.findings)
    order = ("KL weight", "initialisation", "pool the", "bn-vae", "autoencoder", "aggressive", "language-model")
    assert [word in each for word, each in zip(order, found.advice, strict=True)] == [True] * len(order)


def test_states_over_time_say_what_pooling_would_do():
    _, mean, log_variance = dump(collapsed=True)
    draw = np.random.default_rng(1)
    # States that end alike whatever came before: the last one is the same for all, the mean is not.
    steps = draw.normal(size=(400, 10, 6))
    lengths = draw.integers(3, 11, size=400)
    steps[np.arange(400), lengths - 1] = 1.0
    found = diagnose_features(steps, mean, log_variance, lengths)
    cosines = found.metrics["cosine_by_pooling"]
    assert cosines["last"] == pytest.approx(1.0)
    assert cosines["mean"] < 0.9
    assert any("pool the encoder" in each and "from 1.00" in each for each in found.advice)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, m, v: (f[:-1], m, v), "expected features"),
        (lambda f, m, v: (f, m[:, :2], v), "expected features"),
        (lambda f, m, v: (f[:1], m[:1], v[:1]), "at least 2"),
        (lambda f, m, v: (f, m * np.nan, v), "finite"),
        (lambda f, m, v: (f, m, v, np.ones(len(m))), "lengths"),
        (lambda f, m, v: (f[:, :0], m, v), "at least 1"),
        (lambda f, m, v: (f[:, None].repeat(3, 1), m, v, np.full(len(m), np.nan)), "lengths"),
        (lambda f, m, v: (f.astype(str), m, v), "real numbers"),
        (lambda f, m, v: (f, m + 1j, v), "real numbers"),
        (lambda f, m, v: (f, m, v + 2000), "not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, words):
    with pytest.raises(StudyError, match=words):
        diagnose_features(*change(*dump()))


def test_a_posterior_that_is_the_same_for_all_is_collapsed_whatever_its_kl():
    features, mean, log_variance = dump()
    found = diagnose_features(features, np.full_like(mean, 3.0), np.full_like(log_variance, -3.0))
    assert found.metrics["kl"] > 10
    assert found.verdict.startswith("collapsed in effect")
    faint = diagnose_features(features, 0.11 * np.sign(mean), np.full_like(log_variance, -0.01))
    assert faint.metrics["au"] > 0
    assert faint.verdict.startswith("collapsed: ")


def test_what_lies_behind_a_sequence_does_not_matter_and_tensors_are_taken_as_they_are():
    _, mean, log_variance = dump()
    steps = np.random.default_rng(1).normal(size=(400, 5, 6))
    lengths = np.full(400, 3)
    whole = diagnose_features(steps, mean, log_variance, lengths)
    steps[:, 3:] = np.nan
    tensors = [torch.tensor(array, requires_grad=True) for array in (steps, mean, log_variance)]
    assert diagnose_features(*tensors, lengths).metrics == whole.metrics


def test_dumps_by_other_names_and_without_features(tmp_path, call):
    _, mean, log_variance = dump()
    np.savez(tmp_path / "dump.npz", mu=mean, logvar=log_variance)
    code, out, _ = call("diagnose", tmp_path / "dump.npz", "--json")
    found = json_lines(out)[0]
    assert code == 0
    assert found["metrics"]["dispersion"] is None
    assert not any("cosine" in each for each in found["findings"])
    whole = diagnose_features(dump()[0], mean, log_variance).metrics
    assert {name: found["metrics"][name] for name in ("kl", "mi", "au")} == {
        name: pytest.approx(whole[name]) for name in ("kl", "mi", "au")
    }
    np.savez(tmp_path / "twice.npz", mu=mean, mean=mean, logvar=log_variance)
    code, _, err = call("diagnose", tmp_path / "twice.npz")
    assert code == 1
    assert "mean and mu would both be the mean" in err


def test_the_epoch_since_which_a_run_is_collapsed():
    def row(epoch, kl, au):
        return make_row(epoch, kl=kl, au=au)

    assert collapsed_since([row(1, 2.0, 3), row(2, 0.0, 0), row(3, 0.01, 0)]) == 2
    assert collapsed_since([row(1, 0.0, 0), row(2, 2.0, 3)]) is None
    assert collapsed_since([]) is None


def test_the_command_reads_models_and_dumps(corpus, tmp_path, call):
    features, mean, log_variance = dump()
    np.savez(tmp_path / "dump.npz", features=features, mean=mean, log_variance=log_variance)
    frame = pl.DataFrame({"features": list(features), "mean": list(mean), "log_variance": list(log_variance)})
    frame.write_parquet(tmp_path / "dump.parquet")
    answers = [call("diagnose", tmp_path / f"dump.{ending}", "--json") for ending in ("npz", "parquet")]
    assert [code for code, _, _ in answers] == [0, 0]
    assert answers[0][1] == answers[1][1]
    collapsing = tiny_settings(objective={"kl_weight": 50.0}, training={"epochs": 2})
    rows = list(train(collapsing, corpus, tmp_path / "collapsed"))
    code, out, _ = call("diagnose", tmp_path / "collapsed", "--corpus", corpus.folder, "--json")
    found = json_lines(out)[0]
    assert code == 0
    assert found["metrics"]["kl"] == pytest.approx(rows[-1]["valid/kl"], abs=0.05)
    gap = found["metrics"]["nll_shuffled_z"] - found["metrics"]["nll_own_z"]
    assert abs(gap) < 0.1
    assert found["verdict"].startswith(("collapsed", "nearly"))
    assert "objective.kl_weight" in found["advice"][0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": [1]}, "has no log_variance, mean"),
        (b"not a zip", "cannot be read"),
        (b"PK\x03\x04 cut", "cannot be read"),
        (b"", "cannot be read"),
        (b"\x93NUMPY", "cannot be read"),
    ],
)
def test_foreign_dumps_are_refused(tmp_path, call, content, words):
    path = tmp_path / "x.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    code, out, err = call("diagnose", path)
    assert (code, out) == (1, "")
    assert words in err
    assert "Traceback" not in err


def test_a_pickled_dump_is_not_loaded(tmp_path, call):
    np.savez(
        tmp_path / "x.npz", features=np.array([{"a": 1}], dtype=object), mean=np.zeros(1), log_variance=np.zeros(1)
    )
    code, _, err = call("diagnose", tmp_path / "x.npz")
    assert code == 1
    assert "cannot be read" in err


def test_states_of_unequal_number_in_parquet_are_padded(tmp_path):
    rng = np.random.default_rng(0)
    states = [rng.normal(size=(count, 4)).tolist() for count in rng.integers(2, 9, 40)]
    mean = rng.normal(size=(40, 2))
    frame = pl.DataFrame({"features": states, "mean": mean.tolist(), "log_variance": (mean * 0 - 1).tolist()})
    frame.write_parquet(tmp_path / "ragged.parquet")
    found = diagnose_features(**read_dump(tmp_path / "ragged.parquet"))
    last = np.array([each[-1] for each in states])
    assert found.metrics["dispersion"] == pytest.approx(
        diagnose_features(last, mean, mean * 0 - 1).metrics["dispersion"]
    )
    assert set(found.metrics["cosine_by_pooling"]) == {"last", "mean", "max"}


def test_variances_in_place_of_their_logarithms_are_asked_about():
    rng = np.random.default_rng(0)
    features, mean = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    assert "is it the variance itself" in diagnose_features(features, mean, mean * 0 + 0.3).findings[-1]
    with pytest.raises(StudyError, match="whole lengths"):
        diagnose_features(rng.normal(size=(50, 6, 4)), mean, mean, np.full(50, 3.5))


@pytest.mark.parametrize("features", [[], [[], [[1.0, 2.0]]]], ids=["none", "one without a state"])
def test_dumps_without_states_are_refused(tmp_path, features):
    numbers = [[0.0]] * len(features)
    schema = {
        "features": pl.List(pl.List(pl.Float64)),
        "mean": pl.List(pl.Float64),
        "log_variance": pl.List(pl.Float64),
    }
    frame = pl.DataFrame({"features": features, "mean": numbers, "log_variance": numbers}, schema=schema)
    frame.write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(StudyError):
        diagnose_features(**read_dump(tmp_path / "empty.parquet"))
