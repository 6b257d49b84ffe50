"""Servers on this machine for looking at results: they listen on 127.0.0.1 only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import click

from study.errors import StudyError
from study.plan import default_tracking_uri

FIRST_PORT = 5000


def serve_mlflow(storage: Path, tracking_uri: str | None, port: int | None) -> int:
    """Run the MLflow UI until it is interrupted; return its exit code. Raises StudyError if nothing is there."""
    uri = tracking_uri or default_tracking_uri(storage)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise StudyError(f"no MLflow database in {storage}; run a study first, or name another --storage")
    if port is None:
        port = free_port()
    elif not is_free(port):
        raise StudyError(f"port {port} of 127.0.0.1 is taken; choose another --port")
    click.echo(f"MLflow UI: http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    try:
        return subprocess.call(command, env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"})
    except KeyboardInterrupt:
        return 0


def free_port() -> int:
    """Return the first free port from 5000 on."""
    return next(port for port in range(FIRST_PORT, FIRST_PORT + 1000) if is_free(port))


def is_free(port: int) -> bool:
    """Say whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
