"""What one adds in one place: a pooling that nobody has thought of is trained, searched, compared and drawn."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.registry import POOLINGS

ROOT = Path(__file__).parent.parent
FUNCTION = '''

def median(steps: Steps, lengths: Lengths) -> Pooled:
    """Return the median of each unit over a sequence's states."""
    return steps.masked_fill(~valid_steps(steps, lengths), torch.nan).nanmedian(1).values
'''
ENTRY = """
POOLINGS["median"] = Pooling("median", "#332288", "stroke")
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the source with a pooling more: its function, and its entry."""
    folder = tmp_path_factory.mktemp("source")
    for package in ("study", "model", "data"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "model/network/pooling.py").open("a") as stream:
        stream.write(FUNCTION)
    registry = folder / "model/registry.py"
    head, names, rest = registry.read_text().partition("POOLING_NAMES:")
    registry.write_text(f"{head}{ENTRY.strip()}\n\n{names}{rest}")
    return folder


def study(extended, folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "study", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(extended)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.long
def test_a_ninth_pooling_is_searched_compared_and_drawn_with_no_other_change(extended, corpus, tiny_toml, tmp_path):
    assert "median" not in POOLINGS
    plan = study(extended, tmp_path, "run", corpus.folder, "--config", tiny_toml, "--dry-run")
    assert "attention, median" in " ".join(plan.split())
    (tmp_path / "two.toml").write_text(
        tiny_toml.read_text() + '[search]\n"model.pooling" = ["last", "median"]\n"model.latent_size" = false\n'
        '"objective.kl_weight" = false\n"objective.annealing" = false\n"objective.annealing_fraction" = false\n'
        '"objective.num_cycles" = false\n'
    )
    options = ("--stages", "pooling,search", "--seeds", "1", "--sampler", "grid", "--scheduler", "none")
    study(extended, tmp_path, "run", corpus.folder, "--config", "two.toml", "--name", "ninth", *options)
    trials = [json.loads(line) for line in study(extended, tmp_path, "report", "ninth", "--json").splitlines()]
    assert [(trial["params"].get("model.pooling"), trial["state"]) for trial in trials] == [
        ("last", "complete"),
        ("median", "complete"),
        (None, "complete"),
        *sorted(
            [("last", "complete"), ("median", "complete")],
            key=lambda each: trials[3]["params"]["model.pooling"] != each[0],
        ),
    ]
    answer = json.loads(study(extended, tmp_path, "report", "ninth", "--answer"))
    assert [one["pooling"] for one in answer["pooling"]] == ["median"]
    study(extended, tmp_path, "report", "ninth", "--html", "ninth.html")
    page = (tmp_path / "ninth.html").read_text()
    assert "#332288" in page
    assert "median" in page
    study(
        extended,
        tmp_path,
        "compare",
        corpus.folder,
        "--config",
        tiny_toml,
        "--methods",
        "vae",
        "--poolings",
        "last,median",
        "--seeds",
        "1",
        "--samples",
        "4",
        "--name",
        "claims",
        "--markdown",
        "claims.md",
    )
    assert "median" in (tmp_path / "claims.md").read_text()


def test_an_unknown_pooling_is_refused_with_the_ones_there_are(call, corpus, tmp_path):
    code, _, err = call("run", corpus.folder, "--set", "model.pooling=medain", "--storage", tmp_path)
    assert code == 1
    assert ", ".join(POOLINGS) in err


def test_each_pooling_has_a_look_of_its_own():
    assert len({(pooling.colour, pooling.mark) for pooling in POOLINGS.values()}) == len(POOLINGS)
