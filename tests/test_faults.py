"""Things that break while a study runs: its MLflow server, its driver, a trial's process, memory, the disk."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import psutil
import pytest
import tomli_w
from conftest import json_lines
from hosts import wait_until
from studies import check_records_agree, num_epochs, start, wait_for_epochs

pytestmark = pytest.mark.cluster

NUM_TRIALS = 6
OUTAGE_SECONDS = 120
SLOW_EPOCHS = ("--set", "model.hidden_size=300", "--set", "training.batch_size=1")
"""Epochs of a second or more, so that what happens to a trial mostly happens within one."""


def options(corpus, tiny_toml, storage, *more, epochs=30):
    return (
        "run",
        corpus.folder,
        "--config",
        tiny_toml,
        "--set",
        f"training.epochs={epochs}",
        "--scheduler",
        "none",
        "--sampler",
        "random",
        "--trials",
        NUM_TRIALS,
        "--name",
        "x",
        "--storage",
        storage,
        *more,
    )


def report_of(storage, call):
    return json_lines(call("report", "x", "--json", "--storage", storage)[1])


def check_whole(storage, call, undisturbed):
    """Compare a study with the same one to which nothing was done; every record must agree."""
    report = report_of(storage, call)
    assert {(line["trial"], line["state"], line["reason"]) for line in report} == {
        (trial, "complete", "") for trial in range(NUM_TRIALS)
    }
    assert [line["valid"] for line in report] == [line["valid"] for line in undisturbed]
    check_records_agree(storage, "x", report)


@pytest.fixture(scope="session")
def run_undisturbed(corpus, tiny_toml, tmp_path_factory):
    """Run the study of `options` with nothing done to it, and return its report."""

    def run(*more, **settings):
        storage = tmp_path_factory.mktemp("undisturbed")
        study = start(storage / "stderr", *options(corpus, tiny_toml, storage, *more, **settings))
        assert study.wait(timeout=300) == 0, (storage / "stderr").read_text()
        command = [
            sys.executable,
            "-c",
            "from study.cli.main import entry; entry()",
            "report",
            "x",
            "--json",
            "--storage",
            storage,
        ]
        return json_lines(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return run


@pytest.fixture(scope="session")
def undisturbed(run_undisturbed):
    return run_undisturbed()


def trial_processes(study):
    """Map the processes in which trials run to the folders that they hold."""
    found = {}
    for process in psutil.Process(study.pid).children(recursive=True):
        # One that was just killed may still be listed.
        with contextlib.suppress(psutil.Error):
            if any("ImplicitFunc" in part for part in process.cmdline()):
                found[process] = {
                    Path(file.path).parent for file in process.open_files() if file.path.endswith("/.lock")
                }
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def mlflow_server(port, folder, database=None):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
            "--backend-store-uri",
            database or f"sqlite:///{folder / 'server.db'}",
            "--artifacts-destination",
            str(folder / "files"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answers():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    # It makes its tables first.
    wait_until(answers, 180)
    return process


def end(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.fault("MLflow's server down for two minutes", 1)
@pytest.mark.long
def test_an_mlflow_server_down_for_two_minutes_loses_nothing(corpus, tiny_toml, tmp_path, call):
    port, log = free_port(), tmp_path / "stderr"
    server = mlflow_server(port, tmp_path)
    # More trials than there is time for, so that the study outlasts the outage however fast the machine is.
    study = start(
        log,
        *options(
            corpus,
            tiny_toml,
            tmp_path,
            "--tracking-uri",
            f"http://127.0.0.1:{port}",
            "--trials",
            10_000,
            "--concurrent",
            1,
            epochs=200,
        ),
    )
    wait_for_epochs(tmp_path, 20)
    end(server)
    before = num_epochs(tmp_path)
    time.sleep(OUTAGE_SECONDS)
    # Trials went on meanwhile, and go on.
    assert num_epochs(tmp_path) > before
    assert study.poll() is None
    server = mlflow_server(port, tmp_path)
    wait_for_epochs(tmp_path, num_epochs(tmp_path) + 20)
    study.send_signal(signal.SIGINT)
    assert study.wait(timeout=300) == 130, log.read_text()
    assert "MLflow has not heard everything" not in log.read_text()
    report = report_of(tmp_path, call)
    assert {line["state"] for line in report} <= {"complete", "waiting"}
    assert sum(line["state"] == "complete" for line in report) >= 1
    check_records_agree(tmp_path, "x", report)
    end(server)


@pytest.mark.fault("MLflow's server down when the study ends", 1)
@pytest.mark.long
def test_an_mlflow_server_that_is_down_when_the_study_ends_is_told_the_rest_later(
    corpus, tiny_toml, tmp_path, call, undisturbed
):
    port, log = free_port(), tmp_path / "stderr"
    server = mlflow_server(port, tmp_path)
    study = start(log, *options(corpus, tiny_toml, tmp_path, "--tracking-uri", f"http://127.0.0.1:{port}"))
    wait_for_epochs(tmp_path, 20)
    end(server)
    assert study.wait(timeout=300) == 0, log.read_text()
    assert "sends the rest" in log.read_text()
    assert "Traceback" not in log.read_text()
    server = mlflow_server(port, tmp_path)
    study = start(log, "run", "--resume", "x", "--storage", tmp_path)
    assert study.wait(timeout=300) == 0, log.read_text()
    check_whole(tmp_path, call, undisturbed)
    end(server)


@pytest.mark.fault("trial's process killed (SIGKILL)", 4)
def test_trials_whose_processes_are_killed_are_tried_again(corpus, tiny_toml, tmp_path, call, undisturbed):
    study, killed = start(tmp_path / "stderr", *options(corpus, tiny_toml, tmp_path)), set()

    def next_one():
        """A trial's process that has trained, and none that was killed: retries are counted from the last epoch."""
        for process, folders in trial_processes(study).items():
            if any((folder / "epochs.jsonl").exists() for folder in folders - killed):
                return process, folders
        return None

    while len(killed) < 4:
        wait_until(next_one, 240)
        if found := next_one():
            found[0].kill()
            killed |= found[1]
    assert study.wait(timeout=300) == 0, (tmp_path / "stderr").read_text()
    check_whole(tmp_path, call, undisturbed)


