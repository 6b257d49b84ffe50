"""Studies kept in order: listed, stopped, renamed, deleted, moved; what was deleted or moved in MLflow; and in Python."""

import os
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from conftest import json_lines
from studies import start, wait_for_epochs

from study.api import Study, request_of
from study.config.request import RunRequest
from study.errors import StudyError
from study.inference.texts import texts_in
from study.planning.resume import resume_study
from study.record.ledger import Ledger


def client_of(storage, name="done"):
    from mlflow import MlflowClient

    return MlflowClient(Ledger.open(storage / name).definition.tracking_uri)


# Listed, renamed, deleted


def test_a_list_says_what_there_is_and_hides_no_damage(own_copy, call):
    code, out, _ = call("list", "--storage", own_copy)
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("done"))
    assert "6 of 6" in line
    assert "complete" in line
    assert "trial " in line
    shutil.copytree(own_copy / "done", own_copy / "broken")
    (own_copy / "broken/optuna.db").write_bytes(b"")
    code, out, _ = call("list", "--storage", own_copy)
    assert code == 1
    assert "damaged" in out
    assert "6 of 6" in out
    assert call("list", "--storage", own_copy / "nothing")[0] == 0


@pytest.mark.slow
def test_a_study_is_renamed_everywhere_and_goes_on(ray_session, own_copy, call):
    before = json_lines(call("report", "done", "--json", "--storage", own_copy)[1])
    code, _, err = call("rename", "done", "reviews", "--storage", own_copy)
    assert code == 0, err
    assert not (own_copy / "done").exists()
    assert json_lines(call("report", "reviews", "--json", "--storage", own_copy)[1]) == before
    client = client_of(own_copy, "reviews")
    experiment = client.get_experiment_by_name("reviews")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 7
    assert {run.data.tags["study"] for run in runs} == {"reviews"}
    assert client.get_experiment_by_name("done") is None
    code, _, err = call("run", "--resume", "reviews", "--trials", 7, "--storage", own_copy)
    assert code == 0, err
    assert len(client.search_runs([experiment.experiment_id])) == 8
    shutil.copytree(own_copy / "reviews", own_copy / "taken")
    for name, words in (("taken", "exists already"), ("mlflow.db", "MLflow's own"), ("a b", "expected at most")):
        code, _, err = call("rename", "reviews", name, "--storage", own_copy)
        assert code == 1
        assert words in err
    assert (own_copy / "reviews").is_dir()


def test_a_study_is_deleted_with_its_runs_after_it_is_said_what_goes(own_copy, call):
    (own_copy / "done/notes.txt").write_text("precious")
    client = client_of(own_copy)
    experiment = client.get_experiment_by_name("done").experiment_id
    theirs = client.create_experiment("theirs", (own_copy / "mlartifacts/theirs").as_uri())
    foreign = client.create_run(theirs)
    client.log_text(foreign.info.run_id, "precious", "notes.txt")
    client.delete_run(foreign.info.run_id)
    code, out, _ = call("delete", "done", "--storage", own_copy)
    assert code == 0
    assert "7 runs in MLflow" in out
    assert "notes.txt" in out
    assert (own_copy / "done/study.json").is_file()
    code, _, err = call("delete", "done", "--yes", "--storage", own_copy)
    assert code == 0, err
    assert [path.name for path in (own_copy / "done").iterdir()] == ["notes.txt"]
    assert client.get_experiment_by_name("done") is None
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    assert client.get_run(foreign.info.run_id).info.lifecycle_stage == "deleted", "what others deleted can be restored"
    assert not (own_copy / "mlartifacts/done").exists()
    assert (own_copy / "mlartifacts/theirs").is_dir()
    code, _, err = call("delete", "done", "--storage", own_copy)
    assert code == 1
    assert "no study named done" in err


