"""Methods beside each other over seeds: which runs, one table, and what each costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from study.claims import Verdict, plainest, verdicts
from study.journal import write_json
from study.ledger import Ledger
from study.trial import FINAL

METRICS = ("nll", "elbo", "reconstruction", "kl", "mi", "au", "ppl", "dispersion")


def points(methods: list[str], poolings: list[str], seeds: int) -> list[dict[str, Any]]:
    """Return the searched values of every trial, seed by seed.

    A method may name its own pooling, as in `aggressive:last`; a language model has none.
    """
    made = []
    for seed in range(seeds):
        for entry in methods:
            method, _, own = entry.partition(":")
            for pooling in [own] if own else poolings[:1] if method == "language-model" else poolings:
                point = {"method": method, "seed": seed}
                made.append(point if method == "language-model" else point | {"model.pooling": pooling})
    return [point for place, point in enumerate(made) if point not in made[:place]]


def results(ledger: Ledger) -> pl.DataFrame:
    """Return one row a trial that was evaluated on the test split.

    Method, pooling, seed, metrics, costs, `folder`, and the lists `curve_nll` (the lowest validation nll so far),
    `curve_tokens` and `curve_seconds` by epoch.
    """
    rows = []
    for trial in ledger.trials():
        folder = ledger.trial_folder(trial.number)
        if trial.state not in ("complete", "collapsed") or not (folder / FINAL).is_file():
            continue
        last, final = trial.rows[-1], json.loads((folder / FINAL).read_text("utf-8"))
        # Epochs before a decoder reset have costs, but no model that counts.
        nll = [float("inf") if "phase" in row else row["valid/nll"] for row in trial.rows]
        rows.append({
            "method": trial.params["method"], "pooling": trial.params.get("model.pooling", "-"),
            "seed": trial.params["seed"],
            **{name: float("nan") if value is None else float(value) for name, value in final.items()},
            "epochs": len(trial.rows), "seconds": last["seconds"], "decoder_tokens": last["train/decoder_tokens"],
            "folder": str(folder), "curve_nll": list(accumulate(nll, min)),
            "curve_tokens": [row["train/decoder_tokens"] for row in trial.rows],
            "curve_seconds": [row["seconds"] for row in trial.rows],
        })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def summary(frame: pl.DataFrame) -> pl.DataFrame:
    """Return mean and standard deviation over seeds by method and pooling, and costs relative to the plain VAE's."""
    costs = ("seconds", "decoder_tokens")
    grouped = frame.group_by("method", "pooling", maintain_order=True).agg(
        pl.len().alias("seeds"),
        *[pl.col(name).mean() for name in (*METRICS, *costs)],
        *[pl.col(name).std().alias(f"{name}_sd") for name in METRICS],
    )
    plain = grouped.filter((pl.col("method") == (plainest(frame) or "")) & (pl.col("pooling") == "last"))
    if plain.height == 0:
        return grouped
    return grouped.with_columns(*[(pl.col(name) / plain[name][0]).alias(f"relative_{name}") for name in costs])


def comparison_table(frame: pl.DataFrame) -> Table:
    """Return the table of a comparison, test split, mean ± standard deviation over seeds."""
    table = Table(title="Test split, mean ± s.d. over seeds", title_justify="left", box=None, pad_edge=False)
    for name in ("method", "pooling", "seeds", *METRICS, "seconds", "decoder tokens"):
        table.add_column(name, justify="left" if name in ("method", "pooling") else "right")
    for row in summary(frame).iter_rows(named=True):
        cells = [f"{row[name]:.2f} ± {row[f'{name}_sd'] or 0.0:.2f}" for name in METRICS]
        costs = [f"{row.get(f'relative_{name}', float('nan')):.2f}x" for name in ("seconds", "decoder_tokens")]
        table.add_row(row["method"], row["pooling"], str(row["seeds"]), *cells, *costs)
    return table


def claims_table(found: list[Verdict]) -> Table:
    """Return the verdicts as a table."""
    table = Table(title="The four claims made for pooling", title_justify="left", box=None, pad_edge=False)
    for name in ("claim", "pooling", "verdict", "evidence"):
        table.add_column(name, overflow="fold")
    for each in found:
        table.add_row(each.claim, each.pooling, each.verdict, Text(each.evidence))
    return table


def write_comparison(frame: pl.DataFrame, folder: Path) -> None:
    """Write the trials, their summary and the verdicts beside the study, as parquet and JSON."""
    frame.drop("folder").write_parquet(folder / "comparison.parquet")
    stored = {"summary": summary(frame).to_dicts(), "claims": [asdict(each) for each in verdicts(frame)]}
    write_json(folder / "comparison.json", stored)
