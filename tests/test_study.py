"""Whole studies on a real Ray and a real MLflow database: what every record says is the same."""

import polars as pl
import pytest
from conftest import json_lines
from studies import check_records_agree

from study.execution.connection import ray_cluster
from study.record.ledger import Ledger


def test_a_study_is_recorded_alike_everywhere(finished_study, call):
    code, out, _ = call("report", "done", "--json", "--storage", finished_study)
    report = json_lines(out)
    assert code == 0
    assert [line["trial"] for line in report] == list(range(6))
    assert {line["state"] for line in report} <= {"complete", "pruned", "collapsed"}
    check_records_agree(finished_study, "done", report)


def test_the_runs_hold_what_is_needed_to_go_on_from_them(finished_study, corpus):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished_study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("done")
    runs = client.search_runs([experiment.experiment_id], "tags.state = 'complete'")
    trial = next(run for run in runs if run.data.tags["trial"] != "study")
    files = {item.path for item in client.list_artifacts(trial.info.run_id)}
    assert {"settings.json", "epochs.parquet", "best", "samples.json"} <= files
    assert {"best/model.safetensors", "best/model.json"} <= {
        item.path for item in client.list_artifacts(trial.info.run_id, "best")
    }
    tags = trial.data.tags
    assert tags["corpus_fingerprint"] == corpus.fingerprint
    assert {"seed", "duration_seconds", "version.torch", "mlflow.source.git.commit"} <= set(tags)
    parent = next(run for run in runs if run.data.tags["trial"] == "study")
    assert "Best settings: trial" in parent.data.tags["mlflow.note.content"]


def test_a_finished_study_can_be_looked_at_exported_and_used(finished_study, call, tmp_path):
    storage = ("--storage", finished_study)
    assert "Trade-off" in call("report", "done", *storage)[1]
    assert "6 of 6 trials" in call("status", *storage)[1]
    assert call("export", "done", "--to", tmp_path / "epochs.parquet", *storage)[0] == 0
    assert call("export", "done", "--to", tmp_path / "trials.parquet", "--rows", "trials", *storage)[0] == 0
    epochs, trials = pl.read_parquet(tmp_path / "epochs.parquet"), pl.read_parquet(tmp_path / "trials.parquet")
    assert trials.height == 6
    assert epochs.height == trials["epochs"].sum()
    assert len(call("sample", "done:0", "--num", 3, *storage)[1].splitlines()) == 3
    for ending, head in ((".png", b"\x89PNG"), (".svg", b"<svg"), (".html", b"<!DOCTYPE html>")):
        assert call("report", "done", "--figure", tmp_path / f"trade-off{ending}", *storage)[0] == 0
        assert (tmp_path / f"trade-off{ending}").read_bytes().startswith(head)
    text = tmp_path / "text.txt"
    text.write_text("w001 w002\nw003\n\nw004 w001 w002\n")
    for decoding in ("greedy", "beam", "sample"):
        assert len(call("reconstruct", "done:0", text, "--decoding", decoding, *storage)[1].splitlines()) == 3
    assert len(call("interpolate", "done:0", "w001 w002", "w003", "--num", 4, *storage)[1].splitlines()) == 4
    assert call("encode", "done:0", text, "--to", tmp_path / "means.parquet", *storage)[0] == 0
    means = pl.read_parquet(tmp_path / "means.parquet")
    assert means["text"].to_list() == ["w001 w002", "w003", "w004 w001 w002"]
    code, out, _ = call("evaluate", "done:0", "--samples", 5, "--json", *storage)
    assert code == 0
    measured = json_lines(out)[0]
    assert measured["split"] == "test"
    assert sum(measured["maxima"].values()) == pytest.approx(1.0)
    code, out, _ = call("evaluate", "done:0", "--samples", 100, "--tolerance", 0.5, "--bleu", "--json", *storage)
    adaptive = json_lines(out)[0]
    assert adaptive["samples"] < 100
    assert 0 <= adaptive["bleu"] <= 100
    assert adaptive["nll"] == pytest.approx(measured["nll"], abs=0.3)
    assert "active dimensions" in call("evaluate", "done:0", "--samples", 2, *storage)[1]
    lines = call("traverse", "done:0", "w001 w002", "--dimensions", "2,0", "--num", 3, *storage)[1].splitlines()
    assert [line.split("\t")[:2] for line in lines] == [
        [dimension, value] for dimension in ("2", "0") for value in ("-2.00", "+0.00", "+2.00")
    ]


