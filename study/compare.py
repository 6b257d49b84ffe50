"""Methods beside each other over seeds: which runs, one table, and what each costs."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from io import StringIO
from itertools import accumulate
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.corpus import Corpus
from model.collapse import ACTIVE_VARIANCE
from study.claims import TRUSTED, Verdict, differences, plainest, verdicts
from study.journal import without_nan, write_json
from study.ledger import Ledger
from study.report import LINE_BREAK, mean_and_spread
from study.trial import FINAL

COMPARISON = "comparison.json"
METRICS = ("nll", "elbo", "reconstruction", "kl", "mi", "mi_in_batch", "au", "ppl", "dispersion")
ERRORS = ("nll_se", "nll_bias_bound", "untrusted")
"""How far the likelihood's estimate goes, and the share of sequences whose importance weights cannot be trusted."""


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

    Method, pooling, seed, metrics, costs (`seconds` of training alone, `decoder_tokens`), `folder`, and by epoch the
    lists `curve_nll` (the lowest validation nll so far), `curve_tokens` and `curve_seconds`.
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
            "seed": trial.params["seed"], "collapse_kl_nats": ledger.definition.goal.collapse_kl_nats,
            **{name: float("nan") if value is None else float(value) for name, value in final.items()},
            "epochs": len(trial.rows), "seconds": training_seconds(last),
            "decoder_tokens": last["train/decoder_tokens"], "folder": str(folder),
            "curve_nll": list(accumulate(nll, min)),
            "curve_tokens": [row["train/decoder_tokens"] for row in trial.rows],
            "curve_seconds": [training_seconds(row) for row in trial.rows],
        })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def training_seconds(row: dict[str, Any]) -> float:
    """Return the seconds of training up to an epoch; with validation's in records that do not tell them apart."""
    return float(row.get("train/seconds", row["seconds"]))


def summary(frame: pl.DataFrame) -> pl.DataFrame:
    """Return mean and standard deviation over seeds by method and pooling, and costs relative to the plain VAE's."""
    costs = ("seconds", "decoder_tokens")
    grouped = frame.group_by("method", "pooling", maintain_order=True).agg(
        pl.len().alias("seeds"),
        *[pl.col(name).mean() for name in (*METRICS, *ERRORS, *costs)],
        *[pl.col(name).std().alias(f"{name}_sd") for name in METRICS],
    )
    plain = grouped.filter((pl.col("method") == (plainest(frame) or "")) & (pl.col("pooling") == "last"))
    if plain.height == 0:
        return grouped
    return grouped.with_columns(*[(pl.col(name) / plain[name][0]).alias(f"relative_{name}") for name in costs])


def comparison_table(frame: pl.DataFrame) -> Table:
    """Return the table of a comparison, test split, mean ± standard deviation over seeds."""
    table = Table(title="Test split, mean ± s.d. over seeds", title_justify="left", box=None, pad_edge=False)
    against = differences(frame)
    than = f"nll less {plainest(frame)} last's"
    for name in ("method", "pooling", "seeds", *METRICS, than, "untrusted", "seconds", "decoder tokens"):
        table.add_column(name, justify="left" if name in ("method", "pooling") else "right")
    for row in summary(frame).iter_rows(named=True):
        cells = [mean_and_spread(row[name], row[f"{name}_sd"]) for name in METRICS]
        difference = against.get((row["method"], row["pooling"]))
        cells.append(show_interval(*difference) if difference else "-")
        cells.append("-" if math.isnan(row["untrusted"]) else f"{row['untrusted']:.0%}")
        costs = [f"{row.get(f'relative_{name}', float('nan')):z.2f}x" for name in ("seconds", "decoder_tokens")]
        table.add_row(row["method"], row["pooling"], str(row["seeds"]), *cells, *costs)
    return table


def show_interval(value: float, low: float, high: float) -> str:
    """Return a value and its interval, short."""
    return f"{value:z.2f} [{low:z.2f}, {high:z.2f}]"


