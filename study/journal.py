"""A trial's epochs on disk, a line each, and JSON files that are whole or not there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFINITION = "study.json"
"""The file that makes a folder a study's."""


def study_names(storage: Path) -> list[str]:
    """Return the names of the studies in a folder."""
    return sorted(path.parent.name for path in storage.glob(f"*/{DEFINITION}"))


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return a trial's epochs; a last line that was cut short by a crash does not count."""
    path = folder / "epochs.jsonl"
    return list(_whole_lines(path)) if path.exists() else []


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def append_journal(folder: Path, row: dict[str, Any]) -> None:
    """Append an epoch to a trial's journal, on disk before this returns; repair a line cut short before."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "epochs.jsonl").open("a+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        whole = stream.read().rfind(b"\n") + 1
        if whole != size:
            stream.truncate(whole)
        stream.write(json.dumps(row).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def without_nan(content: Any) -> Any:
    """Return JSON values with numbers that JSON has no word for (nan, infinity) replaced by null."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is whole or not there."""
    write_text(path, json.dumps(without_nan(content), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file aside, then rename it into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, "utf-8")
    aside.replace(path)
