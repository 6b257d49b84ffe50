"""A driver killed at any moment: the study is gone on with, nothing twice, nothing lost, nothing left RUNNING."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import json_lines
from hosts import wait_until
from studies import check_records_agree, num_epochs, start

pytestmark = pytest.mark.cluster

NUM_TRIALS, NUM_KILLS = 24, 20


def wait_for_study(storage, process, seconds=60):
    deadline = time.monotonic() + seconds
    while not (storage / "x/study.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sizes(report):
    return [(line["trial"], line["state"], line["epochs"], line["params"]) for line in report]


@pytest.mark.fault("driver killed (SIGKILL) at a random moment", NUM_KILLS)
@pytest.mark.long
def test_a_driver_killed_at_twenty_moments(corpus, tiny_toml, tmp_path, call):
    settings = (
        corpus.folder,
        "--config",
        tiny_toml,
        "--set",
        "training.epochs=60",
        "--scheduler",
        "none",
        "--sampler",
        "random",
        "--trials",
        NUM_TRIALS,
        "--name",
        "x",
    )
    draw, log = random.Random(7), tmp_path / "stderr"
    process = start(log, "run", *settings, "--storage", tmp_path)
    wait_for_study(tmp_path, process)
    for number in range(NUM_KILLS):
        # Every second one while trials train; the others at any moment of its start.
        if number % 2:
            before = num_epochs(tmp_path)
            wait_until(lambda before=before: num_epochs(tmp_path) > before, 120)
        time.sleep(draw.uniform(0, 2) if number % 2 else draw.uniform(1, 10))
        finished_before = process.poll() is not None
        process.kill()
        process.wait()
        assert not finished_before
        states = [line["state"] for line in json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])]
        assert len(states) <= NUM_TRIALS
        process = start(log, "run", "--resume", "x", "--storage", tmp_path)
    assert process.wait(timeout=600) == 0, log.read_text()
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert [line["trial"] for line in report] == list(range(NUM_TRIALS))
    assert {line["state"] for line in report} == {"complete"}
    check_records_agree(tmp_path, "x", report)
    undisturbed = start(log, "run", *settings, "--storage", tmp_path / "undisturbed")
    assert undisturbed.wait(timeout=600) == 0, log.read_text()
    other = json_lines(call("report", "x", "--json", "--storage", tmp_path / "undisturbed")[1])
    assert sizes(other) == sizes(report)
    assert [line["valid"] for line in other] == [line["valid"] for line in report]


@pytest.mark.fault("a process killed while it makes MLflow's database", 4)
def test_a_process_killed_while_it_makes_the_mlflow_database_leaves_none_that_is_half_made(tmp_path):
    database = tmp_path / "mlflow.db"
    code = f"from study.tracking.store import connect; connect('sqlite:///{database}').search_experiments()"
    draw = random.Random(5)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (aside := tmp_path / ".mlflow.db.making").exists() or aside.stat().st_size == 0:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 1.0))
        process.kill()
        process.wait()
        assert not database.exists()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert database.exists()


def test_ctrl_c_ends_in_order_and_says_how_to_go_on(corpus, tiny_toml, tmp_path, call):
    command = [
        sys.executable,
        "-c",
        "from study.cli.main import entry; entry()",
        "run",
        str(corpus.folder),
        "--config",
        str(tiny_toml),
        "--set",
        "training.epochs=200",
        "--scheduler",
        "none",
        "--trials",
        "4",
        "--name",
        "x",
        "--storage",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_study(tmp_path, process)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("x/trials/*/epochs.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "--resume x" in err
    assert "Traceback" not in err
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert {line["state"] for line in report} == {"waiting"}
    check_records_agree(tmp_path, "x", report)


@pytest.mark.fault("every process of a study told to end at once (SIGTERM)", 1)
def test_a_sigterm_to_every_process_leaves_nothing_running(corpus, tiny_toml, tmp_path, call):
    log = tmp_path / "stderr"
    process = start(
        log,
        "run",
        corpus.folder,
        "--config",
        tiny_toml,
        "--set",
        "training.epochs=400",
        "--scheduler",
        "none",
        "--trials",
        "4",
        "--name",
        "x",
        "--storage",
        tmp_path,
    )
    wait_until(lambda: (tmp_path / "x/trials").exists() and num_epochs(tmp_path) > 5, 120)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert "--resume x" in log.read_text()
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert {line["state"] for line in report} == {"waiting"}
    check_records_agree(tmp_path, "x", report)
    assert start(log, "run", "--resume", "x", "--storage", tmp_path).wait(timeout=300) == 0, log.read_text()
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert [line["state"] for line in report] == ["complete"] * 4
    check_records_agree(tmp_path, "x", report)
