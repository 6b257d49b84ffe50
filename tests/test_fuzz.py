"""Every file of a study, a corpus, a model and a checkpoint damaged in turn, and every option with its edge values.

What may come of it is a right answer or one clean line; never a traceback, a hang, another answer without a word, or a
file of anyone else's touched. `make fuzz` tries FUZZ cases of each (default 400); a failure names its case.
"""

import contextlib
import io
import os
import random
import re
import shutil
import signal
from collections import Counter

import click
import pytest
from conftest import tiny_settings
from damage import damages_of

from study.cli.main import COMMANDS, main, run
from study.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]

NUM_CASES = int(os.environ.get("FUZZ", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS = 60
EDGES = [
    "",
    " ",
    "0",
    "-1",
    "1e400",
    "nan",
    "inf",
    "99999999999999999999",
    "a=1\nb=2",
    "../x",
    "x" * 5000,
    "\u202e\U0001f600",
    "~",
    "true",
    ".",
    "missing/parent/x",
    "/dev/full",
    "/proc/x",
    "-",
    "a,b",
    "1,1",
    ",",
    "=",
    "au=1e400",
    "au=nan",
    "sqlite://",
    "sqlite:///",
    "http://user:sesame@127.0.0.1:1/?password=sesame",
    "http://[::1",
    "postgresql://u:sesame@127.0.0.1:1/x",
    "file:///etc/passwd",
    "[bold]x[/bold]",
    "%s{0}",
    "\udcff",
]


class HangError(BaseException):
    """A call took too long."""


class RayAskedForError(BaseException):
    """A call came as far as starting Ray."""


@pytest.fixture(scope="module")
def pristine(finished_study, corpus, tmp_path_factory):
    """A folder with one of everything, and a stranger's file in each folder of it."""
    place = tmp_path_factory.mktemp("pristine")
    shutil.copytree(finished_study / "done", place / "runs/done")
    shutil.copytree(corpus.folder, place / "corpus")
    (place / "settings.toml").write_text("[training]\nepochs = 1\n")
    (place / "texts.txt").write_text("w001 w002\nw003\n")
    list(train(tiny_settings(training={"epochs": 2}), corpus, place / "trained"))
    newest = max((place / "trained").glob("best-*"))
    shutil.copytree(newest, place / "model")
    for folder in [path for path in place.rglob("*") if path.is_dir()]:
        if folder.name != "corpus":
            (folder / "stranger.txt").write_text("mine")
    return place


@pytest.fixture
def place(pristine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    import ray

    def refuse(*arguments, **options):
        raise RayAskedForError

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda **options: None)
    return tmp_path / "place"


def call(*arguments):
    """Call the command line; return its exit code (or what escaped from it), output and errors."""

    def stop(*_):
        raise HangError

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([str(argument) for argument in arguments])
    except (HangError, RayAskedForError) as error:
        code = type(error).__name__
    except Exception as error:
        code = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return code, out.getvalue(), err.getvalue()


def put_back(pristine, place):
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(pristine, place, symlinks=True)
    os.chdir(place)


def strangers(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("stranger.txt") if path.read_text() == "mine")


OF_STUDY = [
    ("status", "done"),
    ("report", "done", "--json"),
    ("export", "done", "--rows", "trials", "--to", "x.parquet"),
    ("report", "done"),
    ("diagnose", "done"),
    ("sample", "done", "--num", 2),
    ("doctor", "done"),
    ("gc", "done", "--delete"),
    ("run", "--resume", "done"),
    ("report", "done", "--markdown", "r.md"),
]
OF_MODEL = [
    ("sample", "model", "--num", 2),
    ("evaluate", "model", "--corpus", "corpus", "--samples", 2),
    ("reconstruct", "model", "texts.txt"),
    ("diagnose", "model", "--corpus", "corpus"),
]
OF_CORPUS = [
    ("corpus", "show", "corpus"),
    ("run", "corpus", "--config", "settings.toml", "--dry-run"),
    ("corpus", "list", "."),
    ("evaluate", "model", "--corpus", "corpus", "--samples", 2),
]
OF_RUN = [("diagnose", "trained", "--corpus", "corpus"), ("sample", "trained", "--num", 2)]
FILES = {
    "runs/done/study.json": OF_STUDY,
    "runs/done/optuna.db": OF_STUDY,
    "runs/done/mlflow.json": OF_STUDY,
    "runs/done/trials/00000/epochs.jsonl": OF_STUDY,
    "runs/done/trials/00000/samples.json": OF_STUDY[-1:],
    "corpus/manifest.json": OF_CORPUS,
    "corpus/vocabulary.json": OF_CORPUS,
    "corpus/valid-00000.arrow": OF_CORPUS,
    "model/model.json": OF_MODEL,
    "model/model.safetensors": OF_MODEL,
    "model/vocabulary.json": OF_MODEL,
    "trained/checkpoints/*/progress.json": OF_RUN,
    "trained/checkpoints/*/state.safetensors": OF_RUN,
}


def judge(found, usual, file, what, arguments):
    """Return the class of an outcome."""
    code, out, err = found
    if code == "RayAskedForError":
        return "right answer"
    if not isinstance(code, int) or "Traceback" in out + err:
        return "hang" if code == "HangError" else "traceback"
    if code in (1, 2):
        # That a file was changed by hand is said beside what comes of it.
        said = [
            line
            for line in err.splitlines()
            if line.startswith(("study:", "Error:", f"{arguments[-1]}:", "done:", "corpus:"))
            and "was changed by hand since" not in line
        ]
        table = arguments[0] == "doctor" and "study done" in out
        return "clean error" if len(said) == 1 or table else "untidy error"
    changed = plain(out) != plain(usual[1])
    named = file.name in out + err or "by hand" in err or "left alone" in err
    return "silent difference" if changed and not named else "right answer"


def plain(text):
    """Return output without what is of the moment."""
    return re.sub(r'"run_id": ("[0-9a-f]+"|null)', "", text)


def test_damaged_files(pristine, place, capfd):
    cases = [
        (path.relative_to(pristine), damage, commands)
        for pattern, commands in FILES.items()
        for path in pristine.glob(pattern)
        for damage in damages_of(path)
    ]
    put_back(pristine, place)
    usual, counts, wrong = {}, Counter(), []
    draw = random.Random(SEED)
    for file, damage, commands in draw.sample(cases, min(NUM_CASES, len(cases))):
        for arguments in draw.sample(commands, min(2, len(commands))):
            if arguments not in usual:
                put_back(pristine, place)
                usual[arguments] = call(*arguments)
            put_back(pristine, place)
            damage.apply(place / file)
            before = strangers(place)
            outcome = judge(call(*arguments), usual[arguments], file, damage.name, arguments)
            counts[outcome] += 1
            if outcome not in ("right answer", "clean error"):
                wrong.append(f"{outcome}: {file}, {damage.name}: study {' '.join(map(str, arguments))}")
                with capfd.disabled():
                    print(wrong[-1], flush=True)
            if set(before) - set(strangers(place)):
                wrong.append(f"stranger's file touched: {file}, {damage.name}: study {' '.join(map(str, arguments))}")
    with capfd.disabled():
        print(
            f"\ndamaged files: {counts.total()} calls on {min(NUM_CASES, len(cases))} of {len(cases)} damages, {dict(counts)}"
        )
    assert not wrong, "\n".join(wrong)


BASES = {
    "run": ("run", "corpus", "--config", "settings.toml", "--dry-run"),
    "report": ("report", "done"),
    "status": ("status",),
    "export": ("export", "done", "--to", "x.parquet"),
    "settings": ("settings",),
    "diagnose": ("diagnose", "model", "--corpus", "corpus"),
    "evaluate": ("evaluate", "model", "--corpus", "corpus", "--samples", "2"),
    "sample": ("sample", "model", "--num", "2", "--max-tokens", "4"),
    "reconstruct": ("reconstruct", "model", "texts.txt", "--max-tokens", "4"),
    "interpolate": ("interpolate", "model", "a", "b", "--max-tokens", "4"),
    "traverse": ("traverse", "model", "--dimensions", "0", "--max-tokens", "4"),
    "encode": ("encode", "model", "texts.txt", "--to", "e.parquet"),
    "doctor": ("doctor", "done"),
    "gc": ("gc",),
    "submit": ("submit", "corpus"),
    "jobs": ("jobs",),
    "stop": ("stop", "x"),
}
"""For each command arguments that work, to which an option is added; what trains or serves is left out."""


def option_calls():
    context = click.Context(main)
    for name, base in BASES.items():
        for option in main.get_command(context, name).params:
            if isinstance(option, click.Option) and not option.is_flag:
                for value in EDGES:
                    yield (*base, option.opts[0], value)
            elif isinstance(option, click.Argument):
                yield from ((name, value, *base[2:]) for value in EDGES)


def test_edge_values_of_options(pristine, place, capfd):
    assert set(COMMANDS) >= set(BASES)
    calls, counts, wrong = list(option_calls()), Counter(), []
    put_back(pristine, place)
    for arguments in random.Random(SEED).sample(calls, min(2 * NUM_CASES, len(calls))):
        code, out, err = call(*arguments)
        fine = code in (0, 1, 2) and "Traceback" not in out + err and "sesame" not in out + err
        counts["right answer" if code == 0 else "clean error" if fine else str(code)] += 1
        if not fine:
            wrong.append(f"{code}: study {' '.join(arguments)[:200]!r}: {(out + err)[-200:]!r}")
        if strangers(place) != strangers(pristine):
            wrong.append(f"stranger's file touched: {arguments}")
            put_back(pristine, place)
    with capfd.disabled():
        print(f"\nedge values: {counts.total()} of {len(calls)} calls, {dict(counts)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize(
    "file", ["runs/done/study.json", "runs/done/optuna.db", "corpus/manifest.json", "model/model.json", None]
)
def test_files_that_another_user_may_not_read(pristine, place, file):
    """And what another user may read is read: opening a study writes nothing."""
    put_back(pristine, place)
    for path in [place, *place.rglob("*"), *place.parents]:
        if not path.is_symlink() and path.stat().st_mode & 0o055 != 0o055:
            path.chmod(path.stat().st_mode | 0o055)
    if file:
        (place / file).chmod(0)
    arguments = {"c": ("corpus", "show", "corpus"), "m": ("sample", "model", "--num", 1)}.get(
        (file or "r")[0], ("status", "done")
    )
    os.seteuid(65534)
    try:
        code, _, err = call(*arguments)
    finally:
        os.seteuid(0)
    assert code == (1 if file else 0), err
    assert len(err.splitlines()) == (1 if file else 0)
