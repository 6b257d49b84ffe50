"""What studies are called, and where they and their tracking database lie."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from study.errors import StudyError

MLFLOW_DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"
RESERVED = (MLFLOW_DATABASE, ARTIFACTS)
"""What lies beside the studies."""
CONFIRMATION = "-confirm"
"""What the name of a study's confirmation ends in."""
LOCAL = "sqlite:///"
"""What the address of a local database begins with."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_study_name(name: str, option: str = "--name") -> str:
    """Return a study's name; raise StudyError unless it can stand in paths and queries."""
    if not NAME.fullmatch(name):
        raise StudyError(
            f"{option} {name[:100]!r}: expected at most 64 letters, digits, dots, dashes and underscores,"
            " beginning with a letter or digit"
        )
    if name.lower() in RESERVED or name.lower().startswith(f"{RESERVED[0]}-"):
        raise StudyError(f"{option} {name}: MLflow's own files beside the studies have that name; choose another")
    return name


def free_name(storage: Path, stem: str, taken: Collection[str] = ()) -> str:
    """Return a name that no study here has and that is not taken elsewhere: the stem, or the stem with a number."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "study"
    number = 1
    while (name := stem if number == 1 else f"{stem}-{number}") in taken or (storage / name).exists():
        number += 1
    return name


def check_apart(storage: Path, name: str, tracking_uri: str) -> None:
    """Raise StudyError if a study's folder and a tracking database would be at one place, or one within the other."""
    file = database_file(tracking_uri)
    if file is None:
        return
    folder, file = (storage / name).absolute(), file.absolute()
    if folder == file or folder in file.parents or file in folder.parents:
        raise StudyError(f"the tracking database {file} and the folder of the study {folder} collide; move one of them")


def absolute_database(uri: str | None) -> str | None:
    """Return an address with a relative sqlite file made absolute: trials and servers start elsewhere."""
    file = database_file(uri or "")
    return uri if file is None else f"{LOCAL}{file.absolute()}"


def database_file(uri: str) -> Path | None:
    """Return the file of a local database, None of a server's address."""
    return Path(uri.removeprefix(LOCAL)) if uri.startswith(LOCAL) else None


def default_tracking_uri(storage: Path) -> str:
    """Return the MLflow database beside the studies."""
    return f"{LOCAL}{(storage / MLFLOW_DATABASE).absolute()}"
