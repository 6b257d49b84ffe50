"""What is promised and easily broken: nobody's files, named damage, loopback alone, no password anywhere."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from conftest import json_lines, tiny_settings
from studies import definition, row, start

from study.cluster.cleanup import find_garbage, remove
from study.cluster.repair import repair
from study.config.addresses import hidden, holds_secret, shown
from study.errors import StudyError, StudyWarning
from study.record.formats import code, plain
from study.record.ledger import Ledger
from study.record.states import State
from study.tracking.ui import take_port
from study.training import checkpoints
from study.training.checkpoints import Progress, save_checkpoint

STUDY = [sys.executable, "-c", "from study.cli.main import entry; entry()"]


@pytest.fixture
def copied(finished_study, tmp_path):
    """A copy of a finished study that can be spoilt: its storage."""
    shutil.copytree(finished_study / "done", tmp_path / "runs/done")
    return tmp_path / "runs"


# Nobody's files


def test_a_folder_that_is_no_study_is_refused_and_left_as_it_was(corpus, tiny_toml, tmp_path, call):
    thesis = tmp_path / "place/thesis/chapter.txt"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("precious")
    for more in ((), ("--tracking-uri", "sqlite:////proc/x.db")):
        code, _, err = call(
            "run", corpus.folder, "--config", tiny_toml, "--storage", tmp_path / "place", "--name", "thesis", *more
        )
        assert code == 1
        assert "not empty" in err
        assert [path.name for path in thesis.parent.iterdir()] == ["chapter.txt"]
    assert thesis.read_text() == "precious"


def test_a_study_that_cannot_start_leaves_its_name_free_and_removes_what_it_made_alone(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition())
    (tmp_path / "one/notes.txt").write_text("mine")
    ledger.discard()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["notes.txt"]
    (tmp_path / "two").mkdir()
    ledger = Ledger.create(tmp_path / "two", definition(name="two"))
    assert ledger.study.trials == []
    ledger.discard()
    assert not (tmp_path / "two").exists()


def test_an_unreachable_tracking_database_frees_the_name(corpus, tiny_toml, tmp_path, call):
    arguments = ("run", corpus.folder, "--config", tiny_toml, "--storage", tmp_path, "--name", "x")
    code, _, err = call(*arguments, "--tracking-uri", "sqlite:////proc/x.db")
    assert (code, "Traceback" in err) == (1, False)
    assert not (tmp_path / "x").exists()


def test_removing_garbage_and_old_checkpoints_spares_what_others_put_there(copied):
    trial = copied / "done/trials/00000"
    strange = [
        trial / "checkpoints/notes.txt",
        *(path / "notes.txt" for path in trial.glob("*-*")),
        *(path / "notes.txt" for path in trial.glob("checkpoints/step-*")),
        trial / "checkpoints/mine/model.safetensors",
    ]
    for path in strange:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    strange.pop().unlink()  # of our name, in a folder that is not ours: only the folder is left to see
    for garbage in list(find_garbage(Ledger.open(copied / "done"), 1)):
        remove(garbage)
    assert [path.read_text() for path in strange] == ["mine"] * len(strange)
    assert not list(copied.glob("*/trials/*/checkpoints/step-*/state.safetensors"))


def test_checkpoints_replace_and_remove_their_own_files_alone(tmp_path):
    progress = Progress(tiny_settings().model_dump(), "f")
    for step in (1, 2, 3):
        progress.step = step
        save_checkpoint(tmp_path, progress, {})
        (tmp_path / f"step-{step:09d}/notes.txt").write_text("mine")
    (tmp_path / f"step-{3:09d}" / checkpoints.PROGRESS).write_text("damaged")
    save_checkpoint(tmp_path, progress, {})
    kept = [path.read_text() for path in tmp_path.rglob("notes.txt")]
    assert kept == ["mine"] * 3
    assert checkpoints.load_checkpoint(tmp_path)[0].step == 3


def test_outputs_are_written_through_links_and_beside_nothing_of_others(copied, call, tmp_path):
    target, link = tmp_path / "elsewhere.parquet", tmp_path / "link.parquet"
    link.symlink_to(target)
    side = tmp_path / ".link.parquet.writing"
    side.write_text("mine")
    assert call("export", "done", "--to", link, "--storage", copied)[0] == 0
    assert link.is_symlink()
    assert target.is_file()
    assert side.read_text() == "mine"
    figure = tmp_path / "paper-learning-curves.svg"
    figure.write_text("mine")
    code, _, err = call("report", "done", "--markdown", tmp_path / "paper.md", "--storage", copied)
    assert code == 1
    assert "paper-learning-curves.svg" in err
    assert figure.read_text() == "mine"
    figure.unlink()
    for _ in range(2):
        assert call("report", "done", "--markdown", tmp_path / "paper.md", "--storage", copied)[0] == 0


# A damaged record


def test_a_journal_cut_short_is_named_and_repaired_to_the_same_numbers(ray_session, copied, call):
    storage = ("--storage", copied)
    before = json_lines(call("report", "done", "--json", *storage)[1])
    best = min((line for line in before if line["state"] == "complete"), key=lambda line: line["valid"]["nll"])["trial"]
    journal = copied / f"done/trials/{best:05d}/epochs.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))
    for command in (("report",), ("status",), ("export", "--to", copied / "x.parquet"), ("evaluate",)):
        code, out, err = call(command[0], "done", *command[1:], *storage)
        assert (code, out) == (1, "")
        assert f"trial {best}" in err
        assert "study doctor done --repair" in err
    assert call("doctor", "done", *storage)[0] == 1
    code, out, _ = call("doctor", "done", "--repair", *storage)
    assert code == 0
    assert f"trial {best}" in out
    assert call("doctor", "done", *storage)[0] == 0
    assert call("run", "--resume", "done", *storage)[0] == 0
    after = json_lines(call("report", "done", "--json", *storage)[1])
    assert [line["valid"] for line in after] == [line["valid"] for line in before]
    assert [line["params"] for line in after] == [line["params"] for line in before]


def test_an_empty_database_is_named_written_by_no_reader_and_made_again(ray_session, copied, call):
    storage = ("--storage", copied)
    before = json_lines(call("report", "done", "--json", *storage)[1])
    path = copied / "done/optuna.db"
    path.write_bytes(b"")
    for command in ("status", "report", "gc", "doctor", "diagnose"):
        code, out, err = call(command, "done", *storage)
        assert code == 1, command
        # The doctor's table breaks lines where it likes.
        assert command == "doctor" or "optuna.db is empty" in out + err
        assert path.stat().st_size == 0
    assert call("doctor", "done", "--repair", *storage)[0] == 0
    assert call("run", "--resume", "done", *storage)[0] == 0
    after = json_lines(call("report", "done", "--json", *storage)[1])
    assert [line["valid"] for line in after] == [line["valid"] for line in before]
    assert [line["state"] for line in after] == [line["state"] for line in before]


@pytest.mark.parametrize(
    "change",
    [
        "update trial_intermediate_values set intermediate_value = 1.5 where trial_id = 1 and step = 1",
        "update trial_params set param_value = param_value + 1 where trial_id = 2",
        "update trial_values set value = value - 1",
        "update trials set state = 'FAIL' where number = 0",
        "delete from trials where number = 5",
        "delete from trial_params where trial_id = 1",
        "update trial_user_attributes set value_json = '\"because\"' where key = 'reason'",
        "drop table trial_params",
        "update studies set study_name = 'x'",
    ],
)
def test_a_changed_database_is_named(copied, call, change):
    with sqlite3.connect(copied / "done/optuna.db") as connection:
        connection.execute(change)
    code, _, err = call("report", "done", "--json", "--storage", copied)
    assert code == 1
    assert "damaged" in err or "cannot be used" in err
    assert len(err.splitlines()) == 1
    assert "doctor done --repair" in err


def test_a_database_that_is_only_busy_is_not_thrown_away(copied, call, monkeypatch):
    from study.record import database

    monkeypatch.setattr(database, "WAIT_SECONDS", 0.2)
    path = copied / "done/optuna.db"
    before = path.read_bytes()
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("begin exclusive")
        for arguments in (("status", "done"), ("doctor", "done", "--repair")):
            code, _, err = call(*arguments, "--storage", copied)
            assert code == 1
            assert "is locked" in err
            assert "--repair" not in err
        holder.execute("rollback")
    assert path.read_bytes() == before
    assert not list(copied.rglob("*.damaged"))


def test_values_of_an_unfinished_trial_are_held_against_what_it_was_given(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition())
    ledger.ask()
    ledger.close()
    assert Ledger.open(tmp_path / "one").trials()[0].state == "running"
    with sqlite3.connect(tmp_path / "one/optuna.db") as connection:
        connection.execute("update trial_params set param_value = param_value + 1 where param_id = 1")
    with pytest.raises(StudyError, match="not those that it was given"):
        Ledger.open(tmp_path / "one").trials()


def test_a_link_to_a_device_is_no_output(copied, call, tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("x.parquet", "x.svg", "x.md", "x.html"):
        (tmp_path / name).symlink_to("/dev/null")
    for arguments in (
        ("export", "done", "--to", "x.parquet"),
        ("report", "done", "--figure", "x.svg"),
        ("report", "done", "--html", "x.html"),
        ("report", "done", "--markdown", "x.md"),
    ):
        code, _, err = call(*arguments[:-1], tmp_path / arguments[-1], "--storage", copied)
        assert code == 1, arguments
        assert "a device" in err
    assert Path("/dev/null").is_char_device()


def test_one_bad_study_hides_no_other(copied, call):
    shutil.copytree(copied / "done", copied / "bad")
    (copied / "bad/study.json").write_text("[" * 100_000)
    code, out, err = call("status", "--storage", copied)
    assert code == 1
    assert "done: " in out
    assert "bad: " in err
    assert "Traceback" not in err


def test_a_definition_changed_by_hand_is_told_and_one_that_gives_other_numbers_is_refused(copied):
    path = copied / "done/study.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"num_trials": 9}))
    with pytest.warns(StudyWarning, match="by hand"):
        assert Ledger.open(copied / "done").definition.num_trials == 9
    path.write_text(json.dumps(content | {"seed": 9}))
    with pytest.raises(StudyError, match="decides its numbers"):
        Ledger.open(copied / "done")


def test_a_lost_list_of_runs_is_told_and_made_again(copied):
    for content in ("[]", "{", '{"study": 3}', '{"study": "../../x"}'):
        (copied / "done/mlflow.json").write_text(content)
        with pytest.warns(StudyWarning, match=r"mlflow.json .* made again"):
            assert Ledger.open(copied / "done").run_ids() == {}


def test_a_repaired_study_keeps_what_was_damaged(tmp_path):
    ledger = Ledger.create(tmp_path / "one", definition())
    for _ in range(2):
        number, _ = ledger.ask()
        for epoch in (1, 2, 3):
            ledger.add_row(number, row(epoch, 5.0 - epoch / 10))
        ledger.finish(number, State.COMPLETE)
    ledger.close()
    params = [trial.params for trial in ledger.trials()]
    journal = ledger.trial_folder(1) / "epochs.jsonl"
    content = bytearray(journal.read_bytes())
    content[-30] ^= 1
    journal.write_bytes(content)
    told = list(repair(tmp_path / "one", ledger.definition))
    assert "trial 1" in told[0]
    found = Ledger.open(tmp_path / "one").trials()
    assert [trial.state for trial in found] == ["complete", "waiting"]
    assert [len(trial.rows) for trial in found] == [3, 2]
    again = Ledger.open(tmp_path / "one")
    assert again.ask() == (1, params[1])
    assert {path.name for path in tmp_path.glob("one/**/*damaged*")} == {"epochs.jsonl.damaged", "optuna.db.damaged"}


# Loopback alone


def listening(process):
    """Return the addresses on which a process and all that it started listen."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            found |= {
                (each.name(), at.laddr.ip) for at in each.net_connections("tcp") if at.status == psutil.CONN_LISTEN
            }
    return found


