"""Preparing text, against Hugging Face `datasets` doing the same tokenisation, vocabulary and encoding.

    pip install 'pooled-vae-study[benchmark]'
    python benchmarks/preparing.py --megabytes 1000 --flat 100,1000,3000

Both run in a process of their own on one core, on the same made-up text (words by Zipf's law, 8 to 40 a line).
Prints seconds and peak memory of each, then, of what was prepared, the seconds to open it in a new process that has
its modules imported, as a trial's has, and what each of several processes keeps in memory before and after reading all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import psutil
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

WORDS, VOCABULARY = 200_000, 20_000
PEER = """
import sys
from collections import Counter
from datasets import load_dataset, disable_progress_bars
disable_progress_bars()
text, out, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = load_dataset("text", data_files=text, split="train", cache_dir=out + "/cache")
rows = rows.map(lambda batch: {"tokens": [line.split() for line in batch["text"]]}, batched=True, remove_columns="text")
parts = rows.train_test_split(test_size=0.1, seed=0)
counts = Counter()
for batch in parts["train"].iter(1000):
    for tokens in batch["tokens"]:
        counts.update(tokens)
ids = {token: number for number, (token, _) in enumerate(counts.most_common(size), 4)}
encode = lambda batch: {"ids": [[1, *(ids.get(token, 3) for token in tokens), 2] for tokens in batch["tokens"]]}
parts.map(encode, batched=True, remove_columns="tokens").save_to_disk(out + "/prepared")
"""
OPENING = """
import sys, time
import data.batches
from data.corpus import Corpus
started = time.perf_counter()
split = Corpus.open(sys.argv[1]).split("train")
print(time.perf_counter() - started)
"""
READING = """
import sys
import data.batches
from data.corpus import Corpus
split = Corpus.open(sys.argv[1]).split("train")
print("opened", flush=True)
sys.stdin.readline()
print(sum(int(split.sequence(row).sum()) for row in range(len(split))), flush=True)
sys.stdin.readline()
"""


def write_text(path: Path, megabytes: int) -> None:
    """Write so much text, the same each time."""
    draw = np.random.default_rng(0)
    words = np.array([f"{number:x}w" for number in range(WORDS)])
    shares = 1 / np.arange(1, WORDS + 1)
    cumulative = np.cumsum(shares / shares.sum())
    with path.open("w") as stream:
        while stream.tell() < megabytes * 10**6:
            lengths = draw.integers(8, 41, 20_000)
            chosen = words[np.searchsorted(cumulative, draw.random(lengths.sum()))]
            stream.write("\n".join(" ".join(part) for part in np.split(chosen, np.cumsum(lengths)[:-1])) + "\n")


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command on one core; return its seconds and its peak memory in MiB."""
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    core = next(iter(psutil.Process().cpu_affinity() or [0]))
    started = time.perf_counter()
    process = subprocess.Popen(["taskset", "-c", str(core), *command], env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command[:3]} ended with status {status}")
    return time.perf_counter() - started, used.ru_maxrss / 1024


def prepare_ours(text: Path, out: Path) -> list[str]:
    """Return the command that prepares a text as a study needs it."""
    study = str(Path(sys.executable).with_name("study"))
    size = ["--vocabulary-size", str(VOCABULARY)]
    return [study, "corpus", "prepare", str(text), "--out", str(out), "--overwrite", *size]


def memory_of_readers(corpus: Path, num: int = 4) -> NDArray[np.float64]:
    """Return what each of several processes has, once it has opened a corpus and once all have read all of it.

    Two rows of unique and proportional set size in MiB, means of the processes: pages that several have count
    fully towards none's unique set size, and in equal parts towards their proportional ones.
    """
    command = [sys.executable, "-c", READING, str(corpus)]
    readers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(num)
    ]
    found = []
    for _ in range(2):
        for reader in readers:
            reader.stdout.readline()
        sizes = [psutil.Process(reader.pid).memory_full_info() for reader in readers]
        found.append(np.mean([(size.uss, size.pss) for size in sizes], axis=0) / 2**20)
        for reader in readers:
            reader.stdin.write("\n")
    for reader in readers:
        reader.wait()
    return np.array(found)


@click.command()
@click.option("--megabytes", default=1000, help="Text that both prepare.")
@click.option("--flat", default="100,1000", help="Sizes at which our peak memory is measured, MB.")
@click.option("--repeats", default=3)
@click.option("--peer", "peer_python", default=sys.executable, help="A Python that has datasets.")
@click.option("--folder", default="/tmp/data-benchmark", type=click.Path(path_type=Path))  # noqa: S108 - scratch
def main(megabytes: int, flat: str, repeats: int, peer_python: str, folder: Path) -> None:
    """Print the tables."""
    console = Console(width=110)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text, peer = folder / "text.txt", folder / "peer"
    write_text(text, megabytes)
    ratios = []
    for _ in range(repeats):
        ours, our_peak = measured(prepare_ours(text, folder / "ours"))
        shutil.rmtree(peer, ignore_errors=True)
        theirs, their_peak = measured([peer_python, "-c", PEER, str(text), str(peer), str(VOCABULARY)])
        ratios.append(theirs / ours)
        console.print(
            f"{megabytes} MB: ours {ours:.1f} s, {our_peak:.0f} MiB; datasets {theirs:.1f} s, {their_peak:.0f} MiB"
        )
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    console.print(f"seconds of datasets / ours: {middle:.2f} [{low:.2f}, {high:.2f}]")
    opening = [float(subprocess.check_output([sys.executable, "-c", OPENING, str(folder / "ours")])) for _ in range(5)]
    console.print(f"opening it in a new process: {np.median(opening) * 1000:.0f} ms")
    (unique, proportional), (unique_read, proportional_read) = memory_of_readers(folder / "ours")
    size = sum(path.stat().st_size for path in (folder / "ours").glob("train-*.arrow")) / 2**20
    console.print(
        f"four readers of its {size:.0f} MiB, each: unique {unique:.0f} MiB opened, {unique_read:.0f} MiB all read;"
        f" proportional {proportional:.0f} and {proportional_read:.0f} MiB"
    )
    table = Table("text, MB", "seconds", "peak memory, MiB", box=None)
    for number in map(int, flat.split(",")):
        write_text(text, number)
        seconds, peak = measured(prepare_ours(text, folder / "ours"))
        table.add_row(f"{number}", f"{seconds:.1f}", f"{peak:.0f}")
    console.print(table)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
