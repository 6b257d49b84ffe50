"""Damages to files, each a name and a function that spoils one file in place; seeded, so that a case can be made again."""

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

WHOLE = {
    "null": b"null",
    "list": b"[]",
    "dict": b"{}",
    "number": b"3",
    "string": b'"x"',
    "true": b"true",
    "nan": b"NaN",
    "huge": b"1e400",
    "list-of-null": b"[null]",
    "deep": b"[" * 100_000,
    "deep-dicts": b'{"a":' * 100_000,
    "long-integer": b"9" * 5000,
    "words": b"not json",
    "mark": b"\xef\xbb\xbf{}",
    "no-text": b"\xff\xfe{}",
    "zeros": b"\0" * 4096,
}
"""What a file can be replaced by."""

REMOVED = object()
VALUES = {
    "removed": REMOVED,
    "null": None,
    "list": [],
    "string": "x",
    "negative": -7,
    "huge": float("inf"),
    "nan": float("nan"),
    "dict": {"a": {"b": {}}},
    "true": True,
    "large": 10**30,
    "fraction": 0.5,
    "lists": [[None]],
    "up": "../../x",
}
"""What a key of a JSON object can be given."""


@dataclass(frozen=True)
class Damage:
    """One way to spoil a file."""

    name: str
    apply: Callable[[Path], object]


def write(content: bytes) -> Callable[[Path], object]:
    """Return what replaces a file's content."""
    return lambda path: path.write_bytes(content)


def of_bytes(path: Path, flips: int = 8) -> Iterator[Damage]:
    """Yield truncations, an empty file, flipped bits, added bytes and a zeroed block."""
    data, draw = path.read_bytes(), random.Random(path.name)
    size = len(data)
    yield Damage("emptied", write(b""))
    for kept in {1, size // 4, size // 2, size - 1} & set(range(1, size)):
        yield Damage(f"cut to {kept}", write(data[:kept]))
    for _ in range(flips if size else 0):
        place, bit = draw.randrange(size), draw.randrange(8)
        yield Damage(f"bit {place}.{bit}", write(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]))
    yield Damage("more", write(data + b"\0garbage"))
    if size > 64:
        yield Damage("zeros within", write(data[: size // 3] + b"\0" * (size // 3) + data[size // 3 * 2 :]))


def of_place() -> Iterator[Damage]:
    """Yield a missing file, and other things where the file should be."""
    yield Damage("deleted", lambda path: path.unlink())
    yield Damage("folder", lambda path: (path.unlink(), path.mkdir(), (path / "stranger.txt").write_text("mine")))
    yield Damage("link to nothing", lambda path: (path.unlink(), path.symlink_to("nowhere")))
    yield Damage("link to itself", lambda path: (path.unlink(), path.symlink_to(path.name)))


def key_paths(value: object, prefix: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every key of an object, however deep; of a list its first entry."""
    items = value.items() if isinstance(value, dict) else [(0, value[0])] if isinstance(value, list) and value else []
    for key, child in items:
        yield (*prefix, key)
        yield from key_paths(child, (*prefix, key))


def with_value(content: object, path: tuple, value: object) -> object:
    """Return JSON content with the value at a path replaced or removed."""
    content = json.loads(json.dumps(content))
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def of_keys(content: object) -> Iterator[Damage]:
    """Yield each key in turn, removed and of every other kind of value."""
    for path in key_paths(content):
        for name, value in VALUES.items():
            text = json.dumps(with_value(content, path, value)).replace("Infinity", "1e400")
            yield Damage(f"{'.'.join(map(str, path))} {name}", write(text.encode()))


def of_lines(path: Path) -> Iterator[Damage]:
    """Yield lines twice, removed, swapped, joined, cut, of other kinds."""
    lines = path.read_bytes().splitlines(keepends=True)
    for index in {0, len(lines) // 2, len(lines) - 1}:
        yield Damage(f"line {index} twice", write(b"".join([*lines[: index + 1], *lines[index:]])))
        yield Damage(f"line {index} removed", write(b"".join([*lines[:index], *lines[index + 1 :]])))
        for kind in (b"null", b"[]", b"3", b"{}", b"[" * 100_000, b"\xff\xfe", b"", b'{"epoch": 1}', b"NaN"):
            yield Damage(
                f"line {index} {kind[:9]!r}", write(b"".join([*lines[:index], kind + b"\n", *lines[index + 1 :]]))
            )
    if len(lines) > 1:
        yield Damage("lines swapped", write(b"".join([lines[1], lines[0], *lines[2:]])))
        yield Damage("lines joined", write(b"".join([lines[0].rstrip(b"\n"), *lines[1:]])))
    yield Damage("last line cut", write(b"".join([*lines[:-1], lines[-1][: len(lines[-1]) // 2]])))


def of_database(path: Path) -> Iterator[Damage]:
    """Yield tables dropped, emptied, without their last row, and with other values."""
    with sqlite3.connect(path) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        columns = {name: [row[1] for row in connection.execute(f'pragma table_info("{name}")')] for name in names}
        filled = [name for name in names if connection.execute(f'select count(*) from "{name}"').fetchone()[0]]
    connection.close()
    for table in filled:
        yield Damage(f"drop {table}", sql(f'drop table "{table}"'))
        yield Damage(f"empty {table}", sql(f'delete from "{table}"'))
        last = f'(select max(rowid) from "{table}")'
        yield Damage(f"last of {table}", sql(f'delete from "{table}" where rowid = {last}'))
        for column in columns[table]:
            for value in ("null", "'x'", "-7", "9e999", "x'ff00'"):
                change = f'update or ignore "{table}" set "{column}" = {value} where rowid = {last}'
                yield Damage(f"{table}.{column} {value}", sql(change))


def sql(statement: str) -> Callable[[Path], None]:
    """Return what runs one statement on a database, its own rules set aside."""

    def apply(path: Path) -> None:
        connection = sqlite3.connect(path)
        connection.execute("pragma foreign_keys = off")
        connection.execute("pragma ignore_check_constraints = on")
        try:
            connection.execute(statement)
            connection.commit()
        except sqlite3.IntegrityError:  # not null: the file stays as it was
            connection.rollback()
        connection.close()

    return apply


def damages_of(path: Path) -> Iterator[Damage]:
    """Yield every damage that suits a file's kind."""
    yield from of_bytes(path, flips=24 if path.suffix in (".db", ".arrow", ".safetensors") else 8)
    yield from of_place()
    match path.suffix:
        case ".json":
            yield from (Damage(f"whole {name}", write(content)) for name, content in WHOLE.items())
            yield from of_keys(json.loads(path.read_text("utf-8")))
        case ".jsonl":
            yield from (Damage(f"whole {name}", write(content)) for name, content in WHOLE.items())
            yield from of_lines(path)
        case ".db":
            yield from of_database(path)
