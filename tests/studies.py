"""Small studies and runs that several tests start, and what must agree about them."""

import subprocess
import sys

import optuna
import pytest
from conftest import tiny_settings
from hosts import wait_until

from study.epoch import Epoch
from study.record.ledger import Ledger
from study.search.definition import Definition
from study.search.objective import Goal
from study.search.space import build_space

OPTUNA = {"complete": "COMPLETE", "pruned": "PRUNED", "collapsed": "PRUNED", "failed": "FAIL", "waiting": "WAITING"}
MLFLOW = {"complete": "FINISHED", "pruned": "KILLED", "collapsed": "KILLED", "failed": "FAILED", "waiting": "KILLED"}
TIMES = ("seconds", "train/seconds", "train/tokens_per_second", "train/peak_memory_mb")


def definition(**changes) -> Definition:
    space = build_space(
        [
            tiny_settings().model_dump(exclude_none=True, exclude={"objective": True}),
            {"search": {"model.pooling": ["last", "max"]}},
        ]
    )
    values = {
        "name": "one",
        "identifier": "i",
        "corpus": "c",
        "corpus_name": "c",
        "corpus_fingerprint": "f",
        "space": space,
        "goal": Goal(),
        "num_trials": 4,
    }
    return Definition(**(values | changes))


def row(epoch, nll=5.0, kl=1.0, au=2, outcome=""):
    valid = {"nll": nll, "kl": kl, "mi": kl, "au": au, "ppl": 9.5, "dispersion": 0.5}
    return Epoch(epoch, epoch, float(epoch), {f"valid/{name}": value for name, value in valid.items()}, outcome)


def optuna_states(ledger):
    study = optuna.load_study(study_name="one", storage=f"sqlite:///{ledger.folder / 'optuna.db'}")
    return [trial.state for trial in study.trials]


def numbers(rows):
    return [{name: value for name, value in row.to_json().items() if name not in TIMES} for row in rows]


def stop_after(num_steps):
    steps = iter(range(1, 10**6))
    return lambda: next(steps) == num_steps


def start(log, *arguments):
    command = [sys.executable, "-c", "from study.cli.main import entry; entry()", *map(str, arguments)]
    with log.open("a") as stream:
        # A process group of its own, which some tests end as a whole.
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True)


def num_epochs(storage):
    return sum(path.read_text().count("\n") for path in (storage / "x/trials").glob("*/epochs.jsonl"))


def wait_for_epochs(storage, least):
    wait_until(lambda: (storage / "x/trials").exists() and num_epochs(storage) >= least, 240)


def check_records_agree(storage, name, report) -> None:
    """Compare the report with Optuna's database and MLflow's, state by state and epoch by epoch."""
    from mlflow import MlflowClient

    ledger = Ledger.open(storage / name)
    assert [trial.state.name for trial in ledger.study.trials] == [OPTUNA[line["state"]] for line in report]
    client = MlflowClient(ledger.definition.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    runs = {run.data.tags["trial"]: run for run in client.search_runs([experiment.experiment_id], max_results=1000)}
    assert len(runs) == len(client.search_runs([experiment.experiment_id], max_results=1000)) == len(report) + 1
    assert all(run.info.status != "RUNNING" for run in runs.values())
    for line in report:
        run = runs[str(line["trial"])]
        assert run.info.run_id == line["run_id"]
        assert run.info.status == MLFLOW[line["state"]]
        assert run.data.tags["mlflow.parentRunId"] == runs["study"].info.run_id
        assert run.data.params == {key: str(value) for key, value in line["params"].items()}
        history = client.get_metric_history(run.info.run_id, "valid/nll")
        assert [metric.step for metric in history] == list(range(1, line["epochs"] + 1))
        if line["epochs"]:
            assert run.data.metrics["best/nll"] == pytest.approx(line["valid"]["nll"])
