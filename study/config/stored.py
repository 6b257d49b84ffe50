"""JSON files of a study's own: whole or not there, with a digest of what they say."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from data.files import DamagedFileError, of_type, read_json, sealed, write_text
from study.errors import StudyError

Kind = TypeVar("Kind")


def check_digest(stored: object, found: str, where: str) -> None:
    """Raise DamagedFileError unless a digest that was stored is the one of what was found."""
    if stored != found:
        raise DamagedFileError(f"{where} is damaged: its digest is not that of its content")


def free_path(path: Path) -> Path:
    """Return a path that nothing is at: this one, or this one with a number."""
    candidate, number = path, 1
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def without_nan(content: object) -> object:
    """Return JSON values with numbers that JSON has no word for (nan, infinity) replaced by null."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file that is whole or not there."""
    write_text(path, json.dumps(without_nan(content), indent=1, allow_nan=False) + "\n")


def write_sealed(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file that is whole or not there, with a digest of what it says."""
    write_json(path, sealed({name: without_nan(value) for name, value in content.items()}))


def read_sealed(path: Path, kind: type[Kind], what_to_do: str) -> Kind:
    """Return what `write_sealed` wrote, without its digest, as values of a type; raise StudyError if it is damaged."""
    try:
        content: dict[str, object] = read_json(path, dict[str, object])
        if "digest" in content:
            check_digest(content.pop("digest"), str(sealed(content)["digest"]), str(path))
        return of_type(content, kind, path)
    except DamagedFileError as error:
        raise StudyError(f"{error}; {what_to_do}") from None