@pytest.mark.fault("trial's process told to end (SIGTERM), as before a spot instance goes", 3)
def test_a_trial_that_is_told_to_end_saves_its_state_within_its_grace(
    corpus, tiny_toml, tmp_path, call, run_undisturbed
):
    study = start(tmp_path / "stderr", *options(corpus, tiny_toml, tmp_path, *SLOW_EPOCHS, epochs=2))
    within_epoch = 0
    for least in (1, 4, 7):
        wait_for_epochs(tmp_path, least)
        wait_until(lambda: trial_processes(study), 60)
        time.sleep(0.5)
        trial = next(iter(trial_processes(study)))
        sent = time.time()
        trial.terminate()
        trial.wait(30)
        saved = [
            path for path in tmp_path.glob("x/trials/*/checkpoints/step-*/progress.json") if path.stat().st_mtime > sent
        ]
        # Nothing else is saved within an epoch before ten minutes are over.
        within_epoch += any(json.loads(path.read_text())["progress"]["batch"] > 0 for path in saved)
    assert study.wait(timeout=300) == 0, (tmp_path / "stderr").read_text()
    assert within_epoch >= 2
    check_whole(tmp_path, call, run_undisturbed(*SLOW_EPOCHS, epochs=2))


def run_three_trials(folder):
    """Run trials in one worker, which is killed as it is given the second of them; write how they ended."""
    from ray import tune
    from ray.train._internal.session import get_session
    from ray.tune.search import BasicVariantGenerator

    from study.execution.failures import outliving_killed_trials
    from study.execution.local_ray import local_ray

    def killed_after(config):
        tune.report({"epoch": 0})
        if not config["killed"].exists():
            config["killed"].touch()
            # Called when the worker is given another trial.
            get_session().finish = lambda timeout: os.kill(os.getpid(), signal.SIGKILL)

    with local_ray(1), outliving_killed_trials():
        trials = tune.run(
            killed_after,
            config={"killed": folder / "killed"},
            storage_path=str(folder),
            search_alg=BasicVariantGenerator(max_concurrent=2),
            num_samples=3,
            reuse_actors=True,
            max_failures=2,
            raise_on_failed_trial=False,
            verbose=0,
        ).trials
    (folder / "states").write_text(" ".join(trial.status for trial in trials))


