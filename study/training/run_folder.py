"""What a run of its own (`study train`) says of itself, in its folder: its corpus, and what it began from."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data.files import first_problem
from study.config.stored import read_sealed, write_sealed
from study.epoch import Epoch
from study.errors import StudyError
from study.record.places import CHECKPOINTS

RUN = "run.json"


class RunNote(BaseModel):
    """Where a run came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    """The prepared folder."""
    corpus_fingerprint: str
    origin: str = ""
    """`STUDY:TRIAL` whose settings it has; empty of settings of one's own."""
    changed: dict[str, str] = {}
    """What was set otherwise than there."""
    weights: str = ""
    """The folder whose weights it began from; empty where it began anew."""


def write_note(folder: Path, note: RunNote) -> None:
    """Write what a run says of itself; raise StudyError if the folder has another run's note."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(folder / RUN):
        known = read_note(folder)
        if known.model_copy(update={"corpus": note.corpus}) != note:
            raise StudyError(f"{folder} has another run, begun from {known.origin or 'settings of its own'}: --out NEW")
    write_sealed(folder / RUN, note.model_dump())


def read_note(folder: Path) -> RunNote:
    """Return what the run in a folder says of itself; raise StudyError if it says nothing or is damaged."""
    if not os.path.lexists(folder / RUN):
        raise StudyError(f"{folder} is no run of `study train`: it has no {RUN}")
    stored: dict[str, object] = read_sealed(folder / RUN, dict[str, object], "name another folder")
    try:
        return RunNote.model_validate(stored)
    except ValidationError as error:
        raise StudyError(f"{folder / RUN} is damaged: {first_problem(error)}") from None


def read_epochs(folder: Path) -> list[Epoch]:
    """Return the epochs so far of the run in a folder, oldest first; none before the first checkpoint."""
    from study.training.checkpoints import load_checkpoint

    found = load_checkpoint(folder / CHECKPOINTS)
    return [Epoch.from_json(row) for row in found[0].history] if found is not None else []
