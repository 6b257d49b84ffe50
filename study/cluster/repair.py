"""Mending a study's record from what of it is whole: what is damaged is kept beside it, and trained again by --resume.

A trial is its settings and its seed, so that training it again gives the numbers that were lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from data.files import DamagedFileError, read_json
from model.weights import DESCRIPTION
from study.config.settings import Params, Settings, flatten
from study.config.stored import free_path
from study.epoch import Epoch
from study.errors import DamagedRecordError, StudyError
from study.record import database
from study.record.holding import exclusive_lock
from study.record.integrity import disagreement, equal
from study.record.journal import DamagedJournalError, read_journal, rewrite_journal, storage_hint
from study.record.places import BEST, CHECKPOINTS, DATABASE, RUN_IDS, TRIALS, trial_folder
from study.record.proposal import ASKED, FIXED, OUTSIDE
from study.record.trials import best_row
from study.search.definition import Definition
from study.training.checkpoints import PROGRESS, load_checkpoint


def repair(folder: Path, definition: Definition) -> Iterator[str]:
    """Mend a study's record, yielding what was done; raise StudyError if it is being run or lies on a server.

    Every trial that is whole stays as it is. Of another, the epochs that are whole stay, and it waits to be gone on
    with. A database that cannot be read is made again from the trials' folders.
    """
    if definition.optuna_url:
        raise StudyError(f"the record of {definition.name} is on {definition.optuna_url}; restore it from there")
    with exclusive_lock(folder, definition.name):
        yield from mend_run_ids(folder)
        known, reason = read_database(folder, definition)
        if reason:
            yield f"{folder / DATABASE} cannot be read ({reason}); it is made again from the trials' folders"
        numbers = [int(each.name) for each in (folder / TRIALS).glob("*[0-9]") if each.name.isdecimal()]
        entries, done = [], []
        for number in range(max([len(known), *(number + 1 for number in numbers)])):
            entry, what = mended(folder, definition, number, known[number] if number < len(known) else None)
            entries.append(entry)
            if what:
                done.append(f"trial {number}: {what}")
        yield from done
        if done or reason:
            replace_database(folder, definition, entries)
            yield f"go on with `study run --resume {definition.name}{storage_hint(folder.parent)}`"


def mend_run_ids(folder: Path) -> Iterator[str]:
    """Put away the list of MLflow's runs if it is damaged: MLflow knows them by their tags."""
    path = folder / RUN_IDS
    if not os.path.lexists(path):
        return
    try:
        read_json(path, dict[str, str])
    except DamagedFileError as error:
        path.rename(free_path(path.with_name(f"{RUN_IDS}.damaged")))
        yield f"{error}; it is made again when the study goes on"


def read_database(folder: Path, definition: Definition) -> tuple[list[FrozenTrial], str]:
    """Return the trials of a study's database, or none and what is damaged; raise StudyError if it is only busy."""
    try:
        return database.trials(database.connect(folder, definition, writing=False), folder), ""
    except DamagedRecordError as error:
        return [], str(error).partition(";")[0]


def mended(folder: Path, definition: Definition, number: int, known: FrozenTrial | None) -> tuple[FrozenTrial, str]:
    """Return a trial's entry, and what was damaged of it; nothing of one that is whole."""
    place = trial_folder(folder, number)
    problem, rows, history = "", [], history_of(place)
    try:
        rows = read_journal(place)
    except DamagedJournalError as error:
        problem, rows = str(error).partition(";")[0], error.rows
    if known is not None and not problem:
        problem = disagreement(known, rows, best_row(rows, definition), definition)
        if not problem:
            return known, ""
    if len(history) > len(rows) and all(same(one, other) for one, other in zip(rows, history, strict=False)):
        rows = history
    if problem:
        rewrite_journal(place, rows)
    attributes: dict[str, object]
    if known is not None and in_space(known.params, definition):
        inside, attributes = known.params, asked_attributes(known)
    else:
        params, planned = params_of(place, definition, number)
        inside, outside = definition.space.divide(params)
        attributes = {name: given for name, given in ((OUTSIDE, outside), (ASKED, planned)) if given}
    fixed = {FIXED: inside} if inside else {}
    entry = create_trial(state=TrialState.WAITING, system_attrs=fixed, user_attrs=attributes)
    return entry, f"{problem or 'its entry was lost'}; {len(rows)} epochs of it are whole, the rest is trained again"


def asked_attributes(known: FrozenTrial | None) -> dict[str, object]:
    """Return what a trial's entry says of the values that were asked for, as it is stored."""
    found = {} if known is None else known.user_attrs
    return {name: found[name] for name in (ASKED, OUTSIDE) if name in found}


def history_of(place: Path) -> list[Epoch]:
    """Return the epochs that a trial's newest whole checkpoint knows; none without one."""
    found = load_checkpoint(place / CHECKPOINTS)
    return list(map(Epoch.from_json, found[0].history)) if found else []


def same(row: Epoch, other: Epoch) -> bool:
    """Say whether two rows are of one epoch: a journal's has what the node was doing as well."""
    stored = row.to_json()
    return all(equal(stored.get(name), value) or stored.get(name) == value for name, value in other.to_json().items())


def in_space(params: Params, definition: Definition) -> bool:
    """Say whether values are a trial's of this study."""
    if not params or definition.space.divide(params)[1]:
        return False
    try:
        definition.space.settings(params)
    except StudyError:
        return False
    return True


def params_of(place: Path, definition: Definition, number: int) -> tuple[Params, Params]:
    """Return the values of a trial as its checkpoints or best weights have them, and those that it was planned with.

    None where both are gone.
    """
    # Trials are planned before any other is proposed, so that their numbers are their places.
    planned = definition.planned[number] if number < len(definition.planned) else {}
    for path in [
        *sorted(place.glob(f"{CHECKPOINTS}/step-*/{PROGRESS}")),
        *sorted(place.glob(f"{BEST}-*/{DESCRIPTION}")),
    ]:
        try:
            stored: dict[str, object] = read_json(path, dict[str, object])
        except DamagedFileError:
            continue
        progress = stored.get("progress", stored)
        settings = progress.get("settings") if isinstance(progress, dict) else None
        flat = flatten(settings) if isinstance(settings, dict) else {}
        own = planned if all(flat.get(name) == value for name, value in planned.items()) else {}
        values = definition.space.values_in(flat, own)
        inside, _ = definition.space.divide(values)
        if in_space(inside, definition):
            return values | set_otherwise(flat, definition.settings(number, inside)), own
    return {}, {}


def set_otherwise(flat: Mapping[str, object], usual: Settings) -> Params:
    """Return which of a trial's settings are not those that its searched values give: asked for outside the space."""
    held = flatten(usual.model_dump())
    return {
        name: value
        for name, value in flat.items()
        if value != held.get(name) and isinstance(value, bool | int | float | str)
    }


def replace_database(folder: Path, definition: Definition, entries: list[FrozenTrial]) -> None:
    """Make a database of these trials, and put it in the place of the one that is there, which is kept."""
    path = folder / DATABASE
    for end in ("-journal", "-wal", "-shm", ""):
        old = path.with_name(f"{path.name}{end}")
        if os.path.lexists(old):
            old.rename(free_path(old.with_name(f"{old.name}.damaged")))
    database.create(folder, definition)
    study: optuna.Study = database.connect(folder, definition, writing=True)
    study.add_trials(entries)
