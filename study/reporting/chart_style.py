"""How every figure is drawn: colours and shapes that all readers can tell apart, headings, files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from model.registry import POOLINGS
from study.reporting.outputs import check_output, write_output

ENDINGS = (".png", ".svg", ".html")
WIDTH = 560
MOST_LETTERS = 110
"""On a line under a title."""


# Reports hold their data, of thousands of trials too.
alt.data_transformers.disable_max_rows()

Chart = alt.LayerChart | alt.Chart | alt.VConcatChart | alt.HConcatChart | alt.FacetChart

NO_POOLING = ("#56B4E9", "triangle-right")
"""Colour and mark of a language model."""
COLOURS = ["#0072B2", "#D55E00", "#CC79A7", "#009E73", "#E69F00", "#56B4E9"]
SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-right"]
"""Of what is numbered, such as studies beside each other."""
STATE_FILLS = {"complete": 0.85, "pruned": 0.35, "collapsed": 0.0, "waiting": 0.35, "running": 0.35}
"""How full a trial's mark is: whole if it trained to its end, hollow if it collapsed."""

FILLS = "Full: trained to its end; pale: ended by the schedule, or not done yet; hollow: collapsed"

STATE_COLOURS = {
    "complete": "#0072B2",
    "pruned": "#999999",
    "collapsed": "#D55E00",
    "failed": "#000000",
    "waiting": "#CC79A7",
    "running": "#009E73",
}
STATE_DASHES = {"complete": [1, 0], "pruned": [6, 3], "collapsed": [2, 2], "waiting": [8, 2, 2, 2], "running": [1, 0]}


def present(frame: pl.DataFrame, column: str, names: Iterable[str]) -> list[str]:
    """Return those names that occur in a column, in their own order: a legend shows no others."""
    found = set(frame[column])
    return [name for name in names if name in found]


def pooling_scales(frame: pl.DataFrame) -> tuple[alt.Scale, alt.Scale]:
    """Return pooling as colours and as the shapes of points: each has its own in every figure."""
    looks = {name: (pooling.colour, pooling.mark) for name, pooling in POOLINGS.items()} | {"none": NO_POOLING}
    shown = present(frame, "pooling", looks)
    return (
        alt.Scale(domain=shown, range=[looks[name][0] for name in shown]),
        alt.Scale(domain=shown, range=[looks[name][1] for name in shown]),
    )


def marks(frame: pl.DataFrame) -> alt.Chart:
    """Return a point for each trial: pooling as colour and shape, its state as how full it is.

    Vega has no legend for the latter: `FILLS` says it.
    """
    colours, shapes = pooling_scales(frame)
    states = present(frame, "state", STATE_FILLS)
    # Of a kind that is said: Vega-Lite would space three opacities evenly.
    fills = alt.Scale(type="ordinal", domain=states, range=[STATE_FILLS[name] for name in states])
    chart: alt.Chart = (
        alt.Chart(frame)
        .mark_point(size=90, strokeWidth=1.5, opacity=1)
        .encode(
            fill=alt.Fill("pooling:N", title="pooling", scale=colours),
            stroke=alt.Stroke("pooling:N", title="pooling", scale=colours),
            shape=alt.Shape("pooling:N", title="pooling", scale=shapes),
            fillOpacity=alt.FillOpacity("state:N", title="trial", scale=fills),
        )
    )
    return chart


def from_zero(frame: pl.DataFrame, column: str) -> alt.Scale:
    """Return the scale of an axis that begins at 0 and ends a little beyond the largest value."""
    largest = max([0.1, *frame[column].fill_nan(None).drop_nulls()])
    return alt.Scale(domain=[0, 1.06 * largest], nice=False, clamp=True)


def heading(text: str, below: str) -> alt.TitleParams:
    """Return a figure's title: what it shows, and, on lines of its width, how to read it."""
    lines = textwrap.wrap(below, MOST_LETTERS)
    return alt.TitleParams(text, subtitle=lines, anchor="start", subtitleColor="#555555")


def save(chart: Chart, path: Path) -> None:
    """Write a figure by its file's ending, aside and then renamed; HTML needs no network. Raises StudyError."""
    check_output(path, ENDINGS)
    options: dict[str, Any] = {"inline": True} if path.suffix == ".html" else {"scale_factor": 1.5}
    write_output(path, lambda aside: chart.save(aside, **options))