def notes(ledger: Ledger, frame: pl.DataFrame) -> list[str]:
    """Return what one must know to read the table: units, caps, thresholds, and which likelihoods not to trust."""
    evaluation = ledger.definition.space.fixed.evaluation
    whole = len(Corpus.open(ledger.definition.corpus).split("test"))
    num_sequences = min(evaluation.final_num_sequences or whole, whole)
    found = [
        f"nll, KL, MI in nats a sequence over {num_sequences:,} sequences (MI is at most"
        f" {math.log(num_sequences):z.2f}, their logarithm); AU: dimensions whose posterior mean varies by at least"
        f" {ACTIVE_VARIANCE}; seconds are of training alone"
    ]
    doubtful = summary(frame).filter(pl.col("untrusted") > TRUSTED)
    if doubtful.height:
        rows = ", ".join(f"{row['method']} {row['pooling']}" for row in doubtful.iter_rows(named=True))
        mend = "give more --samples"
        if not evaluation.final_widen:
            mend = "--set evaluation.final_widen=true draws from a wider posterior"
        found.append(
            f"the nll of {rows} is not to be trusted: Pareto k-hat is too large for more than {TRUSTED:.0%} of the"
            f" sequences; it may be too high; {mend}"
        )
    return found


def claims_table(found: list[Verdict]) -> Table:
    """Return the verdicts as a table."""
    table = Table(title="The four claims made for pooling", title_justify="left", box=None, pad_edge=False)
    for name in ("claim", "method", "pooling", "verdict", "evidence"):
        table.add_column(name, overflow="fold")
    for each in found:
        table.add_row(each.claim, each.method, each.pooling, each.verdict, Text(each.evidence))
    return table


def markdown(ledger: Ledger, frame: pl.DataFrame) -> str:
    """Return a comparison's tables, notes and command as Markdown."""
    parts = []
    for table in (comparison_table(frame), claims_table(verdicts(frame))):
        parts.append(f"**{table.title}**")
        table.title, table.box, table.pad_edge = None, box.MARKDOWN, True
        console = Console(file=StringIO(), width=100_000, highlight=False, emoji=False)
        with console.capture() as captured:
            console.print(table)
        parts.append(re.sub("-{4,}", "---", re.sub(" {2,}", " ", captured.get().strip())))
    return "\n\n".join([*parts, *notes(ledger, frame), f"`{ledger.definition.command}`"]) + "\n"


def store(ledger: Ledger, frame: pl.DataFrame, *, is_whole: bool) -> dict[str, Any]:
    """Write the trials, their summary and the verdicts beside the study, as parquet and JSON; return the latter.

    A comparison that `is_whole` is added to the study's run in MLflow too, once however often it is shown.
    """
    frame.drop("folder").write_parquet(ledger.folder / "comparison.parquet")
    against = [
        {"method": method, "pooling": pooling, "nll_difference": difference, "low": low, "high": high}
        for (method, pooling), (difference, low, high) in differences(frame).items()
    ]
    found = {"summary": summary(frame).to_dicts(), "claims": [asdict(each) for each in verdicts(frame)],
             "against": {"plain": plainest(frame), "differences": against}}  # fmt: skip
    stored: dict[str, Any] = without_nan(found) | {"in_mlflow": is_whole}
    path = ledger.folder / COMPARISON
    if not path.is_file() or json.loads(path.read_text("utf-8")) != stored:
        if is_whole:
            record(ledger, stored)
        write_json(path, stored)
    return stored


def record(ledger: Ledger, stored: dict[str, Any]) -> None:
    """Add the comparison to the study's run in MLflow: each setting's mean test metrics, and the document."""
    from study.tracking.registry import log_aggregates

    metrics = {
        f"test/{row['method']}/{row['pooling'].replace('+', '-and-')}/{name}": row[name]
        for row in stored["summary"]
        for name in METRICS
        if row[name] is not None
    }
    found = "; ".join(f"{each['claim']} ({each['pooling']}): {each['verdict']}" for each in stored["claims"])
    definition = ledger.definition
    text = (
        f"**{definition.name}**: methods on corpus `{definition.corpus_name}`, test split. Claims made for pooling:"
        f" {found}.{LINE_BREAK}Reproduce: `{definition.command}`"
    )
    log_aggregates(definition, ledger.run_ids()["study"], metrics, {COMPARISON: stored}, text)
