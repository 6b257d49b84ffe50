"""Training and evaluating where PyTorch is, and little else."""

import json
import subprocess
import sys

import pytest
import torch

from data.prepare import prepare
from data.settings import PrepareSettings
from data.sources.named import from_files
from study.training.devices import use_tf32

NOT_THERE = (
    "click",
    "polars",
    "jaxtyping",
    "psutil",
    "ray",
    "optuna",
    "mlflow",
    "pandas",
    "rich",
    "xxhash",
    "sacrebleu",
    "arviz_stats",
    "altair",
    "jinja2",
    "sqlalchemy",
    "tenacity",
    "tomli_w",
    "yaml",
    "beartype",
)


def on_a_bare_machine(*arguments, cwd):
    """Run `python -m study` as if nothing but torch, numpy, scipy, pyarrow, safetensors and pydantic were installed."""
    program = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({NOT_THERE!r}))\n"
        f"sys.argv = ['study', *{[str(argument) for argument in arguments]!r}]\n"
        "runpy.run_module('study', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def test_a_bare_machine_trains_and_evaluates_as_a_full_one_does(corpus, tiny_toml, tmp_path, call):
    train = ("train", corpus.folder, "--config", tiny_toml, "--set", "training.epochs=2", "--out")
    code, out, err = on_a_bare_machine(*train, tmp_path / "bare", cwd=tmp_path)
    assert code == 0, err
    _, full, _ = call(*train, tmp_path / "full")
    nll = [json.loads(line)["valid/nll"] for line in out.splitlines()]
    assert nll == [json.loads(line)["valid/nll"] for line in full.splitlines()]
    assert "best model" in err
    folder = max((tmp_path / "bare").glob("best-*"))
    evaluate = ("evaluate", folder, "--corpus", corpus.folder, "--samples", "20")
    code, out, err = on_a_bare_machine(*evaluate, cwd=tmp_path)
    assert code == 0, err
    found = json.loads(out)
    _, full, _ = call(*evaluate, "--json")
    expected = json.loads(full)
    assert found.pop("untrusted") is None
    expected.pop("untrusted")
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "chitchat", "--out", "x"), "this needs polars"),
        (("train", "CORPUS", "--out", "x", "--set", "model.poling=max"), "did you mean model.pooling?"),
        (("evaluate", "nowhere", "--corpus", "CORPUS"), "nowhere"),
    ],
)
def test_a_bare_machine_says_what_is_wrong_in_one_line(corpus, tmp_path, arguments, words):
    given = [str(corpus.folder) if argument == "CORPUS" else argument for argument in arguments]
    code, out, err = on_a_bare_machine(*given, cwd=tmp_path)
    assert code == 1
    assert not out
    assert err.startswith("study: ")
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_corpus_of_other_words_is_refused_though_as_many(corpus, tiny_toml, tmp_path):
    out = tmp_path / "run"
    train = ("train", corpus.folder, "--config", tiny_toml, "--set", "training.epochs=1", "--out", out)
    assert on_a_bare_machine(*train, cwd=tmp_path)[0] == 0
    (folder,) = out.glob("best-*")
    words = (tmp_path / "words.txt").resolve()
    names = corpus.vocabulary.tokens[4:]
    others = [f"{name}x" for name in names]
    words.write_text("".join(" ".join(others[n:] + others[:n]) + "\n" for n in range(len(others))) * 3, "utf-8")
    source = from_files({"all": [str(words)]})
    settings = PrepareSettings.resolve(source, {"valid_fraction": 0.2, "test_fraction": 0.2})
    other = prepare(source, settings, tmp_path / "other")[0]
    assert other.vocabulary_size == corpus.vocabulary_size
    code, out, err = on_a_bare_machine("evaluate", folder, "--corpus", other.folder, cwd=tmp_path)
    assert code == 1
    assert "another vocabulary" in err
    assert not out


def test_final_numbers_are_not_in_tf32(corpus, tiny_toml, tmp_path, call):
    call("train", corpus.folder, "--config", tiny_toml, "--set", "training.epochs=1", "--out", tmp_path / "run")
    (folder,) = (tmp_path / "run").glob("best-*")
    use_tf32(True)
    try:
        assert call("evaluate", folder, "--corpus", corpus.folder, "--samples", "2")[0] == 0
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        use_tf32(False)
