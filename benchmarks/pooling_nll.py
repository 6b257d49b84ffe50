"""The nll of a pooling test's runs measured again from their best weights, and its differences in pairs.

    PYTHONPATH=. python benchmarks/pooling_nll.py runs/power corpora/chitchat-4000

Of each run with a latent variable: 24 samples a sequence of the posterior tempered by the run's KL weight, less the
first term of their bias, on the 400 validation sequences of the quick preset.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from data.corpus import Corpus
from model.weights import describe, load_network
from study.config.settings import Settings
from study.training.best_weights import best_folders
from study.training.evaluation import score


@click.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("corpus")
@click.option("--samples", default=24, show_default=True)
@click.option("--sequences", default=400, show_default=True)
def main(study: Path, corpus: str, samples: int, sequences: int) -> None:
    """Print nll by weight and pooling, and the differences from `last` in pairs of weight and seed."""
    split = Corpus.open(corpus).split("valid")
    found: dict[tuple[str, float, int], float] = {}
    for folder in sorted((study / "trials").iterdir()):
        best = best_folders(folder)[-1]
        settings = Settings.model_validate(describe(best).settings)
        if not settings.model.has_latent:
            continue
        weight = settings.objective.kl_weight
        scores = score(load_network(best), split, num_samples=samples, power=min(1.0, weight), num_sequences=sequences)
        found[settings.model.pooling, weight, settings.seed] = scores.metrics(debiased=True)["nll"]
    table = Table("KL weight", "pooling", "runs", "nll", box=None)
    for weight, pooling in sorted({(weight, pooling) for pooling, weight, _ in found}):
        values = [value for key, value in found.items() if key[:2] == (pooling, weight)]
        table.add_row(f"{weight:g}", pooling, str(len(values)), f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}")
    console = Console()
    console.print(table)
    for pooling in sorted({pooling for pooling, _, _ in found} - {"last"}):
        pairs = [key[1:] for key in found if key[0] == "last" and (pooling, *key[1:]) in found]
        less = np.array([found[pooling, weight, seed] - found["last", weight, seed] for weight, seed in pairs])
        low, high = stats.t.interval(0.95, len(less) - 1, less.mean(), stats.sem(less))
        console.print(f"{pooling} less last: {less.mean():+.3f} [{low:.3f}, {high:.3f}] nats, {len(less)} pairs")


if __name__ == "__main__":
    main()
