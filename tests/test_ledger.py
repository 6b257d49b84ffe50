"""The ledger: Optuna's states mean what they say, whatever interrupts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from studies import definition, optuna_states, row

from study.epoch import NO_EPOCH, Epoch
from study.errors import StudyError
from study.execution.schedules import EarlierTrial, feed, make_scheduler
from study.record.journal import append_journal, read_journal
from study.record.ledger import Ledger
from study.record.states import State
from study.search.objective import Goal


def test_each_end_of_a_trial_is_told_truly(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition())
    for state, rows in (
        ("complete", [row(1), row(2, 4.0)]),
        ("pruned", [row(1)]),
        ("collapsed", [row(1, kl=0.0, au=0)]),
        ("failed", []),
    ):
        number, _ = ledger.ask()
        for each in rows:
            ledger.add_row(number, each)
        ledger.finish(number, State(state), "because" if state == "failed" else "")
    assert optuna_states(ledger) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED, TrialState.FAIL]
    trials = ledger.trials()
    assert [trial.state for trial in trials] == ["complete", "pruned", "collapsed", "failed"]
    assert [trial.feasible for trial in trials] == [True, True, False, False]
    assert trials[0].best.number == 2
    assert trials[3].reason == "because"
    assert ledger.study.best_value == 4.0
    assert ledger.num_left() == 0


def test_an_interrupted_trial_is_handed_out_again_as_itself(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition())
    number, values = ledger.ask()
    ledger.add_row(number, row(1))
    ledger.close()
    again = Ledger.open(tmp_path / "one")
    again.lock()
    assert again.release_interrupted() == [number]
    assert optuna_states(again) == [TrialState.WAITING]
    assert again.trials()[0].state == "waiting"
    assert again.num_left() == 4
    assert again.ask() == (number, values)
    assert not again.add_row(number, row(1))
    assert again.add_row(number, row(2))
    again.finish(number, State.COMPLETE)
    assert [each.number for each in again.trials()[0].rows] == [1, 2]
    assert optuna_states(again) == [TrialState.COMPLETE]


def test_a_restart_proposes_what_would_have_been_proposed(tmp_path):
    def run(folder, *, restart):
        ledger = Ledger.create(folder, definition(num_trials=12))
        proposed = []
        for index in range(12):
            if restart:
                ledger.close()
                ledger = Ledger.open(folder)
                ledger.lock()
            number, values = ledger.ask()
            proposed.append(values)
            ledger.add_row(number, row(1, nll=float(index % 5)))
            ledger.finish(number, State.COMPLETE)
        return proposed

    assert run(tmp_path / "a", restart=False) == run(tmp_path / "b", restart=True)


def test_a_line_that_a_crash_cut_short_is_dropped_and_repaired(tmp_path):
    append_journal(tmp_path, row(1))
    with (tmp_path / "epochs.jsonl").open("a") as stream:
        stream.write('{"epoch": 2, "val')
    assert [each.number for each in read_journal(tmp_path)] == [1]
    append_journal(tmp_path, row(2))
    assert [each.number for each in read_journal(tmp_path)] == [1, 2]


def test_epochs_that_a_crash_kept_from_optuna_are_told_on_the_next_ask(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition())
    number, _ = ledger.ask()
    append_journal(ledger.trial_folder(number), row(1, 7.0))
    ledger.close()
    again = Ledger.open(tmp_path / "one")
    again.release_interrupted()
    again.ask()
    assert again.study.trials[0].intermediate_values == {1: 7.0}


def test_one_process_writes_at_a_time(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition())
    other = Ledger.open(tmp_path / "one")
    assert other.is_locked()
    with pytest.raises(StudyError, match="being run by another process"):
        other.lock()
    ledger.close()
    assert not other.is_locked()
    with pytest.raises(StudyError, match="exists already"):
        Ledger.create(tmp_path / "one", definition())


def test_a_pareto_study_keeps_two_values_and_constraints(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition(goal=Goal("pareto")))
    for nll, mi, state in (
        (5.0, 1.0, "complete"),
        (6.0, 2.0, "complete"),
        (7.0, 1.5, "complete"),
        (4.0, 0.0, "pruned"),
    ):
        number, _ = ledger.ask()
        ledger.add_row(number, row(1, nll).with_metrics({"valid/mi": mi}))
        ledger.finish(number, State(state))
    assert sorted(trial.number for trial in ledger.study.best_trials) == [0, 1]


def test_the_definition_survives_the_disk(tmp_path):
    made = definition(goal=Goal("nll", (("au", 1.0),)), seed=9, sampler="random")
    Ledger.create(tmp_path / "one", made).close()
    again = Ledger.open(tmp_path / "one").definition
    assert again.to_json() == made.to_json()


def test_a_study_killed_while_it_was_created_can_be_resumed(tmp_path):
    Ledger.create(tmp_path / "one", definition()).close()
    (tmp_path / "one/optuna.db").unlink()
    ledger = Ledger.open(tmp_path / "one")
    assert ledger.ask()[0] == 0
    (tmp_path / "one/optuna.db").unlink()
    (tmp_path / "one/trials").mkdir(exist_ok=True)
    with pytest.raises(StudyError, match="damaged"):
        Ledger.open(tmp_path / "one")


def test_a_study_killed_while_its_definition_was_written_does_not_keep_its_name(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/.writing-0a1b2c-study.json").write_text('{"name": ')
    (tmp_path / "one/.lock").touch()
    assert Ledger.create(tmp_path / "one", definition()).ask()[0] == 0


GAUSSIAN = {"trial": 7, "settings": {"model": {"posterior": "gaussian"}}}


@pytest.mark.parametrize("scheduler", ["asha", "median", "none"])
def test_a_schedule_is_rebuilt_from_the_record(tmp_path, scheduler):
    made = definition(scheduler=scheduler, grace_epochs=1, num_trials=9)
    ledger = Ledger.create(tmp_path / "one", made)
    for nll in (1.0, 2.0, 3.0, 4.0):
        number, _ = ledger.ask()
        for epoch in (1, 2, 3):
            ledger.add_row(number, row(epoch, nll))
        ledger.finish(number, State.COMPLETE)
    rebuilt = make_scheduler(made, ledger)
    late = EarlierTrial("late", GAUSSIAN)
    rebuilt.on_trial_add(None, late)
    decision = rebuilt.on_trial_result(None, late, row(1, 99.0).to_json() | {"training_iteration": 1})
    assert decision == ("CONTINUE" if scheduler == "none" else "STOP")


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_what_cannot_win_ends_nothing_that_can(tmp_path, scheduler):
    made = definition(scheduler=scheduler, grace_epochs=1, num_trials=9)
    schedule = make_scheduler(made, Ledger.create(tmp_path / "one", made))
    tune = SimpleNamespace(get_live_trials=list)

    def decision(name, nll, posterior="gaussian", **more):
        trial = EarlierTrial(name, {"trial": 7, "settings": {"model": {"posterior": posterior}}})
        schedule.on_trial_add(None, trial)
        found = schedule.on_trial_result(tune, trial, row(1, nll, **more).to_json() | {"training_iteration": 1})
        schedule.on_trial_complete(tune, trial, row(1, nll, **more).to_json() | {"training_iteration": 1})
        return found

    for number in range(6):
        decision(f"collapsed {number}", 1.0 + number / 10, kl=0.0, au=0)
        assert decision(f"language model {number}", 1.0, "none", kl=0.0, au=0) == "CONTINUE"
    assert decision("worse, but in use", 5.0) == "CONTINUE"
    for number in range(9):
        decision(f"in use {number}", 4.0)
    assert decision("collapsed too", 2.0, kl=0.0, au=0) == "STOP"
    assert decision("language model", 9.0, "none", kl=0.0, au=0) == "CONTINUE"


def test_a_resumed_trial_keeps_the_rungs_that_it_passed(tmp_path):
    made = definition(scheduler="asha", grace_epochs=1, num_trials=9)
    ledger = Ledger.create(tmp_path / "one", made)
    rebuilt = make_scheduler(made, ledger)
    resumed = EarlierTrial("resumed", GAUSSIAN)
    rebuilt.on_trial_add(None, resumed)
    feed(rebuilt, resumed, [row(1, 7.0), row(2, 6.0)])
    first_rung = rebuilt._brackets[0]._rungs[-1][1]
    assert first_rung == {"resumed": -7.0}


def test_an_epoch_is_the_same_after_it_was_stored():
    for epoch in (
        row(3, outcome="complete"),
        replace(row(1), phase="pretraining", node="a", recorded_at=12.5),
        Epoch(1, 10, 0.5, {"train/loss": 2.0, "valid/nll": float("inf")}),
    ):
        assert Epoch.from_json(json.loads(json.dumps(epoch.to_json()))) == epoch
        assert epoch
    assert not NO_EPOCH
    with pytest.raises(TypeError, match="seconds is 'soon'"):
        Epoch.from_json({"epoch": 1, "seconds": "soon"})
