"""Bytes and lines of a file, decompressed, and what makes it no text: each fault named with its line."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from data.errors import CorpusError

COMPRESSIONS = (".gz", ".zst")
BLOCK_BYTES = 8 * 2**20
MAX_SEQUENCE_BYTES = 64 * 2**20
"""The longest line that is read; text has none, and what has is kept from filling the memory."""
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def blocks(path: Path, most_bytes: int = MAX_SEQUENCE_BYTES) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed by its ending and without byte order mark, in blocks of whole lines.

    Raises CorpusError if it is not UTF-8 text, or a line has more than `most_bytes`: a small compressed file may hold a
    line that no memory does.
    """
    num_lines, rest = 0, b""
    for number, read in enumerate(raw_blocks(path)):
        if number == 0:
            check_beginning(path, read)
        chunk = read.removeprefix(codecs.BOM_UTF8) if number == 0 else read
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            block, rest = rest + head + newline, tail
            check_block(path, block, num_lines)
            check_lengths(path, block, most_bytes, num_lines)
            num_lines += block.count(b"\n")
            yield block
        else:
            rest += tail
        check_length(path, len(rest), most_bytes, num_lines)
    if rest:
        check_block(path, rest, num_lines)
        yield rest


def raw_blocks(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed by its ending."""
    with pa.input_stream(str(path)) as stream:
        while chunk := stream.read(BLOCK_BYTES):
            yield chunk


def decoded(path: Path, most_bytes: int = MAX_SEQUENCE_BYTES) -> Iterator[str]:
    """Yield a file's lines, each with its end, as `blocks` reads them."""
    for block in blocks(path, most_bytes):
        # Ends are kept as they are, and nothing else ends a line: a quoted value may go on over several.
        yield from io.StringIO(block.decode("utf-8"), newline="\n")


def check_beginning(path: Path, head: bytes) -> None:
    """Raise CorpusError if a file's first bytes are those of another encoding, of an archive, or have old line ends."""
    if head.startswith(UTF16):
        raise CorpusError(f"{path}: line 1 is not UTF-8 but UTF-16; convert the file: iconv -f utf-16 -t utf-8")
    if head.startswith(b"\x1f\x8b") or head.startswith(b"\x28\xb5\x2f\xfd"):
        raise CorpusError(f"{path} is compressed, which its name does not say; rename it to end in .gz or .zst")
    if head[257:262] == b"ustar":
        raise CorpusError(f"{path} is a tar archive; unpack it, and name the files in it")
    start = head[:65536]
    if start.count(b"\r") > 2 and b"\n" not in start:
        raise CorpusError(f"{path}: lines end in CR alone, as on old Macs; convert the file: tr '\\r' '\\n'")


def check_block(path: Path, block: bytes, num_lines: int) -> None:
    """Raise CorpusError, naming the line, unless a block that follows so many lines is UTF-8 text."""
    if (place := block.find(b"\0")) >= 0:
        line = num_lines + block[:place].count(b"\n") + 1
        what = "a tar archive is inside" if b"ustar" in block[place : place + 600] else "it is binary or damaged"
        raise CorpusError(f"{path}: line {line} holds a NUL byte: {what}; expected UTF-8 text")
    try:
        block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = num_lines + block[: error.start].count(b"\n") + 1
        raise CorpusError(
            f"{path}: line {line} is not UTF-8; convert the file, for example by iconv -f cp1252 -t utf-8"
        ) from None


def check_lengths(path: Path, block: bytes, most_bytes: int, num_lines: int) -> None:
    """Raise CorpusError, naming the line, if one of a block that follows so many lines is too long."""
    if len(block) > most_bytes:
        for number, line in enumerate(block.splitlines()):
            check_length(path, len(line), most_bytes, num_lines + number)


def check_length(path: Path, num_bytes: int, most_bytes: int, num_lines: int) -> None:
    """Raise CorpusError, naming the line, if one that follows so many lines is too long to be a sequence."""
    if num_bytes > most_bytes:
        raise CorpusError(
            f"{path}: line {num_lines + 1} has more than {most_bytes:,} bytes; is it text with a sequence a line?"
            " --max-sequence-bytes allows longer ones"
        )
