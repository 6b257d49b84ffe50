"""A study's own record: its definition, Optuna's database and each trial's epochs. The one truth.

An epoch is appended to the trial's journal before anything else hears of it, and Optuna is told what
became of a trial once, when it is over: COMPLETE, PRUNED and FAIL mean what they say, and a trial
that was interrupted is WAITING, so that the next `ask` hands it out again under its own number. MLflow
and reports are made from this record and can be made again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from study.definition import Definition
from study.errors import StudyError
from study.journal import DEFINITION, append_journal, read_journal, study_names, write_json
from study.patience import PatientStorage
from study.samplers import make_sampler

DATABASE, LOCK, TRIALS, RUN_IDS = "optuna.db", ".lock", "trials", "mlflow.json"
ENDS = ("complete", "pruned", "collapsed", "failed")
STATES = (*ENDS, "running", "waiting")
"""What can have become of a trial: trained to its end; ended by the schedule; ended because its posterior
collapsed; broken (with a reason); being trained; interrupted, to be gone on with by --resume."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger has it."""

    number: int
    state: str
    reason: str
    params: dict[str, Any]
    rows: list[dict[str, Any]] = field(repr=False)
    seconds: float
    feasible: bool
    best: dict[str, Any] = field(repr=False)
    """The row of the best epoch; empty before the first one."""
    run_id: str | None
    started: bool
    """Whether it has ever been handed out: an enqueued trial waits before that."""


