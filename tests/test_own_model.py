"""docs/own-model.md, run as it is written, each example from an empty folder."""

import json
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from conftest import json_lines
from studies import check_records_agree, num_epochs, start, wait_for_epochs

DOCUMENT = (Path(__file__).parent.parent / "docs/own-model.md").read_text("utf-8")
EXAMPLES = {
    title: (
        dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", section, re.DOTALL)),
        [line for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) for line in block.splitlines()],
    )
    for title, section in re.findall(r"^## (A .*?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE)
}


def lay_out(title, folder):
    """Write the files of an example; return its commands as lists of words."""
    files, lines = EXAMPLES[title]
    for name, content in files.items():
        (folder / name).write_text(content)
    return [shlex.split(line.replace("python ", f"{sys.executable} ")) for line in lines]


def test_the_document_has_its_three_examples():
    assert list(EXAMPLES) == ["A VAE of motion", "A network of Hugging Face's", "A command"]
    assert len(EXAMPLES["A VAE of motion"][0]["motion.py"].splitlines()) < 110


@pytest.mark.slow
@pytest.mark.parametrize("title", EXAMPLES)
def test_each_example_does_what_the_document_says(title, tmp_path, monkeypatch, call, ray_session):
    monkeypatch.chdir(tmp_path)
    for program, *arguments in lay_out(title, tmp_path):
        assert program == "study"
        code, _, err = call(*arguments)
        assert code == 0, f"{arguments}: {err}"
    name = {"A VAE of motion": "motion", "A network of Hugging Face's": "bottleneck", "A command": "printed"}[title]
    lines = json_lines(call("report", name, "--json")[1])
    assert {line["state"] for line in lines} <= {"complete", "pruned", "collapsed"}
    if name == "motion":
        tested = lines[:12]
        mi = {
            pooling: [line["valid"]["mi"] for line in tested if line["params"]["model.pooling"] == pooling]
            for pooling in ("last", "mean", "max")
        }
        assert max(mi["last"]) < 0.1
        assert min(mi["max"]) > 0.5
        assert len(lines) == 12 + 9
    if name == "printed":
        assert len(lines) == 5
        said = (tmp_path / "runs/printed/trials/00000/output.txt").read_text()
        assert said.startswith("epoch 0 is over")
        compared = json.loads(call("compare", "--resume", "sizes", "--json")[1])
        assert [each["values"] for each in compared["variants"]] == [{"own.latent_size": size} for size in (2, 4, 8)]


@pytest.mark.slow
def test_a_killed_study_of_ones_own_model_is_gone_on_with_nothing_twice(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    _, run, *_ = lay_out("A VAE of motion", tmp_path)
    log = tmp_path / "stderr"
    process = start(log, *run[1:], "--trials", 2, "--seeds", 1)
    # What the helper counts is of a study named x.
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs/x").symlink_to("motion")
    wait_for_epochs(tmp_path / "runs", 9)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = num_epochs(tmp_path / "runs")
    process = start(log, "run", "--resume", "motion")
    assert process.wait(timeout=400) == 0, log.read_text()
    (tmp_path / "runs/x").unlink()
    report = json_lines(call("report", "motion", "--json")[1])
    assert [line["trial"] for line in report] == list(range(8))
    assert sum(line["epochs"] for line in report) > before
    complete = [line for line in report if line["state"] == "complete"]
    assert {line["epochs"] for line in complete} == {14}
    assert any(line["state"] == "collapsed" for line in report[6:]) or len(complete) >= 6
    check_records_agree(tmp_path / "runs", "motion", report)
