"""Studies that are changed: more trials, points of one's own, from another study, trials that no longer count."""

import itertools
import json
import math
import shutil

import optuna
import polars as pl
import pytest
from conftest import json_lines
from studies import definition, numbers, optuna_states, row

from study.analysis.seed_noise import is_settled
from study.config.request import RunRequest
from study.epoch import NO_EPOCH
from study.errors import StudyError
from study.planning.plan import grid_points, new_study
from study.planning.points import asked_points
from study.planning.takeover import take_over
from study.record.ledger import Ledger
from study.record.states import State
from study.search.learned import Learned
from study.search.objective import Goal
from study.search.pooling_test import with_test
from study.search.ranges import Range
from study.search.settled import LEAST_TRIALS, expected_best, expected_gain, has_settled
from study.search.space import build_space


def space():
    return build_space([{"search": {"model.pooling": ["last", "max"]}, "objective": {"annealing": "constant"}}])


def few_settings():
    """A space of pooling and weight alone."""
    held = {"model": {"latent_size": 3}, "objective": {"annealing": "constant"}}
    return build_space([held, {"search": {"model.pooling": ["last", "max"]}}])


def try_all(folder, study, values, state=State.COMPLETE):
    """Run a study whose trials have these nll, one epoch each."""
    ledger = Ledger.create(folder, study)
    for value in values:
        number, _ = ledger.ask()
        ledger.add_row(number, row(1, nll=value))
        ledger.finish(number, state)
    return ledger


# More trials


def test_a_finished_study_goes_on_to_more_trials_and_keeps_what_it_has(ray_session, own_copy, call):
    storage = ("--storage", own_copy)
    before = json_lines(call("report", "done", "--json", *storage)[1])
    code, _, err = call("run", "--resume", "done", *storage)
    assert code == 0
    assert "nothing is left to do" in err
    assert "--trials N" in err
    code, _, err = call("run", "--resume", "done", "--trials", 5, *storage)
    assert code == 1
    assert "6 trials of the search are started" in err
    code, _, err = call("run", "--resume", "done", "--set", "model.pooling=max", *storage)
    assert code == 1
    assert "--from done" in err
    point = "model.pooling=max objective.kl_weight=0.25 objective.annealing=constant"
    code, _, err = call("run", "--resume", "done", "--trials", 8, "--try", point, "--concurrent", 1, *storage)
    assert code == 0, err
    after = json_lines(call("report", "done", "--json", *storage)[1])
    assert after[:6] == before
    assert [line["trial"] for line in after] == list(range(8))
    assert after[6]["params"] == {
        "model.pooling": "max",
        "objective.kl_weight": 0.25,
        "objective.annealing": "constant",
    } | {name: value for name, value in after[6]["params"].items() if name == "model.latent_size"}
    assert Ledger.open(own_copy / "done").definition.concurrent == 1
    # Asked for once more, it was tried already.
    code, _, _ = call("run", "--resume", "done", "--try", point, *storage)
    assert code == 0
    assert len(json_lines(call("report", "done", "--json", *storage)[1])) == 8


def test_a_grid_goes_on_to_points_that_it_has_not_tried(tmp_path):
    from study.planning.resume import add_trials

    study = definition(sampler="grid", num_trials=1, space=few_settings())
    study = study.__class__(**(study.__dict__ | {"planned": grid_points("grid", study.space, study.seed, 1)}))
    ledger = try_all(tmp_path / "one", study, [5.0])
    add_trials(ledger, 10**6, [])
    whole = study.space.grid()
    assert ledger.definition.num_trials == len(whole)
    tried = [ledger.trials()[0].params]
    while ledger.num_left():
        number, values = ledger.ask()
        ledger.add_row(number, row(1))
        ledger.finish(number, State.COMPLETE)
        tried.append(values)
    assert sorted(map(str, tried)) == sorted(map(str, whole))
    with pytest.raises(StudyError, match="each was tried"):
        add_trials(ledger, 10**6, [])


# Points of one's own


