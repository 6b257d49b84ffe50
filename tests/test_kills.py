"""A driver killed before and after everything that it writes: the study gone on with is the one left alone, to a digit."""

import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import json_lines
from optuna.storages import RDBStorage
from studies import check_records_agree, definition, start
from studies import row as make_row

from study.execution.schedules import make_scheduler
from study.execution.tuning import LedgerCallback, LedgerSearcher
from study.record import database, ledger
from study.record.ledger import Ledger
from study.search import definition as definition_module
from study.search.samplers import SAMPLER_NAMES
from study.search.space import build_space

NUM_TRIALS, NUM_EPOCHS = 11, 4
WRITERS = (
    (RDBStorage, "_create_new_trial"),
    (RDBStorage, "_set_trial_param"),
    (RDBStorage, "set_trial_system_attr"),
    (RDBStorage, "set_study_system_attr"),
    (RDBStorage, "set_trial_user_attr"),
    (RDBStorage, "set_trial_state_values"),
    (RDBStorage, "set_trial_intermediate_value"),
    (ledger, "append_journal"),
    (ledger, "write_definition"),
    (database, "new_study"),
    (LedgerCallback, "_finish"),
    (definition_module, "write_json"),
)
"""Everything by which a study's record changes."""


class TuneTrial:
    """What a schedule and our callback ask of a trial of Tune's."""

    def __init__(self, trial_id, config):
        self.trial_id, self.config, self.status = trial_id, config, "RUNNING"
        self.run_metadata = SimpleNamespace(num_failures=0)


