"""Which model and corpus a command means: a folder, a study's best trial, or STUDY:TRIAL."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from data.corpus import Corpus
from model.weights import DESCRIPTION
from study.config.settings import Settings
from study.errors import StudyError
from study.inference.trained_model import TrainedModel
from study.record.ledger import Ledger
from study.record.places import BEST, DEFINITION, best_folder
from study.record.trials import TrialRecord, best_trial
from study.training.single import check_vocabulary


def model_folder(name: str, storage: Path) -> Path:
    """Return the folder of a trained model; raise StudyError if the name leads to none."""
    path = Path(name)
    if (path / DESCRIPTION).is_file():
        return path
    runs = sorted(path.glob(f"{BEST}-*/{DESCRIPTION}"))
    if runs:
        return runs[-1].parent
    if path.is_dir() and not (storage / name).is_dir():
        raise StudyError(f"{path} holds no trained model; name a folder that training wrote, or a study")
    study, _, number = name.partition(":")
    ledger = Ledger.open(storage / study)
    trials = ledger.trials()
    if number:
        trial = find_trial(study, trials, number)
    else:
        best = best_trial(trials)
        if best is None:
            raise StudyError(f"no trial of {study} is feasible; name one by {study}:TRIAL")
        trial = best
    folder = best_folder(ledger.trial_folder(trial.number), trial.best.number)
    if not folder.is_dir():
        raise StudyError(
            f"trial {trial.number} of {study} has no weights: it is {trial.state} ({trial.reason or 'no epoch yet'})"
        )
    return folder


def find_trial(study: str, trials: list[TrialRecord], number: str) -> TrialRecord:
    """Return a study's trial of this number; raise StudyError if there is none."""
    found = next((trial for trial in trials if str(trial.number) == number), None)
    if found is None:
        raise StudyError(f"{study} has no trial {number}; it has {len(trials)} trials")
    return found


def model_corpus(trained: TrainedModel, name: str, given: str | None, storage: Path) -> Corpus:
    """Open the corpus to evaluate a model on; raise StudyError if it is unknown or has another vocabulary."""
    study = name.partition(":")[0]
    if given is None:
        if not (storage / study / DEFINITION).is_file():
            raise StudyError("name the prepared corpus by --corpus DIR")
        given = Ledger.open(storage / study).definition.corpus
    corpus = Corpus.open(given)
    check_vocabulary(corpus, trained.vocabulary, trained.about)
    return corpus


def settings_of(trained: TrainedModel) -> Settings | None:
    """Return what a model was trained by; None where its description has no settings, or none that are still known."""
    try:
        return Settings.model_validate(trained.about.settings) if trained.about.settings else None
    except ValidationError:
        return None
