"""Who holds a study's folder: one process writes it at a time, and says which it is."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from data.files import HALF_WRITTEN, lock
from study.errors import StudyError
from study.record.journal import storage_hint
from study.record.places import DEFINITION, LOCK


@dataclass(frozen=True)
class Holder:
    """The process that has a study's folder."""

    pid: int
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()


def exclusive_lock(folder: Path, name: str) -> IO[str]:
    """Lock a study's folder for this process; raise StudyError if another one has it."""
    stream = (folder / LOCK).open("a")
    if not lock(stream, wait=False):
        stream.close()
        raise StudyError(
            f"the study {name} is being run by another process; wait for it, or end it by"
            f" `study stop {name}{storage_hint(folder.parent)}`"
        ) from None
    stream.truncate(0)
    stream.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    stream.flush()
    return stream


def is_held(folder: Path) -> bool:
    """Say whether a process has the folder of a study."""
    if not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open() as stream:
        return not lock(stream, wait=False, shared=True)


def holder(folder: Path) -> Holder | None:
    """Return which process has the folder of a study; None if none has, or an older version that does not say."""
    if not is_held(folder):
        return None
    try:
        stored = json.loads((folder / LOCK).read_text("utf-8"))
        return Holder(int(stored["pid"]), str(stored["host"]))
    except (ValueError, LookupError, TypeError):
        return None


def check_new(folder: Path, name: str) -> None:
    """Raise StudyError if a folder has a study or anything else, or is being run; nothing is touched."""
    if (folder / LOCK).is_file() and (folder / DEFINITION).is_file():
        # Said first of a study that is being run.
        exclusive_lock(folder, name).close()
    left = {LOCK, *(path.name for path in folder.glob(f"{HALF_WRITTEN}-{DEFINITION}"))}
    found = [path.name for path in folder.iterdir() if path.name not in left] if folder.is_dir() else []
    if DEFINITION in found:
        raise StudyError(
            f"a study named {name} exists already; continue it with --resume {name}{storage_hint(folder.parent)},"
            " or choose another --name"
        )
    if found or (folder.exists() and not folder.is_dir()):
        raise StudyError(
            f"{folder} is not empty and no study ({', '.join(sorted(found)[:3]) or 'a file'}); choose another --name"
        )