@pytest.mark.fault("NaN in a trial", 1)
def test_a_trial_that_diverges_is_failed_with_its_reason_and_the_study_goes_on(
    ray_session, corpus, tiny_toml, tmp_path, call
):
    config = tmp_path / "diverging.toml"
    config.write_text(
        tiny_toml.read_text()
        + '\n[search]\n"training.learning_rate" = { values = [1e-2, 1e30] }\n"model.pooling" = false\n'
        '"objective.annealing" = false\n"objective.kl_weight" = false\n"model.latent_size" = false\n'
        '"objective.annealing_fraction" = false\n"objective.num_cycles" = false\n'
    )
    code, _, _ = call(
        "run",
        corpus.folder,
        "--config",
        config,
        "--name",
        "x",
        "--trials",
        2,
        "--sampler",
        "grid",
        "--scheduler",
        "none",
        "--set",
        "training.optimizer=sgd",
        "--storage",
        tmp_path,
    )
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert code == 0
    assert sorted(line["state"] for line in report) == ["complete", "failed"]
    assert "learning rate" in next(line["reason"] for line in report if line["state"] == "failed")
    check_records_agree(tmp_path, "x", report)


@pytest.mark.slow
def test_a_study_whose_first_trials_all_fail_is_given_up(ray_session, corpus, tiny_toml, tmp_path, call):
    code, _, err = call(
        "run",
        corpus.folder,
        "--config",
        tiny_toml,
        "--name",
        "x",
        "--trials",
        30,
        "--storage",
        tmp_path,
        "--set",
        "training.learning_rate=1e30",
        "--set",
        "training.optimizer=sgd",
    )
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert code == 1
    assert "all failed" in err
    assert 5 <= len(report) <= 8
    check_records_agree(tmp_path, "x", report)


def test_collapsed_trials_are_ended_and_never_win(ray_session, corpus, tiny_toml, tmp_path, call):
    code, out, _ = call(
        "run",
        corpus.folder,
        "--config",
        tiny_toml,
        "--name",
        "x",
        "--trials",
        3,
        "--storage",
        tmp_path,
        "--set",
        "objective.kl_weight=100.0",
        "--set",
        "objective.annealing=constant",
        "--set",
        "evaluation.collapse_mi_nats=5.0",
        "--set",
        "model.latent_size=2",
        "--scheduler",
        "none",
    )
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert code == 0
    assert {line["state"] for line in report} == {"collapsed"}
    # The whole of it: three epochs are the fewest that are evidence.
    assert {line["epochs"] for line in report} == {3}
    assert "none reaches what is asked" in out
    check_records_agree(tmp_path, "x", report)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--objective", "pareto"), ("--scheduler", "median", "--floor", "au=1")])
def test_other_objectives_and_schedules_run(ray_session, corpus, tiny_toml, tmp_path, call, more):
    arguments = (
        "run",
        corpus.folder,
        "--config",
        tiny_toml,
        "--name",
        "x",
        "--trials",
        4,
        "--storage",
        tmp_path,
        *more,
    )
    assert call(*arguments)[0] == 0
    check_records_agree(tmp_path, "x", json_lines(call("report", "x", "--json", "--storage", tmp_path)[1]))


