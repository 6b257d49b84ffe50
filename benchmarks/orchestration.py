"""What a study costs beside its training: Ray, Optuna, MLflow and the records.

    python benchmarks/orchestration.py

Runs a study of the quick preset (24 settings drawn at random, none ended early), then trains the same settings bare,
in two processes that know none of these, and compares the wall times. Also the seconds until the first trial's first
epoch is on record, those from a trial's last epoch to the beginning of the next in its place, and of `study --help`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import numpy as np

from study.config.settings import Settings
from study.record.ledger import Ledger
from study.record.trials import TrialRecord

STUDY = str(Path(sys.executable).with_name("study"))


def train_bare(job: tuple[dict[str, object], str, str]) -> float:
    """Train one setting to its end with one thread; return its seconds."""
    import torch

    from data.corpus import Corpus
    from study.training.loop import train

    torch.set_num_threads(1)
    settings, corpus, folder = job
    started = time.perf_counter()
    for _ in train(Settings.model_validate(settings), Corpus.open(corpus), Path(folder)):
        pass
    return time.perf_counter() - started


def run_study(trials: int, folder: Path) -> tuple[float, float]:
    """Run the study; return its wall time and the seconds until the first epoch is on record."""
    options = f"--trials {trials} --sampler random --scheduler none --concurrent 2 --name study --storage {folder}"
    command = [STUDY, "run", "chitchat", "--preset", "quick", *options.split()]
    journals = (folder / "study" / "trials").glob
    first = 0.0
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if not first and any(path.stat().st_size for path in journals("*/epochs.jsonl")):
                first = time.perf_counter() - started
            time.sleep(0.02)
    if process.returncode:
        sys.exit(f"the study ended with exit code {process.returncode}")
    return time.perf_counter() - started, first


def changeovers(records: list[TrialRecord], concurrent: int = 2) -> list[float]:
    """Return the seconds from each trial's last epoch on record to the training of the one that took its place."""
    begun = sorted(each.rows[0].recorded_at - each.rows[0].seconds for each in records)[concurrent:]
    ended = sorted(each.rows[-1].recorded_at for each in records)
    return [start - end for start, end in zip(begun, ended, strict=False)]


@click.command()
@click.option("--trials", default=24)
@click.option("--folder", default="/tmp/orchestration", type=click.Path(path_type=Path))  # noqa: S108 - scratch
def main(trials: int, folder: Path) -> None:
    """Print the figures."""
    shutil.rmtree(folder, ignore_errors=True)
    wall, first = run_study(trials, folder)
    ledger = Ledger.open(folder / "study")
    records, space = ledger.trials(), ledger.definition.space
    jobs = [
        (space.settings(each.params).model_dump(), ledger.definition.corpus, str(folder / "bare" / str(each.number)))
        for each in records
    ]
    started = time.perf_counter()
    with ProcessPoolExecutor(2) as pool:
        seconds = list(pool.map(train_bare, jobs))
    bare = time.perf_counter() - started
    epochs = sum(len(each.rows) for each in records)
    print(f"{trials} trials, {epochs} epochs: study {wall:.0f} s, bare {bare:.0f} s: {bare / wall:.2f}")
    print(f"training seconds      study {sum(each.seconds for each in records):.0f}, bare {sum(seconds):.0f}")
    slowest = min(each.rows[0].seconds for each in records[:2])
    print(f"first epoch on record {first:.1f} s, of which {slowest:.1f} s training it")
    low, middle, high = np.quantile(changeovers(records), (0.25, 0.5, 0.75))
    print(f"from trial to trial   {middle:.2f} s [{low:.2f}, {high:.2f}]")
    helps = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run([STUDY, "--help"], stdout=subprocess.DEVNULL, check=True, env=os.environ)
        helps.append(time.perf_counter() - started)
    print(f"study --help          {np.median(helps):.2f} s")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
