"""Doctor, gc, the checks before a study on a cluster, and the files that bring clusters up."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import json_lines
from metadata import NOTICE, Metadata

from study.cluster.jobs import submit
from study.cluster.preemption import read_notice, wait_for_notice
from study.config.own_code import OwnCode
from study.execution.nodes import could_come, describe_node, lack_of_code, problems
from study.record.ledger import Ledger

ROOT = Path(__file__).parent.parent


@pytest.fixture
def copied(finished_study, tmp_path):
    """A copy of a finished study that can be spoilt; returns the storage folder and the study's name."""
    folder = shutil.copytree(finished_study / "done", tmp_path / "runs/done")
    # Not the MLflow database of all other tests.
    (folder / "mlflow.json").unlink()
    definition = json.loads((folder / "study.json").read_text())
    definition["tracking_uri"] = f"sqlite:///{tmp_path / 'runs/mlflow.db'}"
    (folder / "study.json").write_text(json.dumps(definition))
    return tmp_path / "runs", "done"


def validate(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))
    return config


@pytest.mark.parametrize("name", ["cluster.yaml", "docs/local.yaml"])
def test_cluster_files_pass_rays_own_validation(name):
    validate(ROOT / name)


def test_a_misspelt_key_does_not_pass(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text((ROOT / "cluster.yaml").read_text().replace("idle_timeout_minutes", "idle_timeout"))
    with pytest.raises(Exception, match="idle_timeout"):
        validate(path)


def test_cluster_yaml_keeps_to_what_its_comments_say():
    config = validate(ROOT / "cluster.yaml")
    head = config["available_node_types"]["head"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    workers = [kind for name, kind in config["available_node_types"].items() if name != "head"]
    assert len(workers) > 1
    for kind in workers:
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert kind.get("min_workers", 0) == 0
    assert "latest" not in config["docker"]["head_image"] + config["docker"]["worker_image"]
    from importlib.metadata import version

    assert all(f":{version('ray')}-py311" in config["docker"][name] for name in ("head_image", "worker_image"))
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert "0.0.0.0" not in commands
    assert "--dashboard-host=127.0.0.1" in commands
    assert "--host 127.0.0.1" in commands


def test_commands_of_cluster_yaml_start_what_they_are_to_start_and_once(tmp_path):
    from ray.autoscaler._private.command_runner import _with_interactive

    config = validate(ROOT / "cluster.yaml")
    commands = [
        next(command for command in config[kind] if name in command)
        for kind, name in (("head_start_ray_commands", "mlflow server"), ("worker_start_ray_commands", "study spot"))
    ]
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("mlflow", "study"):
        script = (
            f"#!{sys.executable}\nimport time\nopen('{tmp_path}/{name}', 'a').write('started\\n')\ntime.sleep(20)\n"
        )
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    (tmp_path / ".bashrc").write_text(f"export PATH={bin_folder}:/usr/bin:/bin\n")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    for _ in range(2):
        for command in commands:
            line = command.replace("> /tmp/", f"> {tmp_path}/log-").replace("/mnt/shared", str(tmp_path))
            # As Ray runs it over ssh.
            subprocess.run(" ".join(_with_interactive(line)), shell=True, env=environment, timeout=60)
            time.sleep(0.5)
    assert (tmp_path / "study").read_text() == "started\n"
    assert (tmp_path / "mlflow").read_text().startswith("started\n")


@pytest.mark.parametrize(("kind", "gpus", "can"), [("aws", 1, True), ("aws", 9, False), ("local", 1, False)])
def test_a_cluster_grows_only_by_nodes_that_it_knows(kind, gpus, can):
    config = validate(ROOT / "cluster.yaml") | {"provider": {"type": kind}}
    assert could_come(config, {"CPU": 1, "GPU": gpus}) == can


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "chitchat", "--optuna-url", "postgresql://me:secret@127.0.0.1:9/o"),
        ("submit", "chitchat", "--tracking-uri=http://me:secret@127.0.0.1:9"),
        ("ui", "--tracking-uri", "postgresql://me:secret@127.0.0.1:9/m"),
    ],
)
def test_passwords_go_nowhere(call, arguments):
    code, out, err = call(*arguments)
    assert (code, out) == (1, "")
    assert "holds a password" in err
    assert "secret" not in err


