"""Figures of a study, interactive in HTML and static in PNG or SVG, safe for colour-blind readers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from model.config import POOLING_NAMES
from study.definition import Definition
from study.errors import StudyError
from study.importance import importances
from study.ledger import TrialRecord
from study.report import epochs_frame, has_collapsed, pareto_trials, trials_frame

ENDINGS = (".png", ".svg", ".html")
WIDTH = 560
MOST_LINES = 100
"""Trials whose curves are drawn together at most."""

MOST_PATHS = 300
"""Trials whose settings are drawn together at most."""

# Reports hold their data, of thousands of trials too.
alt.data_transformers.disable_max_rows()

Chart = alt.LayerChart | alt.Chart | alt.VConcatChart | alt.HConcatChart | alt.FacetChart

# Okabe and Ito's colours, which people of any colour vision can tell apart; a shape as well, for print.
COLOURS = ["#000000", "#999999", "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#E69F00", "#56B4E9"]
STATE_SHAPES = {"complete": "circle", "pruned": "triangle-up", "collapsed": "cross", "waiting": "diamond",
                "running": "square"}  # fmt: skip
STATE_COLOURS = {"complete": "#0072B2", "pruned": "#999999", "collapsed": "#D55E00", "failed": "#000000",
                 "waiting": "#CC79A7", "running": "#009E73"}  # fmt: skip
STATE_DASHES = {"complete": [1, 0], "pruned": [6, 3], "collapsed": [2, 2], "waiting": [8, 2, 2, 2],
                "running": [1, 0]}  # fmt: skip
AXES = {
    "nll": "negative log-likelihood (nats a sequence)",
    "mi": "mutual information of input and latent variable (nats)",
    "kl": "KL divergence from the prior, the rate (nats a sequence)",
    "dispersion": "mean cosine similarity of the encoder's features",
}


TITLES = {"mi": "use of the latent variable", "kl": "its rate"}


def plain(frame: pl.DataFrame, definition: Definition) -> pl.DataFrame:
    """Return a frame with names that a chart can address, and the pooling of every row."""
    if "model.pooling" not in frame.columns:
        frame = frame.with_columns(pl.lit(definition.space.fixed.model.pooling).alias("model.pooling"))
    frame = frame.rename({"model.pooling": "pooling"}).with_columns(pl.col("pooling").fill_null("none"))
    return frame.rename(
        {name: name.removeprefix("valid/").replace("/", " ").replace(".", " ") for name in frame.columns}
    )


def drawable(definition: Definition, trials: list[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that have something to draw, collapsed ones as such whatever ended them.

    Raises StudyError if there is none.
    """
    usable = [
        replace(trial, state="collapsed") if has_collapsed(definition, trial) else trial
        for trial in trials
        if trial.best and trial.state in STATE_SHAPES
    ]
    if not usable:
        failed = sum(trial.state == "failed" for trial in trials)
        why = (
            f"{failed} of {len(trials)} failed, and `study report {definition.name}` says why"
            if failed
            else ("none has ended an epoch yet")
        )
        raise StudyError(f"{definition.name} has no trial to draw: {why}; wait for the first epochs of others")
    return usable


def by_pooling(frame: pl.DataFrame) -> alt.Color:
    """Return pooling as colour: each has its own in every figure, and only those that occur stand in the legend."""
    present = [name for name in [*POOLING_NAMES, "none"] if name in frame["pooling"].to_list()]
    colours = dict(zip([*POOLING_NAMES, "none"], COLOURS, strict=True))
    return alt.Color("pooling:N", title="pooling", scale=alt.Scale(domain=present, range=[colours[n] for n in present]))


def by_state(frame: pl.DataFrame) -> tuple[alt.Shape, alt.StrokeDash]:
    """Return a trial's state as the shape of a point and as the dashes of a line."""
    present = [name for name in STATE_SHAPES if name in frame["state"].to_list()]
    shapes = alt.Scale(domain=present, range=[STATE_SHAPES[name] for name in present])
    dashes = alt.Scale(domain=present, range=[STATE_DASHES[name] for name in present])
    return alt.Shape("state:N", title="trial", scale=shapes), alt.StrokeDash("state:N", title="trial", scale=dashes)


