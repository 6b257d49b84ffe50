"""Confirming a study: its finalists trained over seeds through Ray, recorded like a study, the winner evaluated."""

from __future__ import annotations

import math
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from study.analysis.confirmation import (
    Confirmation,
    Standing,
    as_json,
    as_metrics,
    conclude,
    confirmation_study,
    finalists,
    next_points,
    scores_on_test,
)
from study.config.connectivity import check_ray_address, check_tracking_uri
from study.config.request import RunRequest
from study.config.stored import read_sealed, write_sealed
from study.console import make_console
from study.errors import StudyError
from study.execution.start import start
from study.record.formats import LINE_BREAK, code, show_params
from study.record.ledger import Ledger
from study.record.places import CONFIRMED, DEFINITION, best_folder
from study.record.trials import TrialRecord
from study.search.definition import Definition

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Confirmed:
    """What a confirmation came to, the winner's numbers on the test split, and its registered model's address."""

    confirmation: Confirmation
    test: dict[str, float]
    model: str

    def as_json(self) -> dict[str, object]:
        """Return it as JSON values."""
        return as_json(self.confirmation, self.test) | {"model": self.model}


def confirm(
    folder: Path, *, top: int, seeds: int, samples: int, register: str | None, address: str | None, command: str
) -> tuple[int, Confirmed | None]:
    """Confirm the study in a folder, or go on with it; return the exit code and what was found, if it came to an end.

    The winner is registered as a model, as `register` or as the study is named. Raises StudyError if the study has
    no feasible trial or is still being run.
    """
    if top < 1 or seeds < 1 or samples < 1:
        raise StudyError(f"--top, --seeds and --samples must be at least 1, got {top}, {seeds} and {samples}")
    if register is not None and not MODEL_NAME.fullmatch(register):
        raise StudyError(f"--register {register!r}: expected letters, digits, dots, dashes and underscores")
    from data.corpus import Corpus

    check_ray_address(address)
    source = Ledger.open(folder)
    if source.is_locked():
        raise StudyError(f"{folder.name} is still being run; wait for it, or stop it first")
    check_tracking_uri(source.definition.tracking_uri)
    is_own, corpus = source.definition.is_own, source.definition.corpus
    if not is_own and Corpus.open(corpus).fingerprint != source.definition.corpus_fingerprint:
        raise StudyError(f"{corpus} is not the corpus that {folder.name} was run on; restore it")
    if is_own and register is not None:
        raise StudyError("--register: the models of a trainable of your own are known to that code alone; leave it out")
    settings = finalists(source.trials(), top)
    if left := source.num_left():
        make_console(stderr=True).print(
            f"{folder.name} is not at its end: {left} of {source.definition.num_trials} trials are left;"
            " the best so far are confirmed"
        )
    definition = confirmation_study(source.definition, seeds, command)
    own = folder.with_name(definition.name)
    with closing(open_confirmation(own, definition, folder.name)) as ledger:
        fresh = [int(seed) for seed in ledger.definition.space.ranges["seed"].values or ()]
        if len(fresh) != seeds:
            raise StudyError(f"{own.name} was begun with --seeds {len(fresh)}; go on with as many, or remove {own}")
        while points := next_points(settings, fresh, ledger.trials()):
            ledger.extend(points)
            code = start(ledger, RunRequest(storage=folder.parent, address=address), show_report=False)
            if ledger.num_left():
                return code, None
            ledger.lock()
        confirmation = conclude(settings, fresh, ledger.trials())
        test, best = crown(ledger, confirmation.standings[0], samples)
        model = registered(ledger, register)
        write_sealed(ledger.folder / CONFIRMED, Confirmed(confirmation, test, model).as_json())
        if best is not None and not model and not is_own:
            model = register_best(ledger, best, register or folder.name)
        found = Confirmed(confirmation, test, model)
        write_sealed(ledger.folder / CONFIRMED, found.as_json())
        record(ledger, found)
    return 0, found


