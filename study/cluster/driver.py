"""Ending the process that runs a study, in order, from another terminal."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from study.errors import StudyError
from study.record.holding import holder, is_held

WAIT_SECONDS = 120.0
"""How long the driver may take: its trials write checkpoints, MLflow hears the rest."""


def stop_driver(folder: Path, wait_seconds: float = WAIT_SECONDS) -> bool:
    """Have the process that runs the study in a folder end it as Ctrl-C would, and wait until it has.

    Returns False if no process runs it. Raises StudyError if it runs elsewhere, belongs to another user, or does not
    end in time.
    """
    if not is_held(folder):
        return False
    found, name = holder(folder), folder.name
    if found is None:
        raise StudyError(f"{name} is run by a process that does not say which it is; end that one by Ctrl-C")
    if not found.is_here:
        raise StudyError(
            f"{name} is run on {found.host}, by process {found.pid}; end it there by study stop {name}, or as a job"
            " of the cluster: study jobs, study stop JOB"
        )
    try:
        os.kill(found.pid, signal.SIGINT)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise StudyError(f"{name} is run by another user's process {found.pid}; ask that user to end it") from None
    deadline = time.monotonic() + wait_seconds
    while is_held(folder):
        if time.monotonic() > deadline:
            raise StudyError(
                f"{name} has been told to end {wait_seconds:.0f} s ago and still runs, as process {found.pid};"
                " the same command once more ends it at once"
            )
        time.sleep(0.2)
    return True
