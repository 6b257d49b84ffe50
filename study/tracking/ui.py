"""Servers for looking at results: on this machine alone, or behind a password."""

from __future__ import annotations

import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import psutil

from study.config.addresses import refuse_secret
from study.config.connectivity import check_sqlite
from study.config.naming import database_file, default_tracking_uri
from study.errors import StudyError
from study.record.ledger import Ledger

LOOPBACK = "127.0.0.1"
USER = "admin"
PASSWORD, MORE_NAMES = "MLFLOW_TRACKING_PASSWORD", "MLFLOW_SERVER_ALLOWED_HOSTS"
"""MLflow's own variables: the password that its clients send, and names by which a server may be asked for."""

MOST_LISTED = 20
FIRST_PORT = 5000
START_SECONDS = 180.0


@dataclass(frozen=True)
class Door:
    """Where the MLflow UI listens, and the password that it asks for unless that is this machine alone."""

    host: str
    port: int
    password: str | None = None

    @property
    def names(self) -> list[str]:
        """The names by which a browser may ask for it, as they stand in an address.

        Others are refused, lest a page of someone else's reach it under a name of his own (DNS rebinding).
        """
        if ipaddress.ip_address(self.host).is_unspecified:
            own = [each.address for card in psutil.net_if_addrs().values() for each in card]
            found = [each for each in own if is_address(each) and "%" not in each]
            found += [socket.gethostname(), socket.getfqdn(), "localhost"]
        else:
            found = [self.host, LOOPBACK, "localhost"]
        if self.password is not None:
            found += filter(None, os.environ.get(MORE_NAMES, "").split(","))
        return list(dict.fromkeys(map(bracketed, found)))

    @property
    def address(self) -> str:
        """Where this machine itself finds it."""
        host = LOOPBACK if ipaddress.ip_address(self.host).is_unspecified else bracketed(self.host)
        return f"http://{host}:{self.port}"


def serve(
    storage: Path,
    name: str | None,
    *,
    tracking_uri: str | None,
    port: int | None,
    optuna: bool,
    browser: bool,
    host: str = LOOPBACK,
    allow_remote: bool = False,
) -> int:
    """Run the MLflow UI, and optuna-dashboard if asked for, until interrupted; return the exit code.

    A host that others can reach is asked a password of: $MLFLOW_TRACKING_PASSWORD, or one made for the time that it
    runs. Raises StudyError if there is nothing to show, if such a host is not allowed or if a server does not start.
    """
    remote = check_host(host, allow_remote=allow_remote, optuna=optuna)
    ledger = Ledger.open(storage / name) if name else None
    uri = find_database(storage, ledger, tracking_uri)
    if optuna and ledger is None:
        raise StudyError("--optuna shows one study; name it, as in study ui NAME --optuna")
    chosen = os.environ.get(PASSWORD, "")
    door = Door(host, take_port(port, host=host), chosen or secrets.token_urlsafe(12) if remote else None)
    commands = {door.address: mlflow_command(uri, door)}
    if optuna and ledger is not None:
        other = take_port(None, beside=door.port)
        commands[f"http://{LOOPBACK}:{other}"] = optuna_command(ledger, other)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as running:
        environment = os.environ | mlflow_environment(door, Path(scratch))
        try:
            processes = [running.enter_context(started(command, environment)) for command in commands.values()]
            for address, process in zip(commands, processes, strict=True):
                wait_until_up(address, process)
            pages = [(title, f"{door.address}/#/experiments{page}") for title, page in experiment_pages(uri, ledger)]
            pages += [("Optuna dashboard", address) for address in list(commands)[1:]]
            for title, page in pages:
                click.echo(f"{title}: {page}", err=True)
            if remote:
                click.echo(
                    f"others come in as user {USER} with password {'$' + PASSWORD if chosen else door.password}, by"
                    f" port {door.port} of {', '.join(door.names)}; it is not encrypted on its way",
                    err=True,
                )
            click.echo("Ctrl-C ends it", err=True)
            if browser and sys.stdout.isatty():
                click.launch(pages[0][1])
            # Not wait(), which libraries that came in by then keep Ctrl-C from.
            while processes[0].poll() is None:
                time.sleep(0.2)
        except KeyboardInterrupt:
            return 0
        return processes[0].wait()


def find_database(storage: Path, ledger: Ledger | None, tracking_uri: str | None) -> str:
    """Return the address of the database with the runs to show; raise StudyError if there is none."""
    refuse_secret("--tracking-uri", tracking_uri, "keep it in ~/.pgpass")
    if tracking_uri and tracking_uri.startswith("sqlite:"):
        check_sqlite("--tracking-uri", tracking_uri)
    uri = tracking_uri or (ledger.definition.tracking_uri if ledger else default_tracking_uri(storage))
    file = database_file(uri)
    if file is not None and not file.is_file():
        raise StudyError(f"no MLflow database in {storage}; run a study first, or name another --storage")
    if uri.startswith(("http://", "https://")):
        raise StudyError(f"the runs are on a server that is up already: open {uri} in a browser")
    return uri


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, and end it with the workers that it started."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                break


