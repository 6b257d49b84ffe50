"""Figures of a study, interactive in HTML and static in PNG or SVG, safe for colour-blind readers."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import polars as pl

from model.config import POOLING_NAMES
from study.definition import Definition
from study.errors import StudyError
from study.ledger import TrialRecord
from study.report import pareto_trials, trials_frame

ENDINGS = (".png", ".svg", ".html")

# Okabe and Ito's colours, which people of any colour vision can tell apart; a shape as well, for print.
COLOURS = ["#000000", "#999999", "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#E69F00"]
STATE_SHAPES = {"complete": "circle", "pruned": "triangle-up", "collapsed": "cross", "waiting": "diamond"}


def trade_off(definition: Definition, trials: list[TrialRecord]) -> alt.LayerChart | alt.FacetChart:
    """Draw nll over mutual information: each trial by pooling and state, the Pareto set joined by a line.

    Raises StudyError if no trial has ended an epoch.
    """
    usable = [trial for trial in trials if trial.best and trial.state in STATE_SHAPES]
    if not usable:
        raise StudyError(f"{definition.name} has no trial to draw yet; wait for its first epochs")
    frame = trials_frame(usable).rename({"valid/nll": "nll", "valid/mi": "mi"})
    if "model.pooling" not in frame.columns:
        frame = frame.with_columns(pl.lit(definition.space.fixed.model.pooling).alias("model.pooling"))
    frame = frame.rename({name: name.replace("/", " ").replace(".", " ") for name in frame.columns})
    x = alt.X("mi:Q", title="mutual information of input and latent variable (nats)")
    y = alt.Y("nll:Q", title="negative log-likelihood (nats a sequence)", scale=alt.Scale(zero=False))
    front = trials_frame(pareto_trials(trials)).rename({"valid/nll": "nll", "valid/mi": "mi"}).select("mi", "nll")
    line = alt.Chart(front).mark_line(color="#888888", strokeDash=[4, 3]).encode(x=x, y=y)
    points = (
        alt.Chart(frame)
        .mark_point(size=110, filled=True, opacity=0.85)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "model pooling:N", title="pooling", scale=alt.Scale(domain=list(POOLING_NAMES), range=COLOURS)
            ),
            shape=alt.Shape(
                "state:N",
                title="trial",
                scale=alt.Scale(domain=list(STATE_SHAPES), range=list(STATE_SHAPES.values())),
            ),
            tooltip=[alt.Tooltip(name) for name in frame.columns if name not in ("reason", "run_id")],
        )
    )
    title = alt.TitleParams(
        f"Validation likelihood against use of the latent variable: {definition.corpus_name}, {len(usable)} trials",
        subtitle="lower and further right is better; the dashed line joins trials that no other beats in both",
        anchor="start",
    )
    return alt.layer(line, points).properties(title=title, width=560, height=340)


def save(chart: alt.LayerChart | alt.FacetChart, path: Path) -> None:
    """Write a figure by its file's ending, aside and then renamed; HTML needs no network. Raises StudyError."""
    if path.suffix not in ENDINGS or not path.absolute().parent.is_dir():
        raise StudyError(f"{path}: expected a {', '.join(ENDINGS)} file in a folder that exists")
    aside = path.with_name(f".writing.{path.name}")
    if path.suffix == ".html":
        chart.save(aside, inline=True)
    else:
        chart.save(aside, scale_factor=1.5)
    aside.replace(path)