@pytest.mark.slow
def test_a_local_study_listens_on_loopback_alone_and_leaves_no_token_or_folder(
    corpus, tiny_toml, tmp_path, monkeypatch
):
    home, scratch = tmp_path / "home", tmp_path / "t"
    home.mkdir()
    scratch.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    # A name that is short enough for sockets, which pytest's own is not.
    short = Path(f"/tmp/t{os.getpid()}")
    short.symlink_to(scratch)
    monkeypatch.setenv("TMPDIR", str(short))
    log = tmp_path / "stderr"
    try:
        study = start(
            log,
            "run",
            corpus.folder,
            "--config",
            tiny_toml,
            "--set",
            "training.epochs=200",
            "--scheduler",
            "none",
            "--trials",
            4,
            "--name",
            "x",
            "--storage",
            tmp_path / "runs",
        )
        seen, deadline = set(), time.monotonic() + 120
        while not list((tmp_path / "runs").glob("x/trials/*/epochs.jsonl")):
            assert study.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            seen |= listening(psutil.Process(study.pid))
            time.sleep(0.2)
        seen |= listening(psutil.Process(study.pid))
        gcs = next(each for each in psutil.Process(study.pid).children(recursive=True) if "gcs_server" in each.name())
        port = next(at.laddr.port for at in gcs.net_connections("tcp") if at.status == psutil.CONN_LISTEN)
        without = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from ray._raylet import GcsClient; GcsClient('127.0.0.1:{port}'); print('came in')",
            ],
            env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
            | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guessed"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "came in" not in without.stdout
        assert "token" in without.stderr.lower()
        study.terminate()
        assert study.wait(120) == 130, log.read_text()
        assert len(seen) >= 4
        assert {ip.removeprefix("::ffff:") for _, ip in seen} == {"127.0.0.1"}
        assert not (home / ".ray/auth_token").exists()
        assert list(scratch.glob("study-*")) == []
        assert not (scratch / "ray").exists()
    finally:
        short.unlink()


