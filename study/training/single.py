"""Training and evaluating one model without a study, with PyTorch and little else: no Ray, Optuna, MLflow or polars."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.corpus import Corpus
from data.files import first_problem
from data.vocabulary import Vocabulary
from study.config.addresses import hidden
from study.config.run_options import RunOptions, find_corpus
from study.config.settings import (
    Settings,
    flatten,
    merge,
    nest,
    parse_assignment,
    read_preset,
    read_toml,
    validate,
)
from study.config.training import EvaluationSettings
from study.epoch import Epoch
from study.errors import StudyError
from study.record.places import best_folder
from study.training.run_folder import RunNote, write_note

if TYPE_CHECKING:
    from model.network.vae import SequenceVAE
    from model.weights import Description

FREE_OF_WEIGHTS = ("model.input_dropout", "model.output_dropout", "model.word_dropout", "model.init")
"""Settings of the network that weights do not depend on."""


@dataclass(frozen=True)
class Origin:
    """A trial that a run begins from: its settings and corpus, and where it goes on from its weights, those."""

    name: str
    """`STUDY:TRIAL`."""
    settings: Settings
    corpus: str
    """The prepared folder."""
    threads: int
    """Of the CPU, as it was trained with: sums are taken in another order by another number."""
    weights: Path | None = None


def train_model(
    corpus: str | None,
    out: Path,
    preset: str | None,
    config: Path | None,
    assignments: Iterable[str],
    origin: Origin | None = None,
) -> Iterator[Epoch]:
    """Train one model, or go on with it, yielding each epoch; say how it goes to stderr.

    It has the settings of a preset, a file and assignments, over those of the trial that it begins from, if any.
    Raises CorpusError and StudyError.
    """
    import torch

    from study.training.loop import Diverged, train

    layers = [read_preset(preset)] if preset is not None else []
    if config:
        layers.append(read_toml(config))
    options = RunOptions.resolve(*(layer.pop("study", {}) for layer in layers))
    for layer in layers:
        layer.pop("search", None)
    given = merge([*layers, dict(parse_assignment(text) for text in assignments)])
    if origin is not None:
        torch.set_num_threads(origin.threads)
    settings = validate(nest(beginning(origin, given) | given))
    usual = options.corpus if origin is None else origin.corpus
    name = usual if corpus is None else corpus
    prepared = Corpus.open(find_corpus(name, options.vocabulary_size))
    write_note(out, note_of(prepared, origin, given))
    best: tuple[float, int] | None = None
    try:
        for row in train(settings, prepared, out, weights=None if origin is None else origin.weights):
            yield row
            tell(
                f"epoch {row.number}: nll {row['valid/nll']:.2f}, KL {row['valid/kl']:.2f},"
                f" MI {row['valid/mi']:z.2f}, AU {row['valid/au']}{', ' + row.outcome if row.outcome else ''}"
            )
            found = (row[f"valid/{settings.evaluation.criterion}"], row.number)
            best = found if best is None else min(best, found)
    except Diverged as error:
        raise StudyError(str(error)) from None
    if best is not None:
        tell(f"best model: {hidden(str(best_folder(out, best[1])))}")


def beginning(origin: Origin | None, given: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that a run has unless others are given: the trial's that it begins from, or none.

    One that goes on from weights has the final KL weight from its first step on, as they were trained to. Raises
    StudyError where other settings would not fit the weights.
    """
    if origin is None:
        return {}
    settings = flatten(origin.settings.model_dump())
    if origin.weights is None:
        return settings
    for name, value in given.items():
        if name.startswith("model.") and name not in FREE_OF_WEIGHTS and value != settings[name]:
            raise StudyError(f"--continue goes on from the weights of {origin.name}, which {name} shapes; leave it out")
    if origin.settings.objective.annealing != "constant" and "objective.annealing" not in given:
        tell(
            f"the KL weight is {origin.settings.objective.kl_weight:g} from the first step on;"
            " --set objective.annealing=... anneals again"
        )
        settings["objective.annealing"] = "constant"
    return settings


def note_of(corpus: Corpus, origin: Origin | None, given: Mapping[str, object]) -> RunNote:
    """Return what a run says of itself."""
    return RunNote(
        corpus=str(corpus.folder),
        corpus_fingerprint=corpus.fingerprint,
        origin="" if origin is None else origin.name,
        changed={} if origin is None else {name: str(value) for name, value in given.items()},
        weights="" if origin is None or origin.weights is None else str(origin.weights),
    )


def tell(line: str) -> None:
    """Print a line about how it goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def evaluate_network(
    network: SequenceVAE,
    about: Description,
    corpus: Corpus,
    split: str,
    samples: int | None,
    tolerance: float | None,
    widen: bool,
    sequences: int | None,
) -> dict[str, object]:
    """Return every metric of a network, described by `about`, on a split. Raises StudyError and ModelError."""
    from model.diagnostics import active_dimensions
    from study.training.devices import use_tf32
    from study.training.evaluation import positions_of_maxima, score

    for option, count, least in (
        ("--samples", samples, 1),
        ("--sequences", sequences, 2),
        ("--tolerance", tolerance, 0),
    ):
        if count is not None and not count >= least:
            raise StudyError(f"{option} must be at least {least}, got {count}")
    use_tf32(False)
    settings = evaluation_settings(about)
    rows = corpus.split(split)
    scores = score(
        network,
        rows,
        num_samples=samples or settings.final_num_samples,
        tolerance_nats=tolerance or 0.0,
        widen=widen,
        num_sequences=sequences,
        batch_size=settings.batch_size,
        max_decoder_tokens=settings.max_decoder_tokens,
    )
    metrics: dict[str, object] = {**scores.metrics(), **scores.reliability()}
    metrics["active_dimensions"] = active_dimensions(scores.dimensions()["variance"])
    metrics["maxima"] = positions_of_maxima(network, rows, num_sequences=sequences)
    return metrics


def check_vocabulary(corpus: Corpus, vocabulary: Vocabulary, about: Description) -> None:
    """Raise StudyError if a corpus has other tokens than a model, described by `about`, was trained on."""
    if corpus.vocabulary != vocabulary:
        raise StudyError(
            f"{corpus.folder} has another vocabulary than the corpus {about.corpus} that the model was"
            " trained on; name that corpus by --corpus"
        )


def evaluation_settings(about: Description) -> EvaluationSettings:
    """Return how a trained model was evaluated; raise ModelError if its description has no such settings."""
    from pydantic import ValidationError

    from model.errors import ModelError

    try:
        return Settings.model_validate(about.settings).evaluation
    except ValidationError as error:
        raise ModelError(f"a model's settings are damaged: {first_problem(error)}; train again") from None