def heading(text: str, below: str) -> alt.TitleParams:
    """Return a figure's title: what it shows, and how to read it."""
    return alt.TitleParams(text, subtitle=below, anchor="start", subtitleColor="#555555")


def trade_off(definition: Definition, trials: list[TrialRecord], over: str = "mi") -> Chart:
    """Draw nll over mutual information or rate: each trial by pooling and state, the Pareto set joined by a line.

    Raises StudyError if no trial has ended an epoch.
    """
    usable = drawable(definition, trials)
    frame = plain(trials_frame(usable), definition)
    x = alt.X(f"{over}:Q", title=AXES[over], scale=alt.Scale(domainMin=0, clamp=True))
    y = alt.Y("nll:Q", title=AXES["nll"], scale=alt.Scale(zero=False))
    front = plain(trials_frame(pareto_trials(trials)), definition).select("mi", "kl", "nll")
    line = alt.Chart(front).mark_line(color="#888888", strokeDash=[4, 3]).encode(x=x, y=y, order=alt.Order(f"{over}:Q"))
    tooltip = [alt.Tooltip(name) for name in frame.columns if name not in ("reason", "run_id")]
    points = alt.Chart(frame).mark_point(size=110, filled=True, opacity=0.85)
    points = points.encode(x=x, y=y, color=by_pooling(frame), shape=by_state(frame)[0], tooltip=tooltip)
    title = heading(
        f"Validation likelihood against {TITLES[over]}: {definition.corpus_name}, {len(usable)} trials",
        "lower is better, and at equal height further right; at each trial's best epoch, collapsed ones end early;"
        " dashed: not beaten in both nll and MI",
    )
    return alt.layer(line, points).properties(title=title, width=WIDTH, height=340)