def test_points_are_tried_first_once_each_and_what_they_leave_open_is_drawn(tmp_path):
    points = ({"model.pooling": "max"}, {"model.pooling": "last", "objective.kl_weight": 0.5})
    ledger = Ledger.create(tmp_path / "one", definition(planned=points, num_trials=3))
    # As on each --resume.
    ledger.release_interrupted()
    found = [ledger.ask()[1] for _ in range(3)]
    assert found[0]["model.pooling"] == "max"
    assert "objective.kl_weight" in found[0]
    assert found[1] | points[1] == found[1]
    ledger.close()
    again = Ledger.open(tmp_path / "one")
    again.release_interrupted()
    assert [again.ask()[1] for _ in range(3)] == found
    assert len(again.trials()) == 3


def test_values_outside_the_space_are_trained_and_no_sampler_hears_of_them(tmp_path):
    point = {"model.pooling": "mean", "objective.kl_weight": 4.0, "training.learning_rate": 0.5}
    ledger = Ledger.create(tmp_path / "one", definition(planned=(point,), num_trials=2))
    number, values = ledger.ask()
    assert values | point == values
    settings = ledger.definition.settings(number, values)
    assert (settings.model.pooling, settings.objective.kl_weight, settings.training.learning_rate) == ("mean", 4, 0.5)
    ledger.add_row(number, row(1))
    ledger.finish(number, State.COMPLETE)
    trial = Ledger.open(tmp_path / "one").trials()[0]
    assert trial.params | point == trial.params
    assert not {"model.pooling", "objective.kl_weight"} & ledger.study.trials[0].params.keys()


def test_a_changed_value_outside_the_space_is_named(tmp_path):
    point = {"objective.kl_weight": 4.0}
    ledger = try_all(tmp_path / "one", definition(planned=(point,), num_trials=1), [5.0])
    trial = ledger.study.trials[0]
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        ledger.study._storage.set_trial_user_attr(trial._trial_id, "outside", {"objective.kl_weight": 3.0})
    import sqlite3

    with sqlite3.connect(tmp_path / "one/optuna.db") as connection:
        connection.execute("update trial_user_attributes set value_json = replace(value_json, '4.0', '3.0')")
    with pytest.raises(StudyError, match="trial 0 of one is damaged"):
        Ledger.open(tmp_path / "one").trials()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model.pooling=mean", "searched among last, max; --try-outside"),
        ("objective.kl_weight=1.5", "0.1 to 1.0"),
        ("training.learning_rate=0.1", "is held at 0.001"),
        ("objective.num_cycles=3", "only while objective.annealing is cyclical"),
        ("model.poling=max", "did you mean model.pooling"),
        ("model.latent_size=big", "searched among 8, 16, 32, 64"),
        ("nothing", "expected NAME=VALUE"),
        ("", "is empty"),
        ("absent.toml", "absent.toml"),
    ],
)
def test_a_point_that_cannot_be_tried_says_why(text, words):
    with pytest.raises(StudyError, match=words.replace("(", r"\(")):
        asked_points([text], space(), may_be_outside=False)


def test_points_come_from_files_as_from_words(tmp_path):
    wanted = [{"model.pooling": "max", "objective.kl_weight": 0.3}, {"model.pooling": "last", "model.latent_size": 8}]
    toml = '[[try]]\nmodel.pooling = "max"\nobjective.kl_weight = 0.3\n[[try]]\nmodel.pooling = "last"\nmodel.latent_size = 8\n'
    (tmp_path / "points.toml").write_text(toml)
    frame = pl.DataFrame(wanted, infer_schema_length=None).with_columns(
        pl.Series("trial", [0, 1]), pl.lit(1.0).alias("valid/nll")
    )
    frame.write_csv(tmp_path / "points.csv")
    frame.write_parquet(tmp_path / "points.parquet")
    for ending in ("toml", "csv", "parquet"):
        assert asked_points([str(tmp_path / f"points.{ending}")], space(), may_be_outside=False) == wanted
    words = ["model.pooling=max objective.kl_weight=0.3", "model.pooling=last model.latent_size=8 training.epochs=20"]
    assert asked_points(words, space(), may_be_outside=False) == wanted


# From another study


