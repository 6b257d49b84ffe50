"""Methods beside each other over seeds: which runs, one table, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import polars as pl
from rich.table import Table
from rich.text import Text

from data.corpus import Corpus
from data.files import DamagedFileError, read_json, sealed
from model.collapse import ACTIVE_VARIANCE
from study.analysis.claims import TRUSTED, Difference, Verdict, differences, gains_of_pooling, plainest, verdicts
from study.config.settings import Params
from study.config.stored import without_nan, write_sealed
from study.epoch import Epoch
from study.errors import StudyError, did_you_mean
from study.metrics import COMPARED
from study.record.final_scores import read_final
from study.record.formats import LINE_BREAK, code, mean_and_spread
from study.record.ledger import Ledger
from study.record.places import COMPARED_RUNS, COMPARISON, FINAL
from study.record.states import State

TOGETHER = "intervals of 95 % for all rows together"
ERRORS = ("nll_se", "nll_bias_bound", "untrusted")
"""How far the likelihood's estimate goes, and the share of sequences whose importance weights cannot be trusted."""


def points(methods: list[str], poolings: list[str], seeds: int) -> list[Params]:
    """Return the searched values of every trial, seed by seed.

    A method may name its own pooling, as in `aggressive:last`; a language model has none.
    """
    for option, names in (("--methods", methods), ("--poolings", poolings)):
        if not all(name.strip() for name in names):
            raise StudyError(f"{option} has an empty name; `study settings --methods` and `study settings` list them")
    made: list[Params] = []
    for seed in range(seeds):
        for entry in methods:
            method, _, own = entry.partition(":")
            for pooling in [own] if own else poolings[:1] if method == "language-model" else poolings:
                point: Params = {"method": method, "seed": seed}
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
        if trial.state not in (State.COMPLETE, State.COLLAPSED) or not (folder / FINAL).is_file():
            continue
        last, final = trial.rows[-1], read_final(folder)
        # Epochs before a decoder reset have costs, but no model that counts.
        nll = [float("inf") if not row.counts else row["valid/nll"] for row in trial.rows]
        rows.append(
            {
                "method": trial.params["method"],
                "pooling": trial.params.get("model.pooling", "-"),
                "seed": trial.params["seed"],
                "collapse_mi_nats": ledger.definition.goal.collapse_mi_nats,
                **{name: float("nan") if value is None else float(value) for name, value in final.items()},
                "epochs": len(trial.rows),
                "first_dispersion": trial.rows[0].get("valid/dispersion"),
                "seconds": training_seconds(last),
                "decoder_tokens": last["train/decoder_tokens"],
                "folder": str(folder),
                "curve_nll": list(accumulate(nll, min)),
                "curve_tokens": [row["train/decoder_tokens"] for row in trial.rows],
                "curve_seconds": [training_seconds(row) for row in trial.rows],
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def training_seconds(row: Epoch) -> float:
    """Return the seconds of training up to an epoch; with validation's in records that do not tell them apart."""
    return float(row.get("train/seconds", row.seconds))


@dataclass(frozen=True)
class Comparison:
    """A comparison's runs (see `results`), and what is computed of them, once."""

    ledger: Ledger
    runs: pl.DataFrame

    @cached_property
    def summary(self) -> pl.DataFrame:
        """Mean and standard deviation over seeds by method and pooling, and costs relative to the plain VAE's."""
        costs = ("seconds", "decoder_tokens")
        grouped = self.runs.group_by("method", "pooling", maintain_order=True).agg(
            pl.len().alias("seeds"),
            *[pl.col(name).mean() for name in (*COMPARED, *ERRORS, *costs)],
            *[pl.col(name).std().alias(f"{name}_sd") for name in COMPARED],
        )
        plain = grouped.filter((pl.col("method") == (self.plainest or "")) & (pl.col("pooling") == "last"))
        if plain.height == 0:
            return grouped
        return grouped.with_columns(*[(pl.col(name) / plain[name][0]).alias(f"relative_{name}") for name in costs])

    @cached_property
    def plainest(self) -> str | None:
        """The method that stands for the plain VAE."""
        return plainest(self.runs)

    @cached_property
    def differences(self) -> list[Difference]:
        """Each method and pooling against the plain VAE with pooling last."""
        return differences(self.runs)

    @cached_property
    def gains(self) -> list[Difference]:
        """Each method with a pooled encoder against itself with pooling last."""
        return gains_of_pooling(self.runs)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """What the runs say of each claim made for pooling."""
        return verdicts(self.runs)


DIFFERENCE = "nll_difference"
OTHER_COLUMNS = ("untrusted", "seconds", "decoder_tokens")
COLUMNS = (*COMPARED, DIFFERENCE, *OTHER_COLUMNS)
"""Of the first table, beside method, pooling and seeds."""


def check_columns(columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of the first table that were asked for, or all; raise StudyError for one that it has not."""
    for name in columns:
        if name not in COLUMNS:
            raise StudyError(f"--columns: no column {name}; {did_you_mean(name, COLUMNS)} of {', '.join(COLUMNS)}")
    return columns or COLUMNS


def comparison_rows(comparison: Comparison, columns: tuple[str, ...] = COLUMNS) -> tuple[list[str], list[list[str]]]:
    """Return the heading and the cells of the first table of a comparison."""
    against = {(each.method, each.pooling): show_difference(each) for each in comparison.differences}
    headings = {DIFFERENCE: f"nll less {comparison.plainest} last's", "decoder_tokens": "decoder tokens"}
    rows = []
    for row in comparison.summary.iter_rows(named=True):
        cells = {name: mean_and_spread(row[name], row[f"{name}_sd"]) for name in COMPARED}
        cells |= {DIFFERENCE: against.get((row["method"], row["pooling"]), "-")}
        cells |= {"untrusted": show_share(row["untrusted"])}
        cells |= {name: f"{row.get(f'relative_{name}', float('nan')):z.2f}x" for name in ("seconds", "decoder_tokens")}
        rows.append([row["method"], row["pooling"], str(row["seeds"]), *(cells[name] for name in columns)])
    return ["method", "pooling", "seeds", *(headings.get(name, name) for name in columns)], rows


def comparison_table(comparison: Comparison, columns: tuple[str, ...] = COLUMNS) -> Table:
    """Return the table of a comparison, test split, mean ± standard deviation over seeds."""
    table = Table(
        title="Test split, mean ± s.d. over seeds; intervals of 95 % for all rows together",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    headings, rows = comparison_rows(comparison, columns)
    for name in headings:
        table.add_column(name, justify="left" if name in ("method", "pooling") else "right")
    for row in rows:
        table.add_row(*row)
    return table


def show_difference(given: Difference) -> str:
    """Return a difference and its interval, short."""
    return f"{given.nll_difference:z.2f} [{given.low:z.2f}, {given.high:z.2f}]"


def show_share(untrusted: float) -> str:
    """Return the share of sequences not to be trusted; a dash where it is not known."""
    return "-" if math.isnan(untrusted) else f"{untrusted:.0%}"


def notes(comparison: Comparison) -> list[str]:
    """Return what one must know to read the table: units, caps, thresholds, and which likelihoods not to trust."""
    definition = comparison.ledger.definition
    evaluation = definition.space.fixed.evaluation
    whole = len(Corpus.open(definition.corpus).split("test"))
    num_sequences = min(evaluation.final_num_sequences or whole, whole)
    found = [
        f"nll, KL, MI in nats a sequence over {num_sequences:,} sequences (MI is at most"
        f" {math.log(num_sequences):z.2f}, their logarithm); AU: dimensions whose posterior mean varies by at least"
        f" {ACTIVE_VARIANCE}; seconds are of training alone"
    ]
    doubtful = comparison.summary.filter(pl.col("untrusted") > TRUSTED)
    if doubtful.height:
        rows = ", ".join(f"{row['method']} {row['pooling']}" for row in doubtful.iter_rows(named=True))
        mend = "give more --samples"
        if not evaluation.final_widen:
            mend = "--set evaluation.final_widen=true draws from a better proposal"
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


def gains_table(found: list[Difference]) -> Table:
    """Return what pooling adds to each method, last state against pooled."""
    table = Table(
        title="Pooling beside each method; intervals of 95 % for all rows together",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name in ("method", "pooling", "nll less the same method's with pooling last", "collapsed: last", "pooled"):
        table.add_column(name, justify="left" if name in ("method", "pooling") else "right", overflow="fold")
    table.add_column("untrusted", justify="right")
    for each in found:
        collapsed = [f"{number} of {each.seeds}" for number in (each.reference_collapsed, each.collapsed)]
        table.add_row(each.method, each.pooling, show_difference(each), *collapsed, show_share(each.untrusted))
    return table


def tables(comparison: Comparison, columns: tuple[str, ...] = COLUMNS) -> list[Table]:
    """Return all tables of a comparison that have rows."""
    made = (comparison_table(comparison, columns), gains_table(comparison.gains), claims_table(comparison.verdicts))
    return [table for table in made if table.row_count]


def store(comparison: Comparison, *, is_whole: bool) -> dict[str, object]:
    """Write the trials, their summary and the verdicts beside the study, as parquet and JSON; return the latter.

    A comparison that `is_whole` is added to the study's run in MLflow too, once however often it is shown.
    """
    folder = comparison.ledger.folder
    comparison.runs.drop("folder").write_parquet(folder / COMPARED_RUNS)
    against = {"plain": comparison.plainest, "differences": [asdict(each) for each in comparison.differences]}
    document = {
        "summary": comparison.summary.to_dicts(),
        "against": against,
        "gains": [asdict(each) for each in comparison.gains],
        "claims": [asdict(each) for each in comparison.verdicts],
    }
    stored = {name: without_nan(value) for name, value in document.items()} | {"in_mlflow": is_whole}
    path = folder / COMPARISON
    if not is_stored(path, stored):
        if is_whole:
            record(comparison, stored)
        write_sealed(path, stored)
    return stored


def is_stored(path: Path, content: Mapping[str, object]) -> bool:
    """Say whether a file holds this; it is written again where it is missing or damaged."""
    try:
        stored: dict[str, object] = read_json(path, dict[str, object])
        return bool(sealed(content)["digest"] == stored.get("digest"))
    except DamagedFileError:
        return False


def record(comparison: Comparison, stored: dict[str, object]) -> None:
    """Add the comparison to the study's run in MLflow: each setting's mean test metrics, and the document."""
    from study.tracking.registry import log_aggregates, study_run

    metrics = {
        f"test/{row['method']}/{row['pooling'].replace('+', '-and-')}/{name}": row[name]
        for row in comparison.summary.to_dicts()
        for name in COMPARED
        if row[name] is not None and math.isfinite(row[name])
    }
    found = "; ".join(f"{each.claim} ({each.pooling}): {each.verdict}" for each in comparison.verdicts)
    ledger, definition = comparison.ledger, comparison.ledger.definition
    text = (
        f"**{definition.name}**: methods on corpus {code(definition.corpus_name)}, test split. Claims made for pooling:"
        f" {found}.{LINE_BREAK}Reproduce: {code(definition.command)}"
    )
    log_aggregates(definition, study_run(ledger), metrics, {COMPARISON: stored}, text)
