"""A study's runs in MLflow: a projection of the ledger that can be made again.

A thread brings each trial's run up to what the ledger holds and keeps trying while the server is away,
so that no trial waits for it. One process, the driver, writes.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from study.config.stored import write_json
from study.epoch import Epoch
from study.errors import StudyError, first_line
from study.record.final_scores import read_samples
from study.record.ledger import Ledger
from study.record.places import BEST, DEFINITION, RUN_IDS, SAMPLES, best_folder
from study.record.states import USABLE, State
from study.record.trials import TrialRecord
from study.search.definition import Definition
from study.tracking.experiments import revive, run_by_id
from study.tracking.overview import SETTINGS_TAG, TAG, feasible_value, overview, run_name, settings_tag
from study.tracking.store import artifact_location, cannot_be_used, connect, describe_corpus, provenance

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

STATUS = {
    State.COMPLETE: "FINISHED",
    State.PRUNED: "KILLED",
    State.COLLAPSED: "KILLED",
    State.DROPPED: "KILLED",
    State.WAITING: "KILLED",
    State.FAILED: "FAILED",
    State.RUNNING: "RUNNING",
}
"""MLflow's status for each state: a trial that was ended early was killed, whatever ended it."""

METRICS_A_CALL = 1000
RETRY_SECONDS = 2.0
CLOSE_SECONDS = 60.0