def open_confirmation(own: Path, definition: Definition, name: str) -> Ledger:
    """Open and lock the study that confirms the study `name`, begun if it is not there; raise StudyError."""
    if not (own / DEFINITION).is_file():
        return Ledger.create(own, definition)
    ledger = Ledger.open(own)
    begun = ledger.definition
    same = (begun.corpus_fingerprint, begun.space.fixed) == (definition.corpus_fingerprint, definition.space.fixed)
    if not same or "seed" not in begun.space.ranges:
        raise StudyError(f"{own} is not a confirmation of {name} as it is now; move it away and confirm again")
    ledger.lock()
    return ledger


def crown(ledger: Ledger, winner: Standing, samples: int) -> tuple[dict[str, float], TrialRecord | None]:
    """Evaluate each run of the winner on the test split, once; return that, and its run that ranks first.

    Nothing of either where no setting is feasible with every seed.
    """
    from data.corpus import Corpus
    from study.execution.trial import write_final

    runs = [trial for trial in ledger.trials() if trial.number in winner.trials and trial.best]
    if not runs or not math.isfinite(winner.mean_nll):
        return {}, None
    definition = ledger.definition
    best = min(runs, key=lambda trial: trial.score)
    if definition.is_own:
        # Its test split, if there is one, is read by its own code.
        return {}, best
    corpus = Corpus.open(definition.corpus)
    for trial in runs:
        write_final(ledger.trial_folder(trial.number), corpus, samples, definition.space.fixed)
    return scores_on_test([ledger.trial_folder(trial.number) for trial in runs]), best


def registered(ledger: Ledger, name: str | None) -> str:
    """Return the address under which an earlier call registered the winner (as `name`, if one is given), or nothing."""
    path = ledger.folder / CONFIRMED
    if not path.is_file():
        return ""
    stored: dict[str, object] = read_sealed(
        path, dict[str, object], f"remove it, and the winner is registered again from {path.parent}"
    )
    address = str(stored.get("model", ""))
    return address if name is None or address.startswith(f"models:/{name}/") else ""


def register_best(ledger: Ledger, trial: TrialRecord, name: str) -> str:
    """Register a run's best weights in MLflow; return the model's address, or nothing for a language model."""
    from data.corpus import Corpus
    from study.inference.trained_model import TrainedModel
    from study.tracking.registry import register_model, study_run

    folder, definition = weights(ledger, trial), ledger.definition
    trained = TrainedModel.open(folder, "cpu")
    if not trained.network.settings.has_latent:
        return ""
    examples = trained.texts(Corpus.open(definition.corpus).split("valid"), 2)
    return register_model(definition, study_run(ledger), folder, name, examples)


def weights(ledger: Ledger, trial: TrialRecord) -> Path:
    """Return the folder of a trial's best weights."""
    return best_folder(ledger.trial_folder(trial.number), trial.best.number)


def record(ledger: Ledger, found: Confirmed) -> None:
    """Add what was found to the confirmation's parent run."""
    from study.tracking.registry import log_aggregates, study_run

    definition: Definition = ledger.definition
    log_aggregates(
        definition,
        study_run(ledger),
        as_metrics(found.confirmation, found.test),
        {CONFIRMED: found.as_json()},
        describe(definition, found),
    )


def describe(definition: Definition, found: Confirmed) -> str:
    """Return the story of a confirmation in Markdown."""
    first, ranked = found.confirmation.standings[0], definition.goal.ranked
    lines = [
        f"**{definition.name}** on corpus {code(definition.corpus_name)}: {found.confirmation.sentence}",
        f"Validation {ranked} {first.means[ranked]:.2f} ± {first.deviations[ranked]:.2f} over seeds {first.seeds}."
        + (f" Test nll {found.test['nll']:.2f} ± {found.test.get('nll_sd', math.nan):.2f}." if found.test else "")
        + (f" Registered: `{found.model}`." if found.model else ""),
        f"Reproduce: {code(definition.command)}",
        f"Confirmed settings: {show_params(first.params)}",
    ]
    return LINE_BREAK.join(lines)