def test_runs_stay_where_asked(own_copy, call):
    client = client_of(own_copy)
    assert call("delete", "done", "--yes", "--keep-runs", "--storage", own_copy)[0] == 0
    assert not (own_copy / "done").exists()
    assert len(client.search_runs([client.get_experiment_by_name("done").experiment_id])) == 7


@pytest.mark.parametrize("arguments", [("delete", "done"), ("delete", "done", "--yes"), ("rename", "done", "new")])
def test_where_mlflow_cannot_be_used_nothing_is_taken_away(own_copy, call, arguments):
    (own_copy / "mlflow.db").write_bytes(b"no database" * 1000)
    code, _, err = call(*arguments, "--storage", own_copy)
    assert code == 1
    assert "cannot be used" in err
    assert err.count("\n") == 1
    assert len(json_lines(call("report", "done", "--json", "--storage", own_copy)[1])) == 6


def test_a_look_makes_no_database(own_copy, call):
    (own_copy / "mlflow.db").unlink()
    Ledger.open(own_copy / "done").change(tracking_uri=f"sqlite:///{own_copy / 'mlflow.db'}")
    assert "0 runs in MLflow" in call("delete", "done", "--storage", own_copy)[1]
    assert not (own_copy / "mlflow.db").exists()


def test_what_is_done_to_a_copy_leaves_the_original(own_copy, call, tmp_path):
    shutil.copytree(own_copy, tmp_path / "copy")
    code, _, err = call("delete", "done", "--yes", "--storage", tmp_path / "copy")
    assert code == 0, err
    client = client_of(own_copy)
    assert len(client.search_runs([client.get_experiment_by_name("done").experiment_id])) == 7
    assert list((own_copy / "mlartifacts/done").rglob("*.parquet"))


def test_a_moved_study_is_renamed_and_deleted_where_it_is_now(own_copy, call, tmp_path):
    own_copy.rename(tmp_path / "moved")
    assert call("rename", "done", "new", "--storage", tmp_path / "moved")[0] == 0
    assert not own_copy.exists()
    assert "7 runs in MLflow" in call("delete", "new", "--storage", tmp_path / "moved")[1]


