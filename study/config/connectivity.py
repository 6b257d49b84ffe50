"""Whether the servers that a study was pointed at answer: asked before anything is written."""

from __future__ import annotations

import socket
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from study.config.addresses import holds_secret, names_user, refuse_secret, shown
from study.errors import StudyError, first_line

TIMEOUT_SECONDS = 15.0


def check_ray_address(address: str | None) -> None:
    """Raise StudyError unless something listens at a Ray address; `auto` is left to Ray to find."""
    if address is None or address in ("auto", "local"):
        return
    refuse_secret("--address", address, "give Ray's token by RAY_AUTH_TOKEN or ~/.ray/auth_token")
    try:
        place = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
        host, port = place.hostname, place.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise StudyError(f"--address {shown(address)}: expected auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, port), TIMEOUT_SECONDS).close()
    except (OSError, UnicodeError, OverflowError) as error:
        raise StudyError(
            f"no Ray cluster answers at {address} ({first_line(error)}); check with `ray status --address {address}`,"
            " or leave --address out to use this machine alone"
        ) from None


def check_tracking_uri(uri: str | None) -> None:
    """Raise StudyError if a tracking address holds a password or its server or file cannot be used."""
    if uri is None:
        return
    try:
        place = urllib.parse.urlsplit(uri)
    except ValueError:
        place = urllib.parse.urlsplit("")
    if holds_secret(uri) or (names_user(uri) and place.scheme in ("http", "https")):
        raise StudyError(
            "--tracking-uri holds a user or password, which would be stored with the study;"
            " set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if place.scheme == "sqlite":
        check_sqlite("--tracking-uri", uri)
        return
    if place.scheme not in ("http", "https"):
        if place.scheme != "databricks" and uri != "databricks":
            raise StudyError(
                f"--tracking-uri {uri}: expected http://HOST:PORT or sqlite:///FILE; of another database, start"
                " `mlflow server --backend-store-uri ...` and give the server's address"
            )
        return
    try:
        # Not /health, which answers to names that all else is refused under.
        address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1"
        urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS).close()  # noqa: S310 - http only
    except urllib.error.HTTPError as error:
        hint = (
            "; a server that refuses its own name needs `mlflow server --allowed-hosts`, or use its IP address"
            if error.code == 403
            else ""
        )
        if error.code != 401:
            raise StudyError(f"MLflow at {uri} cannot be used: it answers {error.code} {error.reason}{hint}") from None
    except (OSError, ValueError) as error:
        raise StudyError(
            f"MLflow at {uri} cannot be used: {error}; check the address in a browser,"
            " or leave --tracking-uri out to record locally"
        ) from None


def check_sqlite(option: str, uri: str) -> None:
    """Raise StudyError unless an address names a file that is a sqlite database, or can become one."""
    name = uri.removeprefix("sqlite:///")
    expected = f"{option} {uri}: expected sqlite:///FILE, or sqlite:////ABSOLUTE/FILE"
    if name == uri or not name.strip("/") or name.startswith(":memory:") or "?" in name:
        raise StudyError(f"{expected}; what is kept in memory is lost")
    path = Path(name).absolute()
    try:
        if path.is_dir():
            raise StudyError(f"{expected}; {path} is a folder")
        if path.exists() and path.stat().st_size:
            with path.open("rb") as stream:
                if stream.read(16) != b"SQLite format 3\0":
                    raise StudyError(f"{expected}; {path} is something else and is left alone")
    except OSError as error:
        raise StudyError(f"{option} {uri} cannot be used: {error.strerror}") from None


def check_database(url: str | None) -> None:
    """Raise StudyError if a database address holds a password, or its server does not answer."""
    if url is None:
        return
    import sqlalchemy

    refuse_secret("--optuna-url", url, "keep it in ~/.pgpass, or in $PGPASSWORD")
    try:
        place = sqlalchemy.make_url(url)
        if place.host is None:
            raise StudyError(f"--optuna-url {url} names no server; leave it out to use a file in the study's folder")
        engine = sqlalchemy.create_engine(place)
        with engine.connect():
            pass
        engine.dispose()
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        if isinstance(error, StudyError):
            raise
        raise StudyError(f"--optuna-url {url}: expected postgresql://USER@HOST/DATABASE") from None
    except ImportError as error:
        raise StudyError(f"--optuna-url {url} needs {error.name}: pip install 'pooled-vae-study[cluster]'") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = first_line(error.__cause__ or error)
        raise StudyError(f"the database of --optuna-url cannot be used: {reason}; is its server running?") from None


def check_mps(wanted: bool, address: str | None) -> None:
    """Raise StudyError where MPS is asked for on a cluster, whose nodes start it themselves."""
    if wanted and address is not None:
        raise StudyError("--mps starts MPS on this machine; on a cluster its nodes do (cluster.yaml): leave it out")
