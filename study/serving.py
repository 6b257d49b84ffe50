"""Servers on this machine for looking at results: they listen on 127.0.0.1 only."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import click

from study.errors import StudyError
from study.ledger import DATABASE, Ledger
from study.plan import default_tracking_uri

FIRST_PORT = 5000
START_SECONDS = 180.0


def serve(
    storage: Path, name: str | None, *, tracking_uri: str | None, port: int | None, optuna: bool, browser: bool
) -> int:
    """Run the MLflow UI, and optuna-dashboard if asked for, until interrupted; return the exit code.

    Raises StudyError if there is nothing to show or a server does not start.
    """
    ledger = Ledger.open(storage / name) if name else None
    uri = tracking_uri or (ledger.definition.tracking_uri if ledger else default_tracking_uri(storage))
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise StudyError(f"no MLflow database in {storage}; run a study first, or name another --storage")
    if uri.startswith(("http://", "https://")):
        raise StudyError(f"the runs are on a server that is up already: open {uri} in a browser")
    if optuna and ledger is None:
        raise StudyError("--optuna shows one study; name it, as in study ui NAME --optuna")
    port = take_port(port)
    commands = {f"http://127.0.0.1:{port}": mlflow_command(uri, port)}
    if optuna and ledger is not None:
        other = take_port(None, beside=port)
        commands[f"http://127.0.0.1:{other}"] = optuna_command(ledger, other)
    # A dozen processes of MLflow's own, for jobs that a study has none of.
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    processes = {
        address: subprocess.Popen(command, env=environment, start_new_session=True)
        for address, command in commands.items()
    }
    try:
        for address, process in processes.items():
            wait_until_up(address, process)
        pages = [f"http://127.0.0.1:{port}{experiment_page(uri, ledger)}", *list(processes)[1:]]
        for title, page in zip(("MLflow UI", "Optuna dashboard"), pages, strict=False):
            click.echo(f"{title}: {page} (Ctrl-C ends it)", err=True)
            if browser and sys.stdout.isatty():
                click.launch(page)
        return next(iter(processes.values())).wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for process in processes.values():
            # With the workers that it started.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def mlflow_command(uri: str, port: int) -> list[str]:
    """Return the command that starts the MLflow UI."""
    place = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = ["--uvicorn-opts", "--log-level warning"]
    return [sys.executable, "-m", "mlflow", "ui", *place, *quiet]


def optuna_command(ledger: Ledger, port: int) -> list[str]:
    """Return the command that starts optuna-dashboard; raise StudyError if it is not installed."""
    script = shutil.which("optuna-dashboard", path=str(Path(sys.executable).parent)) or shutil.which("optuna-dashboard")
    if script is None:
        raise StudyError("optuna-dashboard is not installed; install pooled-vae-study[dashboard]")
    url = ledger.definition.optuna_url or f"sqlite:///{(ledger.folder / DATABASE).absolute()}"
    return [script, url, "--host", "127.0.0.1", "--port", str(port)]


def experiment_page(uri: str, ledger: Ledger | None) -> str:
    """Return the part of the address that shows a study, or all of them."""
    if ledger is None:
        return ""
    from study.tracking.overview import SHARE_KEY, TAG
    from study.tracking.store import connect

    found = connect(uri).get_experiment_by_name(ledger.definition.name)
    if found is None:
        return ""
    # Otherwise MLflow opens on pages about prompts and traces, and on charts in the order of their names.
    view = f"&compareRunsMode=CHART&viewStateShareKey={SHARE_KEY}" if TAG in found.tags else ""
    return f"/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning{view}"


def wait_until_up(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers; raise StudyError if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StudyError(f"the server at {address} ended with exit code {process.returncode}; its words are above")
        try:
            urllib.request.urlopen(address, timeout=2).close()  # noqa: S310 - our own address
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise StudyError(f"the server at {address} did not answer within {START_SECONDS:.0f} s")


def take_port(port: int | None, beside: int = 0) -> int:
    """Return a port that was asked for, or the first free one from 5000 on; raise StudyError if it is taken."""
    if port is None:
        return next(each for each in range(FIRST_PORT, FIRST_PORT + 1000) if each != beside and is_free(each))
    if not is_free(port):
        raise StudyError(f"port {port} of 127.0.0.1 is taken; choose another --port")
    return port


def is_free(port: int) -> bool:
    """Say whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