def ask(port, method="GET", path="/api/studies", **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_dashboard_shows_a_copy_to_this_machine_alone(copied):
    port, path = take_port(None), copied / "done/optuna.db"
    before = path.read_bytes()
    process = subprocess.Popen([sys.executable, "-m", "study.tracking.dashboard", copied, "done", str(port)])
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError):
                if ask(port) == 200:
                    break
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert ask(port, Host="evil.example") == 403
        assert ask(port, Host=f"evil.example:{port}") == 403
        assert ask(port, Origin="http://evil.example") == 403
        assert ask(port, "DELETE", "/api/studies/1", Host="evil.example", Origin="http://evil.example") == 403
        assert ask(port, "DELETE", "/api/studies/1") == 405
        assert ask(port, "POST", "/api/studies") == 405
        assert ask(port, path="/api/studies/1?after=0") == 200
        assert path.read_bytes() == before
    finally:
        process.kill()
        process.wait()


# No password anywhere


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        ("postgresql://me:sesame@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=sesame", "postgresql://host/db?user=me&password=***"),
        ("postgresql:///db?host=/run&sslpassword=sesame", "postgresql:///db?host=/run&sslpassword=***"),
        ("https://host/?access_token=sesame", "https://host/?access_token=***"),
        ("ray://me:sesame@host:10001", "ray://me:***@host:10001"),
        ("me:sesame@host:6379", "me:***@host:6379"),
        ("http://me:ses/ame@host", "http://me:***@host"),
        ("postgresql://me:ses@me@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sesame@[bad", "postgresql://me:***@[bad"),
        ("postgresql://me:sesame", "postgresql://me:***"),
        ("postgresql:/me:sesame@host/db", "postgresql:/me:***@host/db"),
    ],
)
def test_passwords_are_found_in_whatever_place_of_an_address(address, safe):
    assert shown(address) == safe
    assert holds_secret(address)
    assert "sesame" not in hidden(f"no server answers at {address} today")


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:5000",
        "http://[::1]:5000",
        "auto",
        "host:6379",
        "sqlite:////home/a@b/m.db",
        "postgresql://me@host:5432/db?sslmode=require",
        "http://host:5000/path@x",
    ],
)
def test_addresses_without_a_password_are_as_they_are(address):
    assert shown(address) == address
    assert not holds_secret(address)