@pytest.mark.fault("a worker killed between two trials", 1)
def test_a_trial_outlives_a_worker_that_was_killed_before_it_got_it(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=run_three_trials, args=(tmp_path,))
    process.start()
    process.join(120)
    if process.is_alive():
        process.terminate()
        pytest.fail("the study stands still")
    assert (tmp_path / "states").read_text().split() == ["TERMINATED"] * 3


@pytest.mark.fault("a trial's newest checkpoint damaged while the study is down", 2)
@pytest.mark.long
def test_a_damaged_checkpoint_gives_way_to_the_one_before(corpus, tiny_toml, tmp_path, call, undisturbed):
    study = start(tmp_path / "stderr", *options(corpus, tiny_toml, tmp_path))
    wait_until(lambda: len(list(tmp_path.glob("x/trials/0000[01]/checkpoints/step-*"))) == 4, 240)
    trials = list(trial_processes(study))
    study.kill()
    study.wait()
    psutil.wait_procs(trials, 60)
    cut, flipped = (
        max(tmp_path.glob(f"x/trials/0000{trial}/checkpoints/step-*")) / "state.safetensors" for trial in (0, 1)
    )
    os.truncate(cut, cut.stat().st_size // 2)
    content = bytearray(flipped.read_bytes())
    content[-5] ^= 1
    flipped.write_bytes(content)
    study = start(tmp_path / "stderr", "run", "--resume", "x", "--storage", tmp_path)
    assert study.wait(timeout=300) == 0, (tmp_path / "stderr").read_text()
    check_whole(tmp_path, call, undisturbed)


@pytest.fixture
def one_huge_trial(tiny_toml, tmp_path):
    """Settings of a study of three trials; one wants 4 GiB and more for a weight matrix."""
    searched = {"model.hidden_size": [12, 16384, 16], "model.pooling": False, "model.latent_size": False}
    searched |= {f"objective.{name}": False for name in ("annealing", "kl_weight", "annealing_fraction", "num_cycles")}
    path = tmp_path / "huge.toml"
    path.write_text(tiny_toml.read_text() + tomli_w.dumps({"search": {**searched, "training.learning_rate": False}}))
    return path


def check_huge_trial_failed(storage, call):
    report = report_of(storage, call)
    assert {line["params"]["model.hidden_size"]: line["state"] for line in report} == {
        12: "complete",
        16384: "failed",
        16: "complete",
    }
    assert any("out of memory; lower" in line["reason"] for line in report)
    check_records_agree(storage, "x", report)


@pytest.mark.fault("out of memory: a trial's allocation is refused", 1)
@pytest.mark.long
def test_a_trial_that_is_refused_its_memory_is_failed_with_its_reason(corpus, one_huge_trial, tmp_path, call):
    study = start(
        tmp_path / "stderr",
        *options(
            corpus,
            one_huge_trial,
            tmp_path,
            "--sampler",
            "grid",
            "--trials",
            3,
            "--concurrent",
            1,
            epochs=100,
        ),
    )
    wait_for_epochs(tmp_path, 1)
    for process in psutil.Process(study.pid).children(recursive=True):
        # Of addresses; trials that are small need half of it.
        process.rlimit(psutil.RLIMIT_AS, (7 * 10**9, 7 * 10**9))
    assert study.wait(timeout=300) == 0, (tmp_path / "stderr").read_text()
    check_huge_trial_failed(tmp_path, call)


@pytest.mark.fault("out of memory: Ray kills the trial that takes too much of its node's", 1)
@pytest.mark.long
def test_a_trial_that_takes_its_nodes_memory_is_failed_with_its_reason(
    corpus, one_huge_trial, tmp_path, call, monkeypatch
):
    memory = psutil.virtual_memory()
    monkeypatch.setenv("RAY_memory_usage_threshold", str(1 - (memory.available - 3.5e9) / memory.total))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    study = start(
        tmp_path / "stderr",
        *options(
            corpus,
            one_huge_trial,
            tmp_path,
            "--sampler",
            "grid",
            "--trials",
            3,
            epochs=100,
        ),
    )
    assert study.wait(timeout=300) == 0, (tmp_path / "stderr").read_text()
    check_huge_trial_failed(tmp_path, call)
    assert "running low on memory" in str([line["reason"] for line in report_of(tmp_path, call)])


@pytest.mark.fault("a second study started under the same name", 2)
@pytest.mark.long
def test_a_second_study_of_the_same_name_is_refused_and_the_first_goes_on(
    corpus, tiny_toml, tmp_path, call, undisturbed
):
    study = start(tmp_path / "stderr", *options(corpus, tiny_toml, tmp_path))
    wait_for_epochs(tmp_path, 5)
    second = start(tmp_path / "second", *options(corpus, tiny_toml, tmp_path))
    third = start(tmp_path / "third", "run", "--resume", "x", "--storage", tmp_path)
    assert second.wait(timeout=120) == third.wait(timeout=120) == 1
    assert "being run by another process" in (tmp_path / "second").read_text()
    assert "being run by another process" in (tmp_path / "third").read_text()
    assert study.wait(timeout=300) == 0, (tmp_path / "stderr").read_text()
    check_whole(tmp_path, call, undisturbed)


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


@pytest.mark.fault("PostgreSQL, under Optuna and MLflow, restarted", 1)
def test_optuna_and_mlflow_on_a_postgres_that_is_restarted(corpus, tiny_toml, tmp_path, postgres, call, undisturbed):
    port, log = free_port(), tmp_path / "stderr"
    server = mlflow_server(port, tmp_path, postgres.url("mlflow"))
    study = start(
        log,
        *options(
            corpus,
            tiny_toml,
            tmp_path,
            "--optuna-url",
            postgres.url("optuna"),
            "--tracking-uri",
            f"http://127.0.0.1:{port}",
        ),
    )
    wait_for_epochs(tmp_path, 20)
    postgres.pg_ctl("stop")
    time.sleep(10)
    postgres.pg_ctl("start")
    assert study.wait(timeout=300) == 0, log.read_text()
    check_whole(tmp_path, call, undisturbed)
    assert not (tmp_path / "x/optuna.db").exists()
    end(server)


def test_a_study_on_optunas_server_is_renamed_and_deleted_there_too(corpus, tiny_toml, tmp_path, postgres, call):
    where = ("--storage", tmp_path)
    run = ("run", corpus.folder, "--config", tiny_toml, "--trials", 2, "--name", "x", *where)
    for name in ("x", "other"):
        # In a process of its own: Ray ends the one that it was shut down in, where a thread of its asks for more.
        words = (name if word == "x" else word for word in run)
        process = start(tmp_path / "log", *words, "--optuna-url", postgres.url("optuna"))
        assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()

    def stored():
        return optuna.get_all_study_names(postgres.url("optuna").replace("postgresql:", "postgresql+psycopg:"))

    before = stored()
    assert len(before) == 2
    assert call("rename", "x", "y", *where)[0] == 0
    assert len(json_lines(call("report", "y", "--json", *where)[1])) == 2
    assert call("delete", "y", "--yes", *where)[0] == 0
    left = stored()
    assert len(left) == 1
    assert set(left) < set(before)
    assert len(json_lines(call("report", "other", "--json", *where)[1])) == 2


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.fault("disk full", 1)
def test_a_full_disk_is_named_and_the_study_goes_on_once_there_is_room(
    corpus, tiny_toml, tmp_path, small_disk, call, undisturbed
):
    log, storage = tmp_path / "stderr", small_disk / "runs"
    study = start(log, *options(corpus, tiny_toml, storage))
    wait_for_epochs(storage, 20)
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
    check_whole(storage, call, undisturbed)
