"""The user's own files: which they are, and how the text, the label and the group of a sequence are found in them."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pyarrow as pa

from data.errors import CorpusError
from data.sources import readers
from data.sources.columns import Columns
from data.sources.streams import COMPRESSIONS, MAX_SEQUENCE_BYTES


@dataclass(frozen=True)
class TextFile:
    """One file of sequences, its format, and where in it the text, the group and the label are."""

    path: Path
    columns: Columns = field(default_factory=Columns)
    format: str | None = None
    """One of `readers.FORMATS`; by the name's ending if not given."""
    max_sequence_bytes: int = MAX_SEQUENCE_BYTES

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Yield frames of `text`, `group` and `label` (null without), a bounded number of rows each.

        A column `tokens` is there where the file has lists of tokens. Raises CorpusError, with the line where there
        are lines, for whatever cannot be read as it was meant.
        """
        check_file(self.path)
        name = self.format or ending(self.path)
        self._check_options(name)
        try:
            yield from readers.FORMATS[name](self.path, self.columns, self.max_sequence_bytes)
        except (pl.exceptions.PolarsError, pa.ArrowException, OSError, EOFError) as error:
            message = (str(error).splitlines() or [type(error).__name__])[0]
            raise CorpusError(f"{self.path} cannot be read as {name}: {message}") from None

    def _check_options(self, name: str) -> None:
        """Raise CorpusError for what is said of a file that its format has not."""
        columns = self.columns
        for option, is_given, formats in (
            ("--labels-in-text", columns.labels_in_text != "none", ("txt",)),
            ("--no-header", not columns.has_header, ("csv", "tsv")),
            ("--quotes", columns.quotes != "doubled", ("csv",)),
        ):
            if is_given and name not in formats:
                raise CorpusError(f"{option} is of {' and '.join(formats)}, and {self.path} is {name}; leave it out")


def ending(path: Path) -> str:
    """Return a name's ending without dot and compression, such as `jsonl`."""
    return (Path(path.stem) if path.suffix in COMPRESSIONS else path).suffix[1:].lower()


def check_file(path: Path) -> None:
    """Raise CorpusError if a file is missing or empty."""
    if not path.is_file():
        raise CorpusError(f"{path} does not exist; name a file, a folder or a glob")
    with path.open("rb") as stream:
        if not stream.read(1):
            raise CorpusError(f"{path} is empty; expected one sequence a line")


def expand(pattern: str, *, any_name: bool = False) -> list[Path]:
    """Return the files that a path, folder or glob names, sorted; in a folder those alone that can be read."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = [item for item in path.rglob("*") if item.is_file() and (any_name or ending(item) in readers.FORMATS)]
    elif path.exists():
        files = [path]
    else:
        files = [Path(item) for item in glob.glob(str(path), recursive=True) if Path(item).is_file()]  # noqa: PTH207 - absolute patterns too
    if not files:
        raise CorpusError(
            f"{pattern} names no file; expected a file, a folder or a glob of .{' .'.join(readers.FORMATS)}"
        )
    return sorted(files)


def find_files(
    patterns: dict[str, list[str]],
    columns: Columns,
    format_name: str | None = None,
    max_sequence_bytes: int | None = None,
) -> dict[str, list[TextFile]]:
    """Return the files that patterns name, by split or under `all`; raise CorpusError if one cannot be read."""
    splits: dict[str, list[TextFile]] = {}
    for split, names in patterns.items():
        files = sorted({path for name in names for path in expand(name, any_name=format_name is not None)})
        for path in files:
            if format_name is None and ending(path) not in readers.FORMATS:
                raise CorpusError(
                    f"{path} ends in none of .{' .'.join(readers.FORMATS)} (optionally with .gz or .zst); say what it"
                    " is by --format"
                )
        # An empty one among several holds nothing to miss.
        files = [path for path in files if path.stat().st_size] or files
        for path in files:
            check_file(path)
        most = max_sequence_bytes or MAX_SEQUENCE_BYTES
        splits[split] = [TextFile(path, columns, format_name, most) for path in files]
    return splits
