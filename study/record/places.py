"""What everything in a study's folder is called, and in a trial's."""

from __future__ import annotations

from pathlib import Path

DEFINITION = "study.json"
"""The file that makes a folder a study's."""
DATABASE = "optuna.db"
"""Optuna's, where no server holds it."""
RUN_IDS = "mlflow.json"
"""The MLflow run of the study and of each trial."""
LOCK = ".lock"
"""What the process that runs the study, or the trial, holds; of a study it says which process that is."""
DROPPED = "dropped.json"
"""The trials that no longer count, and why."""
TRIALS = "trials"
"""The folder of the trials' folders, which are named by their number."""
TUNE = "tune"
"""The folder of what Ray Tune writes."""
COMPARISON, COMPARED_RUNS, CONFIRMED = "comparison.json", "comparison.parquet", "confirmation.json"
"""What a comparison and a confirmation came to."""

JOURNAL = "epochs.jsonl"
CHECKPOINTS = "checkpoints"
BEST = "best"
"""What the folder of a trial's best weights begins with."""
FINAL, FINAL_SCORES = "final.json", "final.safetensors"
"""A last evaluation on the test split, and each sequence's log-likelihood of it."""
SAMPLES = "samples.json"
PORTRAIT = "portrait.json"


def trial_folder(folder: Path, number: int) -> Path:
    """Return where a trial of the study in a folder keeps what it makes."""
    return folder / TRIALS / f"{number:05d}"


def best_folder(folder: Path, epoch: int) -> Path:
    """Return where a run keeps the weights of an epoch that was its best."""
    return folder / f"{BEST}-{epoch:05d}"