def space():
    layers = [
        {"model": {"hidden_size": 12, "embedding_size": 8}, "training": {"epochs": NUM_EPOCHS}},
        {
            "search": {
                "model.pooling": ["last", "max", "mean"],
                "objective.kl_weight": {"low": 0.1, "high": 1.0},
                "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            }
        },
    ]
    return build_space(layers)


def metric(number, params, epoch):
    """A made-up nll that depends on the trial's values, so that samplers have something to go by."""
    noise = int(hashlib.sha256(f"{sorted(params.items())}".encode()).hexdigest()[:6], 16) / 2**24
    return 60.0 + 5 * params.get("objective.kl_weight", 0.5) + noise - epoch / 10 * (number % 3)


def drive(folder, made):
    """Run a study as Tune would, one trial at a time, without training anything; return its record."""
    if (folder / "study.json").exists():
        study = Ledger.open(folder)
        study.lock()
    else:
        study = Ledger.create(folder, made)
    study.release_interrupted()
    callback = LedgerCallback(study, lambda *_: None)
    searcher = LedgerSearcher(study, callback)
    callback.scheduler = make_scheduler(made, study)
    while isinstance(config := searcher.suggest("id"), dict):
        number, params = config["trial"], config["params"]
        trial = TuneTrial(f"t{number}", config)
        callback.scheduler.on_trial_add(None, trial)
        callback.on_trial_start(0, [], trial)
        for epoch in range(config["rows_seen"] + 1, NUM_EPOCHS + 1):
            ended = "complete" if epoch == NUM_EPOCHS else ""
            row = make_row(epoch, metric(number, params, epoch), outcome=ended).to_json()
            decision = callback.scheduler.on_trial_result(SimpleNamespace(get_live_trials=list), trial, row)
            callback.on_trial_result(0, [], trial, row)
            if decision == "STOP":
                break
        callback.scheduler.on_trial_complete(None, trial, row)
        callback.on_trial_complete(0, [], trial)
    found = [(t.number, t.state, t.reason, t.params, len(t.rows), t.best) for t in study.trials()]
    study.close()
    return [(*rest, replace(best, recorded_at=None)) for *rest, best in found]


def in_child(folder, made, kill_at=None):
    """Drive in a process of its own that dies at a boundary; return the boundaries that it passed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        passed = []

        def tick(what):
            if len(passed) == kill_at:
                os._exit(9)
            passed.append(what)

        for owner, name in WRITERS:
            real = getattr(owner, name)

            def wrapped(*arguments, real=real, name=name, **options):
                tick(f"before {name}")
                result = real(*arguments, **options)
                tick(f"after {name}")
                return result

            setattr(owner, name, wrapped)
        status = 1
        try:
            drive(folder, made)
            os.write(writing, "\n".join(passed).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        passed = stream.read().decode().split("\n")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (0 if kill_at is None else 9)
    return passed


def places(passed, per_kind):
    """Return boundaries to kill at: ends of trials, and of each kind some late ones, when samplers have learned."""
    ends = [place for place, each in enumerate(passed) if each == "before _finish"]
    draw, found = random.Random(3), set(ends[::2] if per_kind else ends)
    for kind in Counter(passed):
        at = [place for place, each in enumerate(passed) if each == kind]
        late = at[len(at) * 2 // 3 :]
        found |= {*draw.sample(late, min(per_kind, len(late)))}
    return sorted(found)


def check(tmp_path, per_kind, **changes):
    made = definition(space=space(), num_trials=NUM_TRIALS, grace_epochs=2, **changes)
    undisturbed = drive(tmp_path / "undisturbed/one", made)
    passed = in_child(tmp_path / "counted/one", made)
    chosen = places(passed, per_kind)
    for place in chosen:
        folder = tmp_path / f"killed-{place}/one"
        in_child(folder, made, place)
        assert drive(folder, made) == undisturbed, f"killed {passed[place]}, boundary {place} of {len(passed)}"
    return len(chosen), undisturbed


def test_a_driver_killed_at_what_it_writes_goes_on_with_the_same_study(tmp_path):
    num, undisturbed = check(tmp_path, 0, sampler="tpe", scheduler="asha")
    assert num == NUM_TRIALS
    assert {state for _, state, *_ in undisturbed} == {"complete", "pruned"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "scheduler"), [*((name, "asha") for name in SAMPLER_NAMES), ("tpe", "median"), ("random", "none")]
)
def test_every_sampler_and_schedule_killed_at_what_it_writes(tmp_path, sampler, scheduler):
    planned = tuple(space().grid()[:3]) if sampler == "grid" else ()
    check(tmp_path, 1, sampler=sampler, scheduler=scheduler, planned=planned)


PLACED = {
    "before a trial is stored": ("study.record.ledger", "store", "before", 4),
    "after a trial is stored, before it is taken": ("study.record.ledger", "store", "after", 4),
    "after an epoch is in the journal, before Optuna hears of it": (
        "study.record.ledger",
        "append_journal",
        "after",
        7,
    ),
    "after the epoch at which the schedule ends a trial": (
        "study.execution.tuning",
        "LedgerCallback._finish",
        "before",
        2,
    ),
    "after Optuna is told of a trial's end, before MLflow is": ("study.record.ledger", "Ledger.finish", "after", 3),
    "while MLflow is sent a trial's end": ("study.tracking.tracker", "Tracker._finish", "before", 2),
    "after MLflow is sent a trial's end": ("study.tracking.tracker", "Tracker._finish", "after", 2),
}
"""Where a driver is killed: module, function, before or after its call, and which call."""

KILLED = """
import os, sys
from importlib import import_module
from study.cli.main import entry
module, path, when, number = {place!r}
*owners, name = path.split(".")
owner = import_module(module)
for each in owners:
    owner = getattr(owner, each)
real, calls = getattr(owner, name), [0]
def placed(*arguments, **options):
    calls[0] += 1
    if calls[0] == number and when == "before":
        os.killpg(os.getpgrp(), 9)
    result = real(*arguments, **options)
    if calls[0] == number:
        os.killpg(os.getpgrp(), 9)
    return result
setattr(owner, name, placed)
entry()
"""


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.fault("driver killed at a placed boundary, then equal to the undisturbed study", len(PLACED))
def test_a_real_study_killed_at_placed_boundaries_is_the_undisturbed_one(corpus, tiny_toml, tmp_path, call):
    settings = (
        "run",
        corpus.folder,
        "--config",
        tiny_toml,
        "--set",
        "training.epochs=4",
        "--trials",
        6,
        "--concurrent",
        1,
        "--name",
        "x",
    )

    def report(storage):
        lines = json_lines(call("report", "x", "--json", "--storage", storage)[1])
        check_records_agree(storage, "x", lines)
        return [
            {name: line[name] for name in ("trial", "state", "reason", "epochs", "params", "valid")} for line in lines
        ]

    log = tmp_path / "stderr"
    assert start(log, *settings, "--storage", tmp_path / "undisturbed").wait(timeout=300) == 0, log.read_text()
    undisturbed = report(tmp_path / "undisturbed")
    assert {line["state"] for line in undisturbed} >= {"complete", "pruned"}
    for number, (where, place) in enumerate(PLACED.items()):
        storage = tmp_path / str(number)
        command = [sys.executable, "-c", KILLED.format(place=place), *settings, "--storage", storage]
        killed = subprocess.run(
            list(map(str, command)), start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        assert killed.returncode == -9, where
        assert start(log, "run", "--resume", "x", "--storage", storage).wait(timeout=300) == 0, log.read_text()
        assert report(storage) == undisturbed, where
