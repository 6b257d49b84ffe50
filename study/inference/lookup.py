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
from study.record.trials import TrialRecord, best_row, best_trial
from study.training.run_folder import RUN, read_note
from study.training.single import Origin, check_vocabulary


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
    return weights_of(*trial_named(name, storage))


def trial_named(name: str, storage: Path) -> tuple[Ledger, TrialRecord]:
    """Return the study and the trial that NAME:TRIAL means, the best one of NAME alone; raise StudyError."""
    study, _, number = name.partition(":")
    ledger = Ledger.open(storage / study)
    trials = ledger.trials()
    if number:
        return ledger, find_trial(study, trials, number)
    best = best_trial(trials)
    if best is None:
        raise StudyError(f"no trial of {study} is feasible; name one by {study}:TRIAL")
    return ledger, best


def origin_of(name: str, storage: Path, *, with_weights: bool) -> Origin:
    """Return what a run that repeats a trial, or goes on from its weights, begins from; raise StudyError."""
    ledger, trial = trial_named(name, storage)
    definition = ledger.definition
    return Origin(
        f"{definition.name}:{trial.number}",
        definition.settings(trial.number, trial.params),
        definition.corpus,
        max(1, int(definition.cpus_per_trial)),
        weights_of(ledger, trial) if with_weights else None,
    )


def weights_of(ledger: Ledger, trial: TrialRecord) -> Path:
    """Return the folder of a trial's best weights; raise StudyError if it has none."""
    best = trial.best or best_row(trial.rows, ledger.definition)
    folder = best_folder(ledger.trial_folder(trial.number), best.number)
    if not folder.is_dir():
        raise StudyError(
            f"trial {trial.number} of {ledger.definition.name} has no weights: it is {trial.state}"
            f" ({trial.reason or ('no epoch yet' if not trial.rows else '`study gc` removes those of trials behind')})"
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
        known = (storage / study / DEFINITION).is_file()
        given = (
            Ledger.open(storage / study).definition.with_corpus().corpus if known else corpus_of_folder(trained.folder)
        )
    corpus = Corpus.open(given)
    check_vocabulary(corpus, trained.vocabulary, trained.about)
    return corpus


def corpus_of_folder(folder: Path) -> str:
    """Return the corpus of the run, or the study, that a folder of weights is in; raise StudyError if it is unknown."""
    for place in (folder, *list(folder.absolute().parents)[:4]):
        if (place / RUN).is_file():
            return read_note(place).corpus
        if (place / DEFINITION).is_file():
            return Ledger.open(place).definition.corpus
    raise StudyError("name the prepared corpus by --corpus DIR")


def settings_of(trained: TrainedModel) -> Settings | None:
    """Return what a model was trained by; None where its description has no settings, or none that are still known."""
    try:
        return Settings.model_validate(trained.about.settings) if trained.about.settings else None
    except ValidationError:
        return None
