"""Small corpora, small settings and one Ray for the whole session."""

import json
import os
import shutil
import sqlite3
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from data.corpus import Corpus
from study.config.settings import Settings, validate
from study.training.devices import use_tf32

torch.set_num_threads(1)
# A machine with a GPU may lack it: only what is marked `on_device` runs there.
with suppress(ModuleNotFoundError):
    from hypothesis import settings as hypothesis_settings

    # A test is not failed for the time it takes.
    hypothesis_settings.register_profile("untimed", deadline=None)
    hypothesis_settings.load_profile("untimed")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

UNTOUCHED = "untouched"
"""What is in the storage of `finished_study` beside it: a copy of all, to which no test writes."""
TINY = {
    "model": {"embedding_size": 8, "hidden_size": 12, "latent_size": 3, "input_dropout": 0.1, "output_dropout": 0.1},
    "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "device": "cpu", "tf32": False},
    "evaluation": {"num_samples": 3, "num_sequences": 24, "collapse_mi_nats": 0.0},
}


def pytest_addoption(parser):
    """--device: where the tests marked `on_device` compute; on a GPU, no others run."""
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu")


def pytest_configure(config):
    """On a GPU, ask for the same numbers from the same work."""
    device = config.getoption("--device")
    if device == "cpu":
        # Models open on a GPU where there is one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    else:
        use_tf32(False)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        TINY["training"]["device"] = device


def pytest_collection_modifyitems(config, items):
    """Leave out what is about the CPU or about no device, when asked for another."""
    if config.getoption("--device") == "cpu":
        return
    chosen = [item for item in items if item.get_closest_marker("on_device")]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture(autouse=True)
def tensors_on_the_device(request):
    """Tensors that a test marked `on_device` makes lie where it was asked to compute."""
    device = request.config.getoption("--device")
    if device == "cpu" or not request.node.get_closest_marker("on_device"):
        yield
        return
    with torch.device(device):
        yield


def tiny_settings(**tables) -> Settings:
    """Return settings that train in a blink, with some tables' values replaced."""
    return validate({name: TINY.get(name, {}) | tables.get(name, {}) for name in {*TINY, *tables}})


def write_lines(path: Path, lines) -> Path:
    """Write text lines to a file and return it."""
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Corpus:
    """A corpus of a few hundred sequences of two topics."""
    if find_spec("polars") is None:
        from benchmarks.gpu_check.common import Sizes
        from benchmarks.gpu_check.sharing import write_corpus

        return Corpus.open(write_corpus(Sizes(16, 8, 8, 12, 3, 40), tmp_path_factory.mktemp("corpus") / "prepared"))
    from data.prepare import prepare
    from data.settings import PrepareSettings
    from data.sources.named import from_files
    from data.sources.synthetic import Topics

    folder = tmp_path_factory.mktemp("corpus")
    topics = Topics(seed=1, num_sequences=240, num_topics=2, num_words=30, min_length=3, max_length=8)
    text = write_lines(folder / "text.txt", (" ".join(words) for words in topics.sample()))
    source = from_files({"all": [str(text)]})
    settings = PrepareSettings.resolve(source, {"valid_fraction": 0.15, "test_fraction": 0.15})
    return prepare(source, settings, folder / "prepared")[0]


@pytest.fixture(scope="session")
def tiny_toml(tmp_path_factory) -> Path:
    """The tiny settings as a settings file of `study run`."""
    import tomli_w

    path = tmp_path_factory.mktemp("settings") / "tiny.toml"
    # So little training that a latent variable has no time to carry much.
    table = {"study": {"stages": ["search"], "floors": ["mi=0"]}}
    path.write_text(tomli_w.dumps(TINY | table), "utf-8")
    return path


@pytest.fixture(autouse=True)
def no_tracking_server_but_the_tests_own(monkeypatch):
    """MLflow remembers in the environment what it last spoke to, where studies look for a server."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(autouse=True)
def fault_on_record(request, record_property):
    """What a test marked `fault(what, times)` did to a study, for the table at the end."""
    for mark in request.node.iter_markers("fault"):
        record_property("fault", list(mark.args))


def pytest_terminal_summary(terminalreporter):
    """Print the table of faults that studies lived through."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, [])]
    faults = [
        (*value, value[1] if report.passed else 0)
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "fault"
    ]
    if faults:
        terminalreporter.section("faults, each in a running study")
        for what, tried, survived in [*faults, ("all", sum(row[1] for row in faults), sum(row[2] for row in faults))]:
            terminalreporter.line(f"{what:64} tried {tried:3}  survived {survived:3}  lost {tried - survived:3}")


@pytest.fixture
def call(capfd):
    """Call the command line in this process; returns exit code, stdout and stderr."""
    from study.cli.main import run

    def call(*arguments) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for every test that runs a study in this process."""
    import ray

    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"})
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def finished_study(ray_session, corpus, tiny_toml, tmp_path_factory) -> Path:
    """The storage of a study of six trials named `done`."""
    from study.cli.main import run

    storage = tmp_path_factory.mktemp("runs")
    code = run(
        [
            "run",
            str(corpus.folder),
            "--config",
            str(tiny_toml),
            "--name",
            "done",
            "--trials",
            "6",
            "--storage",
            str(storage),
        ]
    )
    assert code == 0
    shutil.copytree(storage, storage / UNTOUCHED)
    return storage


@pytest.fixture
def own_copy(finished_study, tmp_path):
    """A finished study with an MLflow of its own, which can be spoilt: its storage."""
    from study.record.ledger import Ledger
    from study.tracking.experiments import move_artifacts

    shutil.copytree(finished_study / UNTOUCHED, tmp_path / "runs")
    ledger = Ledger.open(tmp_path / "runs/done")
    ledger.change(tracking_uri=f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
    with sqlite3.connect(tmp_path / "runs/mlflow.db") as connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"update {table} set {column} = replace({column}, ?, ?)", (str(finished_study), str(tmp_path / "runs"))
            )
    assert move_artifacts(ledger.definition.tracking_uri) == 0
    return tmp_path / "runs"


def json_lines(text: str) -> list[dict]:
    """Parse one JSON object a line."""
    return [json.loads(line) for line in text.splitlines()]