@pytest.mark.parametrize("killed_in", ["study.cluster.removal.forget", "shutil.rmtree", "pathlib.Path.unlink"])
def test_a_delete_that_was_killed_can_be_repeated(own_copy, call, monkeypatch, killed_in):
    client = client_of(own_copy)
    experiment = client.get_experiment_by_name("done").experiment_id

    def die(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(killed_in, die)
        assert call("delete", "done", "--yes", "--storage", own_copy)[0] == 130
    assert (own_copy / "done/study.json").is_file()
    code, _, err = call("delete", "done", "--yes", "--storage", own_copy)
    assert code == 0, err
    assert not (own_copy / "done").exists()
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    assert client.get_experiment_by_name("done") is None


def test_a_rename_that_was_killed_can_be_repeated(own_copy, call, monkeypatch):
    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", die)
        assert call("rename", "done", "new", "--storage", own_copy)[0] == 130
    assert (own_copy / "done").is_dir()
    code, _, err = call("rename", "done", "new", "--storage", own_copy)
    assert code == 0, err
    assert len(json_lines(call("report", "new", "--json", "--storage", own_copy)[1])) == 6


def test_a_rename_that_cannot_be_whole_is_not_begun(own_copy, call):
    shutil.copytree(own_copy / "done", own_copy / "done-confirm")
    (own_copy / "new-confirm").mkdir()
    code, _, err = call("rename", "done", "new", "--storage", own_copy)
    assert code == 1
    assert "new-confirm exists already" in err
    assert (own_copy / "done/study.json").is_file()


# Stopped


def test_a_local_study_is_stopped_from_another_terminal_and_goes_on(corpus, tiny_toml, tmp_path, call):
    arguments = (
        "run",
        corpus.folder,
        "--config",
        tiny_toml,
        "--set",
        "training.epochs=200",
        "--trials",
        2,
        "--concurrent",
        1,
    )
    process = start(tmp_path / "log", *arguments, "--name", "x", "--storage", tmp_path)
    wait_for_epochs(tmp_path, 2)
    assert "running" in call("list", "--storage", tmp_path)[1]
    code, _, err = call("drop", "x:0", "--why", "x", "--storage", tmp_path)
    assert code == 1
    assert "study stop x" in err
    code, _, err = call("stop", "x", "--storage", tmp_path)
    assert code == 0, err
    assert f"study run --resume x --storage {tmp_path}" in err
    assert process.wait(30) == 130
    states = [line["state"] for line in json_lines(call("report", "x", "--json", "--storage", tmp_path)[1])]
    assert set(states) <= {"waiting", "pruned", "complete"}
    assert "unfinished" in call("list", "--storage", tmp_path)[1]
    code, _, err = call("stop", "x", "--storage", tmp_path)
    assert code == 0
    assert "is not running" in err


def test_a_study_that_runs_elsewhere_is_named_with_its_machine(own_copy, call):
    ledger = Ledger.open(own_copy / "done")
    ledger.lock()
    (own_copy / "done/.lock").write_text('{"pid": 1, "host": "elsewhere"}')
    code, _, err = call("stop", "done", "--storage", own_copy)
    ledger.close()
    assert code == 1
    assert "is run on elsewhere, by process 1" in err


# What was deleted or moved


@pytest.mark.slow
def test_an_experiment_that_was_deleted_in_mlflow_is_restored_for_its_own_study(ray_session, own_copy, call):
    client = client_of(own_copy)
    experiment = client.get_experiment_by_name("done").experiment_id
    client.delete_experiment(experiment)
    code, _, err = call("run", "--resume", "done", "--trials", 7, "--storage", own_copy)
    assert code == 0, err
    assert "had been deleted; it is restored" in err
    assert client.get_experiment(experiment).lifecycle_stage == "active"
    assert len(client.search_runs([experiment])) == 8


@pytest.mark.slow
def test_all_can_be_deleted_and_started_over_under_the_same_name(ray_session, own_copy, call, corpus, tiny_toml):
    client = client_of(own_copy)
    client.delete_experiment(client.get_experiment_by_name("done").experiment_id)
    shutil.rmtree(own_copy / "done")
    code, _, err = call(
        "run", corpus.folder, "--config", tiny_toml, "--trials", 1, "--name", "done", "--storage", own_copy
    )
    assert code == 0, err
    assert len(client.search_runs([client.get_experiment_by_name("done").experiment_id])) == 2


def test_a_run_that_was_deleted_comes_back_and_one_that_is_gone_is_made_again(ray_session, own_copy, call):
    client, ids = client_of(own_copy), Ledger.open(own_copy / "done").run_ids()
    client.delete_run(ids["2"])
    client.delete_run(ids["3"])
    # As its own `mlflow gc` does.
    client._tracking_client.store._hard_delete_run(ids["3"])
    code, _, err = call("run", "--resume", "done", "--storage", own_copy)
    assert code == 0, err
    assert client.get_run(ids["2"]).info.lifecycle_stage == "active"
    again = Ledger.open(own_copy / "done").run_ids()
    assert again["3"] != ids["3"]
    assert client.get_run(again["3"]).data.tags["trial"] == "3"


def test_a_name_that_mlflow_has_is_not_given_to_a_study_that_is_named_by_itself(own_copy):
    from study.config.naming import free_name
    from study.tracking.experiments import taken_names

    uri = Ledger.open(own_copy / "done").definition.tracking_uri
    client_of(own_copy).delete_experiment(client_of(own_copy).get_experiment_by_name("done").experiment_id)
    shutil.rmtree(own_copy / "done")
    assert free_name(own_copy, "done", taken_names(uri)) == "done-2"


@pytest.mark.slow
def test_a_moved_project_is_found_again(ray_session, own_copy, corpus, tmp_path, call):
    """Corpus and storage move together: what is beside the storage is found, and MLflow's artifacts with it."""
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "corpora").mkdir(parents=True)
    shutil.copytree(corpus.folder, old / "corpora/words")
    own_copy.rename(old / "runs")
    Ledger.open(old / "runs/done").change(
        corpus=str(old / "corpora/words"), tracking_uri=f"sqlite:///{old / 'runs/mlflow.db'}"
    )
    with sqlite3.connect(old / "runs/mlflow.db") as connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"update {table} set {column} = replace({column}, ?, ?)", (str(own_copy), str(old / "runs"))
            )
    old.rename(new)
    storage = ("--storage", new / "runs")
    assert call("evaluate", "done", "--samples", 2, "--sequences", 5, *storage)[0] == 0
    code, _, err = call("run", "--resume", "done", "--trials", 7, *storage)
    assert code == 0, err
    assert f"was at {old}" in err
    assert not old.exists()
    ledger = Ledger.open(new / "runs/done")
    assert ledger.moved == []
    assert ledger.definition.corpus == str(new / "corpora/words")
    client = client_of(new / "runs")
    runs = client.search_runs([client.get_experiment_by_name("done").experiment_id])
    assert all(str(new) in run.info.artifact_uri for run in runs)
    assert client.list_artifacts(ledger.run_ids()["0"])


