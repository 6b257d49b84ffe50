"""Where a run keeps the weights of its best epochs, and which of them nothing needs any more."""

from __future__ import annotations

from pathlib import Path

from data.corpus import VOCABULARY
from data.files import remove_files
from model.weights import DESCRIPTION, WEIGHTS
from study.training.checkpoints import Progress

BEST = "best"
BEST_FILES = (WEIGHTS, DESCRIPTION, VOCABULARY)
"""What is in a folder of weights."""


def best_folder(folder: Path, epoch: int) -> Path:
    """Return where a run keeps the weights of an epoch that was its best."""
    return folder / f"{BEST}-{epoch:05d}"


def remove_unneeded_best(folder: Path, progress: Progress) -> None:
    """Remove best weights but the newest three: two checkpoints and the present may each need one."""
    for old in best_folders(folder)[:-3]:
        if old != best_folder(folder, progress.best_epoch):
            remove_files(old, BEST_FILES)


def best_folders(folder: Path) -> list[Path]:
    """Return where a run has weights of epochs that were its best so far, the newest last."""
    return sorted(path.parent for path in folder.glob(f"{BEST}-*/{WEIGHTS}") if path.parent.name[5:].isdecimal())