def check_host(host: str, *, allow_remote: bool, optuna: bool) -> bool:
    """Say whether others can reach a host; raise StudyError if that is not allowed, or no address of this machine."""
    if not is_address(host):
        raise StudyError(f"--host {host!r}: expected an address of this machine, such as 127.0.0.1 or 0.0.0.0 for all")
    if ipaddress.ip_address(host).is_loopback:
        if allow_remote:
            raise StudyError(f"--allow-remote has no effect with --host {host}, which is this machine alone")
        return False
    if not allow_remote:
        raise StudyError(
            f"--host {host} lets other machines reach the studies; add --allow-remote, which has them asked for a"
            f" password, or keep to {LOOPBACK} and come by ssh -L 5000:{LOOPBACK}:5000"
        )
    if optuna:
        raise StudyError("--optuna knows no password; leave it out, or keep to this machine")
    if find_spec("flask_wtf") is None:
        raise StudyError("passwords need another package; install pooled-vae-study[remote]")
    return True


def bracketed(name: str) -> str:
    """Return a name as it stands in an address."""
    return f"[{name}]" if ":" in name else name


def is_address(text: str) -> bool:
    """Say whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def mlflow_command(uri: str, door: Door) -> list[str]:
    """Return the command that starts the MLflow UI."""
    options = {
        "--backend-store-uri": uri,
        "--host": door.host,
        "--port": str(door.port),
        "--workers": "1",
        # With any port: it may be another one where a tunnel begins.
        "--allowed-hosts": ",".join([*door.names, *(f"{name}:*" for name in door.names)]),
        "--cors-allowed-origins": ",".join(f"http://{name}:*" for name in door.names),
        "--uvicorn-opts": "--log-level warning",
    }
    if door.password is not None:
        options["--app-name"] = "basic-auth"
    return [sys.executable, "-m", "mlflow", "server", *(part for option in options.items() for part in option)]


def mlflow_environment(door: Door, folder: Path) -> dict[str, str]:
    """Return what the MLflow UI finds in its environment; who may enter is written into a folder of this user's."""
    # A dozen processes of MLflow's own, for jobs that a study has none of.
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet |= {"MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    if door.password is None:
        return quiet
    config = folder / "auth.ini"
    users = f"database_uri = sqlite:///{folder / 'users.db'}\nadmin_username = {USER}\n"
    config.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\n{users}"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        "utf-8",
    )
    return quiet | {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": door.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
    }


def optuna_command(ledger: Ledger, port: int) -> list[str]:
    """Return the command that starts optuna-dashboard, behind its guard; raise StudyError if it is not installed."""
    if find_spec("optuna_dashboard") is None:
        raise StudyError("optuna-dashboard is not installed; install pooled-vae-study[dashboard]")
    folder = ledger.folder.absolute()
    return [sys.executable, "-m", "study.tracking.dashboard", str(folder.parent), folder.name, str(port)]


def experiment_pages(uri: str, ledger: Ledger | None) -> list[tuple[str, str]]:
    """Return titles and the part of the address that shows a study, or the list of all and then each of the newest."""
    from study.tracking.overview import SHARE_KEY, TAG
    from study.tracking.store import connect

    client = connect(uri)
    if ledger is not None:
        found = [client.get_experiment_by_name(ledger.definition.name)]
    else:
        newest = client.search_experiments(max_results=MOST_LISTED, order_by=["last_update_time DESC"])
        found = [each for each in newest if each.name != "Default"]
    pages = []
    for each in filter(None, found):
        # Otherwise MLflow opens on pages about prompts and traces, and on charts in the order of their names.
        view = f"&compareRunsMode=CHART&viewStateShareKey={SHARE_KEY}" if TAG in each.tags else ""
        pages.append((each.name, f"/{each.experiment_id}/runs?workflowType=machine_learning{view}"))
    return [("MLflow UI", pages[0][1])] if len(pages) == 1 else [("MLflow UI", ""), *pages]


def wait_until_up(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers; raise StudyError if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StudyError(f"the server at {address} ended with exit code {process.returncode}; its words are above")
        try:
            urllib.request.urlopen(address, timeout=2).close()  # noqa: S310 - our own address
        except urllib.error.HTTPError:
            return  # it asks for a password
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise StudyError(f"the server at {address} did not answer within {START_SECONDS:.0f} s")


def take_port(port: int | None, beside: int = 0, host: str = LOOPBACK) -> int:
    """Return a port that was asked for, or the first free one from 5000 on; raise StudyError if it is taken."""
    if port is None:
        near = range(FIRST_PORT, FIRST_PORT + 1000)
        found = next((each for each in near if each != beside and is_free(each, host)), None)
        if found is None:
            raise StudyError(f"no port of {host} from {FIRST_PORT} on is free, or it is no address of this machine")
        return found
    if not is_free(port, host):
        raise StudyError(f"port {port} of {host} is taken, or {host} is no address of this machine; choose another")
    return port


def is_free(port: int, host: str) -> bool:
    """Say whether nothing listens on a port of this machine."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
