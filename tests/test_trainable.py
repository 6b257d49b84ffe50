"""Training code of the user's own: what it may yield, how it is found, called again and judged."""

import inspect
import json
import math
import re
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from conftest import json_lines

from study import Study
from study.config.request import RunRequest
from study.config.settings import validate
from study.epoch import Epoch
from study.errors import StudyError
from study.planning.plan import new_study
from study.record.journal import append_journal
from study.search.space import build_space
from study.trainable import epochs_done, set_aside
from study.trainable.loading import command_trainable, load_function
from study.trainable.loop import TRACEBACK, TrainableError, train_own
from study.trainable.measures import measure

PLAIN = {"nll": 3.0, "kl": 1.0, "mi": 0.9, "au": 2}


def settings(epochs=4, **own):
    tables = {"training": {"epochs": epochs}, "objective": {"annealing": "constant"}}
    return validate(tables | ({"own": own} if own else {}))


def rows_of(function, folder, **options):
    return list(train_own(function, options.pop("settings", settings()), folder, **options))


def test_numbers_keep_their_names_and_unknown_ones_are_the_users():
    found = measure(PLAIN | {"loss": torch.tensor(2.5), "train/lr": np.float32(0.5), "kl_weight": 0.3, "epoch": 7})
    assert found["valid/nll"] == 3.0
    assert found["own/loss"] == 2.5
    assert found["train/lr"] == 0.5
    assert found["train/kl_weight"] == 0.3
    assert not any(name.endswith("epoch") for name in found)


@pytest.mark.parametrize("names", [("mean", "log_variance"), ("mu", "logvar")])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, "file"])
def test_a_posterior_is_measured_here(tmp_path, names, kind):
    rng = np.random.default_rng(0)
    mean, log_variance = 2 * rng.normal(size=(300, 3)), np.full((300, 3), -2.0)
    if kind == "file":
        np.savez(tmp_path / "p.npz", **dict(zip(names, (mean, log_variance), strict=True)))
        given = {"nll": 1.0, "posterior": tmp_path / "p.npz"}
    else:
        given = {"nll": 1.0, names[0]: kind(mean), names[1]: kind(log_variance)}
    # What was computed elsewhere gives way.
    found = measure(given | {"kl": 99.0})
    by_hand = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(1).mean()
    assert found["valid/kl"] == pytest.approx(by_hand)
    assert found["valid/au"] == 3
    assert 2.0 < found["valid/mi"] < math.log(300)
    assert 0 < found["valid/mi_se"] < 0.1
    assert "valid/dispersion" not in found
    assert measure(given | {"features": mean})["valid/dispersion"] == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3.0, "yielded 3.0, not a mapping"),
        ({"kl": 1.0}, "no nll, mi, au: it yielded kl; expected nll"),
        ({"elbo": 1.0, "kl": 1.0}, "yielded elbo and no nll; --objective elbo has the study rank by it"),
        (PLAIN | {"nll": "low"}, "nll = 'low', which is no number"),
        (PLAIN | {"nll": np.zeros(3)}, "ndarray [3], which is no number"),
        ({"nll": 1.0, "mean": np.zeros((4, 2))}, "half a posterior, without log_variance"),
        ({"nll": 1.0, "mean": np.zeros((4, 2)), "logvar": np.zeros((4, 3))}, "mean [4, 2], log_variance [4, 3]"),
        ({"nll": 1.0, "mean": np.zeros((4, 2)), "mu": np.zeros((4, 2))}, "mean and mu would both be the mean"),
    ],
)
def test_what_is_no_epoch_is_refused_with_what_was_expected(given, words):
    with pytest.raises(StudyError) as refused:
        measure(given)
    assert words in str(refused.value)


def test_epochs_are_counted_timed_and_end_with_the_last_that_was_asked_for(tmp_path):
    def train(given, folder, seed):
        assert (given["size"], given["training.epochs"], folder, seed) == (8, 4, tmp_path, 0)
        for _ in range(9):
            yield PLAIN

    rows = rows_of(train, tmp_path, settings=settings(size=8))
    assert [row.number for row in rows] == [1, 2, 3, 4]
    assert [row.outcome for row in rows] == ["", "", "", "complete"]
    assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)


