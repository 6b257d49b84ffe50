"""Texts to encode: from lines, from files as corpora are prepared from, and from frames."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from data.sources.columns import Columns
from data.sources.readers import FORMATS
from data.sources.text_file import TextFile, ending
from data.tokens.codec import Codec
from study.errors import StudyError, StudyWarning


def rows_of_lines(texts: list[str], given: Mapping[str, object]) -> pl.DataFrame:
    """Return lines as rows; raise StudyError for options that are of files with columns."""
    idle = [name for name, value in given.items() if value]
    if idle:
        option = "--format" if idle[0] == "format_name" else f"--{idle[0].replace('_', '-')}"
        raise StudyError(f"{option} is of files; of stdin each line is a text: name a file, or leave it out")
    return pl.DataFrame({"text": texts})


def rows_of_file(path: Path, given: Mapping[str, str | bool | None], codec: Codec) -> pl.DataFrame:
    """Return the rows of a file: `text`, and `id` where one was asked for; raise CorpusError and StudyError.

    A name with no known ending is one of lines.
    """
    columns = Columns(
        text=as_text(given["text_column"]),
        label=as_text(given["id_column"]),
        has_header=not given["no_header"],
        quotes="backslash" if given["quotes"] == "backslash" else "doubled",
    )
    kind = as_text(given["format_name"]) or (ending(path) if ending(path) in FORMATS else "txt")
    if kind == "txt" and (columns.text or columns.label):
        raise StudyError(f"{path} is one of lines, which have no columns; leave out --column and --id-column")
    frame = pl.concat(list(TextFile(path, columns, kind).chunks()), how="diagonal")
    if "tokens" in frame.columns:
        if codec.tokenizer.is_exact:
            raise StudyError(f"{path} holds lists of tokens, and the model takes text; name a column of text")
        frame = frame.with_columns(text=pl.coalesce("text", pl.col("tokens").list.join(" ")))
    if kind == "txt" and (empty := (frame["text"].str.strip_chars() == "").sum()):
        warnings.warn(StudyWarning(f"{path}: {empty} empty lines are left out"), stacklevel=2)
        frame = frame.filter(pl.col("text").str.strip_chars() != "")
    missing = frame["text"].is_null().arg_true()
    if len(missing):
        raise StudyError(f"{path}: {len(missing)} rows have no text, the first is row {missing[0] + 1}; leave them out")
    return frame.select(*([pl.col("label").alias("id")] if columns.label else []), "text")


def as_text(value: str | bool | None) -> str | None:
    """Return an option's text, None of one that was not given."""
    return value if isinstance(value, str) and value else None


def with_means(rows: pl.DataFrame, means: NDArray[np.float32]) -> pl.DataFrame:
    """Return rows with the posterior `mean` of each text, `[latent]`, of `[rows, latent]`."""
    return rows.with_columns(pl.Series("mean", means, dtype=pl.Array(pl.Float32, means.shape[1])))


def texts_in(given: object) -> list[str]:
    """Return the texts of a list, of a series, or of a frame's column `text` (polars or pandas); raise StudyError."""
    if isinstance(given, str):
        raise StudyError(f"expected a list of texts, got one text, {given[:40]!r}; put it in a list")
    columns = getattr(given, "columns", None)
    if columns is not None:
        if "text" not in columns:
            raise StudyError(f"expected a frame with a column `text`, got the columns {', '.join(map(str, columns))}")
        given = given["text"]  # type: ignore[index]
    if not isinstance(given, Iterable):
        raise StudyError(f"expected a list of texts, got {type(given).__name__}")
    texts = list(given)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise StudyError(f"expected texts, got {repr(text)[:40]} at place {place}")
    return texts
