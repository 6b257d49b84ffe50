"""Optuna's database of a study: made whole, opened for writing by the study's driver and for reading by all others."""

from __future__ import annotations

import logging
import os
import sqlite3
import urllib.parse
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from data.files import written_aside
from study.errors import DamagedRecordError, StudyError, first_line, tells_of_full_disk
from study.record.journal import mend
from study.record.places import DATABASE
from study.record.retrying import RetryingStorage
from study.search.definition import Definition
from study.search.samplers import make_sampler

NOT_DAMAGED = ("is locked", "is busy", "connection", "Connection", "readonly", "timeout", "unable to open")
"""Words of a database that is whole, but cannot be used now."""
WAIT_SECONDS = 30.0
"""How long a reader waits for the driver's transaction to end, and the driver for a reader's."""


def create(folder: Path, definition: Definition) -> None:
    """Make the database of a new study, whole or not at all; on a server, its entry there."""
    with damage_named(folder):
        if definition.optuna_url:
            new_study(RetryingStorage(definition.optuna_url), definition)
            return
        with written_aside(folder / DATABASE) as aside:
            storage = file_storage(aside, writing=True, skip_table_creation=False)
            new_study(storage, definition)
            storage.engine.dispose()


def new_study(storage: optuna.storages.RDBStorage, definition: Definition) -> None:
    """Enter a study in a storage, unless it is there."""
    goal = definition.goal
    study = optuna.create_study(
        storage=storage, study_name=name_in(definition), directions=goal.directions, load_if_exists=True
    )
    study.set_metric_names(goal.metric_names)


def name_in(definition: Definition) -> str:
    """Return a study's name in its database: a server holds the studies of many folders, and none renames one."""
    if definition.optuna_name:
        return definition.optuna_name
    return f"{definition.name}-{definition.identifier[:8]}" if definition.optuna_url else definition.name


def forget(folder: Path, definition: Definition) -> None:
    """Delete a study's entry on a server; what is in its own folder goes with that."""
    if definition.optuna_url:
        study = connect(folder, definition, writing=True)
        optuna.delete_study(study_name=study.study_name, storage=study._storage)


def exists(folder: Path, definition: Definition) -> bool:
    """Say whether a study has its database: one that was killed while it was created has none yet."""
    return bool(definition.optuna_url) or (folder / DATABASE).exists()


def connect(folder: Path, definition: Definition, *, writing: bool) -> optuna.Study:
    """Open a study's database, which must exist; raise StudyError if it cannot be used or is damaged.

    For reading, nothing can be written by it, and a file is checked first.
    """
    with damage_named(folder):
        if definition.optuna_url:
            storage: optuna.storages.RDBStorage = RetryingStorage(definition.optuna_url, writing=writing)
        else:
            path = folder / DATABASE
            if not writing:
                check_file(path)
            storage = file_storage(path, writing=writing, skip_table_creation=True)
        name = name_in(definition)
        sampler = make_sampler(definition.sampler, definition.space, definition.goal, definition.seed, 0)
        try:
            return optuna.load_study(study_name=name, storage=storage, sampler=sampler)
        except KeyError:
            raise DamagedRecordError(
                f"Optuna's database of {folder.name} is damaged: it has no study by the name {name}"
            ) from None


def disconnect(study: optuna.Study) -> None:
    """Close the connections of a study's storage, if it has any."""
    storage = getattr(study._storage, "_backend", study._storage)
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.engine.dispose()


def empty(definition: Definition) -> optuna.Study:
    """Return a study in memory without a trial: what a reader sees of one that was killed while it was created."""
    return optuna.create_study(study_name=definition.name, directions=definition.goal.directions)


def file_storage(path: Path, *, writing: bool, skip_table_creation: bool) -> optuna.storages.RDBStorage:
    """Return Optuna's storage on a database file that exists."""
    # Not by the path in the address, in which braces and % have meanings.
    options = {"creator": lambda: open_file(path, writing=writing)}
    return optuna.storages.RDBStorage("sqlite:///file", options, skip_table_creation=skip_table_creation)


def open_file(path: Path, *, writing: bool) -> sqlite3.Connection:
    """Connect to a database file that exists; a connection for reading refuses every change."""
    # Read-write for readers too, so that SQLite can undo what a killed driver had half written.
    address = f"file:{urllib.parse.quote(str(path.absolute()))}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=WAIT_SECONDS, check_same_thread=False)
    if not writing:
        connection.execute("pragma query_only = 1")
    return connection


def check_file(path: Path) -> None:
    """Raise StudyError if a database file cannot be read, DamagedRecordError unless SQLite calls it whole."""
    if not path.is_file():
        raise DamagedRecordError(
            f"{path} is {'no file' if path.exists() else 'missing'}; the study's record is damaged"
        )
    if not os.access(path, os.R_OK):
        raise StudyError(f"{path} cannot be read: Permission denied; ask its owner, or work on a copy of your own")
    if path.stat().st_size == 0:
        raise DamagedRecordError(f"{path} is empty; the study's record is damaged")
    with closing(open_file(path, writing=False)) as connection:
        found = connection.execute("pragma integrity_check(1)").fetchone()
    if found != ("ok",):
        raise DamagedRecordError(f"{path} is damaged: {str(found[0]).splitlines()[-1]}")


@contextmanager
def damage_named(folder: Path) -> Iterator[None]:
    """Say what Optuna, SQLAlchemy and SQLite mean by their errors of a database that cannot be used.

    Raises DamagedRecordError if it is damaged, with the mend; StudyError if it is busy, or of another version.
    """
    import sqlalchemy.exc

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    try:
        yield
    except DamagedRecordError as error:
        raise DamagedRecordError(f"{error}{mend(folder)}") from None
    except StudyError:
        raise
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError) as error:
        reason = first_line(error.__cause__ or error)
        if tells_of_full_disk(reason):
            raise
        if any(words in reason for words in NOT_DAMAGED):
            raise StudyError(
                f"Optuna's database of {folder.name} cannot be used now: {reason}; another program may hold it, or its"
                " server be away: wait, or end that program"
            ) from None
        raise DamagedRecordError(f"Optuna's database of {folder.name} is damaged: {reason}{mend(folder)}") from None
    except (
        RecursionError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
    ) as error:
        found = f"{type(error).__name__}: {first_line(error)}"
        raise DamagedRecordError(f"Optuna's database of {folder.name} is damaged: {found}{mend(folder)}") from None
    except RuntimeError as error:
        # Optuna's word for a schema that is not its own.
        raise StudyError(
            f"Optuna's database of {folder.name} is of another version of Optuna ({first_line(error)}); use the version"
            " that the study was started with"
        ) from None


def trials(study: optuna.Study, folder: Path) -> list[optuna.trial.FrozenTrial]:
    """Return a study's trials, oldest first, as they are stored; raise StudyError if that is damaged."""
    with damage_named(folder):
        found: list[FrozenTrial] = study.get_trials(deepcopy=False)
        if [trial.number for trial in found] != list(range(len(found))):
            raise DamagedRecordError(f"Optuna's database of {folder.name} is damaged: trials are missing from it")
        return found
