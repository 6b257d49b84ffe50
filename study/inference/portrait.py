"""What is asked of one trained model for a report: its scores by sequence, maxima and texts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from data.corpus import Corpus, Split
from data.errors import CorpusError
from model.errors import ModelError
from study.errors import StudyWarning
from study.inference.trained_model import TrainedModel
from study.record.ledger import Ledger
from study.record.trials import TrialRecord
from study.training.best_weights import best_folder
from study.training.evaluation import Scores, positions_of_maxima, score

NUM_TEXTS = 8


@dataclass(frozen=True)
class Portrait:
    """What was asked of a model on some sequences of a split."""

    scores: Scores
    lengths: list[int]
    texts: list[str]
    maxima: dict[str, float]
    reconstructions: list[str]
    """Of the first texts, decoded greedily from the posterior mean."""
    interpolation: list[str]
    pooling: str


def portray(trained: TrainedModel, split: Split, num: int = 500) -> Portrait:
    """Look at a latent variable model through the first `num` sequences of a split (corpora are stored shuffled)."""
    texts = trained.texts(split, num)
    return Portrait(
        score(trained.network, split, num_samples=1, num_sequences=num),
        [int(length) for length in split.lengths[:num]],
        texts,
        positions_of_maxima(trained.network, split, num_sequences=num),
        trained.reconstruct(texts[:NUM_TEXTS]),
        trained.interpolate(texts[0], texts[1], NUM_TEXTS - 1) if len(texts) > 1 else [],
        trained.network.settings.pooling,
    )


def portrait_of(ledger: Ledger, trial: TrialRecord) -> Portrait | None:
    """Look at a trial's best weights on the validation split; None where they or the corpus are gone, or without z."""
    folder = best_folder(ledger.trial_folder(trial.number), trial.best["epoch"])
    if not folder.is_dir():
        return None
    try:
        corpus, trained = Corpus.open(ledger.definition.corpus), TrainedModel.open(folder)
    except (CorpusError, ModelError) as error:
        warnings.warn(StudyWarning(f"the report is without pictures of the best model: {error}"), stacklevel=2)
        return None
    if not trained.network.settings.has_latent or corpus.fingerprint != ledger.definition.corpus_fingerprint:
        return None
    return portray(trained, corpus.split("valid"))
