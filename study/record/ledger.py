"""A study's own record: its definition, Optuna's database and each trial's epochs. The one truth.

An epoch is appended to the trial's journal before anything else hears of it, and Optuna is told what
became of a trial once, when it is over: COMPLETE, PRUNED and FAIL mean what they say, and a trial
that was interrupted is WAITING, so that the next `ask` hands it out again under its own number. MLflow
and reports are made from this record and can be made again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import optuna
from optuna.trial import FrozenTrial, TrialState

from data.files import remove_files
from study.config.settings import Params
from study.epoch import Epoch
from study.errors import DamagedRecordError, StudyError, did_you_mean
from study.record import database
from study.record.holding import check_new, exclusive_lock, is_held
from study.record.integrity import disagreement, record_of, seal_of
from study.record.journal import append_journal, mend, read_journal, study_names
from study.record.moved import found_again
from study.record.notes import read_dropped, read_run_ids, write_dropped
from study.record.places import DATABASE, DEFINITION, DROPPED, JOURNAL, LOCK, RUN_IDS, TRIALS, trial_folder
from study.record.proposal import ASKED, FIXED, OUTSIDE, asked_of, draw, pass_on_notes, store, values_of
from study.record.states import ENDS, State
from study.record.trials import TrialRecord, best_row
from study.search.definition import Definition, check_definition, read_definition, write_definition
from study.search.learned import known_to_sampler
from study.search.samplers import make_sampler

OWN_FILES = (DEFINITION, *(f"{DATABASE}{end}" for end in ("", "-journal", "-wal", "-shm")), RUN_IDS, DROPPED, LOCK)
"""What a study that has tried nothing has written into its folder."""


class Ledger:
    """The record of one study. One process writes it at a time; any number may read.

    It is opened for reading, which changes nothing on the disk; the first thing written opens it for writing.
    """

    def __init__(self, folder: Path, definition: Definition) -> None:
        self.folder = folder
        self.definition = definition
        self._study: optuna.Study | None = None
        self._is_writer = False
        self._open: dict[int, optuna.Trial] = {}
        self._rows: dict[int, list[Epoch]] = {}
        self._lock: IO[str] | None = None
        self.moved: list[str] = []

    @classmethod
    def create(cls, folder: Path, definition: Definition) -> Ledger:
        """Start the record of a new study in a folder that is new or empty, and lock it.

        Raises StudyError, and touches nothing, if the folder has a study or anything else.
        """
        check_new(folder, definition.name)
        folder.mkdir(parents=True, exist_ok=True)
        ledger = cls(folder, definition)
        ledger._lock = exclusive_lock(folder, definition.name)
        # First of all, so that a study killed at any later moment can be resumed.
        write_definition(folder / DEFINITION, definition)
        ledger.enqueue(list(definition.planned))
        return ledger

    @classmethod
    def open(cls, folder: Path, corpus: Path | None = None) -> Ledger:
        """Open the record of a study for reading; raise StudyError if there is none or it is damaged.

        What it says of places that are no more is corrected, not on the disk, and told in `moved`; `corpus` is where
        its corpus is now.
        """
        path = folder / DEFINITION
        if not path.is_file():
            known = study_names(folder.parent)
            others = f"known here: {', '.join(known)}" if known else "none has been run there"
            hint = did_you_mean(folder.name, known, others)
            raise StudyError(f"no study named {folder.name} in {folder.parent} ({hint}); see --storage")
        definition, moved = found_again(folder, read_definition(path), corpus)
        ledger = cls(folder, definition)
        ledger.moved = moved
        if not database.exists(folder, ledger.definition) and (folder / TRIALS).exists():
            raise StudyError(f"{folder / DATABASE} is missing; the study's record is damaged{mend(folder)}")
        # What is damaged is said at once.
        ledger.study  # noqa: B018
        return ledger

    @property
    def study(self) -> optuna.Study:
        """Optuna's study, connected when it is first asked for."""
        if self._study is None:
            try:
                self._study = database.connect(self.folder, self.definition, writing=self._is_writer)
            except DamagedRecordError:
                if self._is_writer or (self.folder / TRIALS).exists() or (self.folder / DATABASE).exists():
                    raise
                # Killed while it was created: it has tried nothing yet.
                self._study = database.empty(self.definition)
        return self._study

    def _for_writing(self) -> optuna.Study:
        """Return Optuna's study as one that can be written, made if it is not there."""
        if not self._is_writer:
            if self.definition.optuna_url or not database.exists(self.folder, self.definition):
                database.create(self.folder, self.definition)
            self._is_writer, self._study = True, None
        return self.study

    def lock(self) -> None:
        """Become the one writer; raise StudyError if another process is. Ends with the process."""
        self._lock = exclusive_lock(self.folder, self.definition.name)

    def is_locked(self) -> bool:
        """Say whether a process is running the study."""
        return is_held(self.folder)

    def discard(self) -> None:
        """Remove the record of a study that has tried nothing, file by file; whatever else is in its folder stays."""
        database.forget(self.folder, self.definition)
        self._study = None
        remove_files(self.folder, OWN_FILES)
        self.close()

    def disconnect(self) -> None:
        """Let go of the database; it is connected to again when it is asked next."""
        if self._study is not None:
            database.disconnect(self._study)
            self._study = None

    def close(self) -> None:
        """Let another process become the writer."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def trial_folder(self, number: int) -> Path:
        """Return where a trial keeps its journal, checkpoints and best weights."""
        return trial_folder(self.folder, number)

    def num_left(self) -> int:
        """Count the trials that are still to be handed out: new ones and interrupted ones."""
        taken = [trial for trial in self._frozen() if trial.state != TrialState.WAITING]
        return max(0, self.definition.num_trials - len(taken))

    def has_waiting(self) -> bool:
        """Say whether trials wait to be handed out, interrupted or planned."""
        return any(trial.state == TrialState.WAITING for trial in self._frozen())

    def enqueue(self, points: list[Params]) -> int:
        """Have these values tried, in this order, before the sampler proposes any, once each; return how many are new.

        Values that the space does not have are tried all the same; no sampler hears of them.
        """
        study, added = self._for_writing(), 0
        known = [values for trial in self._frozen() for values in (asked_of(trial), values_of(trial))]
        for point in points:
            if point not in known:
                known.append(point)
                inside, outside = self.definition.space.divide(point)
                study.enqueue_trial(inside, user_attrs={ASKED: point} | ({OUTSIDE: outside} if outside else {}))
                added += 1
        return added

    def extend(self, points: list[Params]) -> None:
        """Have these values tried as well, each once however often it is asked for."""
        self.enqueue(points)
        self.change(num_trials=max(self.definition.num_trials, len(self._frozen())))

    def change(self, **values: object) -> None:
        """Store another value of something that may change while a study goes on, such as its number of trials."""
        changed = replace(self.definition, **values)  # type: ignore[arg-type]
        check_definition(changed)
        self.definition = changed
        write_definition(self.folder / DEFINITION, self.definition)

    def drop(self, number: int, why: str) -> None:
        """Have a trial that is over count no longer, for a reason; with none, have it count again. Must be locked."""
        trial = next((each for each in self.trials() if each.number == number), None)
        if trial is None or trial.state not in ENDS:
            state = "does not exist" if trial is None else f"is {trial.state}"
            raise StudyError(f"trial {number} of {self.folder.name} {state}; only one that is over can be dropped")
        dropped = read_dropped(self.folder)
        if not why and number not in dropped:
            raise StudyError(f"trial {number} of {self.folder.name} was not dropped; there is nothing to take back")
        dropped.pop(number, None)
        write_dropped(self.folder, dropped | ({number: why} if why else {}))

    def release_interrupted(self) -> list[int]:
        """Make every trial that Optuna has as RUNNING wait to be handed out again; return their numbers."""
        study = self._for_writing()
        # Those of a study that was killed while they were entered.
        self.enqueue(list(self.definition.planned))
        released = []
        for trial in self._frozen():
            if trial.state == TrialState.RUNNING:
                study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                released.append(trial.number)
        self._open.clear()
        self._rows.clear()
        return released

    def ask(self) -> tuple[int, Params]:
        """Take the next trial, an interrupted one first; return its number and its searched values.

        What a trial is given follows from the study's seed, its own number and what is known when it is first asked
        for. All its values are drawn, then stored at once, then it is taken: a kill leaves it whole or not there.
        """
        definition, study = self.definition, self._for_writing()
        self._settle_next(study)
        trial = study.ask()
        notes = study._storage.get_trial(trial._trial_id).system_attrs
        values = definition.space.suggest(trial, planned=notes.get(FIXED, {}), outside=trial.user_attrs.get(OUTSIDE))
        self._open[trial.number] = trial
        self._rows[trial.number] = read_journal(self.trial_folder(trial.number))
        for row in self._rows[trial.number]:
            self._report(trial, row)
        return trial.number, values

    def _settle_next(self, study: optuna.Study) -> None:
        """See to it that the trial which Optuna will hand out next is there, with each of its values."""
        known = self._frozen()
        if known:
            pass_on_notes(study, known[-1])
        waiting = next((trial for trial in known if trial.state == TrialState.WAITING), None)
        number = len(known) if waiting is None else waiting.number
        definition = self.definition
        study.sampler = make_sampler(
            definition.sampler, definition.space, definition.goal, definition.seed, number, definition.num_tested
        )
        learned = known_to_sampler(definition.learned, definition.space, len(known) + 1)
        propose = partial(draw, study, study.sampler, definition.space, number, learned=learned)
        # Trials with values outside the space say nothing of it, and a sampler would not know what to make of them.
        hidden = {*read_dropped(self.folder), *(trial.number for trial in known if OUTSIDE in trial.user_attrs)}
        if waiting is None:
            store(study, propose({}, hidden=hidden))
            return
        fixed = waiting.system_attrs.get(FIXED, {}) | waiting.params
        drawn = propose(fixed, outside=waiting.user_attrs.get(OUTSIDE), hidden=hidden)
        if drawn.params.keys() - fixed.keys():
            # Of values to be tried, the ones that were left to the sampler.
            study._storage.set_trial_system_attr(waiting._trial_id, FIXED, drawn.params)

    def rows(self, number: int) -> list[Epoch]:
        """Return the epochs on record of a trial, oldest first."""
        if number in self._rows:
            return self._rows[number]
        return read_journal(self.trial_folder(number))

    def add_row(self, number: int, row: Epoch) -> bool:
        """Record an epoch and when (`recorded_at`, seconds since 1970); return False if it is on record already."""
        rows = self._rows[number]
        if row.number <= (rows[-1].number if rows else 0):
            return False
        row = replace(row, recorded_at=round(time.time(), 3))
        append_journal(self.trial_folder(number), row)
        rows.append(row)
        self._report(self._open[number], row)
        return True

    def _report(self, trial: optuna.Trial, row: Epoch) -> None:
        if not self.definition.goal.is_pareto and row.counts:
            with warnings.catch_warnings():
                # Of an interrupted trial, epochs that Optuna has already.
                warnings.simplefilter("ignore", UserWarning)
                trial.report(row[f"valid/{self.definition.goal.ranked}"], row.number)

    def finish(self, number: int, state: State, reason: str = "") -> tuple[State, str]:
        """Tell Optuna, once, what became of a trial: `complete`, `pruned`, `collapsed` or `failed`.

        A trial without an epoch has failed, whatever it is said to be. Returns state and reason.
        """
        trial = self._open.pop(number)
        rows, goal = self._rows.pop(number), self.definition.goal
        best = best_row(rows, self.definition)
        if state != State.FAILED and not best:
            state, reason = State.FAILED, reason or "it ended before its first epoch"
        trial.set_user_attr("state", state.value)
        trial.set_user_attr("reason", reason)
        trial.set_user_attr("seconds", rows[-1].seconds if rows else 0.0)
        for name, value in best.valid.items():
            trial.set_user_attr(f"best/{name}", value)
        with warnings.catch_warnings():
            # A kill may have come after they were set.
            warnings.simplefilter("ignore", UserWarning)
            for name, violation in goal.constraints(best).items():
                trial.set_constraint(name, violation)
        trial.set_user_attr("digest", seal_of(values_of(trial), state, reason))
        match state:
            case State.COMPLETE:
                self._for_writing().tell(trial, goal.values(best))
            case State.PRUNED | State.COLLAPSED:
                self._for_writing().tell(trial, state=TrialState.PRUNED)
            case _:
                self._for_writing().tell(trial, state=TrialState.FAIL)
        return state, reason

    def trials(self) -> list[TrialRecord]:
        """Return every trial of the study, oldest first.

        Raises StudyError if journals and database do not say the same: neither is believed over the other.
        """
        found = []
        for record, problem in self.survey():
            if problem:
                raise StudyError(problem)
            assert record is not None
            found.append(record)
        return found

    def survey(self) -> Iterator[tuple[TrialRecord | None, str]]:
        """Yield every trial, and what is wrong with its record; None where there is no telling what it was."""
        # Before the database is read: what runs now may begin a trial meanwhile.
        folders = sorted((self.folder / TRIALS).glob("*[0-9]"))
        run_ids, name, frozen = self.run_ids(), self.folder.name, self._frozen()
        dropped = read_dropped(self.folder)
        for trial in frozen:
            try:
                rows = self.rows(trial.number)
                problem = disagreement(trial, rows, best_row(rows, self.definition), self.definition)
            except StudyError as error:
                yield None, f"the record of trial {trial.number} of {name} is damaged: {error}"
                continue
            if problem:
                problem = f"the record of trial {trial.number} of {name} is damaged: {problem}{mend(self.folder)}"
            record = record_of(self.definition, trial, rows, run_ids.get(str(trial.number)))
            yield record.dropped(dropped.get(trial.number)), problem
        for folder in folders:
            if folder.name.isdecimal() and int(folder.name) >= len(frozen) and (folder / JOURNAL).exists():
                problem = f"{folder} has epochs of a trial that Optuna's database does not know"
                yield None, f"the record of {name} is damaged: {problem}{mend(self.folder)}"

    def run_ids(self) -> dict[str, str]:
        """Return the MLflow run of the study (`study`) and of each trial, by number; made again if it is damaged."""
        return read_run_ids(self.folder)

    def _frozen(self) -> list[FrozenTrial]:
        return database.trials(self.study, self.folder)
