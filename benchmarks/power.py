"""What a pooling test can find: studies of few seeds drawn from a recorded table of many.

    study run chitchat --preset quick --stages pooling --seeds 8 --name power
    study export power --rows trials --to power.parquet
    python benchmarks/power.py --take power.parquet
    python benchmarks/power.py

Each study takes some seeds of the table. Power: how often its test says that a pooling carries more than `last`. False
alarms: how often it says anything of any pooling once labels were shuffled within each weight and seed.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from study.analysis.pooling_test import max_difference_p

TABLE = Path(__file__).parent / "chitchat-pooling.parquet"
COLUMNS = ("model.pooling", "objective.kl_weight", "seed", "valid/mi", "valid/kl", "valid/nll")
PERMUTATIONS = 1999


def blocks(frame: pl.DataFrame) -> tuple[list[str], NDArray[np.float64]]:
    """Return the poolings, `last` first, and the mutual information by weight, seed and pooling."""
    names = ["last", *sorted(set(frame["model.pooling"]) - {"last"})]
    wide = frame.pivot("model.pooling", index=["objective.kl_weight", "seed"], values="valid/mi").sort(
        "objective.kl_weight", "seed"
    )
    weights = wide["objective.kl_weight"].n_unique()
    return names, wide.select(names).to_numpy().reshape(weights, -1, len(names))


@click.command()
@click.option("--take", type=click.Path(path_type=Path), help="Take over what `study export` wrote, and stop.")
@click.option("--studies", default=1000, show_default=True)
def main(take: Path | None, studies: int) -> None:
    """Print power and false alarms by the number of seeds."""
    if take is not None:
        frame = pl.read_parquet(take).filter(pl.col("model.pooling").is_not_null())
        frame.select(COLUMNS).write_parquet(TABLE)
        return
    names, values = blocks(pl.read_parquet(TABLE))
    draw = np.random.default_rng(0)
    table = Table("seeds", "pairs", *(f"{name} carries more" for name in names[1:]), "any, labels shuffled", box=None)
    for seeds in (2, 3, 4):
        found, false = np.zeros(len(names) - 1), 0
        for _ in range(studies):
            chosen = values[:, draw.choice(values.shape[1], seeds, replace=False)].reshape(-1, len(names))
            larger = chosen[:, 1:].mean(0) > chosen[:, 0].mean()
            found += (np.array(max_difference_p(chosen, PERMUTATIONS)) < 0.05) & larger
            false += min(max_difference_p(draw.permuted(chosen, axis=1), PERMUTATIONS)) < 0.05
        at_most = stats.binomtest(int(false), studies).proportion_ci(0.95, "exact")
        table.add_row(
            str(seeds),
            str(seeds * len(values)),
            *(f"{share:.0%}" for share in found / studies),
            f"{false / studies:.1%} [{at_most.low:.1%}, {at_most.high:.1%}]",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
