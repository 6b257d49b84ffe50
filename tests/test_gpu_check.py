"""The prepared check of a GPU, rehearsed on the CPU."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEFT_OUT = {"quick, 2 processes, MPS", "a study"}


@pytest.mark.slow
@pytest.mark.long
def test_every_step_of_the_check_runs_and_finds_what_it_is_for(corpus, tmp_path):
    done = subprocess.run(
        [
            "sh",
            "benchmarks/gpu_check.sh",
            "--device",
            "cpu",
            "--quick",
            "--corpus",
            corpus.folder,
            "--out",
            tmp_path / "out",
            "--runs",
            tmp_path / "runs",
        ],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "HOME": str(tmp_path)},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    found = {(row["step"], row["what"]): row["value"] for row in rows}
    assert not [row for row in rows if row["what"] == "problem"]
    assert {what for (_, what), value in found.items() if str(value).startswith("left out")} <= LEFT_OUT
    assert "holds" in found["numbers", "float32: furthest of 13 kinds from float64, relative"]
    assert " passed" in found["tests", "tests"]
    assert found["precision", "float32: the same seed gives the same weights, bit for bit"] == "yes"
    assert found["precision", "the same in TF32, less that (final numbers stay in float32 from 0.001 on)"] == 0.0
    assert {what.partition(",")[0] for step, what in found if step == "training" and "epoch" in what} == {
        "last",
        "max",
        "mean",
        "language model",
    }
    assert "quick, 2 processes: tokens a second in all (times one process')" in {what for _, what in found}
    table = (tmp_path / "out/table.md").read_text()
    assert all(f"### {number}." in table for number in range(1, 8))


def test_a_step_that_fails_or_takes_too_long_is_said_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    from benchmarks.gpu_check import __main__ as check

    steps = {
        "fails": ("nowhere.to_be_found", 4, "1. fails"),
        "hangs": ("tests.hanging", 2, "2. hangs"),
    }
    monkeypatch.setattr(check, "STEPS", steps)
    monkeypatch.setattr(check, "WHOLE_SECONDS", 8)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--out", str(tmp_path)])
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/hanging.py").write_text(
        'import subprocess, time\nprint(\'{"step": "hangs", "what": "before", "value": 1}\', flush=True)\n'
        "subprocess.Popen(['sleep', '61']); time.sleep(61)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check.main()
    table = (tmp_path / "table.md").read_text()
    assert "No module named 'nowhere'" in table
    assert "| before | 1 |" in table
    # What the first step left of its time is the second's.
    assert re.search(r"stopped after [3-8] s", table)
    assert subprocess.run(["pgrep", "-f", "sleep 61"], capture_output=True).returncode == 1
