"""Looking from elsewhere: the MLflow UI behind a password, and what the shell completes."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from study.config.connectivity import check_tracking_uri
from study.errors import StudyError
from study.tracking.ui import Door, take_port, wait_until_up

STUDY = Path(sys.executable).with_name("study")


def answers(address, host=None):
    request = urllib.request.Request(address, headers={"Host": host} if host else {})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_others_come_in_by_the_password_and_by_this_machines_names_only(finished_study, monkeypatch):
    port = take_port(None)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    process = subprocess.Popen(
        [STUDY, "ui", "--host", "0.0.0.0", "--allow-remote", "--port", str(port), "--storage", str(finished_study)],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        said = []
        while not any("password" in line for line in said):
            said.append(process.stderr.readline())
            assert said[-1], "".join(said)
        password = said[-1].partition("password ")[2].partition(",")[0]
        assert len(password) >= 16
        here = f"http://127.0.0.1:{port}"
        assert answers(here) == 401
        assert answers(here, f"{socket.gethostname()}:{port}") == 401
        assert answers(here, "evil.example") == 403
        listed = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert password not in listed
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        assert "done" in [each.name for each in MlflowClient(here).search_experiments()]
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "guessed-at")
        with pytest.raises(Exception, match="401"):
            MlflowClient(here).search_experiments()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
def test_an_mlflow_server_that_refuses_the_name_it_is_asked_by_is_found_before_a_study_starts(tmp_path):
    port = take_port(None)
    command = [
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
        f"sqlite:///{tmp_path / 'm.db'}",
        "--allowed-hosts",
        f"localhost:{port}",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until_up(f"http://127.0.0.1:{port}", process)
        check_tracking_uri(f"http://localhost:{port}")
        with pytest.raises(StudyError, match=r"403.*--allowed-hosts"):
            check_tracking_uri(f"http://127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_ctrl_c_ends_the_ui(finished_study):
    process = subprocess.Popen(
        [STUDY, "ui", "done", "--no-browser", "--storage", str(finished_study)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while "Ctrl-C ends it" not in (line := process.stderr.readline()):
            assert line
        # The process alone: a terminal would also end what it started.
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_this_machine_is_known_by_its_own_names_and_by_no_others(monkeypatch):
    assert Door("127.0.0.1", 5000).names == ["127.0.0.1", "localhost"]
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "vae.example.org")
    assert "vae.example.org" not in Door("127.0.0.1", 5000).names
    names = Door("0.0.0.0", 5000, "secret").names
    assert {"127.0.0.1", "localhost", socket.gethostname(), "vae.example.org"} <= set(names)
    assert Door("0.0.0.0", 5000, "secret").address == "http://127.0.0.1:5000"
    assert Door("::1", 5000).address == "http://[::1]:5000"


def completed(line, folder):
    environment = os.environ | {
        "_STUDY_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    found = subprocess.run([STUDY], env=environment, cwd=folder, capture_output=True, text=True, check=False)
    return [each.partition(",")[2] for each in found.stdout.split()]


def test_the_shell_completes_studies_and_presets(finished_study, tmp_path):
    (tmp_path / "runs").symlink_to(finished_study)
    for line in ("study report d", "study run --resume d", "study ui ", "study diagnose d"):
        assert "done" in completed(line, tmp_path), line
    assert "done" in completed(f"study report --storage {finished_study} d", tmp_path.parent)
    assert completed("study report x", tmp_path) == []
    assert completed("study run --preset qui", tmp_path) == ["quick"]
