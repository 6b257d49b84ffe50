"""Studies that earlier versions made: they are gone on with and looked at as if nothing had changed."""

import json
import tarfile
from pathlib import Path

import pytest
from conftest import json_lines

STORED = Path(__file__).parent / "stored"
EXPECTED = {
    0: ("last", 0.6911851674367306, 15.0209),
    1: ("mean", 0.3951272719541845, 15.0261),
    2: ("max", 0.8845591478925849, 15.0266),
    3: ("last", 0.9489097141986316, 15.0198),
}
"""Pooling, KL weight and best validation nll of each trial, where version 0.1.0 went on with the same study.

What is trained after it has an nll without the first term of its bias, and measured again."""


@pytest.fixture
def earlier(tmp_path):
    """A study of version 0.1.0, interrupted in the third of four trials; its corpus lies elsewhere now."""
    with tarfile.open(STORED / "study-0.1.0.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    definition = tmp_path / "runs/before/study.json"
    stored = json.loads(definition.read_text())
    stored["corpus"] = str(tmp_path / "corpus")
    stored["tracking_uri"] = f"sqlite:///{tmp_path / 'runs/mlflow.db'}"
    definition.write_text(json.dumps(stored))
    return tmp_path / "runs"


def test_a_study_of_an_earlier_version_is_gone_on_with_and_reported(earlier, call, ray_session):
    code, out, err = call("report", "before", "--json", "--storage", earlier)
    assert code == 0, err
    before = json_lines(out)
    assert [line["state"] for line in before] == ["complete", "complete", "waiting"]
    code, _, err = call("run", "--resume", "before", "--storage", earlier)
    assert code == 0, err
    code, out, _ = call("report", "before", "--json", "--storage", earlier)
    after = json_lines(out)
    assert [line["valid"] for line in after[:2]] == [line["valid"] for line in before[:2]]
    for line in after:
        pooling, weight, nll = EXPECTED[line["trial"]]
        assert line["state"] == "complete"
        assert line["params"] == {"model.pooling": pooling, "objective.kl_weight": weight}
        assert line["valid"]["nll"] == pytest.approx(nll, abs=2e-3 if line["trial"] < 2 else 0.05)
    for arguments in (("report", "before", "--html", earlier.parent / "page.html"), ("doctor", "before")):
        code, _, err = call(*arguments, "--storage", earlier)
        assert code == 0, err
    code, out, _ = call("sample", "before:1", "--num", "2", "--storage", earlier)
    assert code == 0
    assert len(out.splitlines()) == 2
