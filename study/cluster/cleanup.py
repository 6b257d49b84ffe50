"""What crashed and finished studies leave behind that nothing needs any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from study.errors import StudyError
from study.record.journal import study_names
from study.record.ledger import Ledger
from study.record.places import CHECKPOINTS
from study.record.states import ENDS, USABLE
from study.training.best_weights import BEST_FILES, best_folders
from study.training.checkpoints import PROGRESS, STATE

HALF_WRITTEN = ".writing[-.]*"
OWN_FILES = (*BEST_FILES, STATE, PROGRESS)


@dataclass(frozen=True)
class Garbage:
    """A folder or file of a study that can go, and why; of a folder, the files that this program wrote into it."""

    study: str
    path: Path
    why: str

    @property
    def files(self) -> list[Path]:
        """What of it is removed: nothing that was put there by anyone else."""
        if not self.path.is_dir():
            return [self.path]
        return [path for path in self.path.rglob("*") if is_own(path) and not is_behind_link(path, self.path)]

    @property
    def num_bytes(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.files)


def is_own(path: Path) -> bool:
    """Say whether a file is one that training writes into a trial's folder."""
    return path.name in OWN_FILES and path.is_file() and not path.is_symlink()


def is_behind_link(path: Path, top: Path) -> bool:
    """Say whether a link lies between a folder and what is below it."""
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(top))


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
    name, found = ledger.folder.name, list(ledger.survey())
    for number in range(len(found)):
        folder = ledger.trial_folder(number)
        if not (folder.is_symlink() or folder.parent.is_symlink()):
            for path in sorted(folder.glob(f"**/{HALF_WRITTEN}")):
                yield Garbage(name, path, "half-written")
    if any(problem for _, problem in found):
        # Mending it may need everything else.
        return
    trials = [trial for trial, _ in found if trial is not None]
    usable = sorted((t for t in trials if t.feasible and t.state in USABLE), key=lambda t: t.score)
    is_over = ledger.num_left() == 0 and all(trial.state in ENDS for trial in trials)
    kept = {trial.number for trial in usable[:num_kept]}
    for trial in trials:
        folder = ledger.trial_folder(trial.number)
        if folder.is_symlink() or folder.parent.is_symlink() or trial.state not in ENDS:
            continue
        if (folder / CHECKPOINTS).is_dir():
            yield Garbage(name, folder / CHECKPOINTS, f"state of a trial that is {trial.state}")
        weights = best_folders(folder)
        for path in weights[:-1]:
            yield Garbage(name, path, "weights of an epoch that was not the best in the end")
        if weights and is_over and trial.number not in kept:
            yield Garbage(name, weights[-1], f"weights of a trial outside the best {num_kept}")


def remove(garbage: Garbage) -> None:
    """Delete a file, or a folder's files of ours and the folders that are empty then, for good."""
    for path in garbage.files:
        path.unlink(missing_ok=True)
    if garbage.path.is_dir():
        below = [path for path in garbage.path.rglob("*") if path.is_dir() and not path.is_symlink()]
        for folder in [*sorted(below, reverse=True), garbage.path]:
            with suppress(OSError):
                folder.rmdir()