PLANTED = [
    ("run", "prepared", "--tracking-uri", "http://h/?password=sesame"),
    ("run", "prepared", "--tracking-uri", "postgresql://me:sesame@[bad"),
    ("run", "prepared", "--optuna-url", "postgresql://h/db?password=sesame"),
    ("run", "prepared", "--address", "ray://me:sesame@h:10001"),
    ("run", "prepared", "--address", "me:sesame@h:6379"),
    ("run", "prepared", "--name", "http://me:sesame@h"),
    ("run", "prepared", "--trials", "http://me:sesame@h"),
    ("compare", "prepared", "--tracking-uri", "http://me:sesame@h"),
    ("ui", "--tracking-uri", "postgresql://h/db?password=sesame"),
    ("doctor", "--tracking-uri", "http://me:sesame@h:1"),
    ("doctor", "--address", "me:sesame@h:1"),
    ("submit", "--address", "http://me:sesame@h:1", "chitchat"),
    ("submit", "chitchat", "--tracking-uri=http://h/?token=sesame"),
    ("jobs", "--address", "http://me:sesame@h:1"),
    ("spot", "--metadata", "http://me:sesame@127.0.0.1:1"),
]


@pytest.mark.parametrize("arguments", PLANTED, ids=" ".join)
def test_a_planted_password_is_in_no_output_and_no_file(corpus, tmp_path, monkeypatch, call, arguments):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpus.folder, "prepared")
    code, out, err = call(*arguments)
    assert code in (1, 2)
    assert "sesame" not in out + err
    assert "Traceback" not in err
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sesame" not in path.read_bytes()


# Ray's start


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Exception("The current node timed out during startup. This could happen"), "too busy"),
        (OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes"), "study doctor"),
        (RuntimeError("Failed to start GCS.\n many lines"), "study doctor"),
    ],
)
def test_a_ray_that_does_not_start_is_one_line_and_the_name_is_free(
    corpus, tiny_toml, tmp_path, monkeypatch, call, error, words
):
    import ray

    def fail(*arguments, **options):
        raise error

    # As if none were running.
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda **options: None)
    monkeypatch.setattr(ray, "init", fail)
    code, _, err = call("run", corpus.folder, "--config", tiny_toml, "--name", "x", "--storage", tmp_path / "runs")
    assert code == 1
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs/x").exists()


