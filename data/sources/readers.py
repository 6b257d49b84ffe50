"""One reader a format: every row is read as it was meant, or refused with its line and a mend."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import polars as pl

from data.errors import CorpusError
from data.sources.columns import CHUNK_ROWS, TEXT, Columns, Row, checked_tokens, encodable, frames, shortened, whole
from data.sources.streams import blocks, check_length, decoded

Reader = Callable[[Path, Columns, int], Iterator[pl.DataFrame]]
FASTTEXT = "__label__"
ESCAPED = re.compile(r'\\(["\\])')
QUOTE = "\0"
"""Stands for an escaped quotation mark while rows are cut; no text has it."""
BLANKS = re.compile(r"\s*")
LOOKED_AT = 10_000
"""Objects of which one must have what is asked for."""


def read_lines(path: Path, columns: Columns, most_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield a sequence a line; a label before it where the text is said to have one."""
    if columns.text or columns.group or columns.label:
        raise CorpusError(f"{path} is text with a sequence a line, which has no columns; say what it is by --format")
    num_lines = 0
    for block in blocks(path, most_bytes):
        frame = pl.scan_lines(block).select(text=pl.col("line").str.strip_chars_end("\r")).collect()
        yield with_labels(path, frame, columns, num_lines)
        num_lines += frame.height


def with_labels(path: Path, frame: pl.DataFrame, columns: Columns, num_lines: int) -> pl.DataFrame:
    """Return lines, which follow so many, with their labels taken out of the text; no column of one has none."""
    match columns.labels_in_text:
        case "tab":
            pattern = r"^([^\t]*)\t"
            expected = "a label, a tab and the text"
        case "fasttext":
            pattern = rf"^((?:{FASTTEXT}\S+\s+)*{FASTTEXT}\S+)\s"
            expected = f"{FASTTEXT}LABEL and the text"
        case _:
            return whole(frame)
    label = pl.col("text").str.extract(pattern)
    found = frame.with_columns(label=label.str.replace_all(FASTTEXT, "").str.replace_all(r"\s+", " "))
    missing = found.with_row_index().filter(pl.col("label").is_null() & (pl.col("text").str.strip_chars() != ""))
    if missing.height:
        raise CorpusError(f"{path}: line {num_lines + missing['index'][0] + 1} has no label; expected {expected}")
    return whole(found.with_columns(pl.col("text").str.replace(pattern, "")))


