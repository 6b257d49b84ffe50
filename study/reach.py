"""Whether the servers that a study was pointed at answer: asked before anything is written."""

from __future__ import annotations

import socket
import urllib.error
import urllib.parse
import urllib.request

from study.errors import StudyError, first_line

TIMEOUT_SECONDS = 5.0


def check_ray_address(address: str | None) -> None:
    """Raise StudyError unless something listens at a Ray address; `auto` is left to Ray to find."""
    if address is None or address in ("auto", "local"):
        return
    place = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise StudyError(f"--address {address}: expected auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, port), TIMEOUT_SECONDS).close()
    except OSError as error:
        raise StudyError(
            f"no Ray cluster answers at {address} ({error}); check with `ray status --address {address}`,"
            " or leave --address out to use this machine alone"
        ) from None


def refuse_password(option: str, url: str, instead: str) -> None:
    """Raise StudyError if an address holds a password."""
    try:
        password = urllib.parse.urlsplit(url).password
    except ValueError:
        password = None
    if password is not None:
        raise StudyError(f"{option} holds a password, which would be stored and shown; {instead}")


def check_tracking_uri(uri: str | None) -> None:
    """Raise StudyError if a tracking address holds a password or its server does not answer."""
    if uri is None:
        return
    place = urllib.parse.urlsplit(uri)
    if place.password is not None or ("@" in place.netloc and place.scheme in ("http", "https")):
        raise StudyError(
            "--tracking-uri holds a user or password, which would be stored with the study;"
            " set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if place.scheme not in ("http", "https"):
        if place.scheme != "sqlite" and not place.scheme.startswith("databricks"):
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


def check_database(url: str | None) -> None:
    """Raise StudyError if a database address holds a password, or its server does not answer."""
    if url is None:
        return
    import sqlalchemy

    try:
        place = sqlalchemy.make_url(url)
        if place.password is not None:
            raise StudyError(
                "--optuna-url holds a password, which would be stored with the study; keep it in ~/.pgpass, or in"
                " $PGPASSWORD"
            )
        if place.host is None:
            raise StudyError(f"--optuna-url {url} names no server; leave it out to use a file in the study's folder")
        engine = sqlalchemy.create_engine(place)
        with engine.connect():
            pass
        engine.dispose()
    except sqlalchemy.exc.ArgumentError:
        raise StudyError(f"--optuna-url {url}: expected postgresql://USER@HOST/DATABASE") from None
    except ImportError as error:
        raise StudyError(f"--optuna-url {url} needs {error.name}: pip install 'pooled-vae-study[cluster]'") from None
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = first_line(error.__cause__ or error)
        raise StudyError(f"the database of --optuna-url cannot be used: {reason}; is its server running?") from None