@pytest.mark.slow
def test_a_time_budget_ends_in_order_and_resuming_completes_the_study(ray_session, corpus, tiny_toml, tmp_path, call):
    code, _, err = call(
        "run",
        corpus.folder,
        "--config",
        tiny_toml,
        "--name",
        "x",
        "--trials",
        5,
        "--storage",
        tmp_path,
        "--set",
        "training.epochs=30",
        "--scheduler",
        "none",
        "--time-budget",
        0.05,
    )
    assert code == 0
    assert "--resume x" in err
    before = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert "waiting" in {line["state"] for line in before}
    check_records_agree(tmp_path, "x", before)
    assert call("run", "--resume", "x", "--storage", tmp_path)[0] == 0
    after = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert [line["state"] for line in after] == ["complete"] * 5
    assert {line["trial"]: line["run_id"] for line in before}.items() <= {
        line["trial"]: line["run_id"] for line in after
    }.items()
    check_records_agree(tmp_path, "x", after)


def test_a_dry_run_writes_nothing(corpus, tiny_toml, tmp_path, call):
    code, out, _ = call("run", corpus.folder, "--config", tiny_toml, "--dry-run", "--storage", tmp_path / "runs")
    assert code == 0
    assert "model.pooling" in out
    assert not (tmp_path / "runs").exists()


def test_a_cluster_that_is_there_is_used_and_left_running(ray_session, finished_study):
    import ray

    with ray_cluster(Ledger.open(finished_study / "done").definition, None):
        pass
    assert ray.is_initialized()


@pytest.mark.slow
def test_a_combination_that_is_refused_fails_its_trial_and_the_study_goes_on(
    ray_session, corpus, tiny_toml, tmp_path, call
):
    config = tmp_path / "both.toml"
    config.write_text(
        tiny_toml.read_text()
        + '\n[search]\n"model.latent_to_input" = [true, false]\n"model.latent_to_state" = [true, false]\n'
        '"model.pooling" = false\n"objective.annealing" = false\n"objective.kl_weight" = false\n'
        '"model.latent_size" = false\n"objective.annealing_fraction" = false\n"objective.num_cycles" = false\n'
    )
    code, _, _ = call(
        "run",
        corpus.folder,
        "--config",
        config,
        "--name",
        "x",
        "--trials",
        4,
        "--sampler",
        "grid",
        "--scheduler",
        "none",
        "--storage",
        tmp_path,
    )
    report = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])
    assert code == 0
    assert sorted(line["state"] for line in report) == ["complete"] * 3 + ["failed"]
    assert "never see the latent" in next(line["reason"] for line in report if line["state"] == "failed")
    check_records_agree(tmp_path, "x", report)


@pytest.mark.slow
def test_a_new_study_of_an_old_name_has_runs_of_its_own(ray_session, corpus, tiny_toml, tmp_path, call):
    import shutil

    from mlflow import MlflowClient

    arguments = ("run", corpus.folder, "--config", tiny_toml, "--name", "x", "--trials", 1, "--storage", tmp_path)
    assert call(*arguments)[0] == 0
    first = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])[0]["run_id"]
    shutil.rmtree(tmp_path / "x")
    assert call(*arguments, "--seed", 5)[0] == 0
    second = json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])[0]["run_id"]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert first != second
    assert client.get_run(first).data.tags["seed"] == "0"
    assert client.get_run(second).data.tags["seed"] == "5"


def test_resuming_a_finished_study_changes_nothing_in_mlflow(finished_study, call):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{finished_study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("done")

    def state():
        runs = client.search_runs([experiment.experiment_id], "tags.`trial` != 'study'")
        return {run.info.run_id: (run.info.end_time, run.info.status, run.data.metrics) for run in runs}

    before = state()
    assert call("run", "--resume", "done", "--storage", finished_study)[0] == 0
    assert state() == before


def test_a_dry_run_prepares_nothing_either(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    assert call("run", "synthetic-topics", "--dry-run")[0] == 0
    assert list(tmp_path.iterdir()) == []