def read_objects(path: Path, columns: Columns, most_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield a sequence a line of JSON, an object or a string; what is not asked for is not looked at."""
    lines = enumerate(decoded(path, most_bytes), 1)
    values = ((where := f"{path}: line {number}", parsed(where, line)) for number, line in lines if line.strip())
    yield from frames(rows_of(path, values, columns))


def rows_of(path: Path, values: Iterable[tuple[str, object]], columns: Columns) -> Iterator[Row]:
    """Yield the rows that JSON values, each with its place, stand for; one without the text's field has none.

    Raises CorpusError if no object has a field that is asked for.
    """
    asked = [columns.text or TEXT, *filter(None, (columns.group, columns.label))]
    seen: dict[str, None] = {}
    objects = 0
    for where, value in values:
        if isinstance(value, dict):
            if objects < LOOKED_AT or not seen.keys() >= set(asked):
                seen.update(dict.fromkeys(value))
            objects += 1
            if objects == LOOKED_AT:
                check_fields(path, asked, seen)
        yield row_of(where, value, columns)
    if objects:
        check_fields(path, asked, seen)


def check_fields(path: Path, asked: list[str], seen: dict[str, None]) -> None:
    """Raise CorpusError if a field that is asked for is in none of the objects that were looked at."""
    for name in asked:
        if name not in seen:
            names = ", ".join(map(shortened, list(seen)[:20])) or "nothing"
            raise CorpusError(f"{path} has no column {name!r}; it has {names} (--text-column: the text's)")


def read_json(path: Path, columns: Columns, most_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield the elements of a JSON array, or, where the file is lines of JSON, those."""
    start = next((line for line in decoded(path, most_bytes) if line.strip()), "")
    # An array is a line of its own where lines are JSON: one whose elements are words.
    if not start.lstrip().startswith("[") or is_list_of_words(start):
        yield from read_objects(path, columns, most_bytes)
        return
    values = ((f"{path}: element {number}", element) for number, element in enumerate(elements(path, most_bytes), 1))
    yield from frames(rows_of(path, values, columns))


def is_list_of_words(line: str) -> bool:
    """Say whether a line is a whole JSON list of strings."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) and " " not in each for each in value)


def elements(path: Path, most_bytes: int) -> Iterator[object]:
    """Yield the elements of the JSON array that a file holds, holding one at a time."""
    text, place, number, expected = "", 0, 0, "["

    def problem() -> CorpusError:
        seen = text[place : place + 60]
        return CorpusError(
            f"{path}: element {number + 1} of the JSON array cannot be read: {seen!r}; the array is damaged or cut"
        )

    for line in decoded(path, most_bytes):
        text, place = text[place:] + line, 0
        while (place := BLANKS.match(text, place).end()) < len(text):  # type: ignore[union-attr]
            if expected != "element" or (number == 0 and text[place] == "]"):
                if expected != "element" and text[place] not in expected:
                    raise problem()
                # After the bracket at the end nothing may come.
                expected = "" if text[place] == "]" else "element"
                place += 1
                if not expected and text[place:].strip():
                    raise problem()
                continue
            try:
                element, place = DECODER.raw_decode(text, place)
            except json.JSONDecodeError:
                check_length(path, len(text) - place, most_bytes, number)
                break
            except RecursionError:
                raise CorpusError(f"{path}: element {number + 1} of the JSON array {TOO_DEEP}") from None
            number, expected = number + 1, ",]"
            yield element
    if expected or text[place:].strip():
        raise problem()


class Repeated(dict[str, object]):
    """An object that has several values of a name, of which JSON's readers keep the last."""

    names: frozenset[str] = frozenset()


def fields_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object's fields, and which names are there more than once."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = Repeated(found)
    counts = Counter(name for name, _ in pairs)
    repeated.names = frozenset(name for name, count in counts.items() if count > 1)
    return repeated


TOO_DEEP = "is nested too deeply; expected an object or a string"
DECODER = json.JSONDecoder(
    # Numbers as they are written; NaN, which pandas writes for nothing, as nothing.
    parse_int=str,
    parse_float=str,
    parse_constant=lambda name: None,
    object_pairs_hook=fields_of,
)


def parsed(where: str, line: str) -> object:
    """Return the value of a line of JSON, numbers as they are written; raise CorpusError, saying where."""
    try:
        return DECODER.decode(line)
    except json.JSONDecodeError as error:
        what = f"{error.msg} at character {error.pos + 1}"
        raise CorpusError(f"{where} is no JSON: {what}; expected an object or a string a line") from None
    except RecursionError:
        raise CorpusError(f"{where} {TOO_DEEP}") from None


def row_of(where: str, value: object, columns: Columns) -> Row:
    """Return the row that a JSON value stands for; raise CorpusError if it has no text to take as it is."""
    if value is None or isinstance(value, str):
        if columns.text is not None:
            raise CorpusError(f"{where} is a string, which has no column {columns.text!r}; leave --text-column out")
        return Row(plain(where, value))
    if isinstance(value, list):
        return Row(None, checked_tokens(where, value))
    if not isinstance(value, dict):
        raise CorpusError(f"{where} is {str(value)[:40]!r}; expected an object or a string")
    asked = (columns.text or TEXT, columns.group, columns.label)
    if isinstance(value, Repeated) and (twice := value.names.intersection(filter(None, asked))):
        raise CorpusError(f"{where} has the field {min(twice)!r} twice; keep one of them")
    text, group, label = (None if name is None else value.get(name) for name in asked)
    if isinstance(text, list):
        return Row(None, checked_tokens(where, text), plain(where, group), plain(where, label))
    return Row(plain(where, text), None, plain(where, group), plain(where, label))


def plain(where: str, value: object) -> str | None:
    """Return a string, or what a number or truth value is written as; raise CorpusError for what has parts."""
    if isinstance(value, str):
        return encodable(where, value)
    if value is None:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    raise CorpusError(f"{where}: the column is nested ({str(value)[:40]}); expected a string or a list of tokens")


def read_csv(path: Path, columns: Columns, most_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield a sequence a row; a value may be quoted, and go on over lines."""
    yield from frames(table_rows(path, columns, most_bytes, ","))


def read_tsv(path: Path, columns: Columns, most_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield a sequence a line; quotation marks mean nothing in tab-separated text."""
    yield from frames(table_rows(path, columns, most_bytes, "\t"))


def table_rows(path: Path, columns: Columns, most_bytes: int, separator: str) -> Iterator[Row]:
    """Yield the rows of a table; raise CorpusError, with the line, of one that has other fields than the first."""
    csv.field_size_limit(most_bytes)
    backslash = columns.quotes == "backslash"
    lines = decoded(path, most_bytes)
    if backslash:
        lines = (ESCAPED.sub(lambda found: QUOTE if found[1] == '"' else "\\", line) for line in lines)
    reader = csv.reader(
        lines,
        delimiter=separator,
        quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    start = 1
    places, width = None, 0
    try:
        for fields in reader:
            line, start = start, reader.line_num + 1
            if places is None:
                width = len(fields)
                names = fields if columns.has_header else [str(number + 1) for number in range(width)]
                places = columns.places(str(path), names)
                if columns.has_header:
                    continue
            if not fields or (width > 1 and len(fields) == 1 and not fields[0].strip()):
                # An empty line.
                yield Row("")
                continue
            if len(fields) != width:
                raise CorpusError(
                    f"{path}: line {line} has {len(fields)} fields, the first one has {width};"
                    f"{' quote a value that holds a comma, or' if separator == ',' else ''} if each line is one"
                    " sequence, say --format txt"
                )
            if backslash:
                fields = [value.replace(QUOTE, '"') for value in fields]  # noqa: PLW2901 - the same fields
            yield Row(
                fields[places.text],
                group=None if places.group is None else fields[places.group],
                label=None if places.label is None else fields[places.label],
            )
    except csv.Error as error:
        mend = "" if backslash else '; a quotation mark inside a value is doubled (""), or say --quotes backslash'
        raise CorpusError(f"{path}: line {start} cannot be read as csv: {error}{mend}") from None


def read_parquet(path: Path, columns: Columns, most_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield a sequence a row of a column of strings, of numbers, or of lists of tokens."""
    frame = pl.scan_parquet(path, glob=False)
    schema = frame.collect_schema()
    places = columns.places(str(path), schema.names())
    text, *others = (None if place is None else schema.names()[place] for place in places)
    assert text is not None
    for name in filter(None, (text, *others)):
        kind = schema[name]
        is_tokens = name == text and kind == pl.List(pl.String)
        if not is_tokens and (kind.is_nested() or kind in (pl.Binary, pl.Object)):
            raise CorpusError(
                f"{path}: column {name!r} holds {kind}; expected strings{' or lists of tokens' * (name == text)};"
                " name another one by --text-column"
            )
    group, label = (pl.col(name).cast(pl.String) if name is not None else pl.lit(None, pl.String) for name in others)
    has_tokens = schema[text] == pl.List(pl.String)
    wanted = {"text": pl.col(text).cast(pl.String)}
    if has_tokens:
        wanted = {"text": pl.lit(None, pl.String), "tokens": pl.col(text)}
    for number, chunk in enumerate(
        frame.select(**wanted, group=group, label=label).collect_batches(chunk_size=CHUNK_ROWS)
    ):
        if has_tokens:
            for tokens in chunk["tokens"]:
                checked_tokens(f"{path}: rows {number * CHUNK_ROWS + 1} on", [] if tokens is None else tokens.to_list())
        yield chunk


FORMATS: dict[str, Reader] = {
    "txt": read_lines,
    "jsonl": read_objects,
    "ndjson": read_objects,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
}
"""Readers by the ending of a file's name, without the dot."""
