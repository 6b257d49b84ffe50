"""docs/own-data.md, run as it is written, and models of every tokenizer that speak raw text."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest
from conftest import tiny_settings, write_lines

from data.prepare import prepare
from data.settings import PrepareSettings
from data.sources.named import from_files
from study.inference.trained_model import TrainedModel
from study.training.best_weights import best_folders
from study.training.loop import train

ROOT = Path(__file__).parent.parent
CHINESE = ["今天天气很好", "我们去公园", "这家餐厅的菜很好吃", "服务很慢不会再来", "他喜欢喝茶", "，", "。"]
ATOMS = ["C", "CC", "O", "N", "C(=O)O", "c1ccccc1", "C(C)C", "Cl", "Br", "[nH]"]
BLOCKS = re.findall(
    r"^## (.*?)\n.*?```sh\n(.*?)```", (ROOT / "docs/own-data.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


def some(parts, num, between=""):
    draw = random.Random(0)
    return [between.join(draw.choices(parts, k=draw.randint(3, 6))) for _ in range(num)]


@pytest.fixture
def place(tmp_path):
    """A folder with the files that the document names."""
    words = some(["good", "food", "but", "slow", "service", "here"], 400, " ")
    (tmp_path / "reviews.csv").write_text(
        "id,body\n" + "".join(f'{n},"{text}, {n % 9}!"\n' for n, text in enumerate(words))
    )
    write_lines(tmp_path / "chinese.txt", some(CHINESE, 400))
    write_lines(tmp_path / "examples.txt", CHINESE[:3])
    write_lines(tmp_path / "molecules.smi", some(ATOMS, 400))
    write_lines(tmp_path / "labelled.txt", [f"{n % 2}\t{text} {n % 9}" for n, text in enumerate(words)])
    write_lines(tmp_path / "actions.jsonl", [json.dumps({"actions": text.split()}) for text in words])
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(("title", "block"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_what_the_document_says_works(title, block, place, tiny_toml, call, ray_session, monkeypatch):
    monkeypatch.chdir(place)
    printed = {}
    for line in block.splitlines():
        program, *arguments = shlex.split(line.replace("--preset quick", f"--config {tiny_toml} --trials 1"))
        assert program == "study"
        code, out, err = call(*arguments)
        assert code == 0, f"{line}: {err}"
        printed[line] = out
    if title == "Labels":
        assert "sequences by label" in (place / "labelled.html").read_text()
    elif title == "Molecules":
        assert re.search(r"^valid +[01]\.\d{4}$", printed["study sample molecules --num 100 --metrics"], re.MULTILINE)
        assert re.search(r"^novel +[01]\.\d{4}$", printed["study sample molecules --num 100 --metrics"], re.MULTILINE)
    elif "blanks" in title:
        # Characters are joined as they were, without blanks.
        assert not any(" " in text for text in printed["study sample chinese --num 5"].splitlines())
        assert len(printed["study reconstruct chinese-bpe examples.txt"].splitlines()) == 3


@pytest.mark.parametrize("tokenizer", ["char", "smiles", "bpe"])
def test_a_model_of_any_tokenizer_speaks_raw_text_wherever_it_is_loaded(tmp_path, tokenizer):
    import mlflow.pyfunc
    import pandas as pd

    from study.tracking import text_model

    texts = some(ATOMS if tokenizer == "smiles" else CHINESE, 300)
    source = from_files({"all": [str(write_lines(tmp_path / "a.txt", texts))]})
    given = {"tokenizer": tokenizer, "valid_fraction": 0.2, "test_fraction": 0.2, "vocabulary_size": 290}
    corpus = prepare(source, PrepareSettings.resolve(source, given), tmp_path / "corpus")[0]
    list(train(tiny_settings(training={"epochs": 2}), corpus, tmp_path / "run"))
    folder = best_folders(tmp_path / "run")[-1]
    trained = TrainedModel.open(folder, "cpu")
    assert trained.codec.cleaning.tokenizer == tokenizer
    raw = texts[:5]
    assert [trained.codec.decode(ids) for ids in trained.codec.encode(raw)] == raw
    assert trained.encode(raw).shape[0] == 5
    mlflow.pyfunc.save_model(
        str(tmp_path / "model"), python_model=text_model.__file__, artifacts={"model": str(folder)}, pip_requirements=[]
    )
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model")).unwrap_python_model()
    frame = pd.DataFrame({"text": raw})
    again = loaded.predict(None, frame, {"mode": "reconstruct"})["text"].tolist()
    assert again == trained.reconstruct(raw)
    assert not any(" " in text for text in again)
    assert trained.bleu(raw) >= 0.0
