"""A Ray of a study's own on this machine: on loopback alone, behind a token, its folder private and gone afterwards."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from data.files import lock
from study.errors import StudyError, first_line, tells_of_full_disk

LOOPBACK = {
    # Its one effect on Linux: a node's address is 127.0.0.1, and every socket of Ray's listens there alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ports that answer everyone.
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
"""What Ray reads when it is imported and when its processes start."""

START_VARIABLE, START_SECONDS = "RAY_raylet_start_wait_time_s", "120"
"""How long a node may take to start on a busy machine; Ray's own half a minute is too little for two cores."""
ATTEMPTS = 3
SOCKET_BYTES = 107
"""The longest name that a socket can have."""
SOCKET_NAME = "/study-12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
PREFIX = "study-"
OWNER, OWNED_BY = "owner", "the Ray of a study of pooled-vae-study works here"
"""The file that marks a folder as one of ours, and is locked while it is in use."""


@contextmanager
def local_ray(num_cpus: int | None) -> Iterator[None]:
    """Start a Ray here, and end it and what is left of it; raise StudyError if it does not start."""
    set_environment()
    import ray
    from ray._private import ray_constants

    # Where Ray was imported before its variable was set.
    ray_constants.ENABLE_RAY_CLUSTER = False
    sweep_folders()
    folder = private_folder()
    with (folder / OWNER).open("w") as owner:
        # Held as long as this process lives, whatever becomes of it.
        lock(owner)
        owner.write(OWNED_BY)
        owner.flush()
        try:
            start(folder, num_cpus)
            yield
        finally:
            ray.shutdown(wait_for_processes=True)
            end(folder)


def set_environment() -> None:
    """Set what Ray reads when it is imported: loopback alone, and a token of this process' own.

    Ray asks for a token by itself, but keeps it in a file that others may read.
    """
    close_token_file()
    os.environ.update(LOOPBACK)
    os.environ.setdefault(START_VARIABLE, START_SECONDS)
    if "ray" not in sys.modules:
        # Later, Ray would not agree with its own processes on it.
        os.environ.pop("RAY_AUTH_MODE", None)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def close_token_file() -> None:
    """Have no other user read the token that Ray keeps in a file of this user's, as it does for clusters."""
    path = Path.home() / ".ray" / "auth_token"
    with suppress(OSError, RuntimeError):
        if path.is_file() and path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def start(folder: Path, num_cpus: int | None) -> None:
    """Start Ray with its files in a folder, trying again where the machine was too busy; raise StudyError."""
    import ray

    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=200 * 2**20,
                _temp_dir=str(folder / "r"),
            )
        except Exception as error:
            if tells_of_full_disk(str(error)):
                raise
            ray.shutdown()
            end_processes(folder)
            is_late = "timed out" in str(error).lower()
            if attempt < ATTEMPTS and is_late:
                continue
            hint = (
                "the machine is too busy: try again when less runs, or give Ray longer by"
                f" {START_VARIABLE}=600 (seconds, now {os.environ[START_VARIABLE]})"
                if is_late
                else "`study doctor` looks at this machine"
            )
            raise StudyError(f"Ray did not start on this machine: {first_line(error)}; {hint}") from None
        else:
            return


def private_folder() -> Path:
    """Make a folder that only this user can enter, of a name short enough for sockets; raise StudyError if none is."""
    for parent in parents():
        if len(os.fsencode(parent + SOCKET_NAME)) <= SOCKET_BYTES and os.access(parent, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    raise StudyError(
        f"Ray keeps sockets, whose names may have {SOCKET_BYTES} bytes, below a folder that is too long or cannot be"
        f" written: {tempfile.gettempdir()}; set TMPDIR to a short one"
    )


def end(folder: Path) -> None:
    """End what is left of a Ray, and remove its folder."""
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """End this process' own descendants that work in a folder: a start that failed leaves some."""
    mine = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                mine.append(process)
    for process in mine:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(mine, timeout=5)


def parents() -> list[str]:
    """Return where such a folder may be, the user's own choice first."""
    return list(dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")))  # noqa: S108 - for mkdtemp


def sweep_folders() -> None:
    """Remove the folders of this user's studies whose driver was killed: by their mark, which nobody holds any more."""
    for folder in (found for parent in parents() for found in Path(parent).glob(f"{PREFIX}*")):
        with suppress(OSError), (folder / OWNER).open("r+", encoding="utf-8") as owner:
            is_mine = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
            is_alone = {path.name for path in folder.iterdir()} <= {OWNER, "r"}
            if (
                is_mine
                and is_alone
                and owner.read(len(OWNED_BY) + 1) == OWNED_BY
                and not is_used(folder)
                and lock(owner, wait=False)
            ):
                shutil.rmtree(folder, ignore_errors=True)


def is_used(folder: Path) -> bool:
    """Say whether a process works in a folder: Ray's outlive a killed driver by some minutes."""
    for process in psutil.process_iter(["cmdline"]):
        words: list[Any] = process.info["cmdline"] or []
        if any(str(folder) in word for word in words):
            return True
    return False
