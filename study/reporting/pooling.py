"""The pooling test as a picture and as tables: what each pooling carries at each KL weight."""

from __future__ import annotations

import altair as alt
import polars as pl
from rich.table import Table

from model.collapse import COLLAPSED_MI_NATS
from study.analysis.pooling_test import Interval, PoolingVerdict, collapse_weights, shown_p, tested, verdicts
from study.errors import StudyError
from study.metrics import METRICS, with_ranked
from study.record.formats import mean_and_spread
from study.record.trials import TrialRecord, has_collapsed
from study.reporting.chart_style import WIDTH, Chart, heading, pooling_scales
from study.search.definition import Definition
from study.search.pooling_test import POOLING, SEED, WEIGHT

SHOWN = ("mi", "kl", "nll", "dispersion")


def shown(definition: Definition) -> tuple[str, ...]:
    """Return the metrics that are shown of a pooling test."""
    return with_ranked(SHOWN, definition.goal.ranked)


def test_frame(definition: Definition, trials: list[TrialRecord]) -> pl.DataFrame:
    """Return one row a run of a study's pooling test: `pooling`, `weight`, `seed`, its metrics, `collapsed`."""
    rows = [
        {
            "trial": run.number,
            "pooling": str(run.params[POOLING]),
            "weight": float(run.params.get(WEIGHT, definition.space.fixed.objective.kl_weight)),
            "seed": int(run.params[SEED]),
            **{name: float(run.best.get(f"valid/{name}")) for name in (*shown(definition), "mi_se")},
            "collapsed": has_collapsed(definition, run),
        }
        for run in tested(definition, trials)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def information_by_weight(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw mutual information over the KL weight: a line through the means of each pooling, a point a seed.

    Where half of a pooling's runs collapse is marked. Raises StudyError of a study without a pooling test.
    """
    frame = test_frame(definition, trials)
    if frame.height == 0:
        raise StudyError(f"{definition.name} has no pooling test to draw; `study run --stages pooling` makes one")
    colours, shapes = pooling_scales(frame)
    weights = sorted(set(frame["weight"]))
    x = alt.X(
        "weight:Q",
        title="KL weight",
        scale=alt.Scale(type="log", domain=[weights[0] / 1.2, weights[-1] * 1.2], nice=False),
        axis=alt.Axis(values=weights, grid=False),
    )
    y = alt.Y("mi:Q", title=METRICS["mi"].title, scale=alt.Scale(domainMin=0))
    colour = alt.Color("pooling:N", title="pooling", scale=colours)
    base = alt.Chart(frame)
    lines = base.mark_line(strokeWidth=2).encode(x=x, y=alt.Y("mean(mi):Q", title=METRICS["mi"].title), color=colour)
    points = base.mark_point(size=70, strokeWidth=1.5).encode(
        x=x,
        y=y,
        color=colour,
        shape=alt.Shape("pooling:N", title="pooling", scale=shapes),
        tooltip=["trial", "pooling", "weight", "seed", "mi", "mi_se", "kl", definition.goal.ranked, "collapsed"],
    )
    layers: list[alt.Chart] = [lines, points]
    ends = collapse_weights(definition, tested(definition, trials)).items()
    marked = pl.DataFrame(
        {"pooling": [name for name, at in ends if at], "weight": [at for _, at in ends if at]},
        schema={"pooling": pl.String, "weight": pl.Float64},
    ).filter(pl.col("weight").is_between(weights[0] / 1.2, weights[-1] * 1.2))
    if marked.height:
        layers.append(alt.Chart(marked).mark_rule(strokeDash=[4, 3]).encode(x=x, color=colour))
    title = heading(
        f"What each pooling carries at each KL weight: {definition.corpus_name}, {frame.height} runs",
        f"a point is a run, a line the mean over seeds; collapsed is below {COLLAPSED_MI_NATS:g} nats; dashed: the"
        " weight at which half of a pooling's runs collapse",
    )
    return alt.layer(*layers).properties(title=title, width=WIDTH, height=300)


def test_rows(definition: Definition, trials: list[TrialRecord]) -> list[list[str]]:
    """Return the cells of a table of the pooling test: by weight and pooling, mean ± standard deviation over seeds."""
    frame, names = test_frame(definition, trials), shown(definition)
    if frame.height == 0:
        return []
    grouped = frame.group_by("weight", "pooling", maintain_order=True).agg(
        pl.len().alias("runs"),
        pl.col("collapsed").sum(),
        *[pl.col(name).mean() for name in names],
        *[pl.col(name).std().alias(f"{name} sd") for name in names],
    )
    return [
        [
            f"{row['weight']:g}",
            row["pooling"],
            *(mean_and_spread(row[name], row[f"{name} sd"]) for name in names),
            f"{row['collapsed']} of {row['runs']}",
        ]
        for row in grouped.sort("weight", maintain_order=True).iter_rows(named=True)
    ]


def test_columns(definition: Definition) -> tuple[str, ...]:
    """Return what the columns of a pooling test's runs are called."""
    return ("KL weight", "pooling", *(METRICS[name].heading for name in shown(definition)), "collapsed")


def verdict_columns(definition: Definition) -> tuple[str, ...]:
    """Return what the columns of a pooling test's verdicts are called."""
    ranked = METRICS[definition.goal.ranked].heading
    return "pooling", "against", "pairs", "MI", "KL", ranked, f"{ranked} seen from", "p", "collapses at", "verdict"


def verdict_cells(one: PoolingVerdict) -> list[str]:
    """Return a verdict's row, as `verdict_columns` names its cells."""

    def show(interval: Interval) -> str:
        return f"{interval.difference:+z.2f} [{interval.low:z.2f}, {interval.high:z.2f}]"

    at = "-" if one.collapses_at is None else f"{one.collapses_at:.2f}"
    numbers = [
        show(one.mi),
        show(one.kl),
        show(one.nll),
        f"{one.detectable_nll:.2f}",
        shown_p(one.p).removeprefix("p ").removeprefix("= "),
        at,
    ]
    return [one.pooling, one.against, str(one.pairs), *numbers, one.verdict]


def pooling_tables(definition: Definition, trials: list[TrialRecord]) -> list[Table]:
    """Return the pooling test's tables: its runs, and the differences from `last`; none without a test."""
    rows, found = test_rows(definition, trials), verdicts(definition, trials)
    made = []
    for title, columns, cells in (
        ("The pooling test: mean ± standard deviation over seeds", test_columns(definition), rows),
        (
            "Differences from last: mean of the pairs and 95 % interval; p of MI, for all poolings together",
            verdict_columns(definition),
            [verdict_cells(one) for one in found],
        ),
    ):
        if not cells:
            continue
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in columns:
            table.add_column(name, justify="left" if name in ("pooling", "against", "verdict") else "right")
        for row in cells:
            table.add_row(*row)
        made.append(table)
    return made