def test_a_job_is_given_no_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    given = []
    submit(SimpleNamespace(submit_job=lambda **job: given.append(job) or "job"), ["chitchat"], "/mnt/shared")
    assert given[0]["runtime_env"] == {"env_vars": {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}}


def test_an_object_store_is_no_folder(call):
    code, out, err = call("doctor", "--storage", "s3://bucket/runs")
    assert (code, out) == (2, "")
    assert "object stores do not do" in err


def test_doctor_finds_a_healthy_machine(call, tmp_path):
    code, out, _ = call("doctor", "--storage", tmp_path)
    assert code == 0, out
    assert "can be written and locked" in " ".join(out.split())
    assert not list(tmp_path.iterdir())


def test_doctor_names_what_is_wrong_and_the_mend(call, copied):
    storage, name = copied
    forget_the_end_of_a_trial(storage / name)
    code, out, _ = call("doctor", "--storage", storage, "--tracking-uri", "http://127.0.0.1:9")
    text = " ".join(out.split())
    assert code == 1
    assert "cannot be used" in text
    assert "leave --tracking-uri out" in text


def test_a_study_records_where_the_environment_says_and_no_password_is_taken(
    call, corpus, tiny_toml, tmp_path, monkeypatch
):
    run = ("run", corpus.folder, "--config", tiny_toml, "--storage", tmp_path / "runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, err = call(*run)
    assert code == 1
    assert "MLflow at http://127.0.0.1:9 cannot be used" in err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for option, url, words in [
        ("--optuna-url", "postgresql://me:secret@127.0.0.1:9/optuna", "~/.pgpass"),
        ("--optuna-url", "postgresql://me@127.0.0.1:9/optuna", "is its server running?"),
        ("--optuna-url", "no address", "expected postgresql://"),
        ("--tracking-uri", "http://me:secret@127.0.0.1:9", "MLFLOW_TRACKING_PASSWORD"),
        ("--tracking-uri", "postgresql://me@127.0.0.1:9/mlflow", "mlflow server --backend-store-uri"),
    ]:
        code, out, err = call(*run, option, url)
        assert (code, out) == (1, "")
        assert words in err
        assert "secret" not in err
    assert not (tmp_path / "runs").exists()


def forget_the_end_of_a_trial(folder):
    """Leave Optuna's record as a driver killed in the middle of a trial leaves it."""
    with sqlite3.connect(folder / "optuna.db") as connection:
        connection.execute("update trials set state = 'RUNNING', datetime_complete = null where number = 0")


def test_gc_shows_first_and_deletes_only_what_nothing_needs(call, copied):
    storage, name = copied

    def everything():
        return sorted(path.relative_to(storage) for path in storage.rglob("*"))

    before = everything()
    code, shown, err = call("gc", "--keep", 1, "--storage", storage)
    assert code == 0
    assert "--delete removes them" in err
    assert everything() == before
    best = json_lines(call("report", name, "--json", "--storage", storage)[1])
    code, deleted, err = call("gc", "--keep", 1, "--delete", "--storage", storage)
    assert code == 0
    assert deleted == shown
    assert not list(storage.glob("*/trials/*/checkpoints"))
    kept = list(storage.glob("*/trials/*/best-*"))
    assert len(kept) == 1
    winner = min((line for line in best if line["feasible"]), key=lambda line: line["valid"]["nll"])
    assert int(kept[0].parent.name) == winner["trial"]
    assert json_lines(call("report", name, "--json", "--storage", storage)[1]) == best
    assert call("gc", "--keep", 1, "--storage", storage)[1] == ""


def test_gc_follows_no_link_out_of_its_folder(call, copied, tmp_path):
    storage, name = copied
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "checkpoints").mkdir(parents=True)
    (elsewhere / "checkpoints/thesis.txt").write_text("mine")
    trials = storage / name / "trials"
    shutil.rmtree(trials / "00001")
    (trials / "00001").symlink_to(elsewhere)
    shutil.rmtree(trials / "00002/checkpoints")
    (trials / "00002/checkpoints").symlink_to(elsewhere / "checkpoints")
    (trials / "00003/.writing.file").write_text("half")
    code, _, err = call("gc", "--delete", "--storage", storage)
    assert code == 0, err
    assert (elsewhere / "checkpoints/thesis.txt").read_text() == "mine"
    assert not (trials / "00003/.writing.file").exists()


