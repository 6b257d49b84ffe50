"""Comparisons: every run once, evaluated on the test split, judged with an interval."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from conftest import json_lines
from mlflow import MlflowClient
from safetensors.torch import save_file
from studies import check_records_agree, definition

from study.analysis import claims, published
from study.analysis import comparison as compare
from study.analysis.confirmation import confirmation_study
from study.analysis.published import PUBLISHED, published_table
from study.errors import StudyError
from study.record.places import FINAL_SCORES
from study.search.definition import Definition
from study.search.space import SearchSpace, build_space


def test_a_comparison_runs_every_point_once_and_judges_the_claims(ray_session, corpus, tiny_toml, tmp_path, call):
    arguments = (
        "compare",
        corpus.folder,
        "--config",
        tiny_toml,
        "--methods",
        "language-model,vae,aggressive",
        "--poolings",
        "last,max",
        "--seeds",
        2,
        "--samples",
        5,
        "--name",
        "c",
        "--storage",
        tmp_path,
        "--set",
        "training.epochs=1",
    )
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
    assert {"nll_se", "nll_bias_bound", "untrusted", "mi_in_batch"} <= set(plain)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    parent = client.get_run(json.loads((tmp_path / "c/mlflow.json").read_text())["study"])
    assert parent.data.metrics["test/vae/last/nll"] == pytest.approx(plain["nll"])
    # Shown twice by now, recorded once.
    assert len(client.get_metric_history(parent.info.run_id, "test/vae/last/nll")) == 1
    assert "comparison.json" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert call("compare", "--resume", "c", "--markdown", tmp_path / "t.md", "--storage", tmp_path)[0] == 0
    lines = (tmp_path / "t.md").read_text("utf-8").splitlines()
    row = next(line for line in lines if line.startswith("| vae | last |"))
    assert f" {plain['nll']:.2f} ± {plain['nll_sd']:.2f} |" in row
    assert len([line for line in lines if line.startswith("| ")]) == 3 + 5 + len(stored["claims"]) + len(
        stored["gains"]
    )
    assert [(each["method"], each["pooling"]) for each in stored["gains"]] == [("vae", "max"), ("aggressive", "max")]
    assert call("compare", "--resume", "c", "--markdown", tmp_path / "t.txt", "--storage", tmp_path)[0] == 1
    paper = ("compare", "--resume", "c", "--latex", tmp_path / "t.tex", "--storage", tmp_path, "--columns")
    code, out, _ = call(*paper, "nll,nll_difference,au")
    assert code == 0
    assert "dispersion" not in out.split("Pooling beside")[0]
    tex = (tmp_path / "t.tex").read_text("utf-8")
    assert f"vae & last & 2 & {plain['nll']:.2f} $\\pm$ {plain['nll_sd']:.2f} & - & " in tex
    assert tex.count("\\\\\n") == 6
    assert r"\toprule" in tex
    assert all(line.startswith("%") for line in tex.split(r"\begin{table}")[0].splitlines())
    code, _, err = call(*paper, "nll,cosin")
    assert code == 1
    assert "no column cosin" in err


def test_intervals_cover_what_is_there_and_widen_with_fewer_seeds():
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        difference = 0.3 + draw.normal(0, 0.2, (5, 1)) + draw.normal(0, 1.0, (5, 400))
        low, high = claims.paired_interval(difference)
        hits += low <= 0.3 <= high
    assert 90 <= hits <= 99
    assert claims.mean_interval(np.array([0.1])) == (-np.inf, np.inf)
    low, high = claims.mean_interval(np.array([0.1, 0.2, 0.3]))
    assert low < 0.2 < high


def test_an_error_more_never_narrows_an_interval():
    seeds = np.array([1.0, -1.0, 0.0])
    reaches = [claims.mean_interval(seeds, error)[1] for error in (0.0, 0.1, 0.3, 0.5, 1.0, 3.0)]
    assert reaches == sorted(reaches)


def test_every_row_is_held_against_the_plain_vae_sequence_by_sequence(tmp_path):
    draw, rows = np.random.default_rng(0), []
    sequences = draw.normal(50, 10, 400)
    for method, pooling, gain in (("vae", "last", 0.0), ("vae", "max", 1.0), ("bn-vae", "last", 0.0)):
        for seed in range(3):
            folder = tmp_path / f"{method}-{pooling}-{seed}"
            folder.mkdir()
            log_p = torch.from_numpy(-sequences + gain + draw.normal(0, 0.3, 400) + draw.normal(0, 0.1))
            save_file({"log_p": log_p}, folder / FINAL_SCORES)
            rows.append(
                {
                    "method": method,
                    "pooling": pooling,
                    "seed": seed,
                    "folder": str(folder),
                    "au": 0,
                    "mi": 0.2 * (method == "bn-vae"),
                    "mi_se": 0.01,
                    "collapse_mi_nats": 0.1,
                    "untrusted": seed / 100,
                }
            )
    pooled, fixed = claims.differences(pl.DataFrame(rows))
    assert [(each.method, each.pooling) for each in (pooled, fixed)] == [("vae", "max"), ("bn-vae", "last")]
    # Far less than the spread of the sequences, which all share.
    assert -1.6 < pooled.low < -1.0 < pooled.high < -0.4
    assert pooled.low < pooled.nll_difference < pooled.high
    assert fixed.low < 0 < fixed.high
    assert (fixed.collapsed, fixed.reference_collapsed, fixed.seeds, fixed.untrusted) == (0, 3, 3, 0.02)
    (alone,) = claims.gains_of_pooling(pl.DataFrame(rows))
    assert alone.nll_difference == pooled.nll_difference
    # Of one row less is asked than of two.
    assert pooled.low < alone.low < alone.high < pooled.high
    other = [{**row, "pooling": "mean", "folder": rows[3]["folder"]} for row in rows if row["method"] == "bn-vae"]
    gained = claims.gains_of_pooling(pl.DataFrame(rows + other))[1]
    assert (gained.method, gained.pooling) == ("bn-vae", "mean")
    assert gained.high < -0.2


def test_three_seeds_that_agree_leave_the_error_of_the_sequences():
    """The spread of a few seeds is known badly, that of the sequences well: Student's factor is for the former only."""
    draw = np.random.default_rng(0)
    difference = 0.3 + draw.normal(0, 1.0, (1, 500)) + draw.normal(0, 0.001, (3, 500))
    low, high = claims.paired_interval(difference)
    assert high - low == pytest.approx(2 * 1.96 * difference.mean(0).std() / 500**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 1, "supported"), (-1, 1, "undecided"), (-2, -1, "not supported")]
)
def test_a_verdict_is_never_given_on_noise(low, high, verdict):
    assert claims.decide(low, high) == verdict


