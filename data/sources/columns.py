"""Which columns of a file hold what, and rows of them as frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import polars as pl

from data.errors import CorpusError

CHUNK_ROWS = 50_000
TEXT = "text"


class Places(NamedTuple):
    """The places of a row's columns among those of its file."""

    text: int
    group: int | None
    label: int | None


class Row(NamedTuple):
    """One sequence: its text or its tokens, and what it belongs to."""

    text: str | None
    tokens: list[str] | None = None
    group: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Columns:
    """Where a file has the text of a sequence, and what else is taken from it."""

    text: str | None = None
    """The name of a column, or its number, from 1, where no column has that name; `text` if not given."""
    group: str | None = None
    label: str | None = None
    has_header: bool = True
    """Of csv and tsv: whether the first line names the columns."""
    quotes: Literal["doubled", "backslash"] = "doubled"
    """Of csv: how a quotation mark is written inside quotation marks."""
    labels_in_text: Literal["none", "tab", "fasttext"] = "none"
    """Of lines: whether a label comes before the text, and how it ends."""

    def places(self, where: str, names: Sequence[str]) -> Places:
        """Return the places of the columns among names; raise CorpusError, saying where, if one is not there."""
        if self.text is None and TEXT not in names and len(names) == 1 and not self.has_header:
            return Places(0, None, None)
        if self.text is None and TEXT not in names:
            shown = ", ".join(map(shortened, names)) if self.has_header else f"1 to {len(names)}"
            header = "; if its first line is no header, say --no-header" if self.has_header else ""
            raise CorpusError(f"{where} has the columns {shown}; name the one with the text by --text-column{header}")
        return Places(
            place_of(where, names, self.text or TEXT),
            None if self.group is None else place_of(where, names, self.group),
            None if self.label is None else place_of(where, names, self.label),
        )


def place_of(where: str, names: Sequence[str], name: str) -> int:
    """Return the place of a column by its name or its number, from 1."""
    if list(names).count(name) > 1:
        raise CorpusError(f"{where} has {list(names).count(name)} columns {name!r}; name one by its number")
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return int(name) - 1
    raise CorpusError(f"{where} has no column {name!r}; it has {', '.join(map(shortened, names))}")


def shortened(name: str) -> str:
    """Return a column's name as a message shows it."""
    return name if len(name) <= 40 else f"{name[:37]}..."


def frames(rows: Iterator[Row]) -> Iterator[pl.DataFrame]:
    """Yield rows as frames of a bounded number each."""
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == CHUNK_ROWS:
            yield frame_of(held)
            held = []
    if held:
        yield frame_of(held)


def frame_of(rows: list[Row]) -> pl.DataFrame:
    """Return rows as a frame; with `tokens` where a row has any."""
    text, tokens, group, label = zip(*rows, strict=True)
    columns = {"text": text, "group": group, "label": label}
    frame = pl.DataFrame({name: pl.Series(values, dtype=pl.String) for name, values in columns.items()})
    if any(each is not None for each in tokens):
        frame = frame.with_columns(tokens=pl.Series(tokens, dtype=pl.List(pl.String)))
    return frame


def whole(frame: pl.DataFrame) -> pl.DataFrame:
    """Return rows with the columns that all have: `group` and `label` are null where there are none."""
    return frame.with_columns(
        pl.lit(None, pl.String).alias(name) for name in ("group", "label") if name not in frame.columns
    )


def checked_tokens(where: str, values: Sequence[object]) -> list[str]:
    """Return a list of tokens as it is; raise CorpusError if one is no word."""
    for value in values:
        if not isinstance(value, str) or not value or value != "".join(value.split()):
            raise CorpusError(
                f"{where}: a list of tokens holds {str(value)[:40]!r}; expected words without white space in them"
            )
    return [encodable(where, str(value)) for value in values]


def encodable(where: str, text: str) -> str:
    """Return a text as it is; raise CorpusError for half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CorpusError(f"{where} has half of a surrogate pair (\\ud...), which is no character; mend it") from None
    return text