def test_a_trainable_may_return_a_list_one_mapping_or_end_by_itself(tmp_path):
    assert [row.outcome for row in rows_of(lambda *_: [PLAIN, PLAIN], tmp_path)] == ["", ""]
    assert len(rows_of(lambda *_: PLAIN, tmp_path)) == 1
    with pytest.raises(TrainableError, match="yielded no epoch"):
        rows_of(lambda *_: [], tmp_path)


def test_a_trial_that_is_called_again_repeats_nothing(tmp_path):
    for number in (1, 2):
        append_journal(
            tmp_path, Epoch(number, number, 10.0 * number, {f"valid/{n}": float(v) for n, v in PLAIN.items()})
        )
    assert epochs_done(tmp_path) == 2
    anew = rows_of(lambda *_: [PLAIN] * 4, tmp_path)
    further = rows_of(lambda *_: [PLAIN | {"epoch": number} for number in (3, 4)], tmp_path)
    for rows in (anew, further):
        assert [row.number for row in rows] == [3, 4]
        assert rows[-1].outcome == "complete"
        assert rows[0].seconds >= 20.0
    with pytest.raises(TrainableError, match="epoch 3 after epoch 3; expected a later whole number"):
        rows_of(lambda *_: [PLAIN | {"epoch": 3}, PLAIN | {"epoch": 3}], tmp_path)


def test_collapse_ends_a_trial_and_goes_on_counting_where_it_was(tmp_path):
    dead = PLAIN | {"kl": 0.01, "mi": 0.0, "au": 0}
    rows = rows_of(lambda *_: [dead] * 20, tmp_path, settings=settings(20))
    # Not before half of training.
    assert [row.outcome for row in rows] == [""] * 9 + ["collapsed"]
    for row in rows[:9]:
        append_journal(tmp_path, row)
    assert [row.number for row in rows_of(lambda *_: [dead] * 20, tmp_path, settings=settings(20))] == [10]


def test_whatever_the_code_raises_is_the_trials_reason_and_its_traceback_is_kept(tmp_path):
    def train(given, folder, seed):
        yield PLAIN
        raise KeyError("no such column")

    with pytest.raises(TrainableError, match=r"KeyError: 'no such column' \(whole in .*error.txt\)"):
        rows_of(train, tmp_path)
    assert "in train" in (tmp_path / TRACEBACK).read_text()
    with pytest.raises(TrainableError, match="nll became nan in epoch 1"):
        rows_of(lambda *_: [PLAIN | {"nll": math.nan}], tmp_path)


def test_a_trainable_is_closed_when_it_is_told_to_stop(tmp_path):
    closed = []

    def train(given, folder, seed):
        try:
            while True:
                yield PLAIN
        finally:
            closed.append(True)

    assert len(rows_of(train, tmp_path, should_stop=lambda: True)) == 1
    assert closed == [True]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine", "expected package.module:function"),
        ("nowhere:train", "cannot be imported from"),
        ("broken:train", "ZeroDivisionError"),
        ("mine_too:trian", "has no function trian; did you mean train?"),
        ("mine_too:few", r"cannot be called as train\(settings, folder, seed\)"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_anything_starts(tmp_path, name, words):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "mine_too.py").write_text("def train(settings, folder, seed): yield {}\ndef few(settings): yield {}\n")
    with pytest.raises(StudyError, match=words):
        load_function(name, str(tmp_path))


PROGRAM = """
import json, sys
print("hello", sys.argv[1:])
print(json.dumps({"nll": 3.0, "kl": 1.0, "mi": 0.9, "au": float(sys.argv[1])}), flush=True)
print("{ no json")
if sys.argv[2] == "fail":
    sys.exit("all is lost")
print(json.dumps({"nll": 2.0, "kl": 1.0, "mi": 0.9, "au": 1}), flush=True)
"""


