"""Things that break while a study runs: its MLflow server, a trial's process, the disk."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from conftest import json_lines
from hosts import wait_until
from test_crash import start
from test_study import check_records_agree

pytestmark = pytest.mark.cluster

NUM_TRIALS = 8
OUTAGE_SECONDS = 120


def options(corpus, tiny_toml, storage, *more, epochs=40):
    return ("run", corpus.folder, "--config", tiny_toml, "--set", f"training.epochs={epochs}", "--scheduler", "none",
            "--sampler", "random", "--trials", NUM_TRIALS, "--name", "x", "--storage", storage, *more)  # fmt: skip


def check_whole(storage, call):
    report = json_lines(call("report", "x", "--json", "--storage", storage)[1])
    assert [line["trial"] for line in report] == list(range(NUM_TRIALS))
    assert {line["state"] for line in report} == {"complete"}
    check_records_agree(storage, "x", report)
    return report


def num_epochs(storage):
    return sum(path.read_text().count("\n") for path in (storage / "x/trials").glob("*/epochs.jsonl"))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def mlflow_server(port, folder, database=None):
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
         "--backend-store-uri", database or f"sqlite:///{folder / 'server.db'}", "--artifacts-destination", str(folder / "files")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def answers():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    # It makes its tables first.
    wait_until(answers, 180)
    return process


def end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_an_mlflow_server_down_for_two_minutes_loses_nothing(corpus, tiny_toml, tmp_path, call):
    port, log = free_port(), tmp_path / "stderr"
    server = mlflow_server(port, tmp_path)
    # As many trials as there is time for, so that the study outlasts the outage however fast the machine is.
    study = start(log, *options(
        corpus, tiny_toml, tmp_path, "--tracking-uri", f"http://127.0.0.1:{port}",
        "--trials", 10_000, "--time-budget", (OUTAGE_SECONDS + 90) / 60, epochs=200,
    ))  # fmt: skip
    wait_until(lambda: (tmp_path / "x/trials").exists() and num_epochs(tmp_path) > 20, 60)
    end(server)
    before = num_epochs(tmp_path)
    time.sleep(OUTAGE_SECONDS)
    # Trials went on meanwhile, and go on.
    assert num_epochs(tmp_path) > before
    assert study.poll() is None
    server = mlflow_server(port, tmp_path)
    assert study.wait(timeout=300) == 0, log.read_text()
    assert "MLflow has not heard everything" not in log.read_text()
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert {line["state"] for line in report} <= {"complete", "waiting"}
    assert sum(line["state"] == "complete" for line in report) >= 2
    check_records_agree(tmp_path, "x", report)
    end(server)


def test_an_mlflow_server_that_is_down_when_the_study_ends_is_told_the_rest_later(corpus, tiny_toml, tmp_path, call):
    port, log = free_port(), tmp_path / "stderr"
    server = mlflow_server(port, tmp_path)
    study = start(log, *options(corpus, tiny_toml, tmp_path, "--tracking-uri", f"http://127.0.0.1:{port}"))
    wait_until(lambda: (tmp_path / "x/trials").exists() and num_epochs(tmp_path) > 20, 120)
    end(server)
    assert study.wait(timeout=300) == 0, log.read_text()
    assert "sends the rest" in log.read_text()
    assert "Traceback" not in log.read_text()
    server = mlflow_server(port, tmp_path)
    study = start(log, "run", "--resume", "x", "--storage", tmp_path)
    assert study.wait(timeout=300) == 0, log.read_text()
    check_whole(tmp_path, call)
    end(server)


def test_trials_whose_processes_are_killed_are_tried_again(corpus, tiny_toml, tmp_path, call):
    log = tmp_path / "stderr"
    study = start(log, *options(corpus, tiny_toml, tmp_path, epochs=60))
    for least in (5, 60):
        wait_until(lambda least=least: (tmp_path / "x/trials").exists() and num_epochs(tmp_path) > least, 120)
        trial = next(
            process for process in psutil.Process(study.pid).children(recursive=True)
            if any("run_trial" in part or "ImplicitFunc" in part for part in process.cmdline())
        )  # fmt: skip
        trial.kill()
    assert study.wait(timeout=300) == 0, log.read_text()
    report = check_whole(tmp_path, call)
    undisturbed = start(log, *options(corpus, tiny_toml, tmp_path / "undisturbed", epochs=60))
    assert undisturbed.wait(timeout=300) == 0, log.read_text()
    other = json_lines(call("report", "x", "--json", "--storage", tmp_path / "undisturbed")[1])
    assert [line["valid"] for line in other] == [line["valid"] for line in report]


class Postgres:
    """A server of Debian's package on a free loopback port; its files belong to `postgres`, as it refuses root."""

    def __init__(self, folder) -> None:
        self.folder, self.port = folder, free_port()
        self.bin = max(Path("/usr/lib/postgresql").glob("*/bin"))
        folder.mkdir()
        shutil.chown(folder, "postgres")
        self.call(f"{self.bin}/initdb -D {folder}/db -A trust")
        self.pg_ctl("start")
        self.call(f"{self.bin}/createdb -h 127.0.0.1 -p {self.port} optuna")
        self.call(f"{self.bin}/createdb -h 127.0.0.1 -p {self.port} mlflow")

    def call(self, command):
        subprocess.run(["su", "postgres", "-s", "/bin/sh", "-c", command], check=True, stdout=subprocess.DEVNULL)

    def pg_ctl(self, action):
        options = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self.call(f"{self.bin}/pg_ctl {action} -D {self.folder}/db -m immediate -w -l {self.folder}/log -o '{options}'")

    def url(self, database):
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


@pytest.fixture
def postgres():
    if os.geteuid() != 0 or not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("needs root and Debian's postgresql")
    # Not under pytest's folder, which only root may enter.
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        server = Postgres(Path(scratch) / "postgres")
        yield server
        server.pg_ctl("stop")


def test_optuna_and_mlflow_on_a_postgres_that_is_restarted(corpus, tiny_toml, tmp_path, postgres, call):
    port, log = free_port(), tmp_path / "stderr"
    server = mlflow_server(port, tmp_path, postgres.url("mlflow"))
    study = start(log, *options(
        corpus, tiny_toml, tmp_path, "--optuna-url", postgres.url("optuna"),
        "--tracking-uri", f"http://127.0.0.1:{port}", epochs=60,
    ))  # fmt: skip
    wait_until(lambda: (tmp_path / "x/trials").exists() and num_epochs(tmp_path) > 20, 180)
    postgres.pg_ctl("stop")
    time.sleep(10)
    postgres.pg_ctl("start")
    assert study.wait(timeout=300) == 0, log.read_text()
    check_whole(tmp_path, call)
    assert not (tmp_path / "x/optuna.db").exists()
    end(server)


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_named_and_the_study_goes_on_once_there_is_room(corpus, tiny_toml, tmp_path, small_disk, call):
    log, storage = tmp_path / "stderr", small_disk / "runs"
    study = start(log, *options(corpus, tiny_toml, storage, epochs=60))
    wait_until(lambda: (storage / "x/trials").exists() and num_epochs(storage) > 20, 120)
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\0" * 4096)
    assert study.wait(timeout=300) != 0
    said = log.read_text()
    assert "Traceback" not in said
    assert "no room is left on the disk" in said
    (small_disk / "ballast").unlink()
    study = start(log, "run", "--resume", "x", "--storage", storage)
    assert study.wait(timeout=300) == 0, log.read_text()
    check_whole(storage, call)
