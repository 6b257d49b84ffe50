"""Preparing text by each tokenizer: speed, peak memory, and what it makes of the text, each in a process on one core.

    python benchmarks/tokenizers.py --megabytes 100 [--molecules molsets-0.3.1-py3-none-any.whl]

Made-up words by Zipf's law, 8 to 40 a line (those of benchmarks/preparing.py), and the molecules of MOSES, if given.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.preparing import measured, write_text
from data.corpus import Corpus


@click.command()
@click.option("--megabytes", default=100)
@click.option("--molecules", help="The wheel of molsets.")
@click.option("--folder", default="/tmp/tokenizer-benchmark", type=click.Path(path_type=Path))  # noqa: S108 - scratch
def main(megabytes: int, molecules: str | None, folder: Path) -> None:
    """Print the table."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = folder / "text.txt"
    write_text(text, megabytes)
    table = Table("tokenizer", "text", "tokens", "vocabulary", "unknown", "MB/s", "peak memory, MiB", box=None)
    runs = {
        "whitespace": [str(text)],
        "regex": [str(text)],
        "char": [str(text), "--max-tokens", "1000"],
        "bpe": [str(text), "--max-tokens", "1000"],
    }
    if molecules:
        runs["smiles"] = ["moses", "--from", molecules]
    study = str(Path(sys.executable).with_name("study"))
    for tokenizer, arguments in runs.items():
        out = folder / tokenizer
        command = [study, "corpus", "prepare", *arguments, "--tokenizer", tokenizer, "--out", str(out)]
        seconds, peak = measured(command)
        manifest = Corpus.open(out).manifest
        valid = manifest.splits["valid"]
        table.add_row(
            tokenizer,
            "moses" if arguments[0] == "moses" else f"{megabytes} MB of words",
            f"{sum(split.num_tokens for split in manifest.splits.values()):,}",
            f"{manifest.vocabulary_size - 4:,}",
            f"{valid.num_unknown / valid.num_tokens:.2%}",
            f"{manifest.text_bytes.read / 1e6 / seconds:.1f}",
            f"{peak:.0f}",
        )
        told = manifest.text_bytes
        assert told.read == told.kept + sum(told.dropped.values()), json.dumps(told.model_dump())
    Console(width=110).print(table)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