def test_a_sampler_knows_what_it_could_have_tried_and_proposes_as_if_it_had(tmp_path):
    """Twelve trials learned, or tried here: the next proposal, by equal random numbers, is the same."""
    values = [5.0 + (index % 5) for index in range(12)]
    tried = try_all(tmp_path / "a/one", definition(num_trials=13), values)
    taken = take_over(tried, definition(num_trials=1), 1)
    assert len(taken.learned) == 12
    assert not taken.points
    assert taken.notes == ("from one: the sampler knows 12 of its 12 trials that are over",)
    new = Ledger.create(tmp_path / "b/one", definition(num_trials=1, learned=taken.learned))

    def proposals(ledger, num):
        from study.record.proposal import draw
        from study.search.learned import known_to_sampler
        from study.search.samplers import make_sampler

        study = ledger.definition
        sampler = make_sampler("tpe", study.space, study.goal, 7, num)
        learned = known_to_sampler(study.learned, study.space, 1)
        return draw(ledger.study, sampler, study.space, num, {}, learned=learned).params

    assert proposals(new, 99) == proposals(tried, 99)
    assert proposals(Ledger.create(tmp_path / "c/one", definition(num_trials=1)), 99) != proposals(tried, 99)
    # It is stored with the study.
    assert Ledger.open(tmp_path / "b/one").definition.learned == taken.learned


def test_what_cannot_be_known_is_tried_again_best_first_and_said(tmp_path):
    old = try_all(tmp_path / "one", definition(num_trials=8), [5.0, 9.0, 4.0, 8.0, 7.0, 6.0, 5.5, 6.5])
    elsewhere = take_over(old, definition(corpus_fingerprint="another"), 20)
    assert not elsewhere.learned
    assert elsewhere.points[0] == old.trials()[2].params
    assert len(elsewhere.points) == 5
    assert any("its corpus is c, another one" in note for note in elsewhere.notes)
    longer = definition().space.fixed.with_values({"training.epochs": 9})
    other = build_space(
        [
            longer.model_dump(exclude_none=True, exclude={"objective": True}),
            {"search": {"model.pooling": ["last", "max"]}},
        ]
    )
    assert any("training.epochs was 3, not 9" in note for note in take_over(old, definition(space=other), 20).notes)
    tiny = definition().space.fixed.model_dump(exclude_none=True, exclude={"objective": True})
    narrow = build_space([tiny, {"search": {"model.pooling": ["last"]}}])
    notes = take_over(old, definition(space=narrow), 20).notes
    assert any("model.pooling is outside last" in note for note in notes)
    with pytest.raises(StudyError, match="nothing of empty can be taken over"):
        take_over(Ledger.create(tmp_path / "empty", definition()), definition(), 20)


def test_trials_are_judged_by_the_new_studys_goal(tmp_path):
    old = try_all(tmp_path / "one", definition(num_trials=2), [5.0, 6.0])
    taken = take_over(old, definition(goal=Goal("nll", (("mi", 3.0),))), 20)
    assert [each.constraints["mi floor"] for each in taken.learned] == [2.0, 2.0]
    assert "judged by this study's objective" in taken.notes[-1]


@pytest.mark.parametrize(
    "allowed",
    [
        Range(values=("a", "b")),
        Range(low=1, high=9),
        Range(low=1, high=9, step=2),
        Range(low=1, high=64, log=True),
        Range(low=0.1, high=1.0),
        Range(low=1e-4, high=1.0, log=True),
        Range(low=0.0, high=1.0, step=0.25),
    ],
)
def test_a_learned_value_has_the_distribution_that_a_drawn_one_has(allowed):
    study = optuna.create_study()
    trial = study.ask()
    value = allowed.suggest(trial, "x")
    assert study.trials[0].distributions == {"x": allowed.distribution()}
    assert allowed.holds(value)


def test_a_pruned_trial_is_learned_as_pruned():
    found = Learned(study="a", trial=3, params={"model.pooling": "max"}, epochs={1: 5.0}, constraints={"mi floor": 1.0})
    frozen = found.frozen(space(), 4)
    assert (frozen.state, frozen.number, frozen.intermediate_values) == (optuna.trial.TrialState.PRUNED, 4, {1: 5.0})
    assert frozen.constraints == {"mi floor": 1.0}


# Trials that no longer count


