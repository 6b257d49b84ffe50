"""MLflow's experiments and what becomes of them: found though deleted, renamed, moved with their folder, deleted."""

from __future__ import annotations

import shutil
import sqlite3
import urllib.parse
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.config.naming import ARTIFACTS, database_file
from study.errors import StudyError
from study.search.definition import Definition
from study.tracking.store import connect, refusals_named

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DELETED = "deleted"
GONE = "RESOURCE_DOES_NOT_EXIST"
MOST, MODELS = 50_000, 1000
"""Experiments and models that one question may bring."""
ACTIVE = 1
"""MLflow's `ViewType` of runs that are not deleted."""
KEEP_RUNS = "mend that, or give --keep-runs"
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that hold absolute places of artifacts."""


def client_of(uri: str) -> MlflowClient | None:
    """Return a client of a database or server, None of a local database that is not there: none is made for a look."""
    file = database_file(uri)
    return connect(uri) if file is None or file.exists() else None


def taken_names(uri: str) -> set[str]:
    """Return the names of all experiments, deleted ones included; raise StudyError if MLflow cannot be used."""
    from mlflow.entities import ViewType

    with refusals_named(uri):
        client = client_of(uri)
        found = client.search_experiments(view_type=ViewType.ALL, max_results=MOST) if client is not None else []
    return {experiment.name for experiment in found}


def revive(client: MlflowClient, name: str, run_id: str | None, say: Callable[[str], None]) -> str | None:
    """Return the id of a study's experiment, None if there is none that can be used.

    It is the one of its own run, if that is known, whatever it is called by now; else the one of its name. One that was
    deleted in MLflow's UI keeps its name: it is restored if it is the study's own, and otherwise renamed, so that a new
    one can have the name.
    """
    run = None if run_id is None else run_by_id(client, run_id)
    found = client.get_experiment_by_name(name) if run is None else client.get_experiment(run.info.experiment_id)
    if found is None:
        return None
    number = str(found.experiment_id)
    if found.lifecycle_stage != DELETED:
        return number
    client.restore_experiment(number)
    if run is not None:
        say(f"MLflow's experiment {name} had been deleted; it is restored")
        return number
    client.rename_experiment(number, free_experiment_name(client, f"{name} (deleted)"))
    client.delete_experiment(number)
    return None


def free_experiment_name(client: MlflowClient, stem: str) -> str:
    """Return a name that no experiment has, deleted or not: the stem, or the stem with a number."""
    name, number = stem, 1
    while client.get_experiment_by_name(name) is not None:
        number += 1
        name = f"{stem} {number}"
    return name


def run_by_id(client: MlflowClient, run_id: str) -> Run | None:
    """Return a run that is remembered, restored if it was deleted; None if MLflow knows it no more."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != GONE:
            raise
        return None
    if run.info.lifecycle_stage == DELETED:
        client.restore_run(run_id)
        return client.get_run(run_id)
    return run


def rename_experiment(definition: Definition, name: str) -> None:
    """Give a study's experiment another name, and its runs the tag that says so; do nothing where there is none.

    Raises StudyError if the name is taken, or MLflow cannot be used.
    """
    with refusals_named(definition.tracking_uri):
        client = client_of(definition.tracking_uri)
        if client is None:
            return
        found, there = client.get_experiment_by_name(definition.name), client.get_experiment_by_name(name)
        if there is not None and own_runs(client, definition, str(there.experiment_id)):
            # Renamed by a command that was killed then.
            found = there
        elif there is not None:
            raise StudyError(f"MLflow has an experiment {name}, perhaps a deleted one; choose another name")
        if found is None or found.lifecycle_stage == DELETED:
            return
        if found.name != name:
            client.rename_experiment(found.experiment_id, name)
        for run in own_runs(client, definition, str(found.experiment_id)):
            client.set_tag(run.info.run_id, "study", name)
            if run.data.tags.get("trial") == "study":
                client.set_tag(run.info.run_id, "mlflow.runName", name)


def own_runs(client: MlflowClient, definition: Definition, experiment: str) -> list[Run]:
    """Return every run that a study has in its experiment and that is not deleted."""
    return runs_of(client, experiment, f"tags.`study_id` = '{definition.identifier}'")


