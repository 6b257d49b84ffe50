"""Variants: the values of any settings beside each other, all else equal, also of code of the user's own."""

import json
import math

import pytest
from conftest import json_lines
from scipy import stats
from studies import definition, row

from study.analysis.variants import differences, variant_tables, variants
from study.config.request import RunRequest
from study.errors import StudyError
from study.planning.comparing import new_variants
from study.record.states import State
from study.record.trials import make_record

CODE = """
def train(settings, folder, seed):
    mi = {"flat": 0.0, "deep": 1.5}[settings["encoder"]] * settings["width"]
    for epoch in range(settings["training.epochs"]):
        yield {"nll": 50.0 - mi + 0.01 * seed * (1 + mi), "kl": mi, "mi": mi, "au": round(mi), "width": settings["width"]}
"""
SPACE = """
[search]
width = [1, 2, 3]
encoder = ["flat", "deep"]
slope = { low = 0.1, high = 0.9, only_if = { encoder = ["steep"] } }
[training]
epochs = 4
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "varied.py").write_text(CODE)
    (tmp_path / "space.toml").write_text(SPACE)
    return ("compare", "--trainable", "varied:train", "--space", "space.toml", "--name", "c")


def test_variants_of_own_code_are_paired_by_seed_and_trained_to_their_ends(ray_session, own, tmp_path, call):
    arguments = (*own, "--variants", "encoder=flat,deep", "--seeds", 4)
    code, out, err = call(*arguments, "--markdown", "t.md")
    assert code == 0, err
    lines = json_lines(call("report", "c", "--json")[1])
    # The width is held in the middle of what would be searched, the slope, which needs another encoder, is not there.
    assert [line["params"] for line in lines] == [
        {"own.encoder": encoder, "seed": seed} for seed in range(4) for encoder in ("flat", "deep")
    ]
    assert {line["epochs"] for line in lines} == {4}
    assert {line["state"] for line in lines} == {"complete"}
    text = (tmp_path / "t.md").read_text()
    assert "| deep | 4 |" in text
    assert "4 of 4" in text
    code, again, _ = call("compare", "--resume", "c")
    assert code == 0
    assert out == again
    code, out, _ = call("compare", "--resume", "c", "--json")
    assert code == 0
    stored = json.loads(out)
    flat, deep = stored["variants"]
    assert (flat["values"], deep["values"]) == ({"own.encoder": "flat"}, {"own.encoder": "deep"})
    assert (flat["collapsed"]["number"], deep["collapsed"]["number"]) == (4, 0)
    assert flat["means"]["nll"] == pytest.approx(50.0 + 0.015)
    (found,) = stored["differences"]
    by_seed = [-3.0 + 0.01 * seed * 3.0 for seed in range(4)]
    reach = stats.t.ppf(0.975, 3) * stats.sem(by_seed)
    assert found["intervals"]["nll"]["difference"] == pytest.approx(sum(by_seed) / 4)
    assert found["intervals"]["nll"]["low"] == pytest.approx(sum(by_seed) / 4 - reach)
    assert found["pairs"] == 4
    code, _, err = call("run", "--resume", "c", "--trials", 9)
    assert code == 1
    assert "is a comparison, whose runs are all planned" in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "variants are compared; name them, --variants NAME=VALUE,VALUE"),
        (("--variants", "encoder"), "expected NAME=VALUE,VALUE"),
        (("--variants", "encoder=deep"), "two different values or more"),
        (("--variants", "encoder=deep,deep"), "two different values or more"),
        (("--variants", "encoder=flat,deep", "--variants", "encoder=flat,deep"), "names a setting twice"),
        (("--variants", "encoder=flat,deep", "--poolings", "last"), "in place of methods; leave out --poolings"),
        (("--variants", "encoder=flat,deep", "--latex", "t.tex"), "leave out --latex"),
        (("--variants", "training.epochs=1,many"), "training.epochs"),
        (("--variants", "seed=1,2"), "give --seeds in its place"),
        (("--variants", "method=vae,aggressive"), "give --methods in its place"),
        (("--variants", "slope=0.2,0.5"), "it means nothing unless own.encoder is steep"),
    ],
)
def test_what_makes_no_comparison_is_refused(own, tmp_path, call, more, words):
    code, _, err = call(*own, *more)
    assert code == 1
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_search_is_no_comparison_to_go_on_with(finished_study, call):
    code, _, err = call("compare", "--resume", "done", "--storage", finished_study)
    assert code == 1
    assert "done is no comparison but a search" in err


def test_all_else_is_held_equal_on_a_corpus_and_combinations_come_seed_by_seed(corpus, tiny_toml, tmp_path):
    request = RunRequest.of({"storage": tmp_path, "corpus": str(corpus.folder), "config": tiny_toml, "name": "c"})
    found = new_variants(request, ("model.encoder=gru,lstm", "objective.kl_weight=0.2,0.5"), 2, "")
    assert found.compared == ("model.encoder", "objective.kl_weight")
    assert set(found.space.ranges) == {"model.encoder", "objective.kl_weight", "seed"}
    assert found.num_trials == len(found.planned) == 8
    assert [(each["seed"], each["model.encoder"], each["objective.kl_weight"]) for each in found.planned[:5]] == [
        (0, "gru", 0.2),
        (0, "gru", 0.5),
        (0, "lstm", 0.2),
        (0, "lstm", 0.5),
        (1, "gru", 0.2),
    ]
    settings = [found.settings(number, point) for number, point in enumerate(found.planned)]
    one = {"model.encoder": "lstm", "objective.kl_weight": 0.2, "seed": 0}
    assert len({each.with_values(one).model_dump_json() for each in settings}) == 1
    assert {each.evaluation.collapse_epochs for each in settings} == {1_000_000}
    stored = json.loads(json.dumps(found.to_json()))
    assert json.loads(json.dumps(type(found).from_json(stored).to_json())) == stored


def test_a_seed_that_only_one_variant_has_is_no_pair_and_intervals_are_for_all_rows():
    compared = definition(
        compared=("model.pooling",),
        planned=tuple({"model.pooling": name, "seed": seed} for seed in range(3) for name in ("last", "max", "mean")),
    )
    numbers = {"last": [5.0, 6.0, 5.5], "max": [4.0, 5.5, 4.0], "mean": [5.0, None, 5.5]}
    records = [
        make_record(
            compared, number, State.COMPLETE, "", {"model.pooling": name, "seed": seed}, [row(1, nll=nll, kl=2.0)]
        )
        for number, (name, seed, nll) in enumerate(
            (name, seed, nll) for name, values in numbers.items() for seed, nll in enumerate(values) if nll is not None
        )
    ]
    by_max, by_mean = differences(compared, records)
    assert (by_max.pairs, by_mean.pairs) == (3, 2)
    assert by_mean.intervals["nll"].difference == 0.0
    steps = [-1.0, -0.5, -1.5]
    reach = stats.t.ppf(1 - 0.05 / 2 / 2, 2) * stats.sem(steps)
    assert by_max.intervals["nll"].low == pytest.approx(-1.0 - reach)
    assert [each.seeds for each in variants(compared, records)] == [3, 3, 2]
    # The first that was named is what others are held against, or nothing is.
    assert differences(compared, [record for record in records if record.params["model.pooling"] != "last"]) == []
    one = [record for record in records if record.params["model.pooling"] == "last"]
    assert differences(compared, one) == []
    assert len(variant_tables(compared, one)) == 1
    assert math.isnan(variants(compared, one[:1])[0].deviations["nll"])
    assert variant_tables(compared, []) == []


def test_what_means_something_to_one_variant_is_held_for_all(tmp_path):
    space = {"search": {"slope": {"low": 0.2, "high": 0.8, "only_if": {"kind": ["steep"]}}, "kind": ["flat", "steep"]}}
    request = RunRequest.of({"storage": tmp_path, "shell": "true {kind} {slope}", "space": space})
    found = new_variants(request, ("kind=flat,steep",), 1, "")
    assert [found.settings(number, point).own for number, point in enumerate(found.planned)] == [
        {"slope": 0.5, "kind": "flat"},
        {"slope": 0.5, "kind": "steep"},
    ]


def test_a_misspelt_setting_is_named(corpus, tmp_path):
    request = RunRequest.of({"storage": tmp_path, "corpus": str(corpus.folder)})
    with pytest.raises(StudyError, match=r"model\.encodr"):
        new_variants(request, ("model.encodr=gru,lstm",), 2, "")