def test_a_dropped_trial_counts_nowhere_and_stays_on_record(own_copy, call):
    storage = ("--storage", own_copy)
    best = json.loads(call("report", "done", "--answer", *storage)[1])["best"]["trial"]
    code, _, err = call("drop", f"done:{best}", "--why", "beside a benchmark", *storage)
    assert code == 0
    assert "counts no more" in err
    answer = json.loads(call("report", "done", "--answer", *storage)[1])
    assert answer["best"]["trial"] != best
    line = json_lines(call("report", "done", "--json", *storage)[1])[best]
    assert (line["state"], line["reason"], line["feasible"]) == ("dropped", "beside a benchmark", False)
    assert f"trial {best}: beside a benchmark" in call("report", "done", *storage)[1]
    ledger = Ledger.open(own_copy / "done")
    assert ledger.trials()[best].best is NO_EPOCH
    assert ledger.num_left() == 0
    from mlflow import MlflowClient

    client = MlflowClient(ledger.definition.tracking_uri)
    run = client.get_run(ledger.run_ids()[str(best)])
    assert run.data.tags["state"] == "dropped"
    assert math.isnan(run.data.metrics["best/feasible_nll"])
    assert call("drop", f"done:{best}", "--undo", *storage)[0] == 0
    assert json.loads(call("report", "done", "--answer", *storage)[1])["best"]["trial"] == best
    assert not math.isnan(client.get_run(run.info.run_id).data.metrics["best/feasible_nll"])


def test_no_sampler_and_no_schedule_knows_a_dropped_trial(tmp_path):
    from study.execution.schedules import make_scheduler

    dropped = try_all(tmp_path / "a/one", definition(num_trials=13), [1.0, *[5.0 + (index % 5) for index in range(11)]])
    dropped.drop(0, "why")
    seen = make_scheduler(dropped.definition, dropped)
    assert "earlier-0" not in str(seen._brackets[0]._rungs)
    whole = dropped.study.trials
    from study.record.proposal import WithNewTrial

    view = WithNewTrial(dropped.study._storage, whole[0], hidden={0})
    assert [trial.number for trial in view.get_all_trials(dropped.study._study_id)] == list(range(1, 12))


@pytest.mark.parametrize(
    "arguments", [("done:0",), ("done:0", "--why", " "), ("done", "--why", "x"), ("done:77", "--why", "x")]
)
def test_a_trial_that_cannot_be_dropped_is_left(own_copy, call, arguments):
    code, _, err = call("drop", *arguments, "--storage", own_copy)
    assert code == 1
    assert "Traceback" not in err
    assert not (own_copy / "done/dropped.json").exists()


def test_a_trial_that_is_not_over_cannot_be_dropped(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition())
    ledger.ask()
    with pytest.raises(StudyError, match="trial 0 of one is running"):
        ledger.drop(0, "why")
    assert [state.name for state in optuna_states(ledger)] == ["RUNNING"]


# Settled


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_the_expected_best_of_a_part_is_the_mean_over_all_parts(size):
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6, 5.0]
    mean = sum(map(min, itertools.combinations(values, size))) / math.comb(len(values), size)
    assert expected_best(values, size) == pytest.approx(mean)


def test_a_search_settles_when_halving_it_would_have_cost_less_than_luck():
    flat = [5.0 + 0.001 * index for index in range(12)]
    assert has_settled(flat, 0.1)
    assert not has_settled(flat, math.nan)
    assert not has_settled(flat[: LEAST_TRIALS - 1], 0.1)
    assert not has_settled([1.0, *flat], 0.1)
    assert math.isinf(expected_gain([math.inf] * 9 + [5.0]))


def test_a_study_that_has_settled_ends_and_can_be_gone_on_with(ray_session, own_copy, call, monkeypatch):
    storage = ("--storage", own_copy)
    code, _, err = call("run", "--resume", "done", "--trials", 9, "--stop-when-settled", *storage)
    assert code == 1
    assert "needs the noise of seeds" in err
    monkeypatch.setattr("study.execution.start.seed_noise", lambda trials: (0.1, 1))
    monkeypatch.setattr("study.execution.launch.is_settled", lambda definition, trials: True)
    code, _, err = call("run", "--resume", "done", "--trials", 9, "--stop-when-settled", *storage)
    assert code == 0, err
    assert "settled with 3 trials to go" in err
    assert len(json_lines(call("report", "done", "--json", *storage)[1])) == 6


def settled(ledger):
    return is_settled(ledger.definition, ledger.trials())


