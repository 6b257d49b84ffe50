"""Corpora that have a name: of packages, of the field's standard files, and made by rule."""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from data.errors import CorpusError
from data.sources.columns import Columns
from data.sources.molecules import moses
from data.sources.python_code import statements
from data.sources.source import SPLITS, Frames, Source
from data.sources.synthetic import Topics
from data.sources.text_file import TextFile, find_files

PYTHON_TOKENS = r"""[bfru]*"(?:\\.|[^"\\])*"|[bfru]*'(?:\\.|[^'\\])*'|\w+|[-+*/%@&|^<>=!:]=|->|\*\*|//|<<|>>|[^\w\s]"""
"""Strings whole, names and numbers, operators."""


def from_files(
    patterns: dict[str, list[str]],
    columns: Columns | None = None,
    format_name: str | None = None,
    max_sequence_bytes: int | None = None,
) -> Source:
    """Return the source that the user's own files make, by split or under `all`."""
    columns = columns or Columns()
    splits = find_files(patterns, columns, format_name, max_sequence_bytes)
    defaults = {} if "all" in splits else {"deduplicate": False}
    identity: dict[str, object] = {"column": columns.text, "group_column": columns.group}
    # What is as it always was leaves the digest of a corpus as it was.
    newer = {name: value for name, value in asdict(columns).items() if name not in ("text", "group")}
    identity |= {name: value for name, value in newer.items() if value != getattr(Columns(), name)}
    return Source("files", splits, defaults, identity)


def chitchat(folder: Path | None, seed: int) -> Source:
    """Return the chat messages of the PyPI package `chitchat-dataset`, grouped by conversation."""
    spec = find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise CorpusError("the package chitchat-dataset is not installed; run pip install chitchat-dataset")
    conversations = json.loads((Path(spec.origin).parent / "dataset.json").read_text("utf-8"))
    rows = [
        (message["text"], name)
        for name, conversation in conversations.items()
        for turn in conversation["messages"]
        for message in turn
    ]
    frame = pl.DataFrame(rows, schema={"text": pl.String, "group": pl.String}, orient="row")
    defaults = {
        "tokenizer": "regex",
        "lowercase": True,
        "min_tokens": 3,
        "max_tokens": 30,
        "drop_contacts": True,
        "split_by_group": True,
        "min_count": 3,
    }
    return Source("chitchat", {"all": [Frames(frame)]}, defaults, {"num_messages": len(rows)})


def standard_files(name: str, stems: tuple[str, ...], **defaults: object) -> Callable[[Path | None, int], Source]:
    """Return a maker of a corpus that the field passes on as train, valid and test files."""

    def make(folder: Path | None, seed: int) -> Source:
        if folder is None:
            raise CorpusError(f"{name} is read from its standard files; name their folder by --from FOLDER")
        splits = {}
        for split in SPLITS:
            found = [folder / f"{stem}{split}.txt" for stem in stems if (folder / f"{stem}{split}.txt").is_file()]
            if not found:
                wanted = " or ".join(f"{stem}{split}.txt" for stem in stems)
                raise CorpusError(f"{folder} has no {wanted}, which {name} consists of")
            with found[0].open("rb") as stream:
                has_labels = b"\t" in stream.readline()
            columns = Columns(labels_in_text="tab") if has_labels else Columns()
            splits[split] = [TextFile(found[0], columns)]
        listed = folder / "vocab.txt"
        vocabulary = tuple(listed.read_text("utf-8").split()) if listed.is_file() else None
        identity = {"vocabulary": list(vocabulary)} if vocabulary else {}
        usual = {"deduplicate": False, "max_tokens": 1000} | ({} if vocabulary else defaults)
        return Source(name, splits, usual, identity, vocabulary=vocabulary)

    return make


def synthetic_topics(folder: Path | None, seed: int) -> Source:
    """Return sequences drawn from a mixture of unigram topics, whose likelihood is known exactly."""
    topics = Topics(seed=seed)
    texts = [" ".join(words) for words in topics.sample()]
    frame = pl.DataFrame({"text": texts})
    return Source(
        "synthetic-topics",
        {"all": [Frames(frame)]},
        {"valid_fraction": 0.125, "test_fraction": 0.125},
        {"seed": seed},
        {"seed": seed},
        topics.words,
        exact=True,
    )


def python_code(folder: Path | None, seed: int) -> Source:
    """Return the simple statements of the standard library of the Python that runs, grouped by module."""
    root = Path(sysconfig.get_path("stdlib"))
    schema = dict.fromkeys(("text", "group", "label"), pl.String)
    frame = pl.DataFrame(list(statements(root)), schema=schema, orient="row")
    origin = {"python": ".".join(map(str, sys.version_info[:3]))}
    defaults = {
        "tokenizer": "regex",
        "pattern": PYTHON_TOKENS,
        "min_tokens": 3,
        "max_tokens": 40,
        "min_count": 3,
        "split_by_group": True,
    }
    return Source("python-code", {"all": [Frames(frame)]}, defaults, origin, origin)


NAMED: dict[str, Callable[[Path | None, int], Source]] = {
    "chitchat": chitchat,
    "moses": moses,
    "python-code": python_code,
    "ptb": standard_files("ptb", ("", "ptb.")),
    "yahoo": standard_files("yahoo", ("yahoo.", ""), vocabulary_size=20_000),
    "yelp": standard_files("yelp", ("yelp.", ""), vocabulary_size=20_000),
    "short-yelp": standard_files("short-yelp", ("short_yelp.", "")),
    "snli": standard_files("snli", ("snli.", "")),
    "synthetic-topics": synthetic_topics,
}