class Ledger:
    """The record of one study. One process writes it at a time; any number may read."""

    def __init__(
        self, folder: Path, definition: Definition, study: optuna.Study, storage: optuna.storages.RDBStorage
    ) -> None:
        self.folder = folder
        self.definition = definition
        self.study = study
        self._storage = storage
        self._open: dict[int, optuna.Trial] = {}
        self._rows: dict[int, list[dict[str, Any]]] = {}
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, folder: Path, definition: Definition) -> Ledger:
        """Start the record of a new study and lock it; raise StudyError if the folder already has one."""
        folder.mkdir(parents=True, exist_ok=True)
        stream = lock_folder(folder, definition.name)
        if (folder / DEFINITION).exists():
            stream.close()
            raise StudyError(
                f"a study named {definition.name} exists already; continue it with --resume {definition.name},"
                " or choose another --name"
            )
        # First of all, so that a study killed at any later moment can be resumed.
        write_json(folder / DEFINITION, definition.to_json())
        ledger = cls(folder, definition, *connect(folder, definition))
        ledger._lock = stream
        return ledger

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """Open the record of a study for reading; raise StudyError if there is none."""
        path = folder / DEFINITION
        if not path.is_file():
            known = study_names(folder.parent)
            hint = f"known here: {', '.join(known)}" if known else "none has been run there"
            raise StudyError(f"no study named {folder.name} in {folder.parent} ({hint}); see --storage")
        try:
            definition = Definition.from_json(json.loads(path.read_text("utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path} does not define a study: {error!r}; it is foreign or damaged") from None
        if not definition.optuna_url and not (folder / DATABASE).exists() and (folder / TRIALS).exists():
            raise StudyError(f"{folder / DATABASE} is missing; the study's record is damaged")
        return cls(folder, definition, *connect(folder, definition))

    def lock(self) -> None:
        """Become the one writer; raise StudyError if another process is. Ends with the process."""
        self._lock = lock_folder(self.folder, self.definition.name)

    def is_locked(self) -> bool:
        """Say whether a process is running the study."""
        if not (self.folder / LOCK).exists():
            return False
        with (self.folder / LOCK).open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def close(self) -> None:
        """Let another process become the writer."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def trial_folder(self, number: int) -> Path:
        """Return where a trial keeps its journal, checkpoints and best weights."""
        return self.folder / TRIALS / f"{number:05d}"

    def num_left(self) -> int:
        """Count the trials that are still to be handed out: new ones and interrupted ones."""
        taken = [trial for trial in self._frozen() if trial.state != TrialState.WAITING]
        return max(0, self.definition.num_trials - len(taken))

    def enqueue(self, points: list[dict[str, Any]]) -> None:
        """Have these searched values tried, in this order, before the sampler proposes any; once each."""
        for point in points:
            self.study.enqueue_trial(point, skip_if_exists=True)

    def extend(self, points: list[dict[str, Any]]) -> None:
        """Have these searched values tried as well, each once however often it is asked for."""
        self.enqueue(points)
        self.definition = replace(self.definition, num_trials=len(self._frozen()))
        write_json(self.folder / DEFINITION, self.definition.to_json())

    def release_interrupted(self) -> list[int]:
        """Make every trial that Optuna has as RUNNING wait to be handed out again; return their numbers."""
        released = []
        for trial in self._frozen():
            if trial.state == TrialState.RUNNING:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                released.append(trial.number)
        self._open.clear()
        return released

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Take the next trial, an interrupted one first; return its number and its searched values."""
        definition, existing = self.definition, len(self._frozen())
        # What a trial is given depends on the seed and what is known, not on when the driver started.
        self.study.sampler = make_sampler(
            definition.sampler, definition.space, definition.goal, definition.seed, existing
        )
        trial = self.study.ask()
        values = definition.space.suggest(trial)
        self._open[trial.number] = trial
        self._rows[trial.number] = read_journal(self.trial_folder(trial.number))
        for row in self._rows[trial.number]:
            self._report(trial, row)
        return trial.number, values

    def rows(self, number: int) -> list[dict[str, Any]]:
        """Return the epochs on record of a trial, oldest first."""
        if number in self._rows:
            return self._rows[number]
        return read_journal(self.trial_folder(number))

    def add_row(self, number: int, row: dict[str, Any]) -> bool:
        """Record an epoch and when (`recorded_at`, seconds since 1970); return False if it is on record already."""
        rows = self._rows[number]
        if row["epoch"] <= (rows[-1]["epoch"] if rows else 0):
            return False
        row = row | {"recorded_at": round(time.time(), 3)}
        append_journal(self.trial_folder(number), row)
        rows.append(row)
        self._report(self._open[number], row)
        return True

    def _report(self, trial: optuna.Trial, row: dict[str, Any]) -> None:
        if not self.definition.goal.is_pareto and "phase" not in row:
            with warnings.catch_warnings():
                # Of an interrupted trial, epochs that Optuna has already.
                warnings.simplefilter("ignore", UserWarning)
                trial.report(row["valid/nll"], row["epoch"])

    def finish(self, number: int, state: str, reason: str = "") -> tuple[str, str]:
        """Tell Optuna, once, what became of a trial: `complete`, `pruned`, `collapsed` or `failed`.

        A trial without an epoch has failed, whatever it is said to be. Returns state and reason.
        """
        trial = self._open.pop(number)
        rows, goal = self._rows.pop(number), self.definition.goal
        best = best_row(rows, self.definition)
        if state != "failed" and not best:
            state, reason = "failed", reason or "it ended before its first epoch"
        trial.set_user_attr("state", state)
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("seconds", rows[-1]["seconds"] if rows else 0.0)
        for name, value in best.items():
            if name.startswith("valid/"):
                trial.set_user_attr(f"best/{name[6:]}", value)
        for name, violation in goal.constraints(best).items():
            trial.set_constraint(name, violation)
        match state:
            case "complete":
                self.study.tell(trial, goal.values(best))
            case "pruned" | "collapsed":
                self.study.tell(trial, state=TrialState.PRUNED)
            case _:
                self.study.tell(trial, state=TrialState.FAIL)
        return state, reason

    def trials(self) -> list[TrialRecord]:
        """Return every trial of the study, oldest first."""
        run_ids = self.run_ids()
        return [self._record(trial, run_ids) for trial in self._frozen()]

    def run_ids(self) -> dict[str, str]:
        """Return the MLflow run of the study (`study`) and of each trial, by number."""
        path = self.folder / RUN_IDS
        return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}

    def _frozen(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _record(self, trial: FrozenTrial, run_ids: dict[str, str]) -> TrialRecord:
        rows = self.rows(trial.number)
        best = best_row(rows, self.definition)
        waiting = "waiting" if trial.state == TrialState.WAITING else "running"
        return TrialRecord(
            number=trial.number,
            state=trial.user_attrs.get("state", "failed") if trial.state.is_finished() else waiting,
            reason=trial.user_attrs.get("reason", ""),
            params=dict(trial.params),
            rows=rows,
            seconds=rows[-1]["seconds"] if rows else 0.0,
            feasible=bool(best) and self.definition.goal.is_feasible(best),
            best=best,
            run_id=run_ids.get(str(trial.number)),
            started=trial.datetime_start is not None,
        )


def lock_folder(folder: Path, name: str) -> IO[str]:
    """Lock a study's folder for this process; raise StudyError if another one has it."""
    stream = (folder / LOCK).open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise StudyError(f"the study {name} is being run by another process; wait for it or stop it first") from None
    return stream


def connect(folder: Path, definition: Definition) -> tuple[optuna.Study, optuna.storages.RDBStorage]:
    """Open the Optuna study of a definition, or create it; raise StudyError if the database is not to be had."""
    import sqlalchemy.exc

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    url = definition.optuna_url or f"sqlite:///{(folder / DATABASE).absolute()}"
    # A server holds the studies of many folders.
    name = f"{definition.name}-{definition.identifier[:8]}" if definition.optuna_url else definition.name
    try:
        storage = PatientStorage(url) if definition.optuna_url else optuna.storages.RDBStorage(url)
        sampler = make_sampler(definition.sampler, definition.space, definition.goal, definition.seed, 0)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=sampler,
            directions=definition.goal.directions,
            load_if_exists=True,
        )
        study.set_metric_names(definition.goal.metric_names)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise StudyError(f"Optuna's database of {definition.name} cannot be opened: {error}") from None
    return study, storage


def best_row(rows: list[dict[str, Any]], definition: Definition) -> dict[str, Any]:
    """Return the row with the best validation by the study's criterion, or an empty one."""
    criterion = f"valid/{definition.space.fixed.evaluation.criterion}"
    finite = [row for row in rows if math.isfinite(row.get(criterion, math.nan)) and "phase" not in row]
    return min(finite, key=lambda row: row[criterion], default={})