def test_a_command_is_a_trainable(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    train = command_trainable(f"{sys.executable} program.py {{size}} '{{what}} it'", str(tmp_path))
    rows = rows_of(train, tmp_path / "trial", settings=settings(size=8, what="do"))
    assert [row["valid/nll"] for row in rows] == [3.0, 2.0]
    assert rows[0]["valid/au"] == 8
    said = (tmp_path / "trial/output.txt").read_text()
    assert said.splitlines() == ["hello ['8', 'do it']", "{ no json"]
    failing = command_trainable(f"{sys.executable} program.py 1 fail", str(tmp_path))
    with pytest.raises(TrainableError, match="ended with exit code 1: all is lost"):
        rows_of(failing, tmp_path / "other")
    with pytest.raises(TrainableError, match="there is no setting sise; did you mean size"):
        rows_of(command_trainable("python x.py {sise}"), tmp_path / "third", settings=settings(size=8))
    with pytest.raises(TrainableError, match="cannot be run"):
        rows_of(command_trainable("/no/such/program"), tmp_path / "fourth")


def test_a_file_is_set_aside_until_it_is_whole(tmp_path):
    path = tmp_path / "state"
    path.write_text("old")
    with suppress(RuntimeError), set_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with set_aside(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_the_space_of_a_trainable_has_names_of_its_own_and_conditions():
    table = {
        "own": {"width": 8},
        "search": {
            "warmup": {"low": 1, "high": 10, "only_if": {"schedule": ["warm-up"]}},
            "schedule": ["constant", "warm-up"],
            "objective.kl_weight": {"low": 0.1, "high": 1.0},
        },
    }
    space = build_space([table], is_own=True)
    assert set(space.searched) == {"own.schedule", "own.warmup", "objective.kl_weight"}
    assert list(space.searched).index("own.schedule") < list(space.searched).index("own.warmup")
    assert not space.applies("own.warmup", {"own.schedule": "constant"})
    assert space.applies("own.warmup", {"own.schedule": "warm-up"})
    assert space.condition("own.warmup") == "own.schedule is warm-up"
    assert type(space).from_json(json.loads(json.dumps(space.to_json()))).to_json() == space.to_json()
    found = space.settings({"own.schedule": "warm-up", "own.warmup": 3})
    assert found.own == {"width": 8, "schedule": "warm-up", "warmup": 3}


@pytest.mark.parametrize(
    ("table", "is_own", "words"),
    [
        ({"own": {"width": 8}}, False, "own.width is a setting of a trainable of your own"),
        ({"search": {"own.width": [1, 2]}}, False, "own.width is a setting of a trainable of your own"),
        ({"search": {"width": [1, 2]}}, False, "unknown setting width"),
        (
            {"search": {"a": {"values": [1], "only_if": {"b": [1]}}, "b": {"values": [1], "only_if": {"a": [1]}}}},
            True,
            "depend",
        ),
        ({"search": {"model.poling": [1]}}, True, "unknown setting own.model.poling"),
        ({"own": {"a": {"b": 1}}}, True, "unknown setting own.a.b"),
    ],
)
def test_spaces_that_make_no_sense_are_refused(table, is_own, words):
    with pytest.raises(StudyError, match=words):
        build_space([table], is_own=is_own)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trainable": "json:dumps", "shell": "x"}, "two ways to train"),
        ({"space": {"own": {}}}, "--space is of a trainable of your own"),
        ({"check": True}, "--check is of a trainable of your own"),
        ({"shell": "cat {size}", "corpus": "chitchat"}, "knows nothing of a CORPUS"),
        ({"shell": "cat {size}", "preset": "quick"}, "knows nothing of --preset"),
        ({"shell": "cat {size}"}, "there is no setting size"),
        ({"shell": "no-such-program"}, "no-such-program is no program"),
        ({"shell": "cat 'x"}, "close every quotation mark"),
    ],
)
def test_options_that_do_not_go_with_a_trainable_are_refused(tmp_path, options, words):
    with pytest.raises(StudyError, match=words):
        new_study(RunRequest.of({"storage": tmp_path / "runs"} | options), "")
    assert not (tmp_path / "runs").exists()


def toy(given, folder, seed):
    """A trainable whose numbers follow from its settings: max carries most, and a high weight collapses it."""
    if given["rate"] > 0.9:
        raise RuntimeError(f"diverged at rate {given['rate']}")
    share = {"last": 0.2, "mean": 1.0, "max": 1.5}[given["model.pooling"]]
    mi = max(0.0, share * (1.0 - given["objective.kl_weight"]) * 2)
    noise = 0.02 * math.sin(seed + 7 * mi)
    for epoch in range(1, given["training.epochs"] + 1):
        yield {"nll": 50.0 + 3.0 / epoch - 0.2 * mi + noise, "kl": mi, "mi": mi, "au": round(mi), "kl_weight": 0.5}


SPACE = {
    "search": {
        "model.pooling": ["last", "mean", "max"],
        "objective.kl_weight": {"low": 0.1, "high": 1.0},
        "rate": {"low": 0.1, "high": 0.8},
    },
    "objective": {"annealing": "constant"},
    "training": {"epochs": 6},
    "study": {"test_weights": [0.2, 0.4]},
}


