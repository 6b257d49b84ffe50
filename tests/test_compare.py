"""Comparisons: every run once, evaluated on the test split, judged with an interval."""

import json

import numpy as np
import polars as pl
import pytest
from conftest import json_lines
from test_study import check_records_agree

from study import compare


def test_a_comparison_runs_every_point_once_and_judges_the_claims(ray_session, corpus, tiny_toml, tmp_path, call):
    arguments = ("compare", corpus.folder, "--config", tiny_toml, "--methods", "language-model,vae,aggressive",
                 "--poolings", "last,max", "--seeds", 2, "--samples", 5, "--name", "c", "--storage", tmp_path,
                 "--set", "training.epochs=1")  # fmt: skip
    code, out, _ = call(*arguments)
    assert code == 0
    for claim in ("dispersion", "collapse", "likelihood", "cost"):
        assert f"{claim}: " in out
    report = json_lines(call("report", "c", "--json", "--storage", tmp_path)[1])
    points = {tuple(sorted(line["params"].items())) for line in report}
    assert len(report) == len(points) == 10
    check_records_agree(tmp_path, "c", report)
    code, out, _ = call("compare", "--resume", "c", "--json", "--storage", tmp_path)
    stored = json.loads(out)
    assert code == 0
    assert len(stored["summary"]) == 5
    plain = next(row for row in stored["summary"] if (row["method"], row["pooling"]) == ("vae", "last"))
    aggressive = next(row for row in stored["summary"] if (row["method"], row["pooling"]) == ("aggressive", "last"))
    assert plain["relative_decoder_tokens"] == 1.0
    assert aggressive["relative_decoder_tokens"] > 5
    assert pl.read_parquet(tmp_path / "c/comparison.parquet").height == 10


def test_intervals_cover_what_is_there_and_widen_with_fewer_seeds():
    draw = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        difference = 0.3 + draw.normal(0, 0.2, (5, 1)) + draw.normal(0, 1.0, (5, 400))
        low, high = compare.paired_interval(difference, seed=trial)
        hits += low <= 0.3 <= high
    assert 75 <= hits <= 100
    assert compare.seed_interval(np.array([0.1])) == (-np.inf, np.inf)
    low, high = compare.seed_interval(np.array([0.1, 0.2, 0.3]))
    assert low < 0.2 < high


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 1, "supported"), (-1, 1, "undecided"), (-2, -1, "not supported")]
)
def test_a_verdict_is_never_given_on_noise(low, high, verdict):
    assert compare.decide(low, high) == verdict


def frame(rows):
    made = [
        {"method": method, "pooling": pooling, "seed": seed, "kl": kl, "au": au, "dispersion": cosine,
         "seconds": tokens, "decoder_tokens": tokens, "folder": ""}
        for method, pooling, kl, au, cosine, tokens in rows for seed in range(3)
    ]  # fmt: skip
    return pl.DataFrame(made)


def test_claims_on_clear_cases():
    clear = frame([("vae", "last", 0.0, 0, 0.98, 100.0), ("vae", "max", 3.0, 9, 0.4, 100.0),
                   ("aggressive", "last", 3.0, 9, 0.9, 900.0)])  # fmt: skip
    plain, pooled = clear[:3], clear[3:6]
    assert compare.dispersion_verdict(plain, pooled, "max").verdict == "supported"
    assert compare.collapse_verdict(plain, pooled, "max").verdict == "supported"
    assert compare.cost_verdict(clear, plain, pooled, "max").verdict == "supported"
    assert compare.collapse_verdict(pooled, pooled, "max").verdict == "not supported"
    assert compare.dispersion_verdict(pooled, plain, "max").verdict == "not supported"


def test_a_language_model_is_run_once_a_seed():
    made = compare.points(["language-model", "vae"], ["last", "max"], 2)
    assert len(made) == 6
    assert [point for point in made if point["method"] == "language-model"] == [
        {"method": "language-model", "seed": 0}, {"method": "language-model", "seed": 1},
    ]  # fmt: skip
