"""What is asked of one trained model for a report: measured once, and stored beside the trial's weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data.corpus import Corpus, Split
from data.errors import CorpusError
from model.errors import ModelError
from study.config.stored import read_sealed, write_sealed
from study.errors import StudyError, StudyWarning
from study.inference.latent_use import latent_use
from study.inference.trained_model import TrainedModel
from study.record.ledger import Ledger
from study.record.places import PORTRAIT, best_folder
from study.record.trials import TrialRecord
from study.training.evaluation import positions_of_maxima, score

NUM_TEXTS = 8


@dataclass(frozen=True)
class Portrait:
    """What a model makes of some sequences of a split."""

    epoch: int
    """Of its weights."""
    pooling: str
    lengths: list[int]
    texts: list[str]
    means: list[list[float]]
    """Posterior mean of each sequence, `[rows, latent]`."""
    kl: list[float]
    """Mean KL of each latent dimension, in nats."""
    variance: list[float]
    """Variance over sequences of each dimension's posterior mean."""
    maxima: dict[str, float]
    """Where each encoder unit's largest state over time lies, shares by `model.diagnostics.POSITIONS`."""
    reconstructions: list[str]
    """Of the first texts, decoded greedily from the posterior mean."""
    interpolation: list[str]
    """Between the first two texts."""
    labels: list[str] = field(default_factory=list)
    """Of the sequences, in a corpus that has some; "" of one without."""
    saved: dict[str, float] = field(default_factory=dict)
    """Nats a sequence that its own z saves the decoder, by position (see `study.inference.latent_use`)."""
    saved_se: dict[str, float] = field(default_factory=dict)
    """Their standard errors."""


def portray(trained: TrainedModel, split: Split, names: Sequence[str] = (), epoch: int = 0, num: int = 500) -> Portrait:
    """Look at a latent variable model through the first `num` sequences of a split (corpora are stored shuffled).

    `names` are those of the corpus' labels.
    """
    texts = trained.texts(split, num)
    scores = score(trained.network, split, num_samples=1, num_sequences=num)
    found, use = scores.dimensions(), latent_use(trained.network, split, num)
    return Portrait(
        epoch=epoch,
        pooling=trained.network.settings.pooling,
        lengths=[int(length) for length in split.lengths[:num]],
        texts=texts,
        means=scores.posterior.mean.tolist(),
        kl=found["kl"],
        variance=found["variance"],
        maxima=positions_of_maxima(trained.network, split, num_sequences=num),
        reconstructions=trained.reconstruct(texts[:NUM_TEXTS]),
        interpolation=trained.interpolate(texts[0], texts[1], NUM_TEXTS - 1) if len(texts) > 1 else [],
        labels=[names[label] if label >= 0 else "" for label in split.labels[:num]] if names else [],
        saved=use.saved,
        saved_se=use.saved_se,
    )


def portrait_of(ledger: Ledger, trial: TrialRecord) -> Portrait | None:
    """Return the portrait of a trial's best weights on the validation split: the stored one, or one made now.

    None where the weights or the corpus are gone, or without a latent variable. Writes nothing.
    """
    epoch, stored = trial.best.number, ledger.trial_folder(trial.number) / PORTRAIT
    if (found := read_portrait(stored)) is not None and found.epoch == epoch:
        return found
    folder = best_folder(ledger.trial_folder(trial.number), epoch)
    if not folder.is_dir():
        return None
    try:
        corpus, trained = Corpus.open(ledger.definition.corpus), TrainedModel.open(folder)
    except (CorpusError, ModelError) as error:
        warnings.warn(StudyWarning(f"the report is without pictures of the best model: {error}"), stacklevel=2)
        return None
    if not trained.network.settings.has_latent or corpus.fingerprint != ledger.definition.corpus_fingerprint:
        return None
    return portray(trained, corpus.split("valid"), corpus.manifest.labels, epoch)


def store_portrait(ledger: Ledger, trial: TrialRecord) -> None:
    """Store the portrait of a trial's best weights beside them, so that reports need no network run."""
    portrait = portrait_of(ledger, trial)
    if portrait is not None:
        write_sealed(ledger.trial_folder(trial.number) / PORTRAIT, asdict(portrait))


def read_portrait(path: Path) -> Portrait | None:
    """Return a stored portrait; None where there is none, or a damaged one, which is made again."""
    if not path.is_file():
        return None
    try:
        return read_sealed(path, Portrait, "")
    except StudyError:
        return None
