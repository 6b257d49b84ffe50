"""What stands for a finished confirmation in MLflow: its aggregates on the parent run, and a registered model."""

from __future__ import annotations

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
from study.search.definition import Definition
from study.tracking import text_model
from study.tracking.store import connect

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
