"""Where text comes from: files, folders, globs and the field's named corpora."""

from __future__ import annotations

import codecs
import glob
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pyarrow as pa

from data.errors import CorpusError
from data.synthetic import Topics

COMPRESSIONS = (".gz", ".zst")
FORMATS = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
SPLITS = ("train", "valid", "test")
CHUNK_ROWS = 50_000
BLOCK_BYTES = 8 * 2**20
MAX_SEQUENCE_BYTES = 64 * 2**20
"""The longest line that is read; text has none, and what has is kept from filling the memory."""


@dataclass(frozen=True)
class TextFile:
    """One file of sequences, and which of its columns hold the text and the group."""

    path: Path
    column: str | None = None
    group_column: str | None = None
    labelled: bool = False
    max_sequence_bytes: int = MAX_SEQUENCE_BYTES

    @property
    def format(self) -> str:
        """The file's ending without its compression, such as `.jsonl`."""
        return Path(self.path.stem).suffix if self.path.suffix in COMPRESSIONS else self.path.suffix

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Yield frames of `text` and `group` (null without a group column), a bounded number of rows each."""
        check_text(self)
        try:
            match self.format:
                case ".txt":
                    yield from self._lines()
                case ".jsonl" | ".ndjson":
                    yield from self._objects()
                case _:
                    if self.format != ".parquet" and self.path.suffix in COMPRESSIONS:
                        check_lines(self.path, self.max_sequence_bytes)
                    yield from self._table().collect_batches(chunk_size=CHUNK_ROWS)
        except (pl.exceptions.PolarsError, pa.ArrowException, OSError, EOFError) as error:
            message = (str(error).splitlines() or [type(error).__name__])[0]
            raise CorpusError(f"{self.path} cannot be read as {self.format[1:]}: {message}") from None

    def _lines(self) -> Iterator[pl.DataFrame]:
        text = pl.col("line").str.strip_chars_end("\r")
        if self.labelled:
            text = text.str.replace(r"^[^\t]*\t", "")
        for block in blocks(self.path, self.max_sequence_bytes):
            yield pl.scan_lines(block).select(text=text, group=pl.lit(None, pl.String)).collect()

    def _objects(self) -> Iterator[pl.DataFrame]:
        columns = None
        for block in blocks(self.path, self.max_sequence_bytes):
            if columns is None:
                head = [line for line in block.splitlines()[:100] if line.strip()]
                columns = self._columns(pl.read_ndjson(b"\n".join(head), infer_schema_length=None).columns)
            frame = pl.read_ndjson(block, schema=dict.fromkeys(filter(None, columns), pl.String))
            yield self._select(frame.lazy(), columns).collect()

    def _table(self) -> pl.LazyFrame:
        if self.format == ".parquet":
            frame = pl.scan_parquet(self.path, glob=False)
        elif self.format == ".tsv":
            # Quotation marks mean nothing in tab-separated text.
            frame = pl.scan_csv(self.path, separator="\t", quote_char=None, infer_schema=False, glob=False)
        else:
            frame = pl.scan_csv(self.path, infer_schema=False, glob=False)
        return self._select(frame, self._columns(frame.collect_schema().names()))

    def _columns(self, names: list[str]) -> tuple[str, str | None]:
        """Return the names of the text's and the group's column; raise CorpusError if one is not there."""
        column = self.column or ("text" if "text" in names else None)
        for name in (column, self.group_column):
            if name is not None and name not in names:
                raise CorpusError(f"{self.path} has no column {name!r}; it has {', '.join(names)}")
        if column is None:
            raise CorpusError(f"{self.path} has the columns {', '.join(names)}; name the one with the text by --column")
        return column, self.group_column

    def _select(self, frame: pl.LazyFrame, columns: tuple[str, str | None]) -> pl.LazyFrame:
        column, group_column = columns
        group = pl.col(group_column).cast(pl.String) if group_column else pl.lit(None, pl.String)
        return frame.select(text=pl.col(column).cast(pl.String), group=group)


def blocks(path: Path, most_bytes: int = MAX_SEQUENCE_BYTES) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed by its ending, in blocks of whole lines.

    Raises CorpusError if it is not UTF-8, or a line has more than `most_bytes`: a small compressed file may hold a line
    that no memory does.
    """
    num_lines = 0
    rest: list[bytes] = []
    for chunk in raw_blocks(path):
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest.append(chunk)
            check_length(path, sum(map(len, rest)), most_bytes, num_lines)
            continue
        block = b"".join([*rest, head, newline])
        rest = [tail] if tail else []
        block = block.removeprefix(codecs.BOM_UTF8) if num_lines == 0 else block
        check_utf8(path, block, num_lines)
        num_lines += block.count(b"\n")
        yield block
    if rest:
        last = b"".join(rest)
        last = last.removeprefix(codecs.BOM_UTF8) if num_lines == 0 else last
        check_utf8(path, last, num_lines)
        yield last