def learning_curves(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw validation nll and KL by epoch, and the KL weight under them, a line a trial; of many, the best."""
    usable = sorted(drawable(definition, trials), key=lambda trial: trial.best["valid/nll"])[:MOST_LINES]
    frame = plain(epochs_frame(usable), definition).rename({"train kl_weight": "weight"})
    if "phase" in frame.columns:
        frame = frame.filter(pl.col("phase").is_null())
    columns = ["trial", "state", "pooling", "epoch", "nll", "kl", "weight"]
    near = alt.selection_point(fields=["trial"], on="pointerover", empty=False)
    base = alt.Chart(frame.select(columns)).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
        color=by_pooling(frame),
        detail="trial:N",
        strokeDash=by_state(frame)[1],
        size=alt.condition(near, alt.value(3.5), alt.value(1.2)),
        tooltip=columns,
    )
    parts = [
        base.mark_line(opacity=0.8).encode(y=alt.Y(f"{name}:Q", title=title, scale=alt.Scale(zero=name != "nll")))
        .properties(width=WIDTH, height=height)
        for name, title, height in (("nll", "nll (nats)", 200), ("kl", "KL (nats)", 120), ("weight", "KL weight", 80))
    ]  # fmt: skip
    title = heading(
        f"Validation nll and KL by epoch, in nats a sequence: {definition.corpus_name}",
        "below, the KL weight that each trial trained with; nll and KL are measured at weight 1"
        + (f"; the {MOST_LINES} trials of lowest nll" if len(trials) > MOST_LINES else ""),
    )
    return alt.vconcat(parts[0].add_params(near), *parts[1:]).properties(title=title)


def setting_importance(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw each setting's share of what separates the best trials; raise StudyError if there are too few trials."""
    frame = importances(definition, trials)
    if frame.height == 0:
        raise StudyError(f"{definition.name} has too few trials to tell which setting matters")
    # Those that only some trials have, or that all have alike.
    left_out = ", ".join(
        name.rsplit(".", 1)[-1] for name in definition.space.ranges if name not in [*frame["setting"], "seed"]
    )
    frame = frame.with_columns(pl.col("setting").str.split(".").list.last())
    base = alt.Chart(frame).encode(y=alt.Y("setting:N", title=None, sort="-x"))
    bars = base.mark_bar(color="#56B4E9").encode(x=alt.X("importance:Q", title="share of importance (PED-ANOVA)"))
    spans = base.mark_rule(color="#333333", strokeWidth=2).encode(x="low:Q", x2="high:Q")
    layer = alt.layer(bars, spans).properties(width=WIDTH / 2 - 30, height=alt.Step(24))
    title = heading(
        "What separates the best trials from all, by setting",
        "lines: 90 % bootstrap interval over trials; wide is unsure" + (f"; left out: {left_out}" if left_out else ""),
    )
    by_metric = alt.Column("metric:N", title="explained metric", sort=["nll", "mi"])
    chart: Chart = layer.facet(column=by_metric).properties(title=title)
    return chart


def scaled(frame: pl.DataFrame, definition: Definition) -> pl.DataFrame:
    """Return a row for each trial and searched setting: its value, and its `place` in the setting's range, 0 to 1."""
    rows: list[dict[str, Any]] = []
    for name, allowed in definition.space.ranges.items():
        values = [value for value in frame[name].to_list() if value is not None] if name in frame.columns else []
        if not values:
            continue
        levels = list(allowed.values) if allowed.values is not None else []
        low, high = (0, 1) if levels else (min(values), max(values))
        for row in frame.filter(pl.col(name).is_not_null()).iter_rows(named=True):
            value = row[name]
            place = levels.index(value) / max(1, len(levels) - 1) if levels else (value - low) / ((high - low) or 1)
            rows.append({
                "trial": row["trial"], "state": row["state"], "nll": row["valid/nll"], "place": float(place),
                "setting": name.rsplit(".", 1)[-1], "value": f"{value:.3g}" if isinstance(value, float) else str(value),
                "labelled": bool(levels) or value in (low, high),
            })  # fmt: skip
    return pl.DataFrame(rows)


def parallel_coordinates(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw each trial as a line over its settings, each scaled to its own range, nll as colour."""
    usable = sorted(drawable(definition, trials), key=lambda trial: trial.best["valid/nll"])
    drawn = usable[:: math.ceil(len(usable) / MOST_PATHS)]
    data = scaled(trials_frame(sorted(drawn, key=lambda trial: trial.number)), definition)
    if data.height == 0:
        raise StudyError(f"{definition.name} searches nothing, so that there are no settings to draw")
    order = data["setting"].unique(maintain_order=True).to_list()
    collapsed = alt.datum.state == "collapsed"
    colour = alt.Color("nll:Q", title="nll (nats)", scale=alt.Scale(scheme="viridis"))
    x = alt.X("setting:N", title=None, sort=order, axis=alt.Axis(labelAngle=-20))
    lines = alt.Chart(data).mark_line(strokeWidth=1.8).encode(
        x=x, y=alt.Y("place:Q", axis=None), detail="trial:N",
        color=alt.condition(collapsed, alt.value("#cccccc"), colour),
        opacity=alt.condition(collapsed, alt.value(0.6), alt.value(0.9)),
        tooltip=["trial", "state", "setting", "value", "nll"],
    )  # fmt: skip
    labels = alt.Chart(data.filter("labelled").unique(["setting", "value"]))
    text = labels.mark_text(align="left", dx=5, fontSize=9, color="#333333").encode(x=x, y="place:Q", text="value:N")
    whose = "every trial" if len(drawn) == len(usable) else f"{len(drawn)} of {len(usable)} trials, evenly by nll"
    title = heading(f"Settings of {whose}, validation nll as colour", "dark is better; grey lines have collapsed")
    return alt.layer(lines, text).properties(title=title, width=WIDTH, height=300)


def endings(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw how long each trial trained and what ended it."""
    drawable(definition, trials)
    frame = trials_frame([trial for trial in trials if trial.rows]).select("trial", "state", "epochs", "reason")
    present = [name for name in STATE_COLOURS if name in frame["state"].to_list()]
    scale = alt.Scale(domain=present, range=[STATE_COLOURS[name] for name in present])
    bars = alt.Chart(frame).mark_bar().encode(
        x=alt.X("epochs:Q", title="epochs trained", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y("trial:O", title="trial, in the order of the search", axis=alt.Axis(labelOverlap=True)),
        color=alt.Color("state:N", title="ended as", scale=scale),
        tooltip=["trial", "state", "epochs", "reason"],
    )  # fmt: skip
    rung = alt.Chart(pl.DataFrame({"x": [definition.grace_epochs]})).mark_rule(strokeDash=[4, 3]).encode(x="x:Q")
    scheduled = definition.scheduler != "none"
    title = heading(
        "Epochs that each trial trained, and what ended it",
        "the dashed line is the schedule's first rung" if scheduled else "no schedule ended any of them",
    )
    parts = [bars, rung] if scheduled else [bars]
    return alt.layer(*parts).properties(title=title, width=WIDTH, height=alt.Step(max(1, min(16, 480 // frame.height))))


def dispersion_by_pooling(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw how alike the encoder's features are, a point a trial, by pooling."""
    frame = plain(trials_frame(drawable(definition, trials)), definition).filter(pl.col("dispersion").is_not_nan())
    points = alt.Chart(frame).mark_point(size=80, filled=True, opacity=0.8).encode(
        x=alt.X("dispersion:Q", title=AXES["dispersion"]),
        y=alt.Y("pooling:N", title="pooling"),
        color=by_pooling(frame),
        shape=by_state(frame)[0],
        tooltip=["trial", "state", "pooling", "dispersion", "kl", "nll"],
    )  # fmt: skip
    title = heading("How alike the encoder's features are, by pooling", "1: every input gives the same feature vector")
    chart: Chart = points.properties(title=title, width=WIDTH, height=alt.Step(34))
    return chart


def studies_trade_off(studies: list[tuple[Definition, list[TrialRecord]]]) -> Chart:
    """Draw nll over mutual information of several studies, the study as colour; raise StudyError if one is empty."""
    frames = [
        plain(trials_frame(drawable(definition, trials)), definition)
        .select("trial", "state", "pooling", "epochs", "nll", "mi", "kl", "au")
        .with_columns(pl.lit(definition.name).alias("study"))
        for definition, trials in studies
    ]
    frame = pl.concat(frames, how="vertical_relaxed")
    names = [definition.name for definition, _ in studies]
    # Black is a line's colour; of more studies than colours, some share one.
    scale = alt.Scale(domain=names, range=[COLOURS[2:][place % len(COLOURS[2:])] for place in range(len(names))])
    points = alt.Chart(frame).mark_point(size=110, filled=True, opacity=0.85).encode(
        x=alt.X("mi:Q", title=AXES["mi"], scale=alt.Scale(domainMin=0, clamp=True)),
        y=alt.Y("nll:Q", title=AXES["nll"], scale=alt.Scale(zero=False)),
        color=alt.Color("study:N", title="study", scale=scale),
        shape=by_state(frame)[0],
        tooltip=frame.columns,
    )  # fmt: skip
    title = heading(
        f"Validation likelihood against {TITLES['mi']}, {len(names)} studies",
        "lower and further right is better; only studies on one corpus and evaluated alike can be compared",
    )
    chart: Chart = points.properties(title=title, width=WIDTH, height=340)
    return chart


FIGURES: dict[str, Callable[[Definition, list[TrialRecord]], Chart]] = {
    "trade-off": trade_off,
    "trade-off-rate": lambda definition, trials: trade_off(definition, trials, "kl"),
    "learning-curves": learning_curves,
    "importance": setting_importance,
    "parallel-coordinates": parallel_coordinates,
    "endings": endings,
    "dispersion": dispersion_by_pooling,
}
"""A study's figures by name."""


def save(chart: Chart, path: Path) -> None:
    """Write a figure by its file's ending, aside and then renamed; HTML needs no network. Raises StudyError."""
    if path.suffix not in ENDINGS or not path.absolute().parent.is_dir():
        raise StudyError(f"{path}: expected a {', '.join(ENDINGS)} file in a folder that exists")
    aside = path.with_name(f".writing.{path.name}")
    if path.suffix == ".html":
        chart.save(aside, inline=True)
    else:
        chart.save(aside, scale_factor=1.5)
    aside.replace(path)
