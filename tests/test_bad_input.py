"""Bad input: one clear line, exit code 1 or 2, no traceback, nothing half-written."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from conftest import tiny_settings, write_lines

from study.training.loop import train

GOOD_LINES = [f"word{number} word{number % 7} and more" for number in range(200)]


@pytest.fixture(scope="module")
def model_folder(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    list(train(tiny_settings(training={"epochs": 1}), corpus, folder))
    return folder / "best-00001"


@pytest.fixture
def place(tmp_path, monkeypatch, corpus, tiny_toml, model_folder):
    """A working folder with one of everything, some of it broken."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "good.txt", GOOD_LINES)
    (tmp_path / "empty.txt").touch()
    write_lines(tmp_path / "blank.txt", ["", "  "])
    (tmp_path / "binary.txt").write_bytes(b"ab\0\x01\x02" * 100)
    (tmp_path / "mixed.txt").write_bytes("good line\ncaf\u00e9\n".encode() + "caf\u00e9\n".encode("latin-1"))
    (tmp_path / "one.txt").write_text("word\n")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"body": line}) + "\n" for line in GOOD_LINES))
    (tmp_path / "broken.jsonl").write_text('{"text": "a b"}\n{"text": \n')
    (tmp_path / "rows.csv").write_text("id,body\n1,a b\n2,c d\n")
    (tmp_path / "fake.parquet").write_bytes(b"PAR1 this is not parquet")
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"a b c\n" * 5000)[:-30])
    (tmp_path / "fake.txt.gz").write_text("not compressed\n")
    (tmp_path / "page.html").write_text("<p>hello</p>")
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("precious")
    (tmp_path / "a file").write_text("x")
    shutil.copytree(corpus.folder, "prepared")
    for name in ("truncated", "foreign", "old", "escaping", "without"):
        shutil.copytree(corpus.folder, name)
    shard = Path("truncated/train-00000.arrow")
    shard.write_bytes(shard.read_bytes()[:100])
    Path("foreign/manifest.json").write_text('{"hello": 1}')
    manifest = json.loads(Path("old/manifest.json").read_text())
    Path("old/manifest.json").write_text(json.dumps(manifest | {"schema_version": 0}))
    manifest["files"] = {"../../etc/passwd": 1}
    Path("escaping/manifest.json").write_text(json.dumps(manifest))
    Path("without/vocabulary.json").unlink()
    shutil.copytree(model_folder, "model")
    shutil.copytree(model_folder, "damaged model")
    weights = Path("damaged model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:200])
    shutil.copytree(model_folder, "foreign model")
    Path("foreign model/model.safetensors").write_bytes(b"\x80\x02pickle")
    shutil.copytree(model_folder, "other words")
    Path("other words/vocabulary.json").write_text('["<pad>", "<s>", "</s>", "<unk>", "a"]')
    Path("bad.toml").write_text("[model\npooling = ")
    Path("unknown.toml").write_text("[model]\npoling = 'max'\n")
    Path("type.toml").write_text("[training]\nepochs = 'many'\n")
    Path("range.toml").write_text('[search]\n"model.latent_size" = { low = 5 }\n')
    Path("backwards.toml").write_text('[search]\n"objective.kl_weight" = { low = 1.0, high = 0.1 }\n')
    Path("option.toml").write_text("[study]\ntrails = 5\n")
    Path("flat.toml").write_text("search = 3\n")
    Path("flat study.toml").write_text("study = 3\n")
    Path("step.toml").write_text('[search]\n"model.latent_size" = { low = 4, high = 8, step = 0.5 }\n')
    Path("latin.toml").write_bytes("# caf\u00e9\n".encode("latin-1"))
    Path("texts.txt").write_text("a b\n")
    return tmp_path


def prepare(*arguments):
    return ("corpus", "prepare", *arguments, "--out", "made")


CASES = {
    # corpora: sources
    "no source": (prepare(), 1, "name at least one SOURCE"),
    "no such file": (prepare("nothing.txt"), 1, "nothing.txt names no file"),
    "no such glob": (prepare("x*.txt"), 1, "names no file"),
    "empty folder": (prepare("empty folder"), 1, "names no file"),
    "empty file": (prepare("empty.txt"), 1, "is empty"),
    "only blank lines": (prepare("blank.txt"), 1, "no sequence is left"),
    "binary": (prepare("binary.txt"), 1, "is binary"),
    "mixed encodings": (prepare("mixed.txt"), 1, "line 3 is not UTF-8"),
    "one word": (prepare("one.txt"), 1, "no sequence is left"),
    "without the column": (prepare("rows.jsonl"), 1, "--text-column"),
    "with another column": (prepare("rows.jsonl", "--column", "txt"), 1, "has no column 'txt'"),
    "csv without the column": (prepare("rows.csv"), 1, "columns id, body"),
    "no group column": (prepare("rows.jsonl", "--column", "body", "--group-column", "who"), 1, "no column 'who'"),
    "broken json": (prepare("broken.jsonl"), 1, "line 2 is no JSON"),
    "not parquet": (prepare("fake.parquet"), 1, "cannot be read as parquet"),
    "cut gzip": (prepare("cut.txt.gz"), 1, "cut.txt.gz cannot be read"),
    "unknown ending": (prepare("page.html"), 1, "ends in none of"),
    "misspelt named corpus": (prepare("chitcat"), 1, "did you mean chitchat"),
    "named corpus without its folder": (prepare("ptb"), 1, "--from FOLDER"),
    "named corpus in the wrong folder": (prepare("yahoo", "--from", "empty folder"), 1, "has no yahoo.train.txt"),
    "two named corpora": (prepare("chitchat", "ptb"), 1, "no other SOURCE"),
    "--from without a named corpus": (prepare("good.txt", "--from", "."), 1, "--from goes with"),
    "splits given in part": (prepare("--train", "good.txt"), 1, "--train, --valid and --test"),
    "splits and sources": (prepare("good.txt", "--train", "good.txt"), 1, "--train, --valid and --test"),
    # corpora: settings
    "limits the wrong way round": (prepare("good.txt", "--min-tokens", "9", "--max-tokens", "3"), 1, "must not exceed"),
    "everything too short": (prepare("good.txt", "--min-tokens", "50"), 1, "200 too short"),
    "no length": (prepare("good.txt", "--max-tokens", "0"), 1, "max_tokens"),
    "not a number": (prepare("good.txt", "--max-tokens", "few"), 2, "not a valid integer"),
    "fractions of everything": (
        prepare("good.txt", "--valid-fraction", "0.6", "--test-fraction", "0.6"),
        1,
        "training",
    ),
    "negative fraction": (prepare("good.txt", "--valid-fraction", "-1"), 1, "valid_fraction"),
    "no vocabulary": (prepare("good.txt", "--vocabulary-size", "0"), 1, "vocabulary_size"),
    "broken pattern": (prepare("good.txt", "--pattern", "(["), 1, "no regular expression"),
    "no --out": (("corpus", "prepare", "good.txt"), 2, "--out"),
    "--out is a file": (("corpus", "prepare", "good.txt", "--out", "a file"), 2, "is a file"),
    "--out holds another corpus": (("corpus", "prepare", "good.txt", "--out", "prepared"), 1, "--overwrite"),
    "--out holds something else": (
        ("corpus", "prepare", "good.txt", "--out", "thesis", "--overwrite"),
        1,
        "left alone",
    ),
    # corpora: prepared
    "truncated shard": (("corpus", "show", "truncated"), 1, "damaged"),
    "foreign manifest": (("corpus", "show", "foreign"), 1, "no manifest of a corpus"),
    "old manifest": (("corpus", "show", "old"), 1, "schema version 0"),
    "manifest that escapes": (("corpus", "show", "escaping"), 1, "outside its folder"),
    "no vocabulary file": (("corpus", "show", "without"), 1, "damaged"),
    "no folder": (("corpus", "show", "nowhere"), 1, "study corpus prepare"),
    # settings
    "unknown preset": (("run", "--preset", "quik"), 1, "did you mean quick"),
    "unknown setting": (("run", "prepared", "--set", "model.poling=max"), 1, "did you mean model.pooling"),
    "setting in the wrong table": (
        ("run", "prepared", "--set", "training.pooling=max"),
        1,
        "did you mean model.pooling",
    ),
    "setting without a value": (("run", "prepared", "--set", "model.pooling"), 1, "expected NAME=VALUE"),
    "unknown pooling": (("run", "prepared", "--set", "model.pooling=median"), 1, "model.pooling"),
    "negative size": (("run", "prepared", "--set", "model.hidden_size=-3"), 1, "got -3"),
    "weight that is no number": (("run", "prepared", "--set", "objective.kl_weight=high"), 1, "got 'high'"),
    "nan weight": (("run", "prepared", "--set", "objective.kl_weight=nan"), 1, "objective.kl_weight"),
    "decoder that never sees z": (
        ("run", "prepared", "--set", "model.latent_to_input=false", "--set", "model.latent_to_state=false"),
        1,
        "never see the latent variable",
    ),
    "device that does not exist": (("run", "prepared", "--set", "training.device=tpu"), 1, "training.device"),
    "search without a usual range": (("run", "prepared", "--search", "training.epochs"), 1, "no usual range"),
    "search of an unknown setting": (("run", "prepared", "--search", "model.hiden_size"), 1, "did you mean"),
    "no such settings file": (("run", "prepared", "--config", "no.toml"), 1, "cannot be read"),
    "broken toml": (("run", "prepared", "--config", "bad.toml"), 1, "not valid TOML"),
    "toml that is not UTF-8": (("run", "prepared", "--config", "latin.toml"), 1, "cannot be read"),
    "unknown key in toml": (("run", "prepared", "--config", "unknown.toml"), 1, "did you mean model.pooling"),
    "wrong type in toml": (("run", "prepared", "--config", "type.toml"), 1, "training.epochs"),
    "half a range": (("run", "prepared", "--config", "range.toml"), 1, "model.latent_size"),
    "range the wrong way round": (("run", "prepared", "--config", "backwards.toml"), 1, "low must be below high"),
    "a number for [search]": (("run", "prepared", "--config", "flat.toml"), 1, "[search] must be a table"),
    "a number for [study]": (("run", "prepared", "--config", "flat study.toml"), 1, "[study] must be a table"),
    "half a step": (("run", "prepared", "--config", "step.toml"), 1, "step must be above 0"),
    "a table for a number": (("run", "prepared", "--set", "training.epochs={a=1}"), 1, "takes one value"),
    "endless weight": (("run", "prepared", "--set", "training.learning_rate=inf"), 1, "training.learning_rate"),
    "seed out of range": (("run", "prepared", "--seed", str(2**40)), 1, "seed"),
    "unknown method": (("run", "prepared", "--set", "method=cyclicall"), 1, "did you mean cyclical"),
    "methods that exclude each other": (
        ("run", "prepared", "--set", "method=aggressive", "--set", "model.posterior=none"),
        1,
        "has none",
    ),
    "endless cpus": (("run", "prepared", "--cpus-per-trial", "inf"), 1, "study.cpus_per_trial"),
    "gpus that are not there, few at once": (
        ("run", "prepared", "--gpus-per-trial", "1", "--concurrent", "1"),
        1,
        "shows 0 GPUs",
    ),
    "time that is no number": (("run", "prepared", "--time-budget", "nan"), 2, "above 0"),
    "resume with options of a new study": (
        ("run", "--resume", "x", "--trials", "9", "--sampler", "random"),
        1,
        "leave out --sampler",
    ),
    "comparison of unknown methods": (("compare", "prepared", "--methods", "vae,gan"), 1, "method"),
    "comparison without seeds": (("compare", "prepared", "--seeds", "0"), 1, "--seeds"),
    "unknown study option in toml": (("run", "prepared", "--config", "option.toml"), 1, "did you mean trials"),
    # studies
    "unknown corpus": (("run", "nowhere"), 1, "no prepared corpus at nowhere"),
    "misspelt default corpus": (("run", "chit-chat"), 1, "did you mean chitchat"),
    "folder that is no corpus": (("run", "empty folder"), 1, "no manifest.json"),
    "no trials": (("run", "prepared", "--trials", "0"), 1, "--trials"),
    "unknown stage": (("run", "prepared", "--stages", "poling"), 1, "study.stages"),
    "test of an unknown pooling": (("run", "prepared", "--poolings", "median"), 1, "median is not searched"),
    "test of last alone": (("run", "prepared", "--poolings", "last"), 1, "at least one beside last"),
    "test weight that is no number": (("run", "prepared", "--test-weights", "0.2,high"), 1, "--test-weights"),
    "test weight beyond the search": (("run", "prepared", "--test-weights", "5"), 1, "not among the KL weights"),
    "test where pooling is fixed": (
        ("run", "prepared", "--seeds", "3", "--set", "model.pooling=max"),
        1,
        "there can be no pooling test",
    ),
    "no name among names": (("run", "prepared", "--poolings", "mean,,max"), 2, "names with commas"),
    "no cpus": (("run", "prepared", "--cpus-per-trial", "0"), 1, "study.cpus_per_trial"),
    "gpus that are not there": (("run", "prepared", "--gpus-per-trial", "1"), 1, "shows 0 GPUs"),
    "unknown sampler": (("run", "prepared", "--sampler", "annealing"), 2, "expected one of tpe"),
    "unknown objective": (("run", "prepared", "--objective", "perplexity"), 2, "expected one of nll, pareto, elbo"),
    "objective of own code": (("run", "prepared", "--objective", "elbo"), 1, "is for code of your own"),
    "misspelt command": (("reprot", "prepared"), 2, "did you mean report?"),
    "unknown schedule": (("run", "prepared", "--scheduler", "pbt"), 2, "expected one of asha"),
    "floor of what is no metric": (("run", "prepared", "--floor", "speed=1"), 1, "kl, mi, au"),
    "floor that is no number": (("run", "prepared", "--floor", "au=1e"), 1, "no number"),
    "cma-es for a pareto set": (("run", "prepared", "--sampler", "cma-es", "--objective", "pareto"), 1, "cma-es"),
    "name that leads elsewhere": (("run", "prepared", "--name", "../../x"), 1, "letters, digits"),
    "name with a quote": (("run", "prepared", "--name", "a' or '1'='1"), 1, "letters, digits"),
    "no time": (("run", "prepared", "--time-budget", "-1"), 2, "above 0"),
    "unknown option": (("run", "prepared", "--trails", "3"), 2, "No such option"),
    "unknown command": (("runn",), 2, "No such command"),
    "resume of an unknown study": (("run", "--resume", "nothing"), 1, "no study named nothing"),
    "resume with settings": (("run", "--resume", "x", "--set", "seed=1"), 1, "leave out --set"),
    "report of an unknown study": (("report", "nothing"), 1, "no study named nothing"),
    "status of an unknown study": (("status", "nothing"), 1, "no study named nothing"),
    "export to another format": (("export", "nothing", "--to", "x.xlsx"), 1, "expected a .parquet, .csv file"),
    "figure of another kind": (("report", "nothing", "--figure", "x.gif"), 1, "no study named nothing"),
    "ui without a study": (("ui",), 1, "run a study first"),
    "ui for everyone": (("ui", "--host", "0.0.0.0"), 1, "add --allow-remote"),
    "ui by a name": (("ui", "--host", "localhost"), 1, "expected an address"),
    "optuna for everyone": (("ui", "x", "--optuna", "--host", "::", "--allow-remote"), 1, "knows no password"),
    "which of no figure": (("report", "nothing", "--which", "maxima"), 1, "name the file"),
    "price of no report": (("report", "nothing", "--price-per-gpu-hour", "2"), 1, "name the file"),
    "negative price": (("report", "nothing", "--html", "x.html", "--price-per-gpu-hour", "-2"), 2, "x>=0"),
    "no cluster there": (("run", "prepared", "--address", "127.0.0.1:1"), 1, "no Ray cluster answers at 127.0.0.1:1"),
    "address without a port": (("run", "prepared", "--address", "somewhere"), 1, "expected auto, HOST:PORT"),
    "no MLflow there": (
        ("run", "prepared", "--tracking-uri", "http://127.0.0.1:1"),
        1,
        "http://127.0.0.1:1 cannot be used",
    ),
    "password in an address": (
        ("run", "prepared", "--tracking-uri", "http://me:secret@127.0.0.1:1"),
        1,
        "MLFLOW_TRACKING_PASSWORD",
    ),
    "address of another kind": (("run", "prepared", "--tracking-uri", "ftp://x"), 1, "expected http://HOST:PORT"),
    # names and addresses that collide, or hold nothing
    "name of MLflow's database": (("run", "prepared", "--name", "mlflow.db"), 1, "MLflow's own files"),
    "name of MLflow's files": (("run", "prepared", "--name", "mlartifacts"), 1, "MLflow's own files"),
    "database at the study's place": (
        ("run", "prepared", "--name", "x", "--tracking-uri", "sqlite:///runs/x"),
        1,
        "collide",
    ),
    "database in memory": (("run", "prepared", "--tracking-uri", "sqlite://"), 1, "in memory is lost"),
    "database without a name": (("run", "prepared", "--tracking-uri", "sqlite:///"), 1, "expected sqlite:///FILE"),
    "database that is a folder": (("run", "prepared", "--tracking-uri", "sqlite:///thesis"), 1, "is a folder"),
    "database that is something else": (("run", "prepared", "--tracking-uri", "sqlite:///good.txt"), 1, "left alone"),
    "no tracking address": (("run", "prepared", "--tracking-uri", ""), 1, "is empty"),
    "address that is half IPv6": (("run", "prepared", "--tracking-uri", "http://[::1"), 1, "--tracking-uri"),
    "Ray's address that is half IPv6": (("run", "prepared", "--address", "http://[::1"), 1, "--address"),
    "no storage": (("run", "prepared", "--storage", ""), 2, "empty name"),
    # values of another kind, too large, or several
    "several lines in a setting": (("run", "prepared", "--set", "seed=1\ntraining.epochs=2"), 1, "several lines"),
    "true for a number": (("run", "prepared", "--set", "training.epochs=true"), 1, "true or false"),
    "a text for a number": (("run", "prepared", "--set", "training.epochs='3'"), 1, "expected a number"),
    "a number beyond reason": (("run", "prepared", "--set", f"model.hidden_size={10**20}"), 1, "within reason"),
    "endless floor": (("run", "prepared", "--floor", "au=1e400"), 1, "no trial reaches"),
    "two floors of one metric": (("run", "prepared", "--floor", "au=1", "--floor", "au=2"), 1, "given twice"),
    "endless time": (("run", "prepared", "--time-budget", "inf"), 2, "finite"),
    "trials beyond reason": (("run", "prepared", "--trials", "9" * 30), 2, "at most"),
    "endless tolerance": (("evaluate", "model", "--tolerance", "1e400"), 2, "no finite number"),
    "no methods": (("compare", "prepared", "--methods", ""), 1, "--methods has an empty name"),
    "half a list of poolings": (("compare", "prepared", "--poolings", "last,"), 1, "--poolings has an empty name"),
    "seeds beyond reason": (("compare", "prepared", "--seeds", "9" * 30), 2, "--seeds"),
    "settings without an end": (("run", "prepared", "--config", "/dev/full"), 1, "is no file"),
    # options without effect
    "temperature of greedy decoding": (("reconstruct", "model", "texts.txt", "--temperature", "2"), 1, "no effect"),
    "beams of sampling": (("sample", "model", "--beam-width", "3"), 1, "no effect"),
    "pattern without its tokenizer": (
        prepare("good.txt", "--pattern", "a", "--tokenizer", "whitespace"),
        1,
        "--pattern has no effect",
    ),
    "seed of one's own text": (prepare("good.txt", "--seed", "3"), 1, "--seed is of synthetic-topics"),
    "column of a named corpus": (prepare("chitchat", "--column", "x"), 1, "--text-column has no effect"),
    "methods of a comparison that goes on": (
        ("compare", "--resume", "x", "--methods", "vae"),
        1,
        "leave out --methods",
    ),
    "others on this machine alone": (("ui", "--allow-remote"), 1, "no effect"),
    "repair of no study": (("doctor", "--repair"), 1, "name it"),
    # models
    "no such model": (("sample", "nothing"), 1, "no study named nothing"),
    "folder without a model": (("sample", "empty folder"), 1, "holds no trained model"),
    "damaged weights": (("sample", "damaged model"), 1, "damaged"),
    "pickled weights": (("sample", "foreign model"), 1, "safetensors"),
    "vocabulary of another model": (("sample", "other words"), 1, "is damaged"),
    "temperature of nought": (("sample", "model", "--temperature", "0"), 1, "temperature"),
    "endless temperature": (("sample", "model", "--temperature", "inf"), 1, "temperature"),
    "texts of no length": (("sample", "model", "--max-tokens", "0"), 1, "max_tokens"),
    "negative seed": (("sample", "model", "--seed", "-1"), 1, "seed"),
    "nucleus of nought": (("sample", "model", "--top-p", "0"), 1, "top_p"),
    "no hypotheses": (("reconstruct", "model", "texts.txt", "--decoding", "beam", "--beam-width", "0"), 1, "width"),
    "no samples": (("sample", "model", "--num", "0"), 1, "--num"),
    "a line of one point": (("interpolate", "model", "a", "b", "--num", "1"), 1, "--num"),
    "no text": (("reconstruct", "model", "empty.txt"), 1, "holds no text"),
    "text that is not UTF-8": (("encode", "model", "mixed.txt", "--to", "x.parquet"), 1, "not UTF-8"),
    "encode to another format": (("encode", "model", "texts.txt", "--to", "x.npy"), 1, "expected a .parquet file"),
    "evaluate without a corpus": (("evaluate", "model"), 1, "--corpus"),
    "evaluate with a negative tolerance": (
        ("evaluate", "model", "--corpus", "prepared", "--tolerance", "-1"),
        1,
        "--tolerance",
    ),
    "traverse a dimension that is not there": (("traverse", "model", "--dimensions", "99"), 1, "numbered from 0"),
    "traverse no number": (("traverse", "model", "--dimensions", "a,b"), 1, "commas"),
    "traverse a single point": (("traverse", "model", "--num", "1"), 1, "--num"),
    "published numbers of another corpus": (
        ("compare", "prepared", "--published"),
        1,
        "nothing published",
    ),
    "evaluate with no samples": (("evaluate", "model", "--corpus", "prepared", "--samples", "0"), 1, "--samples"),
    "train into a damaged corpus": (("train", "truncated", "--out", "run"), 1, "damaged"),
}


def snapshot(folder):
    return sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob("*"))


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, place, call):
    arguments, expected_code, expected_words = CASES[case]
    before = snapshot(place)
    code, out, err = call(*arguments)
    assert code == expected_code, err
    assert expected_words in err
    assert "Traceback" not in err
    assert "secret" not in err
    assert len(err.splitlines()) <= 8
    assert out == ""
    assert snapshot(place) == before


