"""Studies in Python: run, and looked at as frames, figures and models; what a notebook starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from data.corpus import Corpus
from study.analysis.answer import answer_of
from study.config.request import RunRequest
from study.config.settings import Params, Settings
from study.errors import StudyError, did_you_mean
from study.execution.start import start
from study.inference.lookup import find_trial, model_folder
from study.inference.portrait import portrait_of
from study.inference.trained_model import TrainedModel
from study.metrics import SHOWN
from study.planning.plan import create, new_study
from study.planning.resume import resume_study
from study.record.formats import show_params
from study.record.ledger import Ledger
from study.record.trials import TrialRecord, best_trial, epochs_frame, seeds_frame, trials_frame
from study.reporting.chart_style import Chart
from study.reporting.figures import FIGURES
from study.reporting.model_figures import PORTRAITS
from study.reporting.tables import verdict
from study.search.definition import Definition
from study.trainable.loading import Trainable
from study.training.single import tell


class Trial:
    """A trial of a study."""

    def __init__(self, study: Study, record: TrialRecord) -> None:
        """Open it; `Study.best` and `Study.trial` do."""
        self.study, self.record, self.number = study, record, record.number

    @property
    def params(self) -> Params:
        """Its values of the settings that were searched."""
        return self.record.params

    @property
    def settings(self) -> Settings:
        """All its settings."""
        return self.study.definition.space.settings(self.record.params)

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric of its best epoch on the validation split (nats a sequence): `nll`, `kl`, `mi`, ..."""
        return self.record.best.valid

    def model(self) -> TrainedModel:
        """Return its best weights, ready to use; raise StudyError if they are gone."""
        return self.study.model(self.number)

    def __repr__(self) -> str:
        """Return it in a line: what became of it, its metrics and settings."""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items() if name in SHOWN)
        return f"trial {self.number} of {self.study.name}: {self.record.state}, {shown}; {show_params(self.params)}"


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
    def definition(self) -> Definition:
        """What it searches, and how it is run."""
        return self._ledger.definition

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
        return Corpus.open(self._ledger.definition.with_corpus().corpus)

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

    @classmethod
    def run(
        cls, corpus: str | Path | Trainable | None = None, *, storage: Path | str = "runs", **options: Any
    ) -> Study:
        """Run a study to its end, as `study run CORPUS` does with the same options, and return it.

        A function `train(settings, folder, seed)` in place of a corpus is a trainable of your own, and `space` its
        settings and ranges, a file or a dictionary with the tables of one; to go on with its study, give it again.
        `set` (settings by name), `try_` (a list of points, each settings by name) and `floor` (metrics by name) are
        dictionaries; `search`, `poolings`, `test_weights` and `stages` are lists; every other option has its name with
        _ for -, such as `trials=40` or `gpus_per_trial=0.5`. `resume="NAME"` goes on with a study, `from_="NAME"`
        begins from one. What it says on the way goes to stderr. Raises StudyError, also if every trial failed.

        >>> study = Study.run("corpora/reviews", preset="quick", set={"model.latent_size": 32})     # doctest: +SKIP
        >>> study.best().model().encode(["good value"])                                             # doctest: +SKIP
        >>> study = Study.run(train, space={"search": {"latent_size": [8, 16, 32]}}, trials=12)     # doctest: +SKIP
        """
        request = request_of(corpus, storage, options)
        if request.resume is not None:
            ledger = resume_study(request, tell)
        else:
            ledger = create(request.storage, new_study(request, f"Study.run({corpus}, {options})", say=tell))
        name, code = ledger.definition.name, start(ledger, request, print_report=False)
        if code == 1:
            raise StudyError(f"every trial of {name} failed; Study({name!r}).trials says why")
        return cls(name, request.storage)

    def best(self) -> Trial:
        """Return the best trial of those that may win; raise StudyError if there is none."""
        found = best_trial(self._ledger.trials())
        if found is None:
            raise StudyError(f"no trial of {self.name} is feasible; `study.trial(number)` opens one by its number")
        return Trial(self, found)

    def trial(self, number: int) -> Trial:
        """Return a trial by its number; raise StudyError if there is none."""
        return Trial(self, find_trial(self.name, self._ledger.trials(), str(number)))

    @property
    def answer(self) -> dict[str, object]:
        """What it says of pooling, its best settings and the language model, as `study report --answer` has it."""
        return answer_of(self._ledger.definition, self._ledger.trials()).as_json()

    def model(self, trial: int | None = None) -> TrainedModel:
        """Return a trial's best weights, ready to use; the best trial's if none is named. Raises StudyError."""
        name = self.name if trial is None else f"{self.name}:{trial}"
        return TrainedModel.open(model_folder(name, self.storage))


DICTIONARIES = {"set": "assignments", "floor": "floors"}
LISTS = {"search": "also", "poolings": "poolings", "test_weights": "test_weights", "stages": "stages"}
NAMES = {"from_": "from_study"}


def request_of(corpus: str | Path | Trainable | None, storage: Path | str, options: Mapping[str, Any]) -> RunRequest:
    """Return what options of `Study.run` ask for; raise StudyError for one that there is not."""
    if options.get("dry_run"):
        raise StudyError("Study.run runs a study; to see what it would be, `study run --dry-run`")
    asked: dict[str, object] = {"storage": Path(storage)}
    if callable(corpus):
        name = f"{corpus.__module__}:{getattr(corpus, '__qualname__', type(corpus).__name__)}"
        asked |= {"function": corpus, "trainable": name}
    elif corpus is not None:
        # Of a study that goes on, where its corpus lies now.
        asked["moved_corpus" if options.get("resume") else "corpus"] = str(corpus)
    for name, value in options.items():
        if name in DICTIONARIES:
            asked[DICTIONARIES[name]] = tuple(assignment(each, one) for each, one in value.items())
        elif name == "try_":
            asked["tries"] = tuple(" ".join(assignment(each, one) for each, one in point.items()) for point in value)
        elif name in LISTS:
            asked[LISTS[name]] = tuple(value)
        elif (known := NAMES.get(name, name)) in RunRequest.model_fields:
            asked[known] = value
        else:
            known_names = [*DICTIONARIES, *LISTS, *NAMES, "try_", *RunRequest.model_fields]
            raise StudyError(f"Study.run has no option {name}; {did_you_mean(name, known_names)}")
    return RunRequest.of(asked)


def assignment(name: str, value: object) -> str:
    """Return a setting and its value as `--set` takes them."""
    shown = str(value).lower() if isinstance(value, bool) else "unset" if value is None else str(value)
    return f"{name}={shown}"
