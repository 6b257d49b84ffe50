"""MLflow's experiments and what becomes of them: found though deleted, renamed, moved with their folder, deleted."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import StudyError, first_line
from study.search.definition import Definition
from study.tracking.store import LOCAL, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DELETED = "deleted"
GONE = "RESOURCE_DOES_NOT_EXIST"
ARTIFACTS = "mlartifacts"
MOST_RUNS = 50_000
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that hold absolute places of artifacts."""


def taken_names(uri: str) -> set[str]:
    """Return the names of the experiments of a database or server, deleted ones included; none if there is none yet."""
    from mlflow.entities import ViewType

    if uri.startswith(LOCAL) and not Path(uri.removeprefix(LOCAL)).exists():
        return set()
    try:
        found = connect(uri).search_experiments(view_type=ViewType.ALL, max_results=MOST_RUNS)
    except Exception:
        # Whoever uses it says so.
        return set()
    return {experiment.name for experiment in found}


def revive(client: MlflowClient, name: str, *, is_own: bool, say: Callable[[str], None]) -> str | None:
    """Return the id of the experiment of this name, None if there is none that can be used.

    One that was deleted in MLflow's UI keeps its name: it is restored if its runs are the study's own, and otherwise
    renamed, so that a new one can have the name.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    number = str(found.experiment_id)
    if found.lifecycle_stage != DELETED:
        return number
    client.restore_experiment(number)
    if is_own:
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
    """Give a study's experiment another name, and its runs the tag that says so; do nothing where there is none."""
    client = connect(definition.tracking_uri)
    found = client.get_experiment_by_name(definition.name)
    if found is None or found.lifecycle_stage == DELETED:
        return
    if client.get_experiment_by_name(name) is not None:
        raise StudyError(f"MLflow has an experiment {name}, perhaps a deleted one; choose another name")
    client.rename_experiment(found.experiment_id, name)
    for run in own_runs(client, definition, str(found.experiment_id)):
        client.set_tag(run.info.run_id, "study", name)
        if run.data.tags.get("trial") == "study":
            client.set_tag(run.info.run_id, "mlflow.runName", name)


def own_runs(client: MlflowClient, definition: Definition, experiment: str) -> list[Run]:
    """Return every run that a study has in its experiment."""
    query, token = f"tags.`study_id` = '{definition.identifier}'", None
    found: list[Run] = []
    while True:
        page = client.search_runs([experiment], query, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def what_is_recorded(definition: Definition) -> tuple[str, list[str], list[tuple[str, str]]]:
    """Return a study's experiment id (empty for none), the ids of its runs, and its model versions by name."""
    client = connect(definition.tracking_uri)
    found = client.get_experiment_by_name(definition.name)
    if found is None:
        return "", [], []
    number = str(found.experiment_id)
    runs = [] if found.lifecycle_stage == DELETED else own_runs(client, definition, number)
    ids = {str(run.info.run_id) for run in runs}
    versions = [
        (str(version.name), str(version.version))
        for model in client.search_registered_models(max_results=1000)
        for version in client.search_model_versions(f"name='{model.name}'")
        if version.run_id in ids
    ]
    return number, sorted(ids), versions


def delete_recorded(definition: Definition) -> str:
    """Delete a study's runs and model versions in MLflow; return what is left to do, or nothing. Raises StudyError.

    Of a database beside the studies they are gone for good, with their artifacts; a server keeps deleted runs until its
    own `mlflow gc`.
    """
    try:
        client = connect(definition.tracking_uri)
        number, runs, versions = what_is_recorded(definition)
        for name, version in versions:
            client.delete_model_version(name, version)
            if not client.search_model_versions(f"name='{name}'"):
                client.delete_registered_model(name)
        for run in runs:
            client.delete_run(run)
        if not number:
            return ""
        is_empty = not client.search_runs([number], max_results=1)
        if is_empty:
            found = client.get_experiment(number)
            if found.lifecycle_stage != DELETED:
                client.rename_experiment(number, free_experiment_name(client, f"{definition.name} (deleted)"))
                client.delete_experiment(number)
    except Exception as error:
        raise StudyError(
            f"MLflow at {definition.tracking_uri} did not delete the runs of {definition.name}: {first_line(error)};"
            " mend that, or give --keep-runs"
        ) from None
    if not definition.tracking_uri.startswith(LOCAL):
        return "the server keeps deleted runs until its own `mlflow gc`"
    return collect(definition.tracking_uri, number if is_empty else "", runs)


def collect(uri: str, experiment: str, runs: list[str]) -> str:
    """Remove deleted runs of a local database for good, with their artifacts; return what is left to do, or nothing."""
    asked = ["--experiment-ids", experiment] if experiment else ["--run-ids", ",".join(runs)]
    if not experiment and not runs:
        return ""
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--tracking-uri", uri, *asked]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        return f"MLflow keeps the deleted runs for now; `mlflow gc --backend-store-uri {uri}` removes them"
    return ""


def move_artifacts(uri: str) -> int:
    """Correct the places of artifacts in a local database that was moved with them; return how many were.

    MLflow stores them absolute and has no command for it. Only places that are no more are changed, to those beside the
    database, if they exist.
    """
    if not uri.startswith(LOCAL):
        return 0
    file, changed = Path(uri.removeprefix(LOCAL)), 0
    beside = file.parent / ARTIFACTS
    if not beside.is_dir():
        return 0
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