def test_a_corpus_elsewhere_is_named(ray_session, own_copy, corpus, tmp_path, call):
    Ledger.open(own_copy / "done").change(corpus="/nowhere/words")
    code, _, err = call("run", "--resume", "done", "--storage", own_copy)
    assert code == 1
    assert "/nowhere/words" in err
    request = RunRequest(storage=own_copy, resume="done", moved_corpus=corpus.folder)
    resume_study(request, print).close()
    assert Ledger.open(own_copy / "done").definition.corpus == str(corpus.folder)


# Files out


def test_trials_are_exported_as_csv_as_well(finished_study, call, tmp_path):
    for ending in ("csv", "parquet"):
        assert (
            call("export", "done", "--to", tmp_path / f"x.{ending}", "--rows", "trials", "--storage", finished_study)[0]
            == 0
        )
    csv, parquet = pl.read_csv(tmp_path / "x.csv"), pl.read_parquet(tmp_path / "x.parquet")
    assert csv.columns == parquet.columns
    assert csv["valid/nll"].to_list() == parquet["valid/nll"].to_list()


def test_texts_to_encode_come_from_files_with_their_ids(finished_study, call, tmp_path, corpus):
    words = list(corpus.vocabulary.tokens[4:9])
    rows = [{"body": " ".join(words[:3]), "id": "a"}, {"body": " ".join(words[2:]), "id": "b"}]
    frame = pl.DataFrame(rows)
    frame.write_csv(tmp_path / "texts.csv")
    frame.write_parquet(tmp_path / "texts.parquet")
    frame.write_ndjson(tmp_path / "texts.jsonl")
    (tmp_path / "texts.txt").write_text("".join(f"{row['body']}\n" for row in rows))
    found = {}
    for ending in ("csv", "parquet", "jsonl", "txt"):
        columns = () if ending == "txt" else ("--column", "body", "--id-column", "id")
        to = tmp_path / f"{ending}-means.parquet"
        code, _, err = call(
            "encode", "done", tmp_path / f"texts.{ending}", *columns, "--to", to, "--storage", finished_study
        )
        assert code == 0, err
        found[ending] = pl.read_parquet(to)
        assert found[ending]["text"].to_list() == [row["body"] for row in rows]
        if columns:
            assert found[ending]["id"].to_list() == ["a", "b"]
        np.testing.assert_array_equal(found[ending]["mean"].to_numpy(), found["csv"]["mean"].to_numpy())
    code, _, err = call(
        "encode", "done", tmp_path / "texts.txt", "--column", "body", "--to", to, "--storage", finished_study
    )
    assert code == 1
    assert "no columns" in err


