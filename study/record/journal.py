"""A trial's epochs on disk, a line each, every line with a digest of itself and all before it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from data.files import (
    DamagedFileError,
    parse_json,
    read_bytes,
)
from study.config.stored import check_digest, free_path
from study.epoch import Epoch, Stored
from study.errors import StudyError
from study.record.places import DEFINITION, JOURNAL

MOST_BYTES = 2**30
DIGEST = ', "digest": "'


class DamagedJournalError(StudyError):
    """A trial's journal is not what was written; `rows` are the epochs before the damage."""

    def __init__(self, message: str, rows: list[Epoch]) -> None:
        super().__init__(message)
        self.rows = rows


def study_names(storage: Path) -> list[str]:
    """Return the names of the studies in a folder."""
    return sorted(path.parent.name for path in storage.glob(f"*/{DEFINITION}"))


def read_journal(folder: Path) -> list[Epoch]:
    """Return a trial's epochs; a last line that was cut short by a crash does not count.

    Raises DamagedJournalError if a line is missing, was changed or is no epoch.
    """
    path = folder / JOURNAL
    if not os.path.lexists(path):
        return []
    rows: list[Epoch] = []
    try:
        lines = read_bytes(path, MOST_BYTES).split(b"\n")[:-1]
    except DamagedFileError as error:
        raise DamagedJournalError(f"{error}{mend(folder.parent.parent)}", rows) from None
    before, is_digested = "", bool(lines) and DIGEST.encode() in lines[0]
    for number, line in enumerate(lines, 1):
        where = f"{path} line {number}"
        try:
            text = line.decode()
            body, digest = split_digest(text)
            if is_digested:
                check_digest(digest, next_digest(before, body), where)
            rows.append(checked(parse_json(body if digest else text, dict[str, Stored], where), rows, where))
        except UnicodeDecodeError:
            raise DamagedJournalError(f"{where} is no text{mend(folder.parent.parent)}", rows) from None
        except DamagedFileError as error:
            raise DamagedJournalError(f"{error}{mend(folder.parent.parent)}", rows) from None
        before = digest
    return rows


def mend(folder: Path) -> str:
    """Return what to do about the damaged record of the study in a folder, as the end of a sentence."""
    return f"; `study doctor {folder.name} --repair{storage_hint(folder.parent)}` goes on from what is whole"


def storage_hint(storage: Path) -> str:
    """Return the option by which a command finds studies that are not in the usual folder, or nothing."""
    return "" if storage == Path("runs") else f" --storage {shlex.quote(str(storage))}"


def checked(row: Mapping[str, Stored], before: list[Epoch], where: str) -> Epoch:
    """Return the epoch of a line; raise DamagedFileError unless it is an epoch that comes after those before it."""
    epoch, seconds = row.get("epoch"), row.get("seconds")
    if not isinstance(epoch, int) or epoch <= (before[-1].number if before else 0):
        raise DamagedFileError(f"{where}: expected the number of a later epoch, got {str(epoch)[:60]}")
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise DamagedFileError(f"{where}: expected seconds, got {str(seconds)[:60]}")
    wrong = [name for name, value in row.items() if "/" in name and not isinstance(value, int | float)]
    if wrong:
        raise DamagedFileError(f"{where}: {wrong[0]} is no number")
    # Where it has no nll, a minus ELBO ranks.
    ranked = "valid/elbo" if "valid/elbo" in row and "valid/nll" not in row else "valid/nll"
    missing = {ranked, "valid/kl", "valid/mi", "valid/au", "outcome"} - row.keys()
    if missing:
        raise DamagedFileError(f"{where} lacks {', '.join(sorted(missing))}")
    return Epoch.from_json(row)


def split_digest(line: str) -> tuple[str, str]:
    """Return a line's JSON without its digest, and the digest; an empty one of a line that has none."""
    place = line.rfind(DIGEST)
    return (f"{line[:place]}}}", line[place + len(DIGEST) : -2]) if place >= 0 else (line, "")


def next_digest(before: str, body: str) -> str:
    """Return the digest of a line that follows the line with the digest `before`."""
    return hashlib.sha256(f"{before}{body}".encode()).hexdigest()[:16]


def append_journal(folder: Path, row: Epoch) -> None:
    """Append an epoch to a trial's journal, on disk before this returns; repair a line cut short before."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / JOURNAL).open("a+b") as stream:
        stream.seek(0)
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            stream.truncate(whole)
        last = content[content.rfind(b"\n", 0, whole - 1) + 1 : whole - 1] if whole else b""
        before, body = split_digest(last.decode())[1], json.dumps(row.to_json())
        # Of an older version's study, whose lines have none.
        line = f'{body[:-1]}{DIGEST}{next_digest(before, body)}"}}' if before or not last else body
        stream.write(line.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def rewrite_journal(folder: Path, rows: list[Epoch]) -> None:
    """Put a journal of these epochs in the place of a damaged one, which is kept beside it."""
    path = folder / JOURNAL
    if os.path.lexists(path):
        path.replace(free_path(path.with_name(f"{JOURNAL}.damaged")))
    for row in rows:
        append_journal(folder, row)
