"""Step 6: the throughput of several training processes on one card, without and with NVIDIA MPS; memory of each."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_check.common import SIZES, Sizes, arguments, tell
from benchmarks.gpu_check.speed import make_split
from data.corpus import VOCABULARY, fingerprint, write_shard
from data.files import write_text
from data.manifest import Manifest, write_manifest
from study.errors import StudyError
from study.execution import mps
from study.training.gpus import needed_bytes

PLANS = [
    ("PTB", 1, False),
    ("PTB", 8, False),
    ("PTB", 8, True),
    ("PTB", 16, True),
    ("PTB", 16, False),
    ("quick", 1, False),
    ("quick", 8, False),
    ("quick", 8, True),
    ("quick", 16, True),
    ("PTB", 4, True),
    ("PTB", 4, False),
    ("quick", 16, False),
    ("quick", 4, True),
    ("quick", 4, False),
    ("PTB", 1, True),
    ("quick", 1, True),
]
"""Sizes, processes and MPS, the most telling first: what the time does not reach is left out."""

WINDOW_SECONDS = 4.0


def write_corpus(sizes: Sizes, folder: Path) -> Path:
    """Write a corpus of random tokens, as `study corpus prepare` would have."""
    split = make_split(sizes)
    folder.mkdir()
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(4, sizes.vocabulary_size))]
    write_text(folder / VOCABULARY, json.dumps(words))
    splits = {}
    for name, rows in (("train", 3840), ("valid", 64), ("test", 64)):
        ids = split.take(np.arange(rows)).astype(np.uint16)
        write_shard(folder / f"{name}.arrow", ids, split.lengths[:rows], np.ones(rows, np.int64))
        splits[name] = {
            "num_sequences": rows,
            "num_tokens": len(ids),
            "num_bytes": rows,
            "num_unknown": 0,
            "shards": [f"{name}.arrow"],
        }
    files = [VOCABULARY, *(f"{name}.arrow" for name in splits)]
    write_manifest(
        folder,
        Manifest(
            source="files",
            vocabulary_size=sizes.vocabulary_size,
            settings={"tokenizer": "whitespace", "pattern": None, "lowercase": False},
            splits=splits,
            files={name: (folder / name).stat().st_size for name in files},
            fingerprint=fingerprint(folder, files),
        ),
    )
    return folder


def train_together(
    given: dict[str, Any], sizes: Sizes, corpus: Path, count: int, deadline: float
) -> tuple[list[float], list[dict[str, Any]]]:
    """Return the tokens a second of each of so many processes while all of them trained, and a row of each."""
    settings = {
        "model.embedding_size": sizes.embedding_size,
        "model.hidden_size": sizes.hidden_size,
        "model.latent_size": sizes.latent_size,
        "training.optimizer": "sgd",
        "training.epochs": 100_000,
        "training.device": given["device"],
        "evaluation.num_samples": 1,
        "training.checkpoint_minutes": 1000,
        "evaluation.collapse_epochs": 1_000_000,
    }
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        outputs = [Path(scratch) / f"{number}.jsonl" for number in range(count)]
        running = []
        for number, output in enumerate(outputs):
            stream = stack.enter_context(output.open("wb"))
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "study", "train", str(corpus), "--out", f"{scratch}/{number}", *options],
                    stdout=stream,
                    stderr=sys.stderr,
                )
            )
        try:
            while time.monotonic() < deadline and not all(output.stat().st_size for output in outputs):
                if any(each.poll() for each in running):
                    raise StudyError("a process ended; see log.txt")
                time.sleep(0.05)
            # A rehearsal is over once each has ended a few epochs, on a busy machine too.
            window, enough = (20 * WINDOW_SECONDS, 3) if given["quick"] else (WINDOW_SECONDS, sys.maxsize)
            rates = watch(outputs, min(time.monotonic() + window, deadline), enough)
            rows = [json.loads(output.read_bytes().splitlines()[0]) for output in outputs if output.stat().st_size]
        finally:
            # Not killed in the middle of a kernel, which would take MPS with it.
            for each in running:
                each.terminate()
            for each in running:
                try:
                    each.wait(5)
                except subprocess.TimeoutExpired:
                    each.kill()
    return rates, rows


def watch(outputs: list[Path], until: float, enough: int) -> list[float]:
    """Return the tokens a second of each process, by the clock on the wall: all that an epoch takes counts.

    From the first epoch that ends in the window to the last, or to where each has ended `enough`; nan without two.
    """
    seen: list[list[float]] = [[] for _ in outputs]
    counts = [output.read_bytes().count(b"\n") for output in outputs]
    while (now := time.monotonic()) < until and min(map(len, seen)) < enough:
        for place, output in enumerate(outputs):
            if (count := output.read_bytes().count(b"\n")) > counts[place]:
                seen[place] += [now] * (count - counts[place])
                counts[place] = count
        time.sleep(0.01)
    rates = []
    for place, output in enumerate(outputs):
        times = seen[place]
        if len(times) < 2 or times[-1] <= times[0]:
            rates.append(math.nan)
            continue
        lines = output.read_bytes().splitlines()[: counts[place]]
        first, last = (json.loads(lines[number])["train/decoder_tokens"] for number in (-len(times), -1))
        rates.append((last - first) / (times[-1] - times[0]))
    return rates


@contextlib.contextmanager
def with_mps(given: dict[str, Any], count: int, wanted: bool) -> Iterator[None]:
    """Have MPS for a while, or not."""
    if not wanted:
        yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    with mps.serving(1 / count, (total,)):
        yield


def measure(given: dict[str, Any], plan: tuple[str, int, bool], corpus: Path, deadline: float, alone: dict) -> None:
    """Print what one plan gives."""
    name, count, wanted = plan
    label = f"{name}, {count} processes{', MPS' * wanted}"
    if wanted and (given["device"] == "cpu" or shutil.which(mps.CONTROL) is None):
        tell(given, label, f"left out: {mps.CONTROL} is not here")
        return
    try:
        with with_mps(given, count, wanted):
            rates, rows = train_together(given, SIZES[name], corpus, count, deadline)
    except StudyError as error:
        tell(given, label, f"left out: {error}")
        return
    if np.isnan(rates).any():
        tell(given, label, f"{int(np.isfinite(rates).sum())} of them finished two epochs in time")
        return
    rate = sum(rates)
    if count == 1:
        alone.setdefault(name, rate)
    times = f"{rate / alone[name]:.2f}" if name in alone else "one was not measured"
    tell(given, f"{label}: tokens a second in all (times one process')", f"{rate:,.0f} ({times})")
    memory = max(row["train/peak_memory_mb"] for row in rows)
    sizes = SIZES[name]
    settings = {
        "model.hidden_size": sizes.hidden_size,
        "model.embedding_size": sizes.embedding_size,
        "model.latent_size": sizes.latent_size,
        "model.num_encoder_layers": 1,
        "model.num_decoder_layers": 1,
        "model.bidirectional": 0,
        "training.batch_size": 32,
        "training.max_batch_tokens": 0,
        "evaluation.max_decoder_tokens": 16_384,
    }
    estimated = needed_bytes(settings.__getitem__, sizes.vocabulary_size, sizes.num_targets + 1)
    tell(given, f"{label}: memory of one, MiB (estimated, CUDA's own included)", f"{memory:.0f} ({estimated >> 20})")


def main() -> None:
    """Print the findings."""
    given = arguments("sharing")
    end = time.monotonic() + given["seconds"] - 15
    alone: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        corpora = {name: write_corpus(SIZES[name], Path(scratch) / name) for name in ("quick", "PTB")}
        for plan in [("quick", 1, False), ("quick", 2, False), ("quick", 2, True)] if given["quick"] else PLANS:
            if time.monotonic() > end - (1 if given["quick"] else 12):
                tell(given, f"{plan[0]}, {plan[1]} processes{', MPS' * plan[2]}", "not reached in the time given")
                continue
            measure(given, plan, corpora[plan[0]], end, alone)


if __name__ == "__main__":
    main()
