"""NVIDIA MPS with a stand-in for NVIDIA's control program: what is started, what clients get, what a fault costs."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.cluster.doctor import examine_mps
from study.errors import StudyError
from study.execution import mps
from study.execution.failures import why_it_failed
from study.execution.tuning import MPS_RETRIES, LedgerCallback

GIB = 2**30
CONTROL = """#!/bin/sh
echo "$@" >> {log}
if [ "$1" = -d ]; then
  touch "$CUDA_MPS_PIPE_DIRECTORY/control"
  sleep {seconds} &   # as a daemon does, it keeps what it was given to write to
else
  read word; echo "$word" >> {log}
  if [ "$word" = get_server_list ] && [ -e {dead} ]; then exit 1; fi
fi
"""


@pytest.fixture
def control(tmp_path, monkeypatch):
    """A control program on the path that writes down how it is called."""
    program, log = tmp_path / mps.CONTROL, tmp_path / "log"
    program.write_text(CONTROL.format(log=log, dead=tmp_path / "dead", seconds=8))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv(mps.PIPES, str(tmp_path / "nobody"))
    return log


def child_sees(name):
    done = subprocess.run([sys.executable, "-c", f"import os; print(os.environ.get({name!r}))"], capture_output=True)
    return done.stdout.decode().strip()


def test_a_daemon_serves_the_processes_started_meanwhile_and_ends_with_them(control):
    before = dict(os.environ)
    with mps.serving(0.25, (80 * GIB, 40 * GIB)):
        assert mps.is_running()
        assert child_sees(mps.MEMORY) == "0=20480M,1=10240M"
        assert child_sees(mps.THREADS) == "50"
        folder = child_sees(mps.PIPES)
        assert Path(folder).stat().st_mode & 0o077 == 0
    assert dict(os.environ) == before
    words = [line for line in control.read_text().split("\n") if line]
    assert words[0] == "-d"
    assert words[-1] == "quit -t 5"
    assert not Path(folder).exists()


def test_a_daemon_that_runs_already_is_used_and_left_running(control, tmp_path, monkeypatch):
    pipes = tmp_path / "pipes"
    pipes.mkdir()
    (pipes / "control").touch()
    monkeypatch.setenv(mps.PIPES, str(pipes))
    with mps.serving(0.5, (80 * GIB,)):
        assert child_sees(mps.THREADS) == "100"
        assert child_sees(mps.PIPES) == str(pipes)
    assert "-d" not in control.read_text()
    assert "quit" not in control.read_text()
    assert mps.is_running()
    # What a daemon that died leaves behind.
    (tmp_path / "dead").touch()
    assert not mps.is_running()


def test_a_study_that_breaks_off_stops_its_daemon(control):
    with pytest.raises(KeyboardInterrupt), mps.serving(0.25, (GIB,)):
        raise KeyboardInterrupt
    assert "quit" in control.read_text()


def test_without_a_daemon_to_start_or_a_gpu_to_share_there_is_an_error(control, tmp_path, monkeypatch):
    with pytest.raises(StudyError, match="train on the CPU"), mps.serving(0.0, ()):
        pass
    (tmp_path / mps.CONTROL).write_text("#!/bin/sh\necho no driver >&2\nexit 3\n")
    with pytest.raises(StudyError, match="does not start: no driver"), mps.serving(0.5, (GIB,)):
        pass
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StudyError, match="comes with NVIDIA's driver"), mps.serving(0.5, (GIB,)):
        pass


def test_mps_with_a_cluster_is_refused_and_leaves_no_study(call, corpus, tiny_toml, tmp_path):
    code, _, err = call(
        "run", corpus.folder, "--config", tiny_toml, "--storage", tmp_path, "--mps", "--address", "127.0.0.1:6379"
    )
    assert code == 1
    assert "on a cluster its nodes do" in err
    assert not list(tmp_path.glob("*/study.json"))


def test_the_command_line_refuses_mps_for_trials_on_the_cpu(call, corpus, tiny_toml, tmp_path):
    code, _, err = call("run", corpus.folder, "--config", tiny_toml, "--trials", "1", "--storage", tmp_path, "--mps")
    assert code == 1
    assert "leave it out" in err
    assert not list(tmp_path.glob("*/study.json"))


CUDA_ERROR = """torch.AcceleratorError: CUDA error: an illegal memory access was encountered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""


def failed_trial(tmp_path, text, failures):
    file = tmp_path / "error.txt"
    file.write_text(f"\nFailure # 1 (occurred at noon)\nTraceback\n{text}\n")
    metadata = SimpleNamespace(num_failures=failures)
    return SimpleNamespace(config={"trial": 3}, error_file=str(file), run_metadata=metadata)


def test_a_fault_that_all_clients_of_a_gpu_get_costs_a_trial_no_retry(tmp_path, control, monkeypatch):
    callback = LedgerCallback(SimpleNamespace(trials=list), print)
    alone = failed_trial(tmp_path, CUDA_ERROR, 2)
    callback.on_trial_recover(0, [], alone)
    assert alone.run_metadata.num_failures == 2
    assert "illegal memory access" in why_it_failed(alone)
    (tmp_path / "control").touch()
    monkeypatch.setenv(mps.PIPES, str(tmp_path))
    for _ in range(MPS_RETRIES):
        trial = failed_trial(tmp_path, CUDA_ERROR, 2)
        callback.on_trial_recover(0, [], trial)
        assert trial.run_metadata.num_failures == 1
    trial = failed_trial(tmp_path, CUDA_ERROR, 2)
    callback.on_trial_recover(0, [], trial)
    assert trial.run_metadata.num_failures == 2
    own = failed_trial(tmp_path, "ValueError: of its own", 2)
    callback.on_trial_recover(0, [], own)
    assert own.run_metadata.num_failures == 2


def test_the_doctor_says_whether_trials_that_share_a_gpu_compute_at_once(control, monkeypatch):
    assert examine_mps().found.startswith("off")
    with mps.serving(0.5, (GIB,)):
        assert examine_mps().found.startswith("on")
    monkeypatch.setenv("PATH", "/nowhere")
    assert examine_mps().found.startswith("not here")