def raw_blocks(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed by its ending."""
    with pa.input_stream(str(path)) as stream:
        while chunk := stream.read(BLOCK_BYTES):
            yield chunk


def check_length(path: Path, num_bytes: int, most_bytes: int, num_lines: int) -> None:
    """Raise CorpusError, naming the line, if one that follows so many lines is too long to be a sequence."""
    if num_bytes > most_bytes:
        raise CorpusError(
            f"{path}: line {num_lines + 1} has more than {most_bytes:,} bytes; is it text with a sequence a line?"
            " --max-sequence-bytes allows longer ones"
        )


def check_lines(path: Path, most_bytes: int) -> None:
    """Raise CorpusError if a line of a compressed table is too long, which its reader would take into memory whole."""
    length = num_lines = 0
    for chunk in raw_blocks(path):
        for number, part in enumerate(chunk.split(b"\n")):
            length = len(part) + (length if number == 0 else 0)
            num_lines += number > 0
            check_length(path, length, most_bytes, num_lines)


def check_utf8(path: Path, block: bytes, num_lines: int) -> None:
    """Raise CorpusError, naming the line, unless a block that follows so many lines is UTF-8."""
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = num_lines + block[: error.start].count(b"\n") + 1
        raise CorpusError(
            f"{path}: line {line} is not UTF-8; convert the file, for example by iconv -t utf-8"
        ) from None


def check_text(file: TextFile) -> None:
    """Raise CorpusError if a text file is missing, empty or binary."""
    if not file.path.is_file():
        raise CorpusError(f"{file.path} does not exist; name a file, a folder or a glob")
    with file.path.open("rb") as stream:
        head = stream.read(8192)
    if not head:
        raise CorpusError(f"{file.path} is empty; expected one sequence a line")
    if file.format != ".parquet" and file.path.suffix not in COMPRESSIONS and b"\0" in head:
        raise CorpusError(f"{file.path} is binary (it holds NUL bytes); expected UTF-8 text")


@dataclass(frozen=True)
class Frames:
    """Sequences that a program made, in place of a file."""

    frame: pl.DataFrame

    def chunks(self) -> Iterator[pl.DataFrame]:
        """Yield the frame's rows, as `TextFile.chunks` does."""
        yield from self.frame.iter_slices(CHUNK_ROWS)


@dataclass(frozen=True)
class Source:
    """Text by split (`all` where it does not come split), and what is usual for it.

    `defaults` are preparation settings that hold unless the user gives others; `identity` says which
    input this is and takes part in the corpus' fingerprint.
    """

    name: str
    splits: dict[str, list[TextFile | Frames]]
    defaults: Mapping[str, object] = field(default_factory=dict)
    identity: Mapping[str, object] = field(default_factory=dict)
    vocabulary: tuple[str, ...] | None = None
    exact: bool = False
    """Whether its likelihood is known, in its own vocabulary."""

    @property
    def files(self) -> list[Path]:
        """Every file that is read, in order."""
        return [part.path for parts in self.splits.values() for part in parts if isinstance(part, TextFile)]


def expand(pattern: str) -> list[Path]:
    """Return the files that a path, folder or glob names, sorted."""
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = [item for item in path.rglob("*") if item.is_file() and supported(item)]
    elif path.exists():
        files = [path]
    else:
        files = [Path(item) for item in glob.glob(str(path), recursive=True) if Path(item).is_file()]  # noqa: PTH207 - absolute patterns too
    if not files:
        raise CorpusError(f"{pattern} names no file; expected a file, a folder or a glob of {' '.join(FORMATS)}")
    return sorted(files)


def supported(path: Path) -> bool:
    """Say whether a path's ending is one that can be read."""
    return TextFile(path).format in FORMATS


def from_files(
    patterns: dict[str, list[str]],
    column: str | None = None,
    group_column: str | None = None,
    max_sequence_bytes: int | None = None,
) -> Source:
    """Return the source that the user's own files make, by split or under `all`."""
    splits: dict[str, list[TextFile | Frames]] = {}
    for split, names in patterns.items():
        files = sorted({path for name in names for path in expand(name)})
        for path in files:
            if not supported(path):
                raise CorpusError(f"{path} ends in none of {' '.join(FORMATS)} (optionally with .gz or .zst)")
        # An empty one among several holds nothing to miss.
        files = [path for path in files if path.stat().st_size] or files
        most = max_sequence_bytes or MAX_SEQUENCE_BYTES
        named = [TextFile(path, column, group_column, max_sequence_bytes=most) for path in files]
        for file in named:
            check_text(file)
        splits[split] = [*named]
    defaults = {} if "all" in splits else {"deduplicate": False}
    identity = {"column": column, "group_column": group_column}
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
        splits: dict[str, list[TextFile | Frames]] = {}
        for split in SPLITS:
            found = [folder / f"{stem}{split}.txt" for stem in stems if (folder / f"{stem}{split}.txt").is_file()]
            if not found:
                wanted = " or ".join(f"{stem}{split}.txt" for stem in stems)
                raise CorpusError(f"{folder} has no {wanted}, which {name} consists of")
            splits[split] = [TextFile(found[0], labelled=True)]
        listed = folder / "vocab.txt"
        vocabulary = tuple(listed.read_text("utf-8").split()) if listed.is_file() else None
        identity = {"vocabulary": list(vocabulary)} if vocabulary else {}
        usual = {"deduplicate": False, "max_tokens": 1000} | ({} if vocabulary else defaults)
        return Source(name, splits, usual, identity, vocabulary)

    return make


def synthetic_topics(folder: Path | None, seed: int) -> Source:
    """Return sequences drawn from a mixture of unigram topics, whose likelihood is known exactly."""
    topics = Topics(seed=seed)
    texts = [" ".join(words) for words in topics.sample()]
    frame = pl.DataFrame({"text": texts, "group": None}, schema={"text": pl.String, "group": pl.String})
    return Source(
        "synthetic-topics",
        {"all": [Frames(frame)]},
        {"valid_fraction": 0.125, "test_fraction": 0.125},
        {"seed": seed},
        topics.words,
        exact=True,
    )


NAMED: dict[str, Callable[[Path | None, int], Source]] = {
    "chitchat": chitchat,
    "ptb": standard_files("ptb", ("", "ptb.")),
    "yahoo": standard_files("yahoo", ("yahoo.", ""), vocabulary_size=20_000),
    "yelp": standard_files("yelp", ("yelp.", ""), vocabulary_size=20_000),
    "short-yelp": standard_files("short-yelp", ("short_yelp.", "")),
    "snli": standard_files("snli", ("snli.", "")),
    "synthetic-topics": synthetic_topics,
}