def test_a_bare_string_is_no_list_of_texts(finished_study):
    import pandas as pd

    model = Study("done", finished_study).best().model()
    with pytest.raises(StudyError, match="got one text"):
        model.encode("a b c")
    with pytest.raises(StudyError, match="got 3 at place 1"):
        model.encode(["a", 3])
    with pytest.raises(StudyError, match="column `text`"):
        model.encode(pl.DataFrame({"body": ["a"]}))
    means = model.encode(["a b", "c"])
    for given in (pl.Series(["a b", "c"]), pl.DataFrame({"text": ["a b", "c"]}), pd.DataFrame({"text": ["a b", "c"]})):
        np.testing.assert_array_equal(model.encode(given), means)
    assert texts_in(iter(["a"])) == ["a"]


# In Python


def test_a_study_is_run_and_used_in_python(ray_session, corpus, tmp_path):
    from conftest import TINY

    settings = {f"{table}.{name}": value for table, values in TINY.items() for name, value in values.items()}
    study = Study.run(
        corpus.folder,
        storage=tmp_path,
        name="mine",
        trials=1,
        stages=["search"],
        floor={"mi": 0},
        set=settings | {"objective.annealing": "constant"},
        try_=[{"model.pooling": "max", "objective.kl_weight": 0.2}],
    )
    assert study.trial(0).params["objective.kl_weight"] == 0.2
    best = study.best()
    assert best.settings.objective.annealing == "constant"
    assert best.metrics["nll"] == study.answer["best"]["nll"]
    assert f"trial {best.number} of mine" in repr(best)
    assert best.model().encode(pl.DataFrame({"text": ["a"]})).shape == (1, 3)
    with pytest.raises(StudyError, match="no option trial; did you mean trials"):
        Study.run(corpus.folder, storage=tmp_path, trial=2)


def test_options_of_python_are_those_of_the_command(tmp_path):
    request = request_of(
        "c", tmp_path, {"set": {"training.tf32": False, "model.dropout": None}, "from_": "a", "search": ["x"]}
    )
    assert request.assignments == ("training.tf32=false", "model.dropout=unset")
    assert (request.from_study, request.also, request.corpus) == ("a", ("x",), "c")
    assert isinstance(request, RunRequest)


# Wherever it is said


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "däta"),
        ("corpus", "prepare", "ünter.txt", "--out", "x"),
        ("run", "--name", "ü", "--dry-run"),
        ("train", "--from", "ä", "--out", "x"),
    ],
)
def test_names_outside_ascii_are_one_line_in_a_c_locale(tmp_path, arguments):
    code = "from study.cli.main import entry; entry()"
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert ended.returncode == 1
    assert b"Traceback" not in ended.stderr
    assert ended.stderr.decode().count("\n") == 1


@pytest.mark.parametrize("command", [("corpus", "prepare", "text.txt"), ("train", "corpus")])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch, call, corpus, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a b\n" * 50)
    (tmp_path / "corpus").symlink_to(corpus.folder)
    code, _, err = call(*command, "--out", "/proc/x")
    assert code == 1
    assert "cannot be used" in err
    assert err.count("\n") == 1 or "Traceback" not in err


def test_a_figure_or_page_that_fails_loses_nothing_else(own_copy, call, monkeypatch, tmp_path):
    from study.reporting import document, figures

    name = next(name for name in figures.FIGURES if name != "trade-off")

    def fail(*arguments):
        raise ZeroDivisionError("no such luck")

    monkeypatch.setitem(document.FIGURES, name, fail)
    code, _, err = call("report", "done", "--html", tmp_path / "x.html", "--storage", own_copy)
    assert code == 0
    assert f"the figure {name} was not drawn: no such luck" in err
    assert (tmp_path / "x.html").stat().st_size > 10_000
