"""Comparisons: every run once, evaluated on the test split, judged with an interval."""

import json

import numpy as np
import polars as pl
import pytest
from conftest import json_lines
from test_study import check_records_agree

from study import claims, compare
from study.definition import Definition
from study.errors import StudyError
from study.published import PUBLISHED, published_table


def test_a_comparison_runs_every_point_once_and_judges_the_claims(ray_session, corpus, tiny_toml, tmp_path, call):
    arguments = ("compare", corpus.folder, "--config", tiny_toml, "--methods", "language-model,vae,aggressive",
                 "--poolings", "last,max", "--seeds", 2, "--samples", 5, "--name", "c", "--storage", tmp_path,
                 "--set", "training.epochs=1")  # fmt: skip
    code, out, _ = call(*arguments)
    assert code == 0
    for claim in claims.CLAIMS:
        assert f"\n{claim} " in out
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
    for _ in range(100):
        difference = 0.3 + draw.normal(0, 0.2, (5, 1)) + draw.normal(0, 1.0, (5, 400))
        low, high = claims.paired_interval(difference)
        hits += low <= 0.3 <= high
    assert 90 <= hits <= 100
    assert claims.mean_interval(np.array([0.1])) == (-np.inf, np.inf)
    low, high = claims.mean_interval(np.array([0.1, 0.2, 0.3]))
    assert low < 0.2 < high


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 1, "supported"), (-1, 1, "undecided"), (-2, -1, "not supported")]
)
def test_a_verdict_is_never_given_on_noise(low, high, verdict):
    assert claims.decide(low, high) == verdict


def frame(rows):
    made = [
        {"method": method, "pooling": pooling, "seed": seed, "kl": kl, "au": au, "dispersion": cosine,
         "seconds": tokens, "decoder_tokens": tokens, "folder": "", "curve_nll": [9.0, 5.0],
         "curve_tokens": [tokens / 2, tokens]}
        for method, pooling, kl, au, cosine, tokens in rows for seed in range(3)
    ]  # fmt: skip
    return pl.DataFrame(made)


def test_claims_on_clear_cases():
    clear = frame([("vae", "last", 0.0, 0, 0.98, 100.0), ("vae", "max", 3.0, 9, 0.4, 100.0),
                   ("aggressive", "last", 3.0, 9, 0.9, 900.0)])  # fmt: skip
    plain, pooled, previous = clear[:3], clear[3:6], clear[6:]
    assert claims.dispersion_verdict(plain, pooled, "max").verdict == "supported"
    assert claims.collapse_verdict(plain, pooled, "max").verdict == "supported"
    assert claims.cost_verdict(plain, pooled, previous, "max").verdict == "supported"
    assert claims.collapse_verdict(pooled, pooled, "max").verdict == "not supported"
    assert claims.dispersion_verdict(pooled, plain, "max").verdict == "not supported"
    uneven = pooled.with_columns(pl.Series("kl", [0.2, 6.0, 0.2]))
    assert claims.collapse_verdict(plain, uneven, "max").verdict == "undecided"


def test_a_language_model_is_run_once_a_seed():
    made = compare.points(["language-model", "vae"], ["last", "max"], 2)
    assert len(made) == 6
    assert [point for point in made if point["method"] == "language-model"] == [
        {"method": "language-model", "seed": 0}, {"method": "language-model", "seed": 1},
    ]  # fmt: skip
    assert compare.points(["vae", "aggressive:last"], ["max"], 1) == [
        {"method": "vae", "seed": 0, "model.pooling": "max"}, {"method": "aggressive", "seed": 0, "model.pooling": "last"},
    ]  # fmt: skip


def test_claims_are_judged_on_one_method_run_with_both_encoders():
    runs = frame([("vae", "last", 0.0, 0, 0.98, 50.0), ("annealing", "last", 0.0, 0, 0.98, 100.0),
                  ("annealing", "mean", 3.0, 9, 0.4, 100.0)])  # fmt: skip
    assert claims.judged(runs) == ("annealing", ["mean"])
    assert claims.plainest(runs) == "vae"
    assert claims.judged(runs[:3]) == ("", [])
    assert {each.verdict for each in claims.verdicts(runs[:3])} == {"undecided"}


def test_a_seed_that_failed_is_left_out_of_both_sides():
    both = frame([("vae", "last", 0.0, 0, 0.9, 1.0), ("vae", "max", 3.0, 9, 0.4, 1.0)])
    plain, pooled = claims.pair(both[:3].filter(pl.col("seed") != 1), both[3:])
    assert plain["seed"].to_list() == pooled["seed"].to_list() == [0, 2]


def test_settings_that_share_no_seed_are_undecided_and_points_are_planned_once():
    both = frame([("vae", "last", 0.0, 0, 0.9, 1.0), ("vae", "max", 3.0, 9, 0.4, 1.0)])
    apart = both.filter((pl.col("pooling") == "last") == (pl.col("seed") == 0))
    assert {each.verdict for each in claims.verdicts(apart)} == {"undecided"}
    assert claims.paired_interval(np.ones((3, 1))) == (-np.inf, np.inf)
    assert len(compare.points(["vae", "vae:last"], ["last", "max"], 1)) == 2


def test_cost_of_reaching_counts_to_the_nll_that_both_reach():
    def run(nll, tokens):
        return pl.DataFrame({"seed": [0], "curve_nll": [nll], "curve_tokens": [tokens]})

    fast, slow = run([9.0, 7.0, 6.0], [1, 2, 3]), run([8.0, 7.0, 7.0], [100, 200, 300])
    assert claims.cost_of_reaching(fast, slow) == (2.0, 200.0)


def test_published_rows_stand_beside_the_same_corpus_and_split_only(corpus):
    def definition(name):
        return Definition(name="x", identifier="", corpus=str(corpus.folder), corpus_name=name, corpus_fingerprint="",
                          space=None, goal=None, num_trials=1)  # fmt: skip

    with pytest.raises(StudyError, match="nothing published"):
        published_table(definition("mine"))
    with pytest.raises(StudyError, match="3,761"):
        published_table(definition("ptb"))
    for names, rows in PUBLISHED.values():
        assert all(len(row) == len(names) for row in rows)
