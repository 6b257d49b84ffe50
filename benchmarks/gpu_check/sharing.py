"""Step 6: the throughput of several training processes on one card, without and with NVIDIA MPS; memory of each."""

from __future__ import annotations

import contextlib
import json
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
from data.corpus import SCHEMA_VERSION, VOCABULARY, fingerprint, write_manifest, write_shard
from data.files import write_text
from study import mps
from study.errors import StudyError
from study.gpus import needed_bytes

PLANS = [
    ("PTB", 1, False), ("PTB", 8, False), ("PTB", 8, True), ("PTB", 16, True), ("PTB", 16, False), ("quick", 1, False),
    ("quick", 8, False), ("quick", 8, True), ("quick", 16, True), ("PTB", 4, True), ("PTB", 4, False),
    ("quick", 16, False), ("quick", 4, True), ("quick", 4, False), ("PTB", 1, True), ("quick", 1, True),
]  # fmt: skip
"""Sizes, processes and MPS, the most telling first: what the time does not reach is left out."""

WINDOW_SECONDS = 4.0


def write_corpus(sizes: Sizes, folder: Path) -> Path:
    """Write a corpus of random tokens, as `study corpus prepare` would have."""
    split = make_split(sizes)
    folder.mkdir()
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(4, sizes.vocabulary_size))]
    write_text(folder / VOCABULARY, json.dumps(words))
    splits = {}
    for name, rows in (("train", 1280), ("valid", 64), ("test", 64)):
        ids = split.take(np.arange(rows)).astype(np.uint16)
        write_shard(folder / f"{name}.arrow", ids, split.lengths[:rows], np.ones(rows, np.int64))
        splits[name] = {"num_sequences": rows, "num_tokens": len(ids), "num_bytes": rows, "num_unknown": 0,
                        "shards": [f"{name}.arrow"]}  # fmt: skip
    files = [VOCABULARY, *(f"{name}.arrow" for name in splits)]
    write_manifest(folder, {
        "schema_version": SCHEMA_VERSION, "source": "files", "vocabulary_size": sizes.vocabulary_size,
        "settings": {"tokenizer": "whitespace", "pattern": None, "lowercase": False}, "splits": splits,
        "files": {name: (folder / name).stat().st_size for name in files}, "fingerprint": fingerprint(folder, files),
    })  # fmt: skip
    return folder


def train_together(given: dict[str, Any], sizes: Sizes, corpus: Path, count: int, deadline: float) -> list[list[dict]]:
    """Return the epochs that each of so many processes finished while all of them trained."""
    settings = {
        "model.embedding_size": sizes.embedding_size, "model.hidden_size": sizes.hidden_size,
        "model.latent_size": sizes.latent_size, "training.optimizer": "sgd", "training.epochs": 100_000,
        "training.device": given["device"], "evaluation.num_samples": 1, "evaluation.collapse_epochs": 1_000_000,
    }  # fmt: skip
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        outputs = [Path(scratch) / f"{number}.jsonl" for number in range(count)]
        running = []
        for number, output in enumerate(outputs):
            stream = stack.enter_context(output.open("wb"))
            running.append(subprocess.Popen(
                [sys.executable, "-m", "study", "train", str(corpus), "--out", f"{scratch}/{number}", *options],
                stdout=stream, stderr=sys.stderr,
            ))  # fmt: skip
        try:
            while time.monotonic() < deadline and not all(output.stat().st_size for output in outputs):
                if any(each.poll() for each in running):
                    raise StudyError("a process ended; see sharing.log")
                time.sleep(0.05)
            before = [output.read_bytes().count(b"\n") for output in outputs]
            window = 3 * WINDOW_SECONDS if given["quick"] else WINDOW_SECONDS
            time.sleep(max(0.0, min(window, deadline - time.monotonic())))
        finally:
            # A line that is still being written is none.
            rows = [output.read_bytes().rpartition(b"\n")[0].splitlines() for output in outputs]
            for each in running:
                each.kill()
                each.wait()
    return [[json.loads(line) for line in lines[start:]] for lines, start in zip(rows, before, strict=True)]


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
            epochs = train_together(given, SIZES[name], corpus, count, deadline)
    except StudyError as error:
        tell(given, label, f"left out: {error}")
        return
    if not all(epochs):
        tell(given, label, f"{sum(map(bool, epochs))} of them finished an epoch in time")
        return
    rate = sum(float(np.median([row["train/tokens_per_second"] for row in rows])) for rows in epochs)
    alone.setdefault(name, rate)
    tell(given, f"{label}: tokens a second in all (times one process')", f"{rate:,.0f} ({rate / alone[name]:.2f})")
    memory = max(row["train/peak_memory_mb"] for rows in epochs for row in rows)
    sizes = SIZES[name]
    settings = {
        "model.hidden_size": sizes.hidden_size, "model.embedding_size": sizes.embedding_size,
        "model.latent_size": sizes.latent_size, "model.num_encoder_layers": 1, "model.bidirectional": 0,
        "training.batch_size": 32, "training.max_batch_tokens": 0, "evaluation.max_decoder_tokens": 32_768,
    }  # fmt: skip
    estimated = needed_bytes(settings.__getitem__, sizes.vocabulary_size, sizes.num_targets + 1)
    tell(given, f"{label}: memory of one, MiB (estimated, CUDA's own included)", f"{memory:.0f} ({estimated >> 20})")


def main() -> None:
    """Print the findings."""
    given = arguments("sharing")
    end = time.monotonic() + given["seconds"] - 3
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
