"""What is noted beside a study's record: which trials its user took out, and why; which runs MLflow has of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints

from data.files import DamagedFileError, read_json
from study.config.stored import read_sealed, write_sealed
from study.errors import StudyWarning
from study.record.places import DROPPED, RUN_IDS

REASONS = "reasons"
RunId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{8,64}$")]
"""MLflow's name of a run."""


def read_dropped(folder: Path) -> dict[int, str]:
    """Return why each dropped trial of the study in a folder was dropped; raise StudyError if the file is damaged."""
    if not os.path.lexists(folder / DROPPED):
        return {}
    stored: dict[str, dict[str, str]] = read_sealed(
        folder / DROPPED, dict[str, dict[str, str]], "remove the file, and drop the trials again by `study drop`"
    )
    return {int(number): why for number, why in stored.get(REASONS, {}).items() if number.isdecimal()}


def write_dropped(folder: Path, dropped: Mapping[int, str]) -> None:
    """Write which trials are dropped, and why."""
    write_sealed(folder / DROPPED, {REASONS: {str(number): why for number, why in sorted(dropped.items())}})


def read_run_ids(folder: Path) -> dict[str, str]:
    """Return the MLflow run of a study (`study`) and of each trial, by number; made again if it is damaged."""
    path = folder / RUN_IDS
    if not os.path.lexists(path):
        return {}
    try:
        found: dict[str, RunId] = read_json(path, dict[str, RunId])
    except DamagedFileError as error:
        warnings.warn(StudyWarning(f"{error}; it is made again when the study goes on"), stacklevel=2)
        return {}
    return found