def frame(rows):
    made = [
        {
            "method": method,
            "pooling": pooling,
            "seed": seed,
            "mi": kl,
            "mi_se": 0.01,
            "au": au,
            "first_dispersion": cosine,
            "seconds": tokens,
            "decoder_tokens": tokens,
            "untrusted": 0.0,
            "collapse_mi_nats": 0.1,
            "folder": "",
            "curve_nll": [9.0, 5.0],
            "curve_tokens": [tokens / 2, tokens],
        }
        for method, pooling, kl, au, cosine, tokens in rows
        for seed in range(3)
    ]
    return pl.DataFrame(made)


def test_claims_on_clear_cases():
    clear = frame(
        [
            ("vae", "last", 0.0, 0, 0.98, 100.0),
            ("vae", "max", 3.0, 9, 0.4, 100.0),
            ("aggressive", "last", 3.0, 9, 0.9, 900.0),
        ]
    )
    plain, pooled, previous = clear[:3], clear[3:6], clear[6:]
    assert claims.dispersion_verdict(plain, pooled, "max").verdict == "supported"
    assert claims.collapse_verdict(plain, pooled, "max").verdict == "supported"
    assert claims.cost_verdict(plain, pooled, previous, "max").verdict == "supported"
    assert claims.collapse_verdict(pooled, pooled, "max").verdict == "not testable"
    assert claims.collapse_verdict(plain, plain, "max").verdict == "not testable"
    assert claims.collapse_verdict(pooled, plain, "max").verdict == "not supported"
    assert claims.dispersion_verdict(pooled, plain, "max").verdict == "not supported"
    slow = pooled.with_columns(pl.Series("seconds", [200.0, 210.0, 190.0]))
    assert claims.cost_verdict(plain, slow, previous, "max").verdict == "not supported"
    noisy = pooled.with_columns(pl.Series("seconds", [60.0, 200.0, 90.0]))
    assert claims.cost_verdict(plain, noisy, previous, "max").verdict == "undecided"
    uneven = pooled.with_columns(pl.Series("mi", [0.2, 6.0, 0.2]))
    assert claims.collapse_verdict(plain, uneven, "max").verdict == "undecided"


def test_a_language_model_is_run_once_a_seed():
    made = compare.points(["language-model", "vae"], ["last", "max"], 2)
    assert len(made) == 6
    assert [point for point in made if point["method"] == "language-model"] == [
        {"method": "language-model", "seed": 0},
        {"method": "language-model", "seed": 1},
    ]
    assert compare.points(["vae", "aggressive:last"], ["max"], 1) == [
        {"method": "vae", "seed": 0, "model.pooling": "max"},
        {"method": "aggressive", "seed": 0, "model.pooling": "last"},
    ]