def runs_of(client: MlflowClient, experiment: str, query: str = "", view: int = ACTIVE) -> list[Run]:
    """Return every run of an experiment that a query finds."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment], query, view, 1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


@dataclass(frozen=True)
class Recorded:
    """What MLflow has of a study."""

    experiment: str = ""
    """Its id; empty where there is none."""
    runs: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    """Of models that were registered from its runs: name and version."""


def what_is_recorded(definition: Definition) -> Recorded:
    """Return what MLflow has of a study; raise StudyError if it cannot be used."""
    with refusals_named(definition.tracking_uri, KEEP_RUNS):
        client = client_of(definition.tracking_uri)
        found = client.get_experiment_by_name(definition.name) if client is not None else None
        if client is None or found is None:
            return Recorded()
        number = str(found.experiment_id)
        runs = [] if found.lifecycle_stage == DELETED else own_runs(client, definition, number)
        ids = tuple(sorted(str(run.info.run_id) for run in runs))
        versions = tuple(
            (str(version.name), str(version.version))
            for model in client.search_registered_models(max_results=MODELS)
            for version in client.search_model_versions(f"name='{model.name}'")
            if version.run_id in ids
        )
        return Recorded(number, ids, versions)


def delete_recorded(definition: Definition) -> str:
    """Delete a study's runs and model versions in MLflow, and no others; return what is left to do, or nothing.

    The artifacts of a database beside the studies are removed; the entries stay among MLflow's deleted ones. Raises
    StudyError if MLflow cannot be used.
    """
    from mlflow.entities import ViewType

    recorded, uri = what_is_recorded(definition), definition.tracking_uri
    if not recorded.experiment:
        return ""
    with refusals_named(uri, KEEP_RUNS):
        client = connect(uri)
        for name, version in recorded.versions:
            client.delete_model_version(name, version)
            if not client.search_model_versions(f"name='{name}'"):
                client.delete_registered_model(name)
        places = [str(client.get_run(run).info.artifact_uri) for run in recorded.runs]
        for run in recorded.runs:
            client.delete_run(run)
        every = runs_of(client, recorded.experiment, view=ViewType.ALL)
        found = client.get_experiment(recorded.experiment)
        if all(run.data.tags.get("study_id") == definition.identifier for run in every):
            places.append(str(found.artifact_location))
            if found.lifecycle_stage != DELETED:
                client.rename_experiment(
                    recorded.experiment, free_experiment_name(client, f"{definition.name} (deleted)")
                )
                client.delete_experiment(recorded.experiment)
    if (file := database_file(uri)) is not None:
        remove_artifacts(file.parent / ARTIFACTS, places)
    return "MLflow keeps the entries among its deleted ones until its own `mlflow gc`" if recorded.runs else ""


def remove_artifacts(root: Path, places: Sequence[str]) -> None:
    """Remove folders of artifacts that lie below a root, for good; others are left alone."""
    for place in places:
        folder = Path(urllib.parse.unquote(place.removeprefix("file://")))
        if place.startswith("file://") and root.resolve() in folder.resolve().parents and folder.is_dir():
            shutil.rmtree(folder)


def move_artifacts(uri: str) -> int:
    """Correct the places of artifacts in a local database that was moved with them; return how many were.

    MLflow stores them absolute and has no command for it. Only places that are no more are changed, to those beside the
    database, if they exist.
    """
    file, changed = database_file(uri), 0
    if file is None or not (file.parent / ARTIFACTS).is_dir():
        return 0
    beside = file.parent / ARTIFACTS
    with closing(sqlite3.connect(file, timeout=30)) as connection, connection:
        tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        for table, column in PLACES:
            if table not in tables:
                continue
            for number, place in connection.execute(f"select rowid, {column} from {table}").fetchall():  # noqa: S608
                root, _, rest = str(place or "").partition(f"/{ARTIFACTS}/")
                old = Path(urllib.parse.unquote(root.removeprefix("file://")), ARTIFACTS)
                if rest and root.startswith("file://") and not old.exists():
                    query = f"update {table} set {column} = ? where rowid = ?"  # noqa: S608 - names of our own
                    connection.execute(query, (f"{beside.as_uri()}/{rest}", number))
                    changed += 1
    return changed
