"""Whether the servers that a study was pointed at answer: asked before anything is written."""

from __future__ import annotations

import socket
import urllib.error
import urllib.parse
import urllib.request

from study.errors import StudyError

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


def check_tracking_uri(uri: str | None) -> None:
    """Raise StudyError if a tracking address holds a password or its server does not answer."""
    if uri is None:
        return
    place = urllib.parse.urlsplit(uri)
    if "@" in place.netloc:
        raise StudyError(
            "--tracking-uri holds a user or password, which would be stored with the study;"
            " set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if place.scheme not in ("http", "https"):
        if place.scheme not in ("sqlite", "postgresql", "mysql", "mssql") and not place.scheme.startswith("databricks"):
            raise StudyError(f"--tracking-uri {uri}: expected http://HOST:PORT or sqlite:///FILE")
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=TIMEOUT_SECONDS).close()  # noqa: S310 - http only
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
