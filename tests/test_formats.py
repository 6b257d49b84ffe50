"""Files of every format and every fault: text is read as it was meant, or refused with file, line and mend."""

import csv
import gzip
import io
import json
import random
import tarfile

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import CorpusError
from data.prepare import prepare
from data.settings import PrepareSettings
from data.sources import streams
from data.sources.columns import Columns
from data.sources.named import from_files
from data.sources.text_file import TextFile

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\x1c\x1d\x1e\x1f\x85\u2028\u2029\v\f"), max_size=25)
ROWS = [(f"id {number}", f"some text of row {number}") for number in range(120)]


def read(path, columns=None, **given):
    """Return everything that is read of a file, in order."""
    frames = list(TextFile(path, columns or Columns(), **given).chunks())
    return pl.concat(frames, how="diagonal") if frames else pl.DataFrame()


def written(path, rows, kind):
    """Write rows of `id` and `text` by a writer of the format's own."""
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("id", "text"), *rows])
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in rows), "utf-8")
    elif kind == "json":
        path.write_text(json.dumps([{"id": name, "text": text} for name, text in rows], indent=1), "utf-8")
    elif kind == "parquet":
        pl.DataFrame(rows, schema={"id": pl.String, "text": pl.String}, orient="row").write_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "parquet"])
@given(texts=st.lists(TEXT, min_size=1, max_size=8))
def test_what_a_writer_wrote_is_read_to_the_letter(tmp_path_factory, kind, texts):
    rows = [(str(number), text) for number, text in enumerate(texts)]
    path = written(tmp_path_factory.mktemp("rows") / f"rows.{kind}", rows, kind)
    found = read(path, Columns("text", "id"))
    assert found["text"].to_list() == texts
    assert found["group"].to_list() == [name for name, _ in rows]


CASES = {
    "quotes escaped by a backslash": ("a.csv", b'id,text\n1,"he said \\" this"\n2,"and"\n', "line 2", "--quotes backslash"),
    "a comma too many": ("a.csv", b"id,text\n1,one, two\n", "line 2 has 3 fields", "--format txt"),
    "a field too few": ("a.csv", b"id,text,more\n1,one,x\n2,two\n", "line 3 has 2 fields", "--format txt"),
    "a tab too many": ("a.tsv", b"id\ttext\n1\tone\ttwo\n", "line 2 has 3 fields", "--format txt"),
    "a quotation without end": ("a.csv", b'id,text\n1,"one\n2,two\n', "line 2", "doubled"),
    "another encoding in csv": ("a.csv", b"id,text\n1,one\n2,caf\xe9\n", "line 3 is not UTF-8", "iconv -f cp1252"),
    "another encoding in jsonl": ("a.jsonl", b'{"text": "one"}\n{"text": "caf\xe9"}\n', "line 2 is not UTF-8", "iconv"),
    "UTF-16": ("a.txt", "one\ntwo\n".encode("utf-16"), "line 1 is not UTF-8 but UTF-16", "iconv -f utf-16"),
    "line ends of old Macs": ("a.txt", b"one\rtwo\rthree\rfour\r", "lines end in CR", "tr '\\r' '\\n'"),
    "a NUL in text": ("a.txt", b"one\ntwo\nth\0ree\n", "line 3 holds a NUL", "UTF-8 text"),
    "a NUL late in a compressed file": ("a.txt.gz", gzip.compress(b"one\n" * 9000 + b"\0"), "line 9001 holds a NUL", ""),
    "a NUL in csv": ("a.csv", b"id,text\n1,o\0ne\n", "line 2 holds a NUL", ""),
    "a compressed file that was cut": ("a.txt.gz", gzip.compress(bytes(range(32, 127)) * 999)[:-200], "cannot be read", ""),
    "no header": ("a.csv", b"1,one two\n2,three\n", "has the columns 1, one two", "--no-header"),
    "a column that is not there": ("a.jsonl", b'{"body": "x"}\n{"id": 1}\n', "no column 'text'; it has body, id", "--text-column"),
    "a field twice": ("a.jsonl", b'{"text": "x", "text": "y"}\n', "line 1 has the field 'text' twice", "keep one"),
    "half a surrogate pair": ("a.jsonl", b'{"text": "a \\ud83d b"}\n', "line 1 has half of a surrogate pair", "mend"),
    "JSON without bottom": ("a.json", b"[" * 100_000, "element 1", "nested"),
    "two columns of a name": ("a.csv", b"text,text\na,b\n", "2 columns 'text'", "number"),
    "gzip by another name": ("a.txt", gzip.compress(b"x"), "is compressed", ".gz"),
    "a nested column": ("a.jsonl", b'{"text": "x"}\n{"text": {"en": "y"}}\n', "line 2: the column is nested", "list of tokens"),
    "tokens with blanks": ("a.jsonl", b'{"text": ["a", "b c"]}\n', "line 1: a list of tokens holds 'b c'", "words"),
    "broken json": ("a.jsonl", b'{"text": "x"}\n{"text": \n', "line 2 is no JSON", "an object or a string a line"),
    "an array that was cut": ("a.json", b'[{"text": "x"},\n {"text": "y"', "element 2 of the JSON array", "cut"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_read_as_it_was_meant_is_refused_with_its_line_and_a_mend(tmp_path, case):
    name, content, where, mend = CASES[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError) as refused:
        read(path)
    assert str(path) in str(refused.value)
    assert where in str(refused.value)
    assert mend in str(refused.value)


def test_a_tar_archive_is_no_text_wherever_it_is(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        content = b"one\ntwo\n" * 10
        entry = tarfile.TarInfo("text.txt")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    (tmp_path / "a.txt").write_bytes(stream.getvalue())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(stream.getvalue()))
    (tmp_path / "c.txt").write_bytes(b"some text\n" * 900 + stream.getvalue())
    for name, words in (("a.txt", "tar archive"), ("b.txt.gz", "tar archive"), ("c.txt", "tar archive is inside")):
        with pytest.raises(CorpusError, match=words):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "columns", "wanted"),
    [
        ("a.jsonl", '{"score": NaN, "text": "x"}\n{"score": {"a": [1]}, "text": "y"}\n', {}, ["x", "y"]),
        ("a.jsonl", '{"id": 1}\n' * 150 + '{"text": "x"}\n', {}, [None] * 150 + ["x"]),
        ("a.jsonl", '"just"\n"strings"\n', {}, ["just", "strings"]),
        ("a.jsonl", '{"text": 1.50}\n{"text": true}\n', {}, ["1.50", "true"]),
        ("a.json", '{"text": "x"}\n{"text": "y"}\n', {}, ["x", "y"]),
        ("a.json", '[\n{"text": "x"}, {"text": "y"},\n"z"]\n', {}, ["x", "y", "z"]),
        ("a.csv", '5,5" disk\n6,"a ""b"" c\nd"\n', {"text": "2", "has_header": False}, ['5" disk', 'a "b" c\nd']),
        ("a.csv", '1,"say \\"hi\\" \\n"\n', {"text": "2", "has_header": False, "quotes": "backslash"}, ['say "hi" \\n']),
        ("a.csv", "text\none\n\ntwo\n", {}, ["one", "", "two"]),
        ("a.tsv", 'text\tid\nsay "hi\t1\n', {}, ['say "hi']),
    ],
)  # fmt: skip
def test_what_can_be_read_is(tmp_path, name, content, columns, wanted):
    path = tmp_path / name
    path.write_text(content)
    assert read(path, Columns(**columns))["text"].to_list() == wanted