def test_a_search_is_settled_by_its_own_trials_and_its_seed_noise(tmp_path):
    ledger = try_all(tmp_path / "one", definition(num_trials=12), [5.0] * 12)
    assert not settled(ledger)
    tests = tuple({"model.pooling": "last", "objective.kl_weight": 0.3, "seed": seed} for seed in (0, 1))
    study = definition(num_trials=14, planned=tests, num_tested=2, space=with_test(few_settings(), tests))
    assert settled(try_all(tmp_path / "two", study, [5.0, 5.2, *[5.0] * 12]))
    assert not settled(try_all(tmp_path / "three", study, [5.0, 5.2, 1.0, *[5.0] * 11]))


# Trained again, and longer


def test_a_trial_is_repeated_to_its_own_numbers_and_trained_longer(own_copy, call, tmp_path, corpus):
    storage = ("--storage", own_copy)
    ledger = Ledger.open(own_copy / "done")
    best = next(trial for trial in ledger.trials() if trial.state == State.COMPLETE)
    code, toml, _ = call("settings", f"done:{best.number}", "--toml", *storage)
    assert code == 0
    (tmp_path / "best.toml").write_text(toml)
    for name, arguments in {
        "again": ("--from", f"done:{best.number}"),
        "by-file": (corpus.folder, "--config", tmp_path / "best.toml"),
    }.items():
        code, out, err = call("train", *arguments, "--out", tmp_path / name, *storage)
        assert code == 0, err
        assert [without_times(line) for line in json_lines(out)] == [without_times(each) for each in numbers(best.rows)]
    code, out, err = call("report", tmp_path / "again")
    assert code == 0
    assert f"Settings of done:{best.number}" in out
    assert f"{best.best['valid/nll']:.2f}" in out
    code, out, _ = call("evaluate", tmp_path / "again", "--samples", 5, "--sequences", 10, "--json")
    assert code == 0, "it finds its corpus by itself"
    more = ("--continue", "--set", "training.epochs=1", "--record", "done")
    code, out, err = call("train", "--from", f"done:{best.number}", *more, "--out", tmp_path / "more", *storage)
    assert code == 0, err
    first = json_lines(out)[0]
    assert first["train/kl_weight"] == pytest.approx(
        float(ledger.definition.settings(best.number, best.params).objective.kl_weight)
    )
    assert first["valid/nll"] < best.rows[0]["valid/nll"], "it has learned what the trial had"
    from mlflow import MlflowClient

    client = MlflowClient(ledger.definition.tracking_uri)
    run = client.get_run(err.split("recorded: run ")[1].split()[0])
    assert run.data.tags["mlflow.parentRunId"] == ledger.run_ids()["study"]
    assert run.data.metrics["valid/nll"] == pytest.approx(first["valid/nll"])
    client.delete_run(run.info.run_id)
    code, _, err = call(
        "train", "--from", "done", "--continue", "--set", "model.latent_size=7", "--out", tmp_path / "x", *storage
    )
    assert code == 1
    assert "model.latent_size shapes" in err


def without_times(line):
    return {name: value for name, value in line.items() if "/" in name and not name.startswith(("system/", "train/"))}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--continue",), "--from"),
        (("--from", "done", "--preset", "quick"), "leave out --preset"),
        (("--from", "done:99"), "no trial 99"),
        (("--from", "absent"), "no study named absent"),
    ],
)
def test_training_from_nothing_says_what_is_missing(finished_study, call, tmp_path, arguments, words):
    code, _, err = call("train", *arguments, "--out", tmp_path / "x", "--storage", finished_study)
    assert code == 1
    assert words in err
    assert not (tmp_path / "x").exists()


# What a hostile reader found


@pytest.mark.parametrize("option", ["--concurrent", "--trials"])
def test_a_number_that_would_ruin_a_study_is_refused(own_copy, call, option):
    before = (own_copy / "done/study.json").read_bytes()
    code, _, err = call("run", "--resume", "done", option, 0, "--storage", own_copy)
    assert code in (1, 2)
    assert "Traceback" not in err
    assert (own_copy / "done/study.json").read_bytes() == before
    with pytest.raises(StudyError, match="cannot be changed so"):
        Ledger.open(own_copy / "done").change(concurrent=0)
    assert (own_copy / "done/study.json").read_bytes() == before