def test_a_long_temporary_folder_is_no_reason_to_fail(monkeypatch, tmp_path):
    from study.execution import local_ray

    long = tmp_path / ("a" * 80)
    long.mkdir()
    monkeypatch.setattr(local_ray.tempfile, "tempdir", str(long))
    folder = local_ray.private_folder()
    try:
        assert len(str(folder)) < 40
        assert folder.stat().st_mode & 0o777 == 0o700
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_a_killed_study_left_is_swept_and_no_other(monkeypatch, tmp_path):
    import fcntl

    from study.execution import local_ray

    monkeypatch.setattr(local_ray, "parents", lambda: [str(tmp_path)])
    for name, mark in (
        ("left", local_ray.OWNED_BY),
        ("held", local_ray.OWNED_BY),
        ("thesis", "17"),
        ("more", local_ray.OWNED_BY),
    ):
        (tmp_path / f"study-{name}/r").mkdir(parents=True)
        (tmp_path / f"study-{name}/owner").write_text(mark)
    (tmp_path / "study-more/chapter.txt").write_text("mine")
    with (tmp_path / "study-held/owner").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        local_ray.sweep_folders()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study-held", "study-more", "study-thesis"]


def test_a_token_file_of_rays_is_closed_to_others(monkeypatch, tmp_path):
    from study.execution import local_ray

    monkeypatch.setenv("HOME", str(tmp_path))
    local_ray.close_token_file()
    path = tmp_path / ".ray/auth_token"
    path.parent.mkdir()
    path.write_text("token")
    path.chmod(0o644)
    local_ray.close_token_file()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "token"


# Memory


def test_a_compressed_line_that_no_memory_holds_is_refused(tmp_path, call):
    path = tmp_path / "bomb.txt.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        for _ in range(30):
            stream.write(b"a" * 10 * 2**20)
    assert path.stat().st_size < 100_000
    before = psutil.Process().memory_info().rss
    code, _, err = call("corpus", "prepare", path, "--out", tmp_path / "out")
    assert code == 1
    assert "line 1 has more than 67,108,864 bytes" in err
    assert "--max-sequence-bytes" in err
    assert psutil.Process().memory_info().rss - before < 250 * 2**20
    table = tmp_path / "bomb.csv.zst"
    shutil.copy(path, table)
    assert "line 1 has more than" in call("corpus", "prepare", table, "--column", "x", "--out", tmp_path / "out")[2]
    assert not (tmp_path / "out").exists()


def test_peak_memory_is_of_what_was_done_since_the_last_reset():
    import torch

    from study.training.devices import peak_memory_bytes, reset_peak_memory

    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory_bytes(device)
    large = torch.ones(200 * 2**18)
    assert peak_memory_bytes(device) > before + 150 * 2**20
    del large
    reset_peak_memory(device)
    assert peak_memory_bytes(device) < psutil.Process().memory_info().rss + 50 * 2**20


# Words


def test_what_users_wrote_is_no_markup():
    assert plain("[a](javascript:alert(1))") == r"\[a\]\(javascript:alert\(1\)\)"
    assert plain("<b>&</b>") == "&lt;b>&amp;&lt;/b>"
    assert plain("http://example.org") == r"http\://example.org"
    assert code("a`b``c") == "``` a`b``c ```"


def test_a_corpus_named_to_be_markup_is_shown_as_it_is(copied, call, tmp_path):
    path = copied / "done/study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"corpus_name": "[x](javascript:alert(1))<img src=x>"}))
    target = tmp_path / "a.md"
    assert call("report", "done", "--markdown", target, "--storage", copied)[0] == 0
    text = target.read_text()
    outside_code = "".join(text.split("`")[::2])
    assert "](javascript" not in outside_code
    assert "<img" not in outside_code


@pytest.mark.parametrize("arguments", [("settings",), ("status",), ("report", "done", "--json"), ("--help",)])
def test_a_full_disk_behind_the_output_is_one_line(copied, arguments):
    with Path("/dev/full").open("w") as full:
        command = [*STUDY, *arguments, *(("--storage", copied) if arguments[0] in ("status", "report") else ())]
        found = subprocess.run(list(map(str, command)), stdout=full, stderr=subprocess.PIPE, text=True)
    assert found.returncode == 1
    assert found.stderr == "study: the output cannot be used: No space left on device\n"
