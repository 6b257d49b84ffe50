"""The likelihood from few samples without their first-order bias, against 500 samples for every sequence.

    python benchmarks/likelihood.py MODEL --corpus PREPARED --sequences 300

MODEL is a folder that training wrote, a study (its best trial), or STUDY:TRIAL. Both are timed in turns in one process;
the test split, as `study evaluate` reads it. The 500 samples are also cut into blocks of the smaller numbers: the mean
over blocks says what bias is left, with less noise than any one of them.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from model.likelihood import debiased_log_likelihood
from study.inference.lookup import model_corpus, model_folder
from study.inference.trained_model import TrainedModel
from study.training.evaluation import Scores, score

FIELD_SAMPLES = 500


def blocks(found: Scores, num: int) -> float:
    """Return the debiased nll by so many samples, the mean over the blocks that all samples make."""
    parts = [part for part in found.log_weights.split(num, dim=1) if part.shape[1] == num]
    return -float(torch.stack([debiased_log_likelihood(part).mean() for part in parts]).mean())


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--corpus", help="Prepared folder; the study's own if not given.")
@click.option("--storage", default="runs", type=click.Path(path_type=Path))
@click.option("--sequences", type=int, help="Only so many.")
@click.option("--samples", default=(16, 32, 64), multiple=True, help="Samples a sequence, beside the field's 500.")
@click.option("--threads", default=1)
def main(
    models: tuple[str, ...],
    corpus: str | None,
    storage: Path,
    sequences: int | None,
    samples: tuple[int, ...],
    threads: int,
) -> None:
    """Print a table for each model."""
    torch.set_num_threads(threads)
    console = Console(width=120)
    for name in models:
        trained = TrainedModel.open(model_folder(name, storage))
        split = model_corpus(trained, name, corpus, storage).split("test")

        def timed(num_samples: int) -> tuple[float, Scores]:
            started = time.perf_counter()
            found = score(trained.network, split, num_samples=num_samples, num_sequences=sequences)  # noqa: B023 - called at once
            return time.perf_counter() - started, found

        timed(min(samples))
        runs = {num: timed(num) for num in (*samples, FIELD_SAMPLES)}
        whole, reference = runs[FIELD_SAMPLES][0], runs[FIELD_SAMPLES][1].metrics()["nll"]
        columns = (
            "samples",
            "nll",
            "debiased",
            "differs from 500",
            "mean of blocks",
            "standard error",
            "seconds, of 500's",
            "tokens",
        )
        table = Table(*columns, box=None, title=f"{name}: KL {runs[FIELD_SAMPLES][1].metrics()['kl']:.2f}")
        for num, (seconds, found) in runs.items():
            metrics, cost = found.metrics(), found.reliability()
            table.add_row(
                f"{num}",
                f"{metrics['nll']:.3f}",
                f"{cost['nll_debiased']:.3f}",
                f"{cost['nll_debiased'] - reference:+.3f}",
                f"{blocks(runs[FIELD_SAMPLES][1], num) - reference:+.3f}",
                f"{metrics['nll_se']:.4f}",
                f"{seconds / whole:.3f}",
                f"{num / FIELD_SAMPLES:.3f}",
            )
        console.print(table)
    console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
