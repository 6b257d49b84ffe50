"""A study's results in Python: frames, figures and the best model; what a notebook starts from."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from data.corpus import Corpus
from study.errors import StudyError
from study.inference.lookup import find_trial, model_folder
from study.inference.portrait import portrait_of
from study.inference.trained_model import TrainedModel
from study.record.ledger import Ledger
from study.record.trials import best_trial, epochs_frame, seeds_frame, trials_frame
from study.reporting.chart_style import Chart
from study.reporting.figures import FIGURES
from study.reporting.model_figures import PORTRAITS
from study.reporting.tables import verdict


class Study:
    """A study, finished or not, read anew from its folder at each question.

    >>> study = Study("quick")                                    # doctest: +SKIP
    >>> study.trials.filter(pl.col("state") == "complete")        # doctest: +SKIP
    >>> study.figure("trade-off").save("trade-off.png")           # doctest: +SKIP
    """

    def __init__(self, name: str, storage: Path | str = "runs") -> None:
        """Open a study by its name in the folder of all studies; raise StudyError if it is not there or damaged."""
        self.name = name
        self.storage = Path(storage)
        self._ledger = Ledger.open(self.storage / name)

    @property
    def trials(self) -> pl.DataFrame:
        """One row a trial: what became of it, its searched settings, and every metric of its best epoch."""
        return trials_frame(self._ledger.trials())

    @property
    def epochs(self) -> pl.DataFrame:
        """One row an epoch of each trial: its trial, state, settings and every metric (nats a sequence)."""
        return epochs_frame(self._ledger.trials())

    @property
    def seeds(self) -> pl.DataFrame | None:
        """Mean and standard deviation over seeds of settings equal otherwise; None where seeds were not searched."""
        return seeds_frame(self._ledger.trials())

    @property
    def verdict(self) -> str:
        """The best trial's numbers in a sentence, or that none is feasible."""
        return verdict(self._ledger.trials())

    @property
    def corpus(self) -> Corpus:
        """The prepared corpus of the study; raises CorpusError if it is gone or damaged."""
        return Corpus.open(self._ledger.definition.corpus)

    def figure(self, name: str = "trade-off", trial: int | None = None) -> Chart:
        """Return a figure by name: of the study, or of one trial's model (the best trial's if none is named).

        Raises StudyError if there is no such figure or trial, or nothing to draw yet.
        """
        trials = self._ledger.trials()
        if name in FIGURES:
            if trial is not None:
                raise StudyError(f"{name} is a figure of all trials; of one there is {', '.join(PORTRAITS)}")
            return FIGURES[name](self._ledger.definition, trials)
        if name not in PORTRAITS:
            raise StudyError(f"no figure {name!r}; expected one of {', '.join([*FIGURES, *PORTRAITS])}")
        shown = best_trial(trials) if trial is None else find_trial(self.name, trials, str(trial))
        portrait = portrait_of(self._ledger, shown) if shown is not None and shown.best else None
        if portrait is None:
            whose = "best trial" if trial is None else f"trial {trial}"
            raise StudyError(f"{self.name}: the {whose} has no model with a latent variable, or its corpus is gone")
        return PORTRAITS[name](portrait)

    def model(self, trial: int | None = None) -> TrainedModel:
        """Return a trial's best weights, ready to use; the best trial's if none is named. Raises StudyError."""
        name = self.name if trial is None else f"{self.name}:{trial}"
        return TrainedModel.open(model_folder(name, self.storage))
