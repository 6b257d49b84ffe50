"""What stands for a finished confirmation in MLflow: its aggregates on the parent run, and a registered model."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import data
import model
import study
from study.config.addresses import shown
from study.errors import StudyError
from study.record.ledger import Ledger
from study.record.places import BEST, best_folder
from study.record.trials import best_row
from study.search.definition import Definition
from study.tracking.store import connect, refusals_named
from study.tracking.tracker import metrics_of, parts
from study.training.run_folder import read_epochs, read_note

REQUIREMENTS = (
    "torch",
    "numpy",
    "polars",
    "pyarrow",
    "pydantic",
    "safetensors",
    "scipy",
    "jaxtyping",
    "xxhash",
    "regex",
    "tokenizers",
    "mlflow",
)
"""Packages that a registered model needs to predict, pinned as they are here."""

PARAMETERS = {"mode": "encode", "temperature": 1.0, "seed": 0, "max_tokens": 0}


def log_aggregates(
    definition: Definition,
    run_id: str,
    metrics: dict[str, float],
    documents: Mapping[str, Mapping[str, object]],
    text: str,
) -> None:
    """Add numbers, JSON documents by name and a description to a study's parent run."""
    from mlflow.entities import Metric, RunTag

    client = connect(definition.tracking_uri)
    now = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        tags=[RunTag("mlflow.note.content", text)],
    )
    for name, document in documents.items():
        client.log_dict(run_id, dict(document), name)


def study_run(ledger: Ledger) -> str:
    """Return the id of a study's parent run, by its tags where the list of runs is lost; raise StudyError."""
    known = ledger.run_ids().get("study")
    if known is not None:
        return known
    definition = ledger.definition
    client = connect(definition.tracking_uri)
    experiment = client.get_experiment_by_name(definition.name)
    query = f"tags.`trial` = 'study' and tags.`study_id` = '{definition.identifier}'"
    found = client.search_runs([experiment.experiment_id], query, max_results=1) if experiment is not None else []
    if not found:
        raise StudyError(
            f"MLflow at {shown(definition.tracking_uri)} has no run of {definition.name}; `study run --resume"
            f" {definition.name}` makes it again"
        )
    return str(found[0].info.run_id)


def register_model(definition: Definition, run_id: str, folder: Path, name: str, examples: list[str]) -> str:
    """Log a trained model's folder under a run and register it; return its address, `models:/NAME/VERSION`.

    It carries the code that it needs, so that it predicts in a process that knows nothing of this project.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    from study.inference.trained_model import TrainedModel
    from study.tracking import text_model

    connect(definition.tracking_uri)
    frame = pd.DataFrame({"text": examples})
    means = TrainedModel.open(folder, "cpu").encode(examples)
    output = pd.DataFrame(means, columns=[f"z{number}" for number in range(means.shape[1])])
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(definition.tracking_uri)
    try:
        with warnings.catch_warnings(), mlflow.start_run(run_id=run_id):
            warnings.simplefilter("ignore")
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=text_model.__file__,
                artifacts={"model": str(folder)},
                code_paths=[str(Path(package.__path__[0])) for package in (study, model, data)],
                pip_requirements=[f"{each}=={version(each).partition('+')[0]}" for each in REQUIREMENTS],
                signature=infer_signature(frame, output, params=PARAMETERS),
                input_example=frame,
                registered_model_name=name,
            )
    finally:
        mlflow.set_tracking_uri(before)
    return f"models:/{name}/{logged.registered_model_version}"


def record_run(ledger: Ledger, folder: Path) -> str:
    """Put the run of a folder beside a study's trials in MLflow, or bring it up to date there; return its id.

    Raises StudyError if the folder has none, or MLflow cannot be used.
    """
    from mlflow.entities import Metric, Param, RunTag

    definition, note, rows = ledger.definition, read_note(folder), read_epochs(folder)
    with refusals_named(definition.tracking_uri):
        client, parent = connect(definition.tracking_uri), study_run(ledger)
        experiment = str(client.get_run(parent).info.experiment_id)
        place = str(folder.absolute())
        digest = hashlib.sha256(place.encode(errors="surrogateescape")).hexdigest()[:32]
        query = f"tags.`run_folder_digest` = '{digest}' and tags.`study_id` = '{definition.identifier}'"
        found = client.search_runs([experiment], query, max_results=1)
        if found:
            run_id, logged = str(found[0].info.run_id), int(found[0].data.metrics.get("epoch", 0))
        else:
            own = {"study": definition.name, "study_id": definition.identifier, "trial": "own", "run_folder": place}
            own |= {"run_folder_digest": digest}
            tags = own | {"mlflow.parentRunId": parent, "origin": note.origin, "weights": note.weights}
            run_id, logged = str(client.create_run(experiment, tags=tags, run_name=folder.name).info.run_id), 0
            client.log_batch(run_id, params=[Param(name, value) for name, value in note.changed.items()])
        for part in parts([row for row in rows if row.number > logged]):
            client.log_batch(run_id, metrics=metrics_of(part))
        best = best_row(rows, definition)
        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(f"best/{name}", float(value), now, 0) for name, value in best.valid.items()],
            tags=[RunTag("state", rows[-1].outcome if rows else "")],
        )
        if best and best_folder(folder, best.number).is_dir():
            client.log_artifacts(run_id, str(best_folder(folder, best.number)), BEST)
        client.set_terminated(run_id)
        return run_id
