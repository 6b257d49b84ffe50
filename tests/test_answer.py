"""What a study answers: pooling by pairs that were planned for it, the best settings by a number that is measured again."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import json_lines, tiny_settings
from studies import definition, row

from benchmarks.endings import main as endings
from model.collapse import Use, use_of
from model.network.vae import SequenceVAE
from model.registry import POOLINGS
from study.analysis.answer import answer_of, renamed, sentences
from study.analysis.pooling_test import max_difference_p, stratified
from study.config.settings import validate
from study.epoch import BEST_EPOCH, MEASURED
from study.execution.schedules import EarlierTrial, new_scheduler
from study.inference.advice import advice
from study.record.ledger import Ledger
from study.record.states import State
from study.record.trials import best_row, best_trial, counts, has_collapsed, make_record, nearest_to_feasible
from study.search.objective import Goal
from study.search.pooling_test import test_points as points_of
from study.search.pooling_test import with_test
from study.search.space import build_space
from study.training.ending import collapse_ends, collapsed_so_far
from study.training.evaluation import score
from study.training.loop import TrainingRun, train


@pytest.mark.parametrize(
    ("mi", "error", "use"),
    [
        (0.0, 0.02, Use.COLLAPSED),  # whatever its KL: 4 nats of it tell no input from another
        (0.03, 0.01, Use.COLLAPSED),  # whatever its active units
        (0.07, 0.02, Use.LITTLE),  # below the threshold, but not beyond its error
        (0.12, 0.01, Use.LITTLE),
        (0.5, 0.3, Use.USED),
        (0.01, math.nan, Use.COLLAPSED),
    ],
)
def test_collapse_is_a_matter_of_what_z_says_of_its_input(mi, error, use):
    assert use_of(mi, error) == use
    assert use_of(mi, error, collapsed_below=0.0) != Use.COLLAPSED


def test_every_table_counts_the_same_trials_as_collapsed():
    made = definition()
    trials = [
        make_record(made, 0, State.COMPLETE, "", {}, [row(1, kl=4.0, au=0).with_metrics({"valid/mi": 0.0})]),
        make_record(made, 1, State.COMPLETE, "", {}, [row(1, kl=0.02, au=1).with_metrics({"valid/mi": 0.03})]),
        make_record(made, 2, State.COLLAPSED, "", {}, [row(1, kl=0.0, au=0)]),
        make_record(made, 3, State.COMPLETE, "", {}, [row(1, kl=2.0)]),
    ]
    assert [has_collapsed(made, trial) for trial in trials] == [True, True, True, False]
    assert [trial.feasible for trial in trials] == [False, False, False, True]
    assert counts(made, trials) == {"collapsed": 3, "complete": 1}


TUNE = SimpleNamespace(get_live_trials=list)


def measured(rows, epoch, **metrics):
    last = rows[-1].with_metrics({f"{MEASURED}{name}": value for name, value in metrics.items()} | {BEST_EPOCH: epoch})
    return [*rows[:-1], replace(last, outcome="complete")]


def test_the_winner_is_by_what_was_measured_at_the_end_not_by_the_estimates_of_training():
    made = definition(goal=Goal())
    modest = measured([row(1, 61.0), row(2, 60.37)], 2, nll=60.32, kl=0.5, mi=0.5, mi_se=0.01, au=3)
    informative = measured([row(1, 61.5), row(2, 60.9)], 2, nll=60.25, kl=3.3, mi=2.5, mi_se=0.01, au=4)
    trials = [
        make_record(made, number, State.COMPLETE, "", {}, rows) for number, rows in enumerate((modest, informative))
    ]
    assert best_trial(trials).number == 1
    assert best_trial(trials).best["valid/nll"] == 60.25
    assert best_row(informative, made).number == 2
    assert made.goal.values(best_row(informative, made)) == [60.25]


def test_a_trial_of_which_it_is_not_known_whether_it_may_win_does_not():
    goal = Goal.parse("nll", ["mi=0.5"], 0.1)
    assert goal.is_feasible(row(1, 60.0, kl=1.0))
    unknown = row(1, 60.0, kl=math.nan)
    assert math.isnan(unknown["valid/mi"])
    assert goal.missed_by(unknown) == math.inf
    assert not goal.is_feasible(unknown)


def test_a_run_measures_its_best_epoch_again_to_its_stated_error(corpus, tmp_path):
    settings = tiny_settings(training={"epochs": 4}, evaluation={"num_samples": 2, "num_sequences": None})
    rows = list(train(settings, corpus, tmp_path))
    assert [BEST_EPOCH in each.metrics for each in rows] == [False, False, False, True]
    last = rows[-1]
    from model.weights import load_network
    from study.record.places import best_folder

    network = load_network(best_folder(tmp_path, int(last[BEST_EPOCH])))
    reference = score(network, corpus.split("valid"), num_samples=1000, widen=True).metrics(debiased=True)
    assert last["measured/samples"] >= 16
    assert last["measured/nll"] == pytest.approx(reference["nll"], abs=4 * last["measured/nll_se"] + 0.01)
    assert last["measured/mi"] == pytest.approx(reference["mi"], abs=4 * last["measured/mi_se"] + 1e-6)
    # The same again, from the checkpoint, and the run goes on from its last weights, not its best ones.
    assert list(train(settings, corpus, tmp_path))[-1] == last


def test_a_trial_that_was_ended_early_never_wins_over_a_complete_one():
    made = definition()
    early = make_record(made, 0, State.PRUNED, "", {}, [row(1, 3.0)])
    whole = make_record(made, 1, State.COMPLETE, "", {}, [row(1, 5.0), row(2, 4.0)])
    assert best_trial([early, whole]).number == 1
    assert best_trial([early]).number == 0
    told = " ".join(sentences(made, answer_of(made, [early])))
    assert "trial 0, which was ended early" in told


def test_where_no_trial_reaches_the_floor_the_answer_says_so_and_what_comes_nearest():
    made = definition(goal=Goal.parse("nll", ["mi=1"], 0.1))
    trials = [
        make_record(made, number, State.COMPLETE, "", {}, [row(1, 5.0 - mi, kl=mi)])
        for number, mi in enumerate((0.2, 0.8, 0.5))
    ]
    assert best_trial(trials) is None
    assert nearest_to_feasible(made, trials).number == 1
    assert "none reaches what is asked (mi of at least 1); nearest is trial 1" in " ".join(
        sentences(made, answer_of(made, trials))
    )


def test_half_a_nat_is_the_floor_unless_another_is_given():
    assert Goal.parse("nll", [], 0.1).floors == (("mi", 0.5),)
    assert Goal.parse("nll", ["mi=0"], 0.1).floors == ()
    assert Goal.parse("nll", ["mi=0", "au=2"], 0.1).floors == (("au", 2.0),)


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_trial_that_may_win_is_not_ended_for_others_that_may_not(scheduler):
    made = definition(scheduler=scheduler, grace_epochs=1, goal=Goal.parse("nll", ["mi=1"], 0.1))
    schedule = new_scheduler(made)
    gaussian = {"settings": {"model": {"posterior": "gaussian"}}}
    for number in range(12):
        trial = EarlierTrial(f"t{number}", gaussian | {"trial": number})
        schedule.on_trial_add(None, trial)
        schedule.on_trial_result(TUNE, trial, row(1, 4.0, kl=0.2).to_json())
    feasible = EarlierTrial("feasible", gaussian | {"trial": 20})
    schedule.on_trial_add(None, feasible)
    assert schedule.on_trial_result(TUNE, feasible, row(1, 5.0, kl=2.0).to_json()) == "CONTINUE"


def weighted(epochs=10, **evaluation):
    return validate(
        {
            "training": {"epochs": epochs},
            "objective": {"annealing": "linear", "annealing_fraction": 0.2},
            "evaluation": evaluation,
        }
    )


def ended_at(settings, curve):
    kept = []
    for epoch, (mi, kl) in enumerate(curve, 1):
        kept = collapsed_so_far(kept, epoch, settings, {"mi": mi, "mi_se": 0.01, "kl": kl})
        if collapse_ends(kept, epoch, settings):
            return epoch
    return None


def test_collapse_ends_a_run_by_evidence():
    settings = weighted()
    # The weight is final from epoch 3 on: three epochs, and half of training.
    assert ended_at(settings, [(0.0, 0.01)] * 10) == 5
    assert ended_at(settings, [(1.0, 1.0)] * 5 + [(0.0, 0.01)] * 5) == 8
    # One that comes back is left alone, and so is one whose information may be above the threshold.
    assert ended_at(settings, [(0.01 * epoch, 0.01 * 1.5**epoch) for epoch in range(1, 11)]) is None
    assert ended_at(settings, [(0.09, 0.1)] * 10) is None
    assert ended_at(weighted(collapse_mi_nats=0.0), [(0.0, 0.0)] * 10) is None


def test_on_recorded_curves_no_trial_that_recovers_is_ended(capsys):
    endings.callback(path=endings.params[0].default)
    numbers = capsys.readouterr().out.splitlines()[1].split()
    assert int(numbers[0]) == 64
    assert int(numbers[1]) >= 30
    assert int(numbers[2]) <= 0.02 * int(numbers[1])


def test_encoders_of_equal_shape_start_from_equal_weights():
    networks = {}
    for name, pooling in POOLINGS.items():
        if pooling.width == 1 and not pooling.needs_sight:
            torch.manual_seed(3)
            networks[name] = SequenceVAE(tiny_settings(model={"pooling": name}).model, 50).state_dict()
    assert {"last", "mean", "max", "attention"} <= networks.keys()
    for state in networks.values():
        for name, tensor in networks["last"].items():
            assert torch.equal(tensor, state[name]), name


def space_with(search=None, **fixed):
    return build_space(
        [tiny_settings().model_dump(exclude_none=True, exclude={"objective": True}), fixed, {"search": search or {}}]
    )


def test_the_pooling_test_is_pairs_at_each_weight_and_seed_with_all_else_equal():
    space = build_space([{"search": {"model.latent_size": [4, 8]}}])
    points = points_of(space, None, None, 2)
    *runs, model = points
    assert model == {"method": "language-model", "seed": 0}
    assert len(runs) == 3 * 3 * 2
    assert {(run["model.pooling"], run["objective.kl_weight"], run["seed"]) for run in runs} == {
        (pooling, weight, seed) for pooling in ("last", "mean", "max") for weight in (0.15, 0.3, 0.6) for seed in (0, 1)
    }
    others = {
        tuple(
            (name, value) for name, value in run.items() if name not in ("model.pooling", "objective.kl_weight", "seed")
        )
        for run in runs
    }
    assert len(others) == 1
    tested = with_test(space, points)
    assert "seed" not in tested.searched
    assert tested.settings(model).model.posterior == "none"
    assert type(tested).from_json(json.loads(json.dumps(tested.to_json()))).only_planned == tested.only_planned


def test_a_tested_trial_is_trained_to_its_end_and_the_searched_ones_have_no_seed(tmp_path):
    space = build_space([{"search": {"model.latent_size": [4, 8]}}])
    points = points_of(space, None, [0.2], 1)
    made = definition(space=with_test(space, points), num_trials=8, planned=tuple(points), num_tested=len(points))
    ledger = Ledger.create(tmp_path / "one", made)
    found = [ledger.ask() for _ in range(8)]
    assert [params for _, params in found[:4]] == points
    assert all("seed" not in params and "method" not in params for _, params in found[4:])
    assert made.settings(0, points[0]).evaluation.collapse_epochs > 1000
    assert made.settings(*found[5]).evaluation.collapse_epochs == 3
    schedule = new_scheduler(replace(made, scheduler="asha", grace_epochs=1))
    gaussian = {"settings": {"model": {"posterior": "gaussian"}}}
    for number in range(20, 32):
        trial = EarlierTrial(f"t{number}", gaussian | {"trial": number})
        schedule.on_trial_add(None, trial)
        schedule.on_trial_result(None, trial, row(1, 1.0, kl=2.0).to_json())
    tested, searched = (EarlierTrial(f"late {number}", gaussian | {"trial": number}) for number in (0, 40))
    for trial, decision in ((tested, "CONTINUE"), (searched, "STOP")):
        schedule.on_trial_add(None, trial)
        assert schedule.on_trial_result(None, trial, row(1, 9.0, kl=2.0).to_json()) == decision


def draws(seed, effect):
    draw = np.random.default_rng(seed)
    levels = np.repeat([1.0, 0.2, 0.01], 2)[:, None]
    return levels * np.exp(draw.normal(0.0, 0.3, (6, 3)) + np.array([0.0, effect, effect]))


def test_poolings_that_are_alike_get_a_verdict_in_one_study_of_twenty_at_most_and_others_are_found():
    false = sum(min(max_difference_p(draws(seed, 0.0), 999)) < 0.05 for seed in range(300))
    assert false <= 300 * 0.05 + 2 * math.sqrt(300 * 0.05 * 0.95)
    found = sum(min(max_difference_p(draws(seed, 1.1), 999)) < 0.05 for seed in range(100))
    assert found >= 80


def test_the_interval_of_pairs_is_that_of_seeds_within_weights():
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        groups = [list(level + draw.normal(0.0, 0.2, 3)) for level in (0.0, 1.0, 2.0)]
        found, _ = stratified(groups)
        inside += found.low <= 1.0 <= found.high
    assert 0.92 <= inside / 400 <= 0.98
    alone, detectable = stratified([[1.0]])
    assert (alone.low, detectable) == (-math.inf, math.inf)


def pooled_study(values):
    """Return a definition and trials of a pooling test with this mutual information by pooling, weight and seed."""
    space = build_space([{"search": {"model.latent_size": [4, 8]}}])
    points = points_of(space, None, None, 2)
    made = definition(
        space=with_test(space, points), num_trials=len(points), planned=tuple(points), num_tested=len(points)
    )
    trials = []
    for number, point in enumerate(points):
        if "method" in point:
            epoch = row(1, 4.9, kl=0.0, au=0)
        else:
            mi = values(point["model.pooling"], point["objective.kl_weight"], point["seed"])
            epoch = row(1, 5.0, kl=mi).with_metrics({"valid/mi_se": 0.01})
        trials.append(make_record(made, number, State.COMPLETE, "", point, [epoch]))
    return made, trials


def test_the_answer_finds_what_pooling_adds_and_says_what_it_cannot_tell():
    gains = {"last": 0.5, "mean": 1.5, "max": 2.0}
    made, trials = pooled_study(lambda pooling, weight, seed: gains[pooling] * (1 - weight) + 0.01 * seed)
    found = json.loads(json.dumps(answer_of(made, trials).as_json()))
    assert [one["pooling"] for one in found["pooling"]] == ["mean", "max"]
    assert [one["verdict"] for one in found["pooling"]] == ["more", "more"]
    assert [one["pairs"] for one in found["pooling"]] == [6, 6]
    one = found["pooling"][1]
    assert one["mi"]["low"] <= one["mi"]["difference"] <= one["mi"]["high"]
    assert one["mi"]["difference"] == pytest.approx(np.mean([1.5 * (1 - weight) for weight in (0.15, 0.3, 0.6)]))
    assert found["language_model"]["nll"] == 4.9
    assert found["best"]["feasible"]
    alike, trials = pooled_study(lambda pooling, weight, seed: 1.0 + 0.1 * seed * (len(pooling) - 4))
    assert {one.verdict for one in answer_of(alike, trials).pooling} == {"undecided"}
    nothing, trials = pooled_study(lambda pooling, weight, seed: 0.0)
    assert {one.verdict for one in answer_of(nothing, trials).pooling} == {"not testable"}
    assert "lower KL weights" in answer_of(nothing, trials).pooling[0].why
    few, trials = pooled_study(lambda pooling, weight, seed: 1.0)
    assert answer_of(few, trials[:3]).pooling[0].verdict == "not testable"


def test_where_half_of_a_poolings_runs_collapse():
    made, trials = pooled_study(
        lambda pooling, weight, seed: 1.0 if weight < {"last": 0.2, "mean": 0.5, "max": 9.0}[pooling] else 0.0
    )
    by_name = {one.pooling: one for one in answer_of(made, trials).pooling}
    assert 0.3 < by_name["mean"].collapses_at < 0.6
    assert by_name["max"].collapses_at is None
    assert (by_name["mean"].collapsed.number, by_name["mean"].against_collapsed.number) == (2, 4)
    assert by_name["max"].collapsed.low == 0.0
    assert 0.3 < by_name["max"].collapsed.high < 0.6


def test_the_command_prints_the_answer_as_one_object(finished_study, call):
    code, out, _ = call("report", "done", "--answer", "--storage", finished_study)
    assert code == 0
    found = json_lines(out.replace("\n", ""))[0]
    assert set(found) == {"pooling", "best", "language_model"}


def test_advice_never_contradicts_the_studys_own_test():
    settings = tiny_settings(model={"pooling": "last"})
    general = advice(settings, {})
    assert any(each.startswith("pool the encoder's states (mean)") for each in general)
    assert not any("chat messages" in each for each in general)
    assert any("chat messages" in each for each in advice(settings, {}, with_evidence=True))
    better = advice(settings, {}, {"mean": "undecided", "max": "more"})
    assert any("(max): it carries more here" in each for each in better)
    assert not any("pool the encoder" in each for each in advice(settings, {}, {"mean": "less", "max": "undecided"}))


def test_the_first_epoch_has_what_the_encoder_was_before_it_learned(corpus, tmp_path):
    rows = list(train(tiny_settings(), corpus, tmp_path))
    assert ["valid/initial_dispersion" in each.metrics for each in rows] == [True, False, False]
    assert -1.0 <= rows[0]["valid/initial_dispersion"] <= 1.0
    assert rows[0]["valid/initial_dispersion"] != rows[0]["valid/dispersion"]


def test_a_weight_that_rises_to_the_end_gets_there(corpus, tmp_path):
    settings = tiny_settings(objective={"annealing": "linear", "annealing_fraction": 1.0, "kl_weight": 0.7})
    run = TrainingRun(settings, corpus, tmp_path)
    weights = []
    step = run.step
    run.step = lambda batch: (weights.append(run.kl_weight()), step(batch))
    for _ in range(settings.training.epochs):
        run.train_epoch(lambda: False)
        run.finish_epoch()
    assert weights[0] == 0.0
    assert weights[-1] == pytest.approx(0.7)
    assert weights == sorted(weights)


def test_what_ranks_is_renamed_in_an_answer_and_settings_are_not():
    found = {
        "best": {"nll": 1.0, "settings": {"own.nll_weight": 2}},
        "pooling": [{"detectable_nll": 0.1, "why": "nll"}],
    }
    assert renamed(found, "elbo") == {
        "best": {"elbo": 1.0, "settings": {"own.nll_weight": 2}},
        "pooling": [{"detectable_elbo": 0.1, "why": "nll"}],
    }