@pytest.mark.parametrize(
    "content", [b'"w1 "b" c",1\n', b'"w1 w2,1\n"w3 w4",1\n'], ids=["quotes within", "a quotation without end"]
)
def test_quotes_escaped_by_a_backslash_are_read_as_strictly(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(b"text,id\n" + content)
    with pytest.raises(CorpusError, match="line 2 cannot be read as csv"):
        read(tmp_path / "a.csv", Columns(quotes="backslash"))


def test_text_and_lists_of_tokens_may_take_turns(tmp_path):
    rows = [{"text": f"w1 w2 {n % 9}"} if n % 2 else {"text": ["w1", "w2", str(n % 9)]} for n in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"text": NaN}\n')
    source = from_files({"all": [str(tmp_path / "a.jsonl")]})
    corpus = prepare(source, PrepareSettings.resolve(source, {"deduplicate": False}), tmp_path / "out")[0]
    assert sum(split.num_tokens for split in corpus.manifest.splits.values()) == 900
    assert corpus.manifest.dropped == {"missing": 1}


def test_what_a_format_has_not_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    for columns, words in ((Columns(has_header=False), "--no-header"), (Columns(quotes="backslash"), "--quotes")):
        with pytest.raises(CorpusError, match=words):
            read(tmp_path / "a.txt", columns)


def test_a_format_can_be_said_where_the_name_does_not(tmp_path):
    (tmp_path / "train.en").write_text("one two\nthree\n")
    with pytest.raises(CorpusError, match="--format"):
        from_files({"all": [str(tmp_path / "train.en")]})
    source = from_files({"all": [str(tmp_path / "train.en")]}, format_name="txt")
    assert source.splits["all"][0].path.name == "train.en"
    assert read(tmp_path / "train.en", format="txt").height == 2


def test_lists_of_tokens_are_taken_as_they_are(tmp_path):
    rows = [["don't", "stop", str(number % 5)] for number in range(100)]
    pl.DataFrame({"words": rows}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"words": row}) + "\n" for row in rows))
    made = []
    for name in ("a.parquet", "b.jsonl"):
        source = from_files({"all": [str(tmp_path / name)]}, Columns("words"))
        given = {"deduplicate": False, "valid_fraction": 0.3, "test_fraction": 0.3}
        made.append(prepare(source, PrepareSettings.resolve(source, given), tmp_path / name[0])[0])
    assert made[0].fingerprint == made[1].fingerprint
    assert set(made[0].vocabulary.tokens[4:]) <= {"don't", "stop", *"01234"}
    source = from_files({"all": [str(tmp_path / "a.parquet")]}, Columns("words"))
    with pytest.raises(CorpusError, match="taken as they are"):
        prepare(source, PrepareSettings.resolve(source, {"tokenizer": "char"}), tmp_path / "out")


