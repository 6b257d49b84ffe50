"""Confirmation over seeds: who is trained again, when the worse half leaves, and the model that comes of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import json_lines
from studies import check_records_agree, row

from study.analysis import confirmation as standings
from study.analysis.seed_noise import seed_noise
from study.record.states import State
from study.record.trials import TrialRecord

ROOT = Path(__file__).parent.parent


def trial(number, params, nll, *, feasible=True, state="complete"):
    best = row(1, nll).with_metrics({"valid/elbo": 1.0})
    return TrialRecord(number, State(state), "", params, [], best, feasible)


def runs_of(points, nll):
    return [trial(number, point, nll(point)) for number, point in enumerate(points)]


def test_rounds_halve_the_settings_while_seeds_are_added():
    assert standings.rounds(8, 5) == [(8, 1), (4, 3), (2, 5)]
    assert standings.rounds(4, 3) == [(4, 1), (2, 3)]
    assert standings.rounds(1, 3) == [(1, 1), (1, 3)]
    assert standings.rounds(3, 1) == [(3, 1)]


def test_finalists_are_complete_feasible_and_distinct():
    trials = [
        trial(0, {"a": 1}, 5.0),
        trial(1, {"a": 2}, 1.0, feasible=False),
        trial(2, {"a": 3, "seed": 0}, 3.0),
        trial(3, {"a": 3, "seed": 1}, 3.5),
        trial(4, {"a": 4}, 0.5, state="pruned"),
        trial(5, {"a": 5}, 4.0),
    ]
    assert standings.finalists(trials, 2) == [{"a": 3}, {"a": 5}]


def test_the_worse_half_leaves_and_the_lucky_first_seed_does_not_decide():
    settings, seeds = [{"a": value} for value in range(4)], [1, 2, 3]
    quality = {0: 10.0, 1: 9.0, 2: 12.0, 3: 13.0}

    def nll(point):
        luck = -5.0 if point == {"a": 0, "seed": 1} else 0.1 * point["seed"]
        return quality[point["a"]] + luck

    first = standings.next_points(settings, seeds, [])
    assert {point["seed"] for point in first} == {1}
    assert len(first) == 4
    trials = runs_of(first, nll)
    second = standings.next_points(settings, seeds, trials)
    assert {point["a"] for point in second} == {0, 1}
    assert len(second) == 6
    trials = runs_of([*first, *(point for point in second if point not in first)], nll)
    assert standings.next_points(settings, seeds, trials) == []
    found = standings.conclude(settings, seeds, trials)
    assert [standing.params["a"] for standing in found.standings] == [0, 1, 2, 3]
    assert [len(standing.seeds) for standing in found.standings] == [3, 3, 1, 1]
    assert "cannot be told apart" in found.sentence


def test_a_clear_winner_is_said_to_be_one_and_a_collapsing_setting_never_wins():
    settings, seeds = [{"a": 0}, {"a": 1}], [1, 2, 3]
    points = [params | {"seed": seed} for params in settings for seed in seeds]
    clear = runs_of(points, lambda point: 5.0 + 2.0 * point["a"] + 0.1 * point["seed"] * (1 + 0.1 * point["a"]))
    found = standings.conclude(settings, seeds, clear)
    assert "better than" in found.sentence
    assert found.low > 0
    assert found.p_value < 0.05
    collapsed = [
        trial(number, point, 1.0 if point["a"] == 0 else 9.0, feasible=point != {"a": 0, "seed": 2})
        for number, point in enumerate(points)
    ]
    found = standings.conclude(settings, seeds, collapsed)
    assert found.standings[0].params == {"a": 1}


def test_seed_noise_is_the_pooled_deviation_within_settings():
    draw = np.random.default_rng(0)
    points = [{"a": value, "seed": seed} for value in range(200) for seed in range(3)]
    trials = runs_of(points, lambda point: 50.0 + point["a"] + draw.normal(0, 0.3))
    noise, settings = seed_noise(trials)
    assert noise == pytest.approx(0.3, rel=0.1)
    assert settings == 200
    assert seed_noise(trials[::3])[1] == 0
    # The same setting with the same seed says nothing of seeds.
    assert seed_noise(runs_of([{"a": 1}, {"a": 1}], lambda point: 50.0))[1] == 0


@pytest.fixture(scope="module")
def confirmed(finished_study):
    """The storage of the finished study after its confirmation, and what that printed."""
    from study.cli.main import run

    code = run(
        [
            "confirm",
            "done",
            "--top",
            "2",
            "--seeds",
            "3",
            "--samples",
            "5",
            "--register",
            "tiny",
            "--storage",
            str(finished_study),
        ]
    )
    assert code == 0
    return finished_study


def test_the_report_names_the_seed_noise(confirmed, call, finished_study):
    out = call("report", "done", "--storage", confirmed)[1]
    assert "over seeds alone" in out
    assert "of done-confirm" in out


def test_a_confirmation_is_a_study_that_is_recorded_and_done_once(confirmed, call):
    import mlflow

    report = json_lines(call("report", "done-confirm", "--json", "--storage", confirmed)[1])
    assert len(report) == 6
    assert {line["params"]["seed"] for line in report} == {1, 2, 3}
    check_records_agree(confirmed, "done-confirm", report)
    found = json.loads((confirmed / "done-confirm/confirmation.json").read_text())
    winner = [line for line in report if line["trial"] in found["standings"][0]["trials"]]
    assert len(winner) == 3
    mean = sum(line["valid"]["nll"] for line in winner) / 3
    assert found["standings"][0]["means"]["nll"] == pytest.approx(mean)
    finals = sorted(path.parent.name for path in confirmed.glob("done-confirm/trials/*/final.json"))
    assert finals == [f"{line['trial']:05d}" for line in winner]
    client = mlflow.MlflowClient(f"sqlite:///{confirmed / 'mlflow.db'}")
    ids = json.loads((confirmed / "done-confirm/mlflow.json").read_text())
    parent = client.get_run(ids["study"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["confirmed/nll"] == pytest.approx(mean)
    assert parent.data.metrics["test/nll"] == pytest.approx(found["test"]["nll"])
    # The same command finds everything done; no run of the test split is read again.
    stamps = {path: path.stat().st_mtime_ns for path in confirmed.glob("done-confirm/trials/*/final.json")}
    code, out, _ = call("confirm", "done", "--top", 2, "--seeds", 3, "--samples", 5, "--json", "--storage", confirmed)
    assert code == 0
    assert json.loads(out)["test"] == found["test"]
    assert stamps == {path: path.stat().st_mtime_ns for path in confirmed.glob("done-confirm/trials/*/final.json")}
    code, _, err = call("confirm", "done", "--seeds", 5, "--storage", confirmed)
    assert code == 1
    assert "--seeds 3" in err
    code, _, err = call("confirm", "done", "--top", 2, "--seeds", 3, "--samples", 6, "--storage", confirmed)
    assert code == 1
    assert "with 5 importance samples" in err
    # Those drawn on average are fewer with a tolerance or without a latent variable; older records have them alone.
    for path in stamps:
        final = json.loads(path.read_text())
        assert final.pop("most_samples") == 5
        del final["digest"]
        path.write_text(json.dumps(final | {"samples": 3.2}))
    assert call("confirm", "done", "--top", 2, "--seeds", 3, "--samples", 5, "--storage", confirmed)[0] == 0


def test_another_studys_confirmation_is_not_taken_for_this_ones(confirmed, call, tmp_path):
    shutil.copytree(confirmed / "done", tmp_path / "done")
    shutil.copytree(confirmed / "done", tmp_path / "done-confirm")
    code, _, err = call("confirm", "done", "--top", 2, "--seeds", 3, "--storage", tmp_path)
    assert code == 1
    assert "not a confirmation of done" in err


def test_confirming_an_unfinished_study_says_so_and_the_model_has_its_name(finished_study, call, tmp_path):
    shutil.copytree(finished_study / "done", tmp_path / "done")
    path = tmp_path / "done/study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_trials": 8}))
    code, out, err = call("confirm", "done", "--top", 1, "--seeds", 1, "--samples", 5, "--json", "--storage", tmp_path)
    assert code == 0, err
    assert "2 of 8 trials are left" in err
    assert json.loads(out)["model"] == "models:/done/1"


ELSEWHERE = """
import sys
sys.path = [path for path in sys.path if not path.startswith({root!r}) or "site-packages" in path or "lib-dynload" in path]
import mlflow, pandas
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model("models:/tiny/1")
import study
assert not study.__file__.startswith({root!r}), study.__file__
texts = pandas.DataFrame({{"text": ["w001 w002", "w003", "nothing known"]}})
latents = model.predict(texts)
assert list(latents.columns) == [f"z{{number}}" for number in range(latents.shape[1])] and len(latents) == 3
assert latents.equals(model.predict(texts))
print(len(model.predict(texts, params={{"mode": "reconstruct"}})))
print(model.predict(texts, params={{"mode": "sample", "seed": 3}})["text"].str.len().gt(0).sum())
"""


def test_confirming_again_registers_no_second_version(confirmed, call):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{confirmed / 'mlflow.db'}")
    before = [each.version for each in client.search_model_versions("name='tiny'")]
    for more in (("--register", "tiny"), ()):
        assert (
            call("confirm", "done", "--top", "2", "--seeds", "3", "--samples", "5", *more, "--storage", confirmed)[0]
            == 0
        )
        found = json.loads((confirmed / "done-confirm/confirmation.json").read_text())
        assert found["model"] == f"models:/tiny/{before[0]}"
    assert [each.version for each in client.search_model_versions("name='tiny'")] == before


def test_the_registered_model_predicts_in_a_process_that_knows_nothing_of_this_project(confirmed, tmp_path):
    code = ELSEWHERE.format(root=str(ROOT), uri=f"sqlite:///{confirmed / 'mlflow.db'}")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "3"
