"""optuna-dashboard on a copy of a study's database that nothing can change, for this machine's own names alone.

It has neither a host check nor a read-only mode of its own: any page in a browser, or any user of the machine, could
have it delete the study. Run as `python -m study.dashboard STORAGE NAME PORT`.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from study.record import database
from study.record.ledger import Ledger
from study.record.places import DATABASE

LOOPBACK = "127.0.0.1"
REFRESH_SECONDS = 2.0
READING = ("GET", "HEAD")
Answer = Callable[[str, list[tuple[str, str]]], Any]


class Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread of its own."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Prints no line for each request."""

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


class Guarded:
    """An application behind a guard: no request that changes anything, and none for another host or from another page.

    A page of someone else's reaches a server on this machine under a name of his own (DNS rebinding), or by a form.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], port: int) -> None:
        self.application = application
        self.hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}

    def __call__(self, request: dict[str, Any], answer: Answer) -> Iterable[bytes]:
        """Answer a request, or refuse it with the reason."""
        origin = str(request.get("HTTP_ORIGIN", ""))
        if request.get("HTTP_HOST") not in self.hosts:
            return refused(answer, "403 Forbidden", "asked for by another name than this machine's own")
        if origin and origin.removeprefix("http://") not in self.hosts:
            return refused(answer, "403 Forbidden", "asked by a page from elsewhere")
        if request.get("REQUEST_METHOD") not in READING:
            return refused(answer, "405 Method Not Allowed", "a study is only looked at here")
        return self.application(request, answer)


def refused(answer: Answer, status: str, reason: str) -> list[bytes]:
    """Answer that a request is refused, and why."""
    answer(status, [("Content-Type", "text/plain")])
    return [f"{reason}\n".encode()]


def copy_database(source: Path, target: Path) -> None:
    """Copy a sqlite database as it stands, whatever its driver is doing."""
    with closing(database.open_file(source, writing=False)) as found, closing(sqlite3.connect(target)) as copy:
        found.backup(copy)


def keep_copied(source: Path, target: Path, ended: threading.Event) -> None:
    """Copy a database again whenever it has changed, until told to end."""
    seen = None
    while not ended.wait(REFRESH_SECONDS):
        with suppress(OSError, sqlite3.Error):
            now = source.stat().st_mtime_ns
            if now != seen:
                copy_database(source, target)
                seen = now


def serve(storage: Path, name: str, port: int) -> None:
    """Serve a study's dashboard until ended; raise StudyError if there is no such study."""
    from optuna_dashboard import wsgi

    ledger = Ledger.open(storage / name)
    with tempfile.TemporaryDirectory() as scratch:
        folder, ended = Path(scratch), threading.Event()
        if not ledger.definition.optuna_url:
            source = ledger.folder / DATABASE
            copy_database(source, folder / DATABASE)
            arguments = (source, folder / DATABASE, ended)
            threading.Thread(target=keep_copied, args=arguments, daemon=True).start()
        study = database.connect(folder, ledger.definition, writing=False)
        application = Guarded(wsgi(study._storage), port)
        with make_server(LOOPBACK, port, application, Server, Quiet) as server:
            server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