class Tracker:
    """Keeps one MLflow parent run for a study and one child a trial in line with the ledger."""

    def __init__(self, ledger: Ledger, on_problem: Callable[[str], None]) -> None:
        self.ledger = ledger
        self.definition: Definition = ledger.definition
        self.on_problem = on_problem
        self._ids = ledger.run_ids()
        self._logged: dict[str, int] = {}
        self._told: dict[str, str] = {}
        self._due: dict[int, TrialRecord] = {}
        self._closing = False
        self._give_up_at = math.inf
        self._wake = threading.Condition()
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin to connect, without waiting for it."""
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Wait for the parent run; raise StudyError if the server cannot be reached or refuses."""
        self._ready.wait()
        if self._error is not None:
            raise StudyError(cannot_be_used(self.definition.tracking_uri, self._error))

    def update(self, trial: TrialRecord) -> None:
        """Have a trial's run brought up to date; returns at once."""
        with self._wake:
            self._due[trial.number] = trial
            self._wake.notify()

    def close(
        self, state: State, summary: dict[str, float], description: str, files: list[Path], seeds: pl.DataFrame | None
    ) -> bool:
        """Send what is due, end the parent run, and return whether all of it arrived.

        `files` (or folders) become its artifacts, and `seeds`, means over them, a table.
        """
        from mlflow.entities import Metric

        with self._wake:
            self._closing = True
            self._give_up_at = time.monotonic() + CLOSE_SECONDS / 2
            self._wake.notify()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive() or self._error is not None:
            return False
        when, give_up_at = int(time.time() * 1000), time.monotonic() + CLOSE_SECONDS / 2
        metrics = [Metric(name, value, when, 0) for name, value in summary.items()]
        while True:
            try:
                self._end_parent(state, metrics, description, files, seeds)
            except Exception as error:
                self.on_problem(f"MLflow did not take the study's end: {first_line(error)}")
                if time.monotonic() > give_up_at:
                    return False
                time.sleep(RETRY_SECONDS)
            else:
                return True

    def _work(self) -> None:
        try:
            self._client = connect(self.definition.tracking_uri)
            self._datasets = describe_corpus(self.definition)
            self._experiment_id = self._find_experiment()
            self._store_page()
            self._parent_id = self._find_parent()
        except Exception as error:
            self._error = error
            return
        finally:
            self._ready.set()
        while (trial := self._next()) is not None:
            try:
                self._project(trial)
            except Exception as error:
                if time.monotonic() > self._give_up_at:
                    self._error = error
                    return
                self.on_problem(
                    f"MLflow did not take trial {trial.number}, whose metrics wait on disk: {first_line(error)}"
                )
                with self._wake:
                    self._due.setdefault(trial.number, trial)
                time.sleep(RETRY_SECONDS)

    def _next(self) -> TrialRecord | None:
        with self._wake:
            while not self._due and not self._closing:
                self._wake.wait()
            return self._due.pop(next(iter(self._due))) if self._due else None

    def _find_experiment(self) -> str:
        name = self.definition.name
        found = revive(self._client, name, self._ids.get("study"), self.on_problem)
        if found is not None:
            return found
        tags = {
            "mlflow.experiment.primaryMetric.name": f"best/{self.definition.goal.ranked}",
            "mlflow.experiment.primaryMetric.greaterIsBetter": "False",
            # Otherwise the UI opens on pages about prompts and traces.
            "mlflow.experimentKind": "custom_model_development",
        }
        return str(self._client.create_experiment(name, artifact_location(self.definition.tracking_uri, name), tags))

    def _store_page(self) -> None:
        """Store how the study's page opens; nothing else waits for it."""
        try:
            if page := overview(self.definition):
                self._client.set_experiment_tag(self._experiment_id, TAG, page)
        except Exception as error:
            self.on_problem(f"MLflow's page of the study opens as any other: {first_line(error)}")

    def _find_parent(self) -> str:
        run = self._find_run("study", "tags.`trial` = 'study'")
        if run is None:
            tags = self._tags("study")
            created = self._client.create_run(self._experiment_id, tags=tags, run_name=self.definition.name)
            run_id = str(created.info.run_id)
            self._client.log_inputs(run_id, self._datasets)
            folder = self.ledger.folder
            self._client.log_artifact(run_id, str(folder / DEFINITION))
        else:
            run_id = str(run.info.run_id)
            self._client.update_run(run_id, status="RUNNING")
        self._remember("study", run_id)
        return run_id

    def _find_run(self, key: str, query: str) -> Run | None:
        """Return the run that this study has for a key: by the remembered id, else by its tags."""
        if key in self._ids and (run := run_by_id(self._client, self._ids[key])) is not None:
            return run
        query = f"{query} and tags.`study_id` = '{self.definition.identifier}'"
        found = self._client.search_runs([self._experiment_id], query, max_results=1)
        return found[0] if found else None

    def _remember(self, key: str, run_id: str) -> None:
        self._ids[key] = run_id
        write_json(self.ledger.folder / RUN_IDS, self._ids)

    def _project(self, trial: TrialRecord) -> None:
        key, state, rows = str(trial.number), trial.state, trial.rows
        if key not in self._logged:
            self._adopt(key, trial)
        run_id, logged = self._ids[key], self._logged[key]
        if (
            self._told.get(key) == state
            and state not in (State.RUNNING, State.DROPPED)
            and (not rows or rows[-1].number <= logged)
        ):
            return
        if state == State.RUNNING and self._told.get(key) != State.RUNNING:
            self._client.update_run(run_id, status="RUNNING")
            self._told[key] = State.RUNNING
        new = [row for row in rows if row.number > logged]
        for part in parts(new):
            self._client.log_batch(run_id, metrics=metrics_of(part))
            self._logged[key] = part[-1].number
        if state != State.RUNNING:
            self._finish(run_id, trial)
            self._told[key] = state

    def _adopt(self, key: str, trial: TrialRecord) -> None:
        """Find or create a trial's run, and see what it has already."""
        from mlflow.entities import Param

        run = self._find_run(key, f"tags.`trial` = '{key}'")
        if run is None:
            seed = trial.params.get("seed", self.definition.seed)
            own = {"mlflow.parentRunId": self._parent_id, "seed": str(seed), SETTINGS_TAG: settings_tag(trial.params)}
            tags = self._tags(key) | own
            run = self._client.create_run(self._experiment_id, tags=tags, run_name=run_name(trial))
            self._client.log_inputs(str(run.info.run_id), self._datasets)
            self._told[key] = State.RUNNING
        elif run.info.status != "RUNNING":
            self._told[key] = run.data.tags.get("state", "")
        run_id = str(run.info.run_id)
        if not run.data.params and trial.params:
            # Also where a crash came between the run and its settings.
            params = [Param(name, str(value)) for name, value in trial.params.items()]
            self._client.log_dict(run_id, self._settings(trial), "settings.json")
            self._client.log_batch(run_id, params=params)
        self._logged[key] = int(run.data.metrics.get("epoch", 0))
        self._remember(key, run_id)

    def _tags(self, key: str) -> dict[str, str]:
        definition = self.definition
        own = {"study": definition.name, "study_id": definition.identifier, "trial": key, "seed": str(definition.seed)}
        return own | provenance(definition)

    def _settings(self, trial: TrialRecord) -> dict[str, object]:
        try:
            return self.definition.settings(trial.number, trial.params).model_dump()
        except StudyError as error:
            return {"refused": str(error), **trial.params}

    def _finish(self, run_id: str, trial: TrialRecord) -> None:
        from mlflow.entities import Metric, RunTag

        definition, state, rows, best = self.definition, trial.state, trial.rows, trial.best
        when = _milliseconds(rows[-1]) if rows else 0
        found = best.valid | {"epoch": best.number} if best else {}
        metrics = [Metric(f"best/{name}", float(value), when, 0) for name, value in found.items()]
        if state in USABLE and trial.feasible:
            # What the page is ordered by: a trial that cannot win does not come first for its low nll.
            # Of one that counts again, later than what it was told to be meanwhile.
            at = int(time.time() * 1000) if self._told.get(str(trial.number)) == State.DROPPED else when
            metrics.append(Metric(feasible_value(definition), trial.score, at, 0))
        if state == State.DROPPED:
            # A metric cannot be taken back, but one that is no number comes last.
            metrics.append(Metric(feasible_value(definition), math.nan, int(time.time() * 1000), 0))
        tags = [
            RunTag("state", state.value),
            RunTag("reason", trial.reason[:5000]),
            RunTag("duration_seconds", f"{trial.seconds:.1f}"),
            RunTag("nodes", ", ".join(dict.fromkeys(row.node for row in rows if row.node))),
        ]
        self._client.log_batch(run_id, metrics=metrics, tags=tags)
        if state not in (State.WAITING, State.RUNNING):
            self._log_files(run_id, trial)
        self._client.set_terminated(run_id, STATUS[state])

    def _log_files(self, run_id: str, trial: TrialRecord) -> None:
        folder = self.ledger.trial_folder(trial.number)
        if trial.rows:
            curves = folder / "epochs.parquet"
            pl.DataFrame([row.to_json() for row in trial.rows], infer_schema_length=None).write_parquet(curves)
            self._client.log_artifact(run_id, str(curves))
        weights = best_folder(folder, trial.best.number)
        if weights.is_dir():
            self._client.log_artifacts(run_id, str(weights), BEST)
        if (folder / SAMPLES).is_file():
            self._log_table(run_id, SAMPLES, read_samples(folder))

    def _log_table(self, run_id: str, name: str, table: Mapping[str, Sequence[object]]) -> None:
        """Log a table by its columns as `log_table` stores it, but the same however often it is logged."""
        rows = [list(row) for row in zip(*table.values(), strict=True)]
        self._client.log_dict(run_id, {"columns": list(table), "data": rows}, name)
        self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"}]))

    def _end_parent(
        self, state: State, metrics: list[Metric], description: str, files: list[Path], seeds: pl.DataFrame | None
    ) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag("state", state.value), RunTag("mlflow.note.content", description)]
        self._client.log_batch(self._parent_id, metrics=metrics, tags=tags)
        # The list of all studies shows it.
        self._client.set_experiment_tag(self._experiment_id, "mlflow.note.content", description)
        for path in files:
            self._client.log_artifact(self._parent_id, str(path))
        if seeds is not None:
            self._log_table(self._parent_id, "seeds.json", seeds.to_dict(as_series=False))
        self._client.set_terminated(self._parent_id, STATUS[state])


def metrics_of(rows: Sequence[Epoch]) -> list[Metric]:
    """Return every metric of some epochs as MLflow takes them."""
    from mlflow.entities import Metric

    return [
        Metric(name, float(value), _milliseconds(row), row.number)
        for row in rows
        for name, value in {"epoch": row.number, "step": row.step, "seconds": row.seconds, **row.metrics}.items()
    ]


def _milliseconds(row: Epoch) -> int:
    """Return when an epoch was recorded: MLflow takes a metric that is sent twice for one if the times are the same.

    What a server did before it went away, its client cannot know.
    """
    return int((row.recorded_at or 0) * 1000)


def parts(rows: Sequence[Epoch]) -> list[Sequence[Epoch]]:
    """Return epochs in as many parts as MLflow takes in a call each."""
    if not rows:
        return []
    size = max(1, METRICS_A_CALL // (3 + len(rows[0].metrics)))
    return [rows[start : start + size] for start in range(0, len(rows), size)]