def test_gc_closes_records_that_a_killed_driver_left_running(call, copied):
    storage, name = copied
    forget_the_end_of_a_trial(storage / name)
    code, out, _ = call("gc", "--storage", storage)
    assert code == 0
    assert "[0] are recorded as running" in out
    assert Ledger.open(storage / name).trials()[0].state == "running"
    assert call("gc", "--delete", "--storage", storage)[0] == 0
    trial = Ledger.open(storage / name).trials()[0]
    assert trial.state == "waiting"
    assert (Ledger.open(storage / name).trial_folder(0) / "checkpoints").is_dir()


def test_gc_leaves_a_running_study_alone(call, copied):
    storage, name = copied
    ledger = Ledger.open(storage / name)
    ledger.lock()
    code, out, err = call("gc", "--delete", "--storage", storage)
    assert (code, out) == (0, "")
    assert "is running, left alone" in err
    ledger.close()


def test_a_node_is_told_apart_by_versions_source_storage_and_corpus(corpus, tmp_path):
    probe = tmp_path / "probe"
    probe.write_text("token")
    here = describe_node(str(probe), "token", str(corpus.folder))
    assert problems("node", here, here) == []
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]
    for change, words in [
        ({"torch": "1.0"}, "has torch 1.0, the driver has"),
        ({"source": "x"}, "another version of this project"),
        ({"fingerprint": "x"}, "another corpus"),
        ({"error": "ModuleNotFoundError: No module named 'study'"}, "install the project there"),
    ]:
        (found,) = problems("node", here | change, here)
        assert words in found
    elsewhere = describe_node(str(tmp_path / "absent/probe"), "token", str(tmp_path / "absent"))
    storage, missing = problems("node", elsewhere, here)
    assert "must be a folder that every node shares" in storage
    assert "prepare it into the shared storage" in missing
    another = describe_node(str(probe), "another token", str(corpus.folder))
    assert "shows another file" in problems("node", another, here)[0]
    (tmp_path / "at_hand.py").write_text("def train(settings, folder, seed): ...\n")
    for code, words in [
        (OwnCode(function="at_hand:train", folder=str(tmp_path)), ""),
        (OwnCode(command="sh -c true", folder=str(tmp_path)), ""),
        (OwnCode(function="far_away:train", folder=str(tmp_path)), "far_away:train cannot be imported"),
        (OwnCode(function="at_hand:trian", folder=str(tmp_path)), "at_hand has no function trian"),
        (OwnCode(command="./no-such {seed}", folder=str(tmp_path)), "no-such is no program"),
    ]:
        found = problems("node", here | lack_of_code(code), here)
        assert len(found) == bool(words)
        assert all(words in line and "--working-dir" in line for line in found)


@pytest.mark.parametrize("arguments", [("submit", "chitchat"), ("jobs",), ("jobs", "x"), ("stop", "x")])
def test_no_job_server(call, arguments):
    code, out, err = call(*arguments[:1], "--address", "http://127.0.0.1:9", *arguments[1:])
    assert (code, out) == (1, "")
    assert "no job server answers at http://127.0.0.1:9" in err
    assert "Traceback" not in err


def test_the_driver_needs_no_cluster_extra():
    code = "import sys; sys.modules['aiohttp'] = None; import study.execution.launch, study.execution.nodes, study.planning.plan, study.cluster.doctor"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_end_of_a_spot_instance_is_heard_of(call):
    with Metadata() as metadata:
        assert read_notice(metadata.url) == ""
        metadata.ends = True
        assert wait_for_notice(metadata.url, 0.1) == NOTICE
    code, out, err = call("spot", "--metadata", metadata.url)
    assert (code, out) == (1, "")
    assert f"nobody answers at {metadata.url}" in err
    assert "Traceback" not in err