def test_a_range_with_steps_holds_its_steps_alone():
    stepped = Range(low=0.1, high=1.0, step=0.3)
    assert [stepped.holds(value) for value in (0.1, 0.4, 0.7, 1.0, 0.5, 1.3)] == [True] * 4 + [False] * 2
    assert [Range(low=1, high=9, step=4).holds(value) for value in (1, 5, 9, 3)] == [True] * 3 + [False]


@pytest.mark.slow
def test_a_repair_without_the_database_keeps_values_outside_the_space(ray_session, corpus, tiny_toml, tmp_path, call):
    point = "model.pooling=max objective.kl_weight=4 training.epochs=2 objective.annealing=constant"
    arguments = ("--config", tiny_toml, "--scheduler", "none", "--try", point, "--try-outside", "--storage", tmp_path)
    code, _, err = call("run", corpus.folder, "--name", "x", "--trials", 1, *arguments)
    assert code == 0, err
    before = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    (tmp_path / "x/optuna.db").write_bytes(b"")
    assert call("doctor", "x", "--repair", "--storage", tmp_path)[0] == 0
    code, _, err = call("run", "--resume", "x", "--storage", tmp_path)
    assert code == 0, err
    after = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert [line["params"] for line in after] == [line["params"] for line in before]
    assert [line["epochs"] for line in after] == [2]


@pytest.mark.slow
def test_a_repair_without_the_database_keeps_a_pooling_test(ray_session, corpus, tiny_toml, tmp_path, call):
    """Seeds and a language model are values of planned trials alone."""
    test = ("--stages", "pooling,search", "--poolings", "max", "--test-weights", "0.3", "--seeds", 2, "--trials", 1)
    first = "model.pooling=max"
    arguments = ("--config", tiny_toml, "--scheduler", "none", *test, "--try", first, "--storage", tmp_path)
    assert call("run", corpus.folder, "--name", "x", *arguments)[0] == 0
    before = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert len(before) == 6
    (tmp_path / "x/optuna.db").write_bytes(b"")
    assert call("doctor", "x", "--repair", "--storage", tmp_path)[0] == 0
    code, _, err = call("run", "--resume", "x", "--storage", tmp_path)
    assert code == 0, err
    after = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert [(line["params"], line["valid"]) for line in after] == [(line["params"], line["valid"]) for line in before]


@pytest.mark.slow
def test_a_dropped_trial_that_is_repaired_is_trained_again_and_stays_dropped(ray_session, own_copy, call):
    storage = ("--storage", own_copy)
    assert call("drop", "done:1", "--why", "bad", *storage)[0] == 0
    journal = own_copy / "done/trials/00001/epochs.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:1]))
    shutil.rmtree(own_copy / "done/trials/00001/checkpoints", ignore_errors=True)
    assert call("doctor", "done", "--repair", *storage)[0] == 0
    code, _, err = call("run", "--resume", "done", *storage)
    assert code == 0, err
    line = json_lines(call("report", "done", "--json", *storage)[1])[1]
    assert (line["state"], line["reason"]) == ("dropped", "bad")


def test_a_trial_outside_the_space_takes_no_setting_from_a_sampler(tmp_path):
    """A sampler of one space for all trials would lose a setting that one of them lacks."""
    outside = {"objective.kl_weight": 4.0}
    ledger = try_all(tmp_path / "one", definition(num_trials=14, planned=(outside,)), [5.0] * 3)
    seen = []
    make = ledger._settle_next.__globals__["draw"]

    def spy(*arguments, hidden=(), **more):
        seen.append(set(hidden))
        return make(*arguments, hidden=hidden, **more)

    ledger._settle_next.__globals__["draw"] = spy
    try:
        ledger.ask()
    finally:
        ledger._settle_next.__globals__["draw"] = make
    assert seen == [{0}]


def test_a_grid_keeps_its_points_beside_those_of_ones_own(corpus, tmp_path):
    settings = ("model.latent_size=3", "objective.annealing=constant", "objective.kl_weight=0.3")
    request = RunRequest(
        storage=tmp_path,
        corpus=str(corpus.folder),
        assignments=settings,
        sampler="grid",
        stages=("search",),
        tries=("objective.kl_weight=0.9",),
        try_outside=True,
    )
    study = new_study(request, "")
    assert study.num_trials == len(study.planned) == 1 + len(study.space.grid())
