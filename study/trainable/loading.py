"""Finding a trainable: a function by its module and name, or a command that prints a JSON object an epoch."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from study.config.own_code import OwnCode
from study.errors import StudyError, did_you_mean, first_line

Trainable = Callable[[Mapping[str, Any], Path, int], Iterable[Mapping[str, Any]]]
OUTPUT = "output.txt"
"""In a trial's folder, what a command printed that was no epoch."""
PLACE = re.compile(r"\{([^{}]*)\}")
LAST_LINES = 20


def find(code: OwnCode) -> Trainable:
    """Return the trainable that a study names: a function, or a command; raise StudyError."""
    if not code.command:
        return load_function(code.function, code.folder)
    check_program(code)
    return command_trainable(code.command, code.folder)


def check_program(code: OwnCode) -> None:
    """Raise StudyError unless the program of a command is there."""
    program = (words_of(code.command) or [""])[0]
    path = str(Path(code.folder) / program) if "/" in program else program
    if not PLACE.search(program) and shutil.which(path) is None:
        raise StudyError(f"--command {code.command}: {program} is no program that is found from {code.folder}")


def load_function(name: str, folder: str) -> Trainable:
    """Return the function `package.module:function`, looked for in a folder first; raise StudyError."""
    module_name, sign, function_name = name.partition(":")
    if not sign or not module_name or not function_name:
        raise StudyError(f"--trainable {name}: expected package.module:function")
    if folder not in sys.path:
        # For good: what it imports later is found there too.
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # Whatever code of the user's raises as it is imported.
        raise StudyError(
            f"--trainable {name} cannot be imported from {folder}: {type(error).__name__}: {first_line(error)}"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise StudyError(f"{module_name} has no function {function_name}; {did_you_mean(function_name, known)}")
    check_arguments(function, name)
    return function  # type: ignore[no-any-return]


def check_arguments(function: Callable[..., object], name: str) -> None:
    """Raise StudyError unless a function can be called with settings, folder and seed."""
    try:
        inspect.signature(function).bind({}, Path(), 0)
    except TypeError as error:
        raise StudyError(f"{name} cannot be called as train(settings, folder, seed): {error}") from None
    except ValueError:
        pass  # one without a signature that can be read


def command_trainable(command: str, cwd: str = "") -> Trainable:
    """Return a trainable that runs a command with `{NAME}` of settings, `{folder}` and `{seed}` filled in.

    Each line of its output that is a JSON object is an epoch; all else it prints goes to a file in the folder. It is
    run without a shell, in the folder where the study was started.
    """

    def train(settings: Mapping[str, Any], folder: Path, seed: int) -> Iterator[Mapping[str, Any]]:
        folder.mkdir(parents=True, exist_ok=True)
        words = filled(command, {**settings, "folder": str(folder), "seed": seed})
        with (folder / OUTPUT).open("a+", encoding="utf-8") as output:
            yield from run(words, cwd or None, output)

    return train


def run(words: list[str], cwd: str | None, output: Any) -> Iterator[Mapping[str, Any]]:
    """Run a command and yield each JSON object that it prints; raise StudyError if it fails."""
    try:
        process = subprocess.Popen(
            words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
    except OSError as error:
        raise StudyError(f"{words[0]} cannot be run: {error.strerror}") from None
    others: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            row = epoch_in(line)
            if row is not None:
                yield row
                continue
            output.write(line)
            output.flush()
            others = [*others[1 - LAST_LINES :], line]
        if process.wait():
            last = next((line.strip() for line in reversed(others) if line.strip()), "it printed nothing")
            raise StudyError(f"{words[0]} ended with exit code {process.returncode}: {last}")
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def epoch_in(line: str) -> Mapping[str, Any] | None:
    """Return the JSON object that a line is, or None."""
    try:
        found = json.loads(line) if line.lstrip().startswith("{") else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def check_places(command: str, values: Mapping[str, Any]) -> None:
    """Raise StudyError for a `{NAME}` in a command that no value has."""
    for name in PLACE.findall(command):
        if name not in values:
            raise StudyError(f"--command {command}: there is no setting {name}; {did_you_mean(name, values)}")


def words_of(command: str) -> list[str]:
    """Return a command's words; raise StudyError where a quotation has no end."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise StudyError(f"--command {command}: {str(error).lower()}; close every quotation mark") from None


def filled(command: str, values: Mapping[str, Any]) -> list[str]:
    """Return a command's words with each `{NAME}` filled in; raise StudyError for a name that there is not."""
    words = words_of(command)
    if not words:
        raise StudyError("--command is empty; expected such as: python train.py --latent {latent_size}")
    check_places(command, values)
    return [PLACE.sub(lambda match: str(values[match[1]]), word) for word in words]