def test_a_study_of_a_function_has_all_that_a_study_has(ray_session, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    study = Study.run(
        toy, space=SPACE, trials=3, name="mine", try_=[{"rate": 0.95, "model.pooling": "max"}], try_outside=True
    )
    trials = study.trials
    assert trials.height == 12 + 3
    by_hand = trials.filter(trials["own.rate"] == 0.95).row(0, named=True)
    assert by_hand["state"] == "failed"
    assert by_hand["reason"].startswith("RuntimeError: diverged at rate 0.95")
    verdicts = {each["pooling"]: each["verdict"] for each in study.answer["pooling"]}
    assert verdicts == {"mean": "more", "max": "more"}
    assert study.answer["language_model"] is None
    assert study.best().settings.own.keys() == {"rate"}
    with pytest.raises(StudyError, match="corpus and its models are known to that code alone"):
        _ = study.corpus
    # It is this module's, which no worker finds.
    code, _, err = call("confirm", "mine", "--seeds", 2)
    assert code == 1
    assert "cannot be imported" in err.splitlines()[-1]
    assert not (tmp_path / "runs/mine-confirm").exists()
    code, out, _ = call("report", "mine", "--html", "mine.html")
    assert code == 0, out
    assert "own.rate" in (tmp_path / "mine.html").read_text()
    more = Study.run(toy, resume="mine", trials=5)
    assert more.trials.height == 12 + 5
    for arguments in (("evaluate", "mine"), ("sample", "mine"), ("diagnose", "mine")):
        code, _, err = call(*arguments)
        assert code == 1
        assert len(err.splitlines()) == 1, err


def bounded(given, folder, seed):
    """The toy as code that knows nothing better than its ELBO."""
    for epoch in toy(given, folder, seed):
        yield {"elbo": epoch.pop("nll"), **epoch}


@pytest.mark.slow
def test_a_study_that_ranks_by_its_elbo_calls_it_so_everywhere(ray_session, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    source = [inspect.getsource(each) for each in (toy, bounded)]
    (tmp_path / "by_elbo.py").write_text("import math\n" + "\n".join(source))
    (tmp_path / "space.toml").write_text(tomli_w.dumps(SPACE))
    run = ("run", "--trainable", "by_elbo:bounded", "--space", "space.toml", "--trials", 3, "--name", "mine")
    code, out, err = call(*run, "--objective", "elbo")
    assert code == 0, err
    assert "nll" not in (out + err).lower()
    study = Study("mine")
    assert set(study.trials["state"]) <= {"complete", "pruned", "collapsed"}
    trials = study.trials.filter(study.trials["feasible"] & (study.trials["state"] == "complete"))
    assert study.best().metrics["elbo"] == trials["valid/elbo"].min()
    said = json.dumps(study.answer)
    assert "nll" not in said
    assert study.answer["best"]["elbo"] == trials["valid/elbo"].min()
    assert set(study.answer["pooling"][0]) >= {"elbo", "detectable_elbo"}
    for arguments in (
        ("report", "mine"),
        ("report", "mine", "--markdown", "mine.md"),
        ("report", "mine", "--html", "mine.html"),
        ("report", "mine", "--answer"),
        ("confirm", "mine", "--seeds", 3, "--top", 2),
    ):
        code, out, err = call(*arguments)
        assert code == 0, err
        assert "nll" not in (out + err).lower(), arguments
    begun = ("run", "--trainable", "by_elbo:bounded", "--space", "space.toml", "--stages", "search", "--trials", 1)
    code, _, err = call(*begun, "--from", "mine", "--name", "next")
    assert code == 0, err
    assert "the sampler knows 15 of its 15 trials" in err
    assert Study("next").trials["state"].to_list() == ["complete"]
    code, _, err = call(*begun, "--from", "mine", "--name", "other", "--objective", "nll")
    assert code == 1
    assert "it ranks by elbo, the new study by nll" in err
    assert "elbo" in call("report", "mine", "next")[1].lower()
    options = ("--variants", "rate=0.2,0.4", "--objective", "elbo", "--set", "model.pooling=max", "--seeds", 2)
    code, out, err = call("compare", *begun[1:5], *options, "--name", "rates")
    assert code == 0, err
    assert "ELBO" in out
    assert re.search(r"^mine .* 50.\d\d \(elbo\)", call("list")[1], re.MULTILINE)
    page = (tmp_path / "mine.html").read_text()
    for text in ((tmp_path / "mine.md").read_text(), re.sub("<script>.*?</script>", "", page, flags=re.DOTALL)):
        assert "ELBO" in text
        assert "nll" not in text.lower()
    with pytest.raises(StudyError, match="--objective elbo is for code of your own"):
        new_study(RunRequest.of({"storage": tmp_path / "other", "objective": "elbo", "corpus": "chitchat"}), "")


def test_a_study_whose_function_is_in_a_file_is_found_by_its_workers(ray_session, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in_a_file.py").write_text(
        "def train(settings, folder, seed):\n"
        "    for epoch in range(2):\n"
        "        yield {'nll': settings['rate'] + 1 / (1 + epoch), 'kl': 1.0, 'mi': 0.9, 'au': 1, 'seen': seed}\n"
    )
    (tmp_path / "space.toml").write_text("[search]\nrate = { low = 0.1, high = 0.8 }\n[training]\nepochs = 5\n")
    run = ("run", "--trainable", "in_a_file:train", "--space", "space.toml", "--name", "x")
    code, _, err = call(*run, "--check")
    assert code == 0
    assert "valid/nll" in err
    assert "own/seen 0" in err
    assert not (tmp_path / "runs").exists()
    code, _, err = call(*run, "--trials", 3, "--try", "rate=0.2", "--scheduler", "none")
    assert code == 0, err
    lines = json_lines(call("report", "x", "--json")[1])
    # It ends by itself before its epochs are over.
    assert {(line["state"], line["epochs"]) for line in lines} == {("complete", 2)}
    assert lines[0]["params"] == {"own.rate": 0.2}
    assert call("run", "--resume", "x", "--trials", 4)[0] == 0
    code, out, err = call("confirm", "x", "--seeds", 2, "--top", 2)
    assert code == 0, err
    assert "rate" in out


def test_a_project_that_was_moved_takes_its_code_along(ray_session, tmp_path, monkeypatch, call):
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    Path("along.py").write_text(
        "def train(settings, folder, seed):\n    yield {'nll': settings['rate'], 'kl': 1.0, 'mi': 0.9, 'au': 1}\n"
    )
    Path("space.toml").write_text("[search]\nrate = [1, 2, 3]\n[training]\nepochs = 1\n")
    code, _, err = call("run", "--trainable", "along:train", "--space", "space.toml", "--name", "x", "--trials", 1)
    assert code == 0, err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    # What this process has imported already says nothing of where it is found.
    monkeypatch.delitem(sys.modules, "along")
    code, _, err = call("run", "--resume", "x", "--trials", 2)
    assert code == 0, err
    assert f"the code that trains x was in {tmp_path / 'old'}; it is taken from {tmp_path / 'new'}" in err
    lines = json_lines(call("report", "x", "--json")[1])
    assert [line["state"] for line in lines] == ["complete"] * 2


def test_a_function_of_a_notebook_must_be_given_again(ray_session, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)

    def local(given, folder, seed):
        return [PLAIN] * 2

    study = Study.run(local, space={"search": {"rate": [0.1, 0.2]}, "training": {"epochs": 2}}, trials=1, name="y")
    assert study.trials["state"].to_list() == ["complete"]
    code, _, err = call("run", "--resume", "y", "--trials", 2)
    assert code == 1
    assert "give it again, Study.run(function, resume='y')" in err
    assert Study.run(local, resume="y", trials=2).trials.height == 2
    with pytest.raises(StudyError, match=r"is trained by .*local, not by"):
        Study.run(toy, resume="y", trials=3)


@pytest.mark.parametrize("name", ["model.py", "data/__init__.py"])
def test_a_folder_whose_code_hides_this_programs_is_refused_before_anything_runs(
    ray_session, tmp_path, monkeypatch, call, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    (tmp_path / "hidden_by.py").write_text("def train(settings, folder, seed): return []\n")
    (tmp_path / "space.toml").write_text("[search]\nrate = [1, 2]\n")
    code, _, err = call("run", "--trainable", "hidden_by:train", "--space", "space.toml", "--name", "x")
    assert code == 1
    assert f"{name} in this folder has the name of a package of this program" in err
    assert not (tmp_path / "runs/x").exists()