DAMAGE = (b'"', b",", b"\n", b"\\", b"\0", b"\xff", b"\r", b"\t", b"[", b"}", b"ustar", b'""', b"\xef\xbb\xbf")
STRUCTURE = {
    "csv": '",\r\n',
    "tsv": "\t\r\n",
    "txt": "\r\n",
}


def damaged(content, draw):
    """Return a file's content with a few bytes put in, taken out or exchanged."""
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(content))
        what = draw.choice(DAMAGE)
        content = content[:place] + what * draw.randint(0, 1) + content[place + draw.randint(0, 2) :]
    return content


def without(text, characters):
    return text.translate(str.maketrans("", "", characters))


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "jsonl", "json"])
def test_of_a_damaged_file_no_text_is_lost_without_a_word(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 300)
    lines = {
        "csv": "id,text\n" + "".join(f'{name},"{text}, and"\n' for name, text in ROWS),
        "tsv": "id\ttext\n" + "".join(f"{name}\t{text}\n" for name, text in ROWS),
        "txt": "".join(f"{text}\n" for _, text in ROWS),
        "jsonl": "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in ROWS),
        "json": json.dumps([{"id": name, "text": text} for name, text in ROWS], indent=0),
    }[kind]
    columns = Columns() if kind == "txt" else Columns("text", "id")
    draw, outcomes = random.Random(0), {"read": 0, "refused": 0}
    for _ in range(300):
        content = damaged(lines.encode(), draw)
        path = tmp_path / f"damaged.{kind}"
        path.write_bytes(content)
        try:
            found = read(path, columns)
        except CorpusError as error:
            assert str(path) in str(error)  # noqa: PT017 - both outcomes are right
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        everything = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        if kind in STRUCTURE:
            # Whatever is no part of the format is in a row, once, and in order.
            parts = [text for row in found.select("group", "text").rows() for text in row if text is not None]
            header = "" if kind == "txt" else "idtext"
            assert without(header + "".join(parts), STRUCTURE[kind]) == without(everything, STRUCTURE[kind])
        elif kind == "jsonl":
            assert found["text"].to_list() == [json.loads(line).get("text") for line in everything.split("\n") if line]
        else:
            assert found["text"].to_list() == [row.get("text") for row in json.loads(everything)]
    assert min(outcomes.values()) > 10, outcomes


def test_every_byte_of_text_is_kept_or_dropped_for_a_reason(tmp_path):
    draw = random.Random(1)
    lines = [draw.choice(["", "  ", "short", "see www.x.org", "good text here  ", "x" * 1200, "w " * 50, "Ünïcode"])
             for _ in range(400)] + [f"good text number {number}" for number in range(200)]  # fmt: skip
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in lines))
    source = from_files({"all": [str(tmp_path / "a.txt")]})
    chosen = PrepareSettings.resolve(source, {"min_tokens": 2, "max_tokens": 40, "drop_contacts": True})
    told = prepare(source, chosen, tmp_path / "out")[0].manifest.text_bytes
    assert told.read == (tmp_path / "a.txt").stat().st_size
    assert told.read == told.kept + sum(told.dropped.values())
    assert set(told.dropped) == {"empty", "too short", "too long", "url", "duplicate", "white space around"}
    with pytest.raises(CorpusError, match="3 bytes of text were lost"):
        told.model_copy(update={"kept": told.kept - 3}).check()


def test_a_sequence_with_a_word_that_is_no_word_is_dropped_and_counted(tmp_path):
    lines = [f"some words {number}" for number in range(400)] + ["base64 " + "A" * 1500] * 3
    (tmp_path / "a.txt").write_text("".join(f"{line}\n" for line in lines))
    source = from_files({"all": [str(tmp_path / "a.txt")]})
    for most, dropped in ((1000, 1), (2000, 0)):
        chosen = PrepareSettings.resolve(source, {"max_word_bytes": most})
        corpus = prepare(source, chosen, tmp_path / f"out{most}")[0]
        assert corpus.manifest.dropped.get("long word", 0) == 3 * dropped