NAMES = (
    "../x",
    "/nothing/here",
    "x; touch hacked",
    "$(touch hacked)",
    "`touch hacked`",
    "x' OR '1'='1",
    'x"; DROP TABLE runs; --',
    "a\nb",
    "{{7*7}}",
    "<script>alert(1)</script>",
    "!!python/object/apply:os.system [touch hacked]",
    "[red]x[/red]",
    "%s%n",
    "a:../../b",
    "x" * 300,
    "..",
    "",
    " ",
    "\u00e9",
    "*",
)
"""What stands for a path, a shell's, SQL's, YAML's, HTML's or a template's own words, or nothing at all."""


@pytest.mark.parametrize(
    "command",
    [
        "report",
        "export NAME --to x.parquet",
        "confirm",
        "diagnose",
        "gc NAME --delete",
        "ui",
        "sample",
        "evaluate",
        "run --resume",
        "run prepared --name",
        "run NAME",
        "run prepared --preset",
        "run prepared --set",
        "corpus show",
        "corpus prepare NAME --out made",
        "compare --resume",
        "train NAME --out run",
    ],
)
def test_names_that_mean_something_elsewhere_are_only_names(command, place, call):
    before = snapshot(place)
    for name in NAMES:
        words = command.split()
        arguments = [name if word == "NAME" else word for word in words] + ([] if "NAME" in words else [name])
        code, out, err = call(*arguments)
        assert code in (1, 2), arguments
        assert out == ""
        assert err
        assert "Traceback" not in err
        assert snapshot(place) == before, arguments


def test_there_are_enough_cases():
    assert len(CASES) >= 60


def test_a_corpus_of_another_vocabulary_is_refused(place, call):
    assert call("corpus", "prepare", "good.txt", "--out", "other")[0] == 0
    code, _, err = call("evaluate", "model", "--corpus", "other")
    assert code == 1
    assert "another vocabulary" in err


def test_a_misspelt_study_is_told_which_was_meant(finished_study, call):
    code, _, err = call("report", "dnoe", "--storage", finished_study)
    assert code == 1
    assert "did you mean done?" in err