def test_claims_are_judged_on_one_method_run_with_both_encoders():
    runs = frame(
        [
            ("vae", "last", 0.0, 0, 0.98, 50.0),
            ("annealing", "last", 0.0, 0, 0.98, 100.0),
            ("annealing", "mean", 3.0, 9, 0.4, 100.0),
        ]
    )
    assert claims.judged(runs) == ("annealing", ["mean"])
    assert claims.plainest(runs) == "vae"
    assert claims.judged(runs[:3]) == ("", [])
    assert {each.verdict for each in claims.verdicts(runs[:3])} == {"undecided"}
    others = frame([("bn-vae", "last", 2.0, 9, 0.5, 50.0), ("bn-vae", "max", 2.0, 9, 0.4, 50.0)])
    assert {each.verdict for each in claims.verdicts(others)} == {"undecided"}
    assert claims.plainest(others) is None


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


def test_published_rows_stand_beside_numbers_that_were_measured_alike_only(corpus, monkeypatch):
    def of_corpus(name, *tables):
        return Definition(
            name="x",
            identifier="",
            corpus=str(corpus.folder),
            corpus_name=name,
            corpus_fingerprint="",
            space=build_space(list(tables)),
            goal=None,
            num_trials=1,
        )

    with pytest.raises(StudyError, match="nothing published"):
        published_table(of_corpus("mine"))
    with pytest.raises(StudyError, match="3,761"):
        published_table(of_corpus("ptb"))
    monkeypatch.setitem(published.TEST_SEQUENCES, "ptb", len(corpus.split("test")))
    with pytest.raises(StudyError, match="10,000 words"):
        published_table(of_corpus("ptb"))
    monkeypatch.setitem(published.VOCABULARY, "ptb", len(corpus.vocabulary))
    with pytest.raises(StudyError, match="whole test split"):
        published_table(of_corpus("ptb", {"evaluation": {"final_num_sequences": 5}}))
    with pytest.raises(StudyError, match="whole training split"):
        published_table(of_corpus("ptb", {"training": {"num_sequences": 5}}))
    assert published_table(of_corpus("ptb")).row_count == len(PUBLISHED["ptb"][1])
    for names, rows in PUBLISHED.values():
        assert all(len(row) == len(names) for row in rows)


def test_what_is_given_beside_methods_holds_for_all_of_them_but_not_what_tells_them_apart():
    methods = {"search": {"method": ["vae", "annealing", "bn-vae"]}}
    given = {"objective": {"kl_weight": 0.46, "annealing_fraction": 0.5}, "model": {"batch_norm_scale": 0.9}}
    names = frozenset({"objective.kl_weight", "objective.annealing_fraction", "model.batch_norm_scale"})
    space = build_space([given, methods], by_hand=names)
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    confirmed = confirmation_study(definition(space=space), 3, "").space
    for each in (space, again, confirmed):
        assert [each.settings({"method": name}).objective.kl_weight for name in methods["search"]["method"]] == [
            0.46
        ] * 3
        assert each.settings({"method": "annealing"}).objective.annealing_fraction == 0.5
        assert each.settings({"method": "bn-vae"}).model.batch_norm_scale == 0.9
    # A preset is where one starts from: methods have their own way.
    assert build_space([given, methods]).settings({"method": "vae"}).objective.kl_weight == 1.0
    with pytest.raises(StudyError, match="tells methods apart"):
        build_space([{"model": {"posterior": "gaussian"}}, methods], by_hand=frozenset({"model.posterior"}))


def test_a_likelihood_that_cannot_be_trusted_decides_nothing(tmp_path):
    both = frame([("vae", "last", 3.0, 9, 0.9, 1.0), ("vae", "max", 3.0, 9, 0.4, 1.0)])
    log_p = torch.linspace(-60, -40, 100)
    for name, gain in (("last", 0.0), ("max", 5.0)):
        (tmp_path / name).mkdir()
        save_file({"log_p": log_p + gain}, tmp_path / name / FINAL_SCORES)
    both = both.with_columns(folder=pl.lit(f"{tmp_path}/") + pl.col("pooling"), nll=50.0)
    plain, pooled = both[:3], both[3:]
    sure = claims.likelihood_verdict(plain, pooled, pooled, "max")
    assert sure.verdict == "supported"
    unsure = claims.likelihood_verdict(plain, pooled.with_columns(untrusted=0.3), pooled, "max")
    assert unsure.verdict == "undecided"
    assert "30%" in unsure.evidence
    worse = claims.likelihood_verdict(plain, plain, pooled.with_columns(nll=pl.lit(45.0)), "max")
    assert worse.verdict == "not supported"  # far behind aggressive training, whatever it gains on last
