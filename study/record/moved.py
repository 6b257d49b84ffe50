"""Where a study's corpus, database and code lie after the project's folder was moved: their stored paths are old."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from data.errors import CorpusError
from data.files import DamagedFileError, read_json
from data.manifest import read_manifest
from study.config.naming import database_file, default_tracking_uri
from study.config.run_options import CORPORA
from study.record.places import DEFINITION
from study.search.definition import Definition


def found_again(folder: Path, definition: Definition, corpus: Path | None = None) -> tuple[Definition, list[str]]:
    """Return a study's definition with places that exist, and what of it moved; nothing is written.

    A corpus that is not where it was is looked for beside the storage, by its fingerprint; `corpus` says where it is.
    A database of MLflow's that is not where it was is the one beside the studies, if there is one; code of the user's
    own is where the folder of all studies is.
    """
    moved = []
    stored = Path(definition.corpus)
    is_there = not definition.corpus or may_exist(stored)
    found = corpus or (None if is_there else next(places(folder.parent, stored, definition), None))
    if found is not None and found != stored:
        definition = replace(definition, corpus=str(found))
        moved.append(f"the corpus of {definition.name} was at {stored}; it is taken from {found}")
    uri, beside = definition.tracking_uri, default_tracking_uri(folder.parent)
    file, own = database_file(uri), database_file(beside)
    has_own = file is not None and own is not None and file != own and own.exists()
    if has_own and file is not None and (not may_exist(file) or is_original(file.parent / folder.name, definition)):
        definition = replace(definition, tracking_uri=beside)
        moved.append(f"MLflow's database was at {uri}; it is taken from {beside}")
    code, project = definition.code, folder.absolute().parent.parent
    if code is not None and not may_exist(Path(code.folder)):
        definition = replace(definition, code=code.model_copy(update={"folder": str(project)}))
        moved.append(f"the code that trains {definition.name} was in {code.folder}; it is taken from {project}")
    return definition, moved


def may_exist(path: Path) -> bool:
    """Say whether a path exists, or lies where this user may not look and so can be told nothing of."""
    try:
        return path.exists()
    except PermissionError:
        return True


def is_original(folder: Path, definition: Definition) -> bool:
    """Say whether a folder holds the study that this one is a copy of: its runs in MLflow are not the copy's."""
    try:
        stored: dict[str, object] = read_json(folder / DEFINITION, dict[str, object])
    except DamagedFileError:
        return False
    return stored.get("identifier") == definition.identifier


def places(storage: Path, stored: Path, definition: Definition) -> Iterator[Path]:
    """Yield the folders near a storage that hold the corpus of a study, by its fingerprint."""
    project = storage.absolute().parent
    for place in dict.fromkeys([project / stored, project / CORPORA / stored.name, CORPORA / stored.name]):
        try:
            is_it = place.is_dir() and read_manifest(place).fingerprint == definition.corpus_fingerprint
        except (CorpusError, PermissionError):
            is_it = False
        if is_it:
            yield place
