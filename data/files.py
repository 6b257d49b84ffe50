"""Files of our own: written whole or not at all, checked when read, removed without touching others'."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

Kind = TypeVar("Kind")

MOST_JSON_BYTES = 256 * 2**20
"""The largest JSON file that is read: a study's, a corpus' or a run's own are far smaller."""

ADAPTERS: dict[object, object] = {}
"""What checks values of a type, for each type that was asked for: it takes a while to make."""

HALF_WRITTEN = ".writing-*"
"""What a file or folder is called until it is whole."""


class DamagedFileError(ValueError):
    """A file is not what this project wrote: the message says which file and what was found."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Give a new, empty file beside `path` to write, and rename it to `path` when it is whole.

    Its name is nobody else's. Left by an exception, it is removed and `path` is as it was. A link stays one, and what
    it leads to is written.
    """
    path = followed(path)
    if path.exists() and not path.is_file():
        kind = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(kind, os.strerror(kind) if path.is_dir() else "It is a device, not a file", str(path))
    aside = path.with_name(f".writing-{secrets.token_hex(6)}-{path.name[-100:]}")
    try:
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        # What was asked for is what a user knows.
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        yield aside
        aside.replace(path)
    finally:
        # Of one that was put in its place nothing is left here.
        aside.unlink(missing_ok=True)


def followed(path: Path) -> Path:
    """Return what a link leads to in the end, or the path itself; raise OSError of a link that leads to itself."""
    try:
        return path.resolve() if path.is_symlink() else path
    except RuntimeError:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file that is whole or as it was before."""
    with written_aside(path) as aside:
        aside.write_bytes(text.encode())


def read_bytes(path: Path, most_bytes: int = MOST_JSON_BYTES) -> bytes:
    """Return a file's content; raise DamagedFileError if it is missing, no file, unreadable or too large."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DamagedFileError(f"{path} is no file")
        if size > most_bytes:
            raise DamagedFileError(f"{path} has {size:,} bytes, more than the {most_bytes:,} that it can have")
        return path.read_bytes()
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read: {error.strerror}") from None


def read_json(path: Path, kind: type[Kind], most_bytes: int = MOST_JSON_BYTES) -> Kind:
    """Return a JSON file as values of a type (of pydantic's: a model, a TypedDict, `dict[str, int]`).

    Raises DamagedFileError if it is missing, too large, nested too deeply, no JSON or of another type.
    """
    return parse_json(read_bytes(path, most_bytes), kind, path)


def parse_json(content: bytes | str, kind: type[Kind], where: object) -> Kind:
    """Return JSON text as values of a type; `where` it stands is for the DamagedFileError of a text that is not."""
    try:
        return adapter(kind).validate_json(content)
    except ValidationError as error:
        raise DamagedFileError(f"{where} is damaged or foreign: {first_problem(error)}") from None


def of_type(value: object, kind: type[Kind], where: object) -> Kind:
    """Return a value that was read as one of a type; raise DamagedFileError if it is none."""
    try:
        return adapter(kind).validate_python(value)
    except ValidationError as error:
        raise DamagedFileError(f"{where} is damaged or foreign: {first_problem(error)}") from None


def sealed(content: Mapping[str, object]) -> dict[str, object]:
    """Return JSON values with a digest of all the others as their last, `digest`."""
    rest = {name: value for name, value in content.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return rest | {"digest": hashlib.sha256(text.encode()).hexdigest()[:16]}


def is_sealed(content: Mapping[str, object]) -> bool | None:
    """Say whether JSON values are those that were sealed; None without a digest, which older versions wrote none of."""
    return None if "digest" not in content else sealed(content)["digest"] == content["digest"]


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def adapter(kind: type[Kind]) -> TypeAdapter[Kind]:
    """Return what checks values of a type."""
    if kind not in ADAPTERS:
        ADAPTERS[kind] = TypeAdapter(kind)
    return cast("TypeAdapter[Kind]", ADAPTERS[kind])


def first_problem(error: ValidationError) -> str:
    """Return the first thing that a validation found wrong, in one short line: where, what, and what was there."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))[:100]
    shown = repr(first["input"])
    shown = shown if len(shown) <= 62 else f"{shown[:60]}..."
    found = "" if isinstance(first["input"], dict | list | bytes | BaseModel) else f", got {shown}"
    words = str(first["msg"]).removeprefix("Value error, ").splitlines()[0][:200]
    return f"{place}: {words}{found}" if place else f"{words}{found if first['type'] != 'json_invalid' else ''}"


def lock(stream: IO[str], *, wait: bool = True, shared: bool = False) -> bool:
    """Lock an open file for this process, until it is closed or the process ends; say whether it has it.

    Without `wait`, a lock that another process has is not waited for. Raises OSError where files cannot be locked.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(stream, how)
    except BlockingIOError:
        return False
    return True


def remove_files(folder: Path, names: Iterable[str]) -> bool:
    """Remove files of ours by their names in a folder, and the folder if nothing else is in it; say whether it is gone.

    Whatever else is there stays, and so do links and folders that have a name of ours.
    """
    if folder.is_symlink() or not folder.is_dir():
        return not folder.exists()
    for name in names:
        path = folder / name
        if path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
