"""Where MLflow keeps runs: connecting to it, making a database of one's own, and what every run says of its origin."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data.files import lock
from data.manifest import read_manifest
from study.config.addresses import shown
from study.config.naming import ARTIFACTS, LOCAL, database_file
from study.config.provenance import here
from study.errors import StudyError, first_line
from study.search.definition import Definition

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

CHECK_ADDRESS = "check the address by opening it in a browser, or leave --tracking-uri out to record locally"


def connect(uri: str) -> MlflowClient:
    """Return a client; an unreachable server is given up after seconds, not minutes.

    A sqlite database that is not there yet is made whole before it gets its name.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What a database refused is raised too, and told once by whoever asked for it.
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)
    if (file := database_file(uri)) is not None:
        create_database(file)
    return MlflowClient(uri)


@contextmanager
def refusals_named(uri: str, mend: str = CHECK_ADDRESS) -> Iterator[None]:
    """Raise StudyError for what MLflow, its database or the network refuses, with the mend."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StudyError(cannot_be_used(uri, error, mend)) from None


def cannot_be_used(uri: str, error: Exception, mend: str = CHECK_ADDRESS) -> str:
    """Return what is said where MLflow does not do what it is asked."""
    return f"MLflow at {shown(uri)} cannot be used: {first_line(error)}; {mend}"


def create_database(path: Path) -> None:
    """Make an MLflow database aside and give it its name; do nothing if it is there.

    MLflow's own creation takes seconds of migrations, and a process killed within them leaves a database
    that no later one can open.
    """
    from mlflow import MlflowClient

    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as stream:
        lock(stream)
        if path.exists():
            return
        aside = path.with_name(f".{path.name}.making")
        aside.unlink(missing_ok=True)
        MlflowClient(f"{LOCAL}{aside}").search_experiments(max_results=1)
        aside.replace(path)


def artifact_location(uri: str, experiment: str) -> str | None:
    """Return where a local database's artifacts go: beside it. A server decides for itself."""
    file = database_file(uri)
    return None if file is None else (file.parent / ARTIFACTS / experiment).as_uri()


def describe_corpus(definition: Definition) -> list[DatasetInput]:
    """Return a study's corpus as MLflow records a dataset: its name, fingerprint, place and the size of its splits.

    A trainable of the user's own may have another, of which nothing is known.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if not definition.corpus:
        return []
    manifest = read_manifest(Path(definition.corpus))
    splits: dict[str, object] = {
        name: {"num_sequences": split.num_sequences, "num_tokens": split.num_tokens}
        for name, split in manifest.splits.items()
    }
    dataset = Dataset(
        name=definition.corpus_name,
        digest=definition.corpus_fingerprint[:36],
        source_type="local",
        source=json.dumps({"uri": Path(definition.corpus).absolute().as_uri()}),
        profile=json.dumps(splits | {"vocabulary_size": manifest.vocabulary_size}),
    )
    return [DatasetInput(dataset, [InputTag("mlflow.data.context", "train and valid")])]


def provenance(definition: Definition) -> dict[str, str]:
    """Return the tags that say which data, code and packages a run came from."""
    found = dict(here())
    return {
        "corpus": definition.corpus_name,
        "corpus_fingerprint": definition.corpus_fingerprint,
        "mlflow.source.git.commit": found.pop("commit"),
        **{f"version.{name}": number for name, number in found.items()},
    }
