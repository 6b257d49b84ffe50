"""What crashed and finished studies leave behind that nothing needs any more."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from study.errors import StudyError
from study.journal import study_names
from study.ledger import ENDS, Ledger
from study.report import USABLE
from study.training import BEST, CHECKPOINTS

HALF_WRITTEN = ".writing.*"


@dataclass(frozen=True)
class Garbage:
    """A folder or file that can go, of a study, and why."""

    study: str
    path: Path
    why: str

    @property
    def num_bytes(self) -> int:
        """Bytes of the files in it."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


def studies(storage: Path, on_problem: Callable[[str], None]) -> Iterator[Ledger]:
    """Open every study of a storage folder, in the order of their names; say which cannot be opened."""
    for name in study_names(storage):
        try:
            ledger = Ledger.open(storage / name)
        except StudyError as error:
            on_problem(str(error))
            continue
        yield ledger


def find_garbage(ledger: Ledger, num_kept: int) -> Iterator[Garbage]:
    """Yield what a study that nobody runs does not need.

    Of trials that are over: the state to go on from. Of a study that is over: the weights of all but its
    best `num_kept` trials. Of any: what was being written when something was killed. Links, and what they lead to, are
    left alone.
    """
    yield from (each for each in _unneeded(ledger, num_kept) if not each.path.is_symlink())


def _unneeded(ledger: Ledger, num_kept: int) -> Iterator[Garbage]:
    name, trials = ledger.folder.name, ledger.trials()
    usable = sorted((t for t in trials if t.feasible and t.state in USABLE), key=lambda t: t.best["valid/nll"])
    is_over = ledger.num_left() == 0 and all(trial.state in ENDS for trial in trials)
    kept = {trial.number for trial in usable[:num_kept]}
    for trial in trials:
        folder = ledger.trial_folder(trial.number)
        if folder.is_symlink() or folder.parent.is_symlink():
            continue
        for path in sorted(folder.glob(f"**/{HALF_WRITTEN}")):
            yield Garbage(name, path, "half-written")
        if trial.state not in ENDS:
            continue
        if (folder / CHECKPOINTS).is_dir():
            yield Garbage(name, folder / CHECKPOINTS, f"state of a trial that is {trial.state}")
        weights = sorted(folder.glob(f"{BEST}-*"))
        for path in weights[:-1]:
            yield Garbage(name, path, "weights of an epoch that was not the best in the end")
        if weights and is_over and trial.number not in kept:
            yield Garbage(name, weights[-1], f"weights of a trial outside the best {num_kept}")


def remove(garbage: Garbage) -> None:
    """Delete a folder or file for good."""
    if garbage.path.is_dir():
        shutil.rmtree(garbage.path)
    else:
        garbage.path.unlink()
