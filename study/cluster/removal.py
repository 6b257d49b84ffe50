"""Taking a study away, or giving it another name: its folder, Optuna's entry and what MLflow has of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data.files import HALF_WRITTEN
from study.config.naming import CONFIRMATION, check_study_name
from study.errors import StudyError
from study.record.database import forget, name_in
from study.record.holding import exclusive_lock
from study.record.ledger import OWN_FILES
from study.record.moved import found_again
from study.record.places import COMPARED_RUNS, COMPARISON, CONFIRMED, DEFINITION, LOCK, TRIALS, TUNE
from study.search.definition import Definition, read_definition, write_definition
from study.tracking import experiments

AT_THE_TOP = (*OWN_FILES, TRIALS, TUNE, COMPARISON, COMPARED_RUNS, CONFIRMED)
"""What this program makes at the top of a study's folder."""


@dataclass(frozen=True)
class Contents:
    """What goes when a study is deleted: its own files and folders, and in MLflow its runs and model versions."""

    own: list[Path]
    foreign: list[Path]
    """What others put into its folder: it stays."""
    recorded: experiments.Recorded

    @property
    def num_bytes(self) -> int:
        """Bytes of its own files."""
        return sum(size_of(path) for path in self.own)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links and what they lead to count for nothing."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file() and not each.is_symlink())


def is_own(path: Path) -> bool:
    """Say whether a file or folder at the top of a study's folder is one that this program makes there."""
    name = path.name
    return (
        name in AT_THE_TOP
        or name.startswith(HALF_WRITTEN)
        or any(name.startswith(f"{own}.damaged") for own in OWN_FILES)
    )


def contents(folder: Path, *, with_runs: bool) -> Contents:
    """Return what deleting the study in a folder takes away; raise StudyError if there is none."""
    definition = definition_in(folder)
    found = sorted(folder.iterdir())
    recorded = experiments.what_is_recorded(definition) if with_runs else experiments.Recorded()
    return Contents([path for path in found if is_own(path)], [path for path in found if not is_own(path)], recorded)


def definition_in(folder: Path) -> Definition:
    """Return the definition of the study in a folder; raise StudyError if there is none."""
    if not (folder / DEFINITION).is_file():
        raise StudyError(f"no study named {folder.name} in {folder.parent}; `study list` shows what there is")
    return found_again(folder, read_definition(folder / DEFINITION))[0]


def delete_study(folder: Path, *, with_runs: bool) -> Iterator[str]:
    """Delete the study in a folder, yielding what is left to do or stays; raise StudyError if it is being run.

    MLflow first: as long as the folder is there, the command can be repeated.
    """
    definition = definition_in(folder)
    with exclusive_lock(folder, definition.name):
        if with_runs and (left := experiments.delete_recorded(definition)):
            yield left
        forget(folder, definition)
        found = contents(folder, with_runs=False)
        # What makes it a study goes last.
        for path in sorted(found.own, key=lambda each: each.name in (DEFINITION, LOCK)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    if found.foreign:
        yield f"{', '.join(path.name for path in found.foreign)} in {folder} is not the study's, and stays"
    else:
        folder.rmdir()


def rename_study(folder: Path, name: str) -> list[str]:
    """Give the study in a folder, and its confirmation, another name; return the new names. Raises StudyError."""
    check_study_name(name, "NEW")
    definition_in(folder)
    pairs = [(folder, name), (folder.with_name(f"{folder.name}{CONFIRMATION}"), f"{name}{CONFIRMATION}")]
    pairs = [(old, new) for old, new in pairs if (old / DEFINITION).is_file()]
    renamed = []
    for old, new in pairs:
        if old.with_name(new).exists():
            raise StudyError(f"{old.with_name(new)} exists already; choose another name")
    for old, new in pairs:
        definition, target = definition_in(old), old.with_name(new)
        with exclusive_lock(old, definition.name):
            experiments.rename_experiment(definition, new)
            write_definition(old / DEFINITION, replace(definition, name=new, optuna_name=name_in(definition)))
            old.rename(target)
        renamed.append(new)
    return renamed
