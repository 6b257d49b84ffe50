"""Figures of a study, the same for the report, MLflow and notebooks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import altair as alt
import polars as pl

from study.analysis.importance import importances
from study.errors import StudyError
from study.metrics import METRICS
from study.record.formats import show_value
from study.record.states import State
from study.record.trials import TrialRecord, best_trial, epochs_frame, pareto_trials, shown_state, trials_frame
from study.reporting.chart_style import (
    COLOURS,
    FILLS,
    SHAPES,
    STATE_COLOURS,
    STATE_DASHES,
    STATE_FILLS,
    WIDTH,
    Chart,
    from_zero,
    heading,
    marks,
    pooling_scales,
    present,
)
from study.reporting.pooling import information_by_weight
from study.search.definition import Definition

MOST_LINES = 100
"""Trials whose curves are drawn together at most."""

MOST_WORDS = 40
"""Trials whose ends are written beside their bars at most."""

MOST_PATHS = 300
"""Trials whose settings are drawn together at most."""

TITLES = {"mi": "use of the latent variable", "kl": "its rate"}


def plain(frame: pl.DataFrame, definition: Definition) -> pl.DataFrame:
    """Return a frame with names that a chart can address, and the pooling of every row."""
    if "model.pooling" not in frame.columns:
        # How a network of the user's own pools, nobody knows.
        held = "none" if definition.is_own else definition.space.fixed.model.pooling
        frame = frame.with_columns(pl.lit(held).alias("model.pooling"))
    frame = frame.rename({"model.pooling": "pooling"}).with_columns(pl.col("pooling").fill_null("none"))
    return frame.rename(
        {name: name.removeprefix("valid/").replace("/", " ").replace(".", " ") for name in frame.columns}
    )


def drawable(definition: Definition, trials: list[TrialRecord]) -> list[TrialRecord]:
    """Return the trials that have something to draw, collapsed ones as such whatever ended them.

    Raises StudyError if there is none.
    """
    usable = [
        replace(trial, state=shown_state(definition, trial))
        for trial in trials
        if trial.best and trial.state in STATE_FILLS
    ]
    if not usable:
        failed = sum(trial.state == State.FAILED for trial in trials)
        why = (
            f"{failed} of {len(trials)} failed, and `study report {definition.name}` says why"
            if failed
            else ("none has ended an epoch yet")
        )
        raise StudyError(f"{definition.name} has no trial to draw: {why}; wait for the first epochs of others")
    return usable


def trade_off(definition: Definition, trials: list[TrialRecord], over: str = "mi") -> Chart:
    """Draw nll over mutual information or rate: each trial by pooling and state, the Pareto set joined by a line.

    Raises StudyError if no trial has ended an epoch.
    """
    usable = drawable(definition, trials)
    frame = plain(trials_frame(usable), definition)
    x = alt.X(f"{over}:Q", title=METRICS[over].title, scale=from_zero(frame, over))
    ranked = definition.goal.ranked
    y = alt.Y(f"{ranked}:Q", title=METRICS[ranked].title, scale=alt.Scale(zero=False, padding=16))
    front = plain(trials_frame(pareto_trials(trials, over)), definition).select("mi", "kl", ranked)
    line = alt.Chart(front).mark_line(color="#888888", strokeDash=[4, 3]).encode(x=x, y=y, order=alt.Order(f"{over}:Q"))
    points = marks(frame).encode(x=x, y=y, tooltip=[name for name in frame.columns if name not in ("reason", "run_id")])
    layers: list[alt.Chart] = [line, points]
    if (best := best_trial(trials)) is not None:
        winner = alt.Chart(frame.filter(pl.col("trial") == best.number))
        layers.append(
            winner.mark_text(align="left", dx=7, dy=11, fontSize=11, text=f"best: trial {best.number}").encode(x=x, y=y)
        )
    title = heading(
        f"Validation {'likelihood' if ranked == 'nll' else ranked} against {TITLES[over]}: {definition.corpus_name},"
        f" {len(usable)} trials",
        f"lower is better, and at equal height further right; dashed: not beaten in both. {FILLS};"
        " each at its best epoch, and collapsed trials end early",
    )
    return alt.layer(*layers).properties(title=title, width=WIDTH, height=340)


def learning_curves(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw validation nll and KL by epoch, and the KL weight under them, a line a trial; of many, the best."""
    usable = sorted(drawable(definition, trials), key=lambda trial: trial.score)[:MOST_LINES]
    frame = plain(epochs_frame(usable), definition).rename({"train kl_weight": "weight"}, strict=False)
    if "phase" in frame.columns:
        frame = frame.filter(pl.col("phase").is_null())
    # A trainable of the user's own may not say what weight it trained with.
    ranked = definition.goal.ranked
    wanted = ("trial", "state", "pooling", "epoch", ranked, "kl", "weight")
    columns = [name for name in wanted if name in frame.columns]
    colours, shapes = pooling_scales(frame)
    states = present(frame, "state", STATE_DASHES)
    dashes = alt.Scale(domain=states, range=[STATE_DASHES[name] for name in states])
    near = alt.selection_point(fields=["trial"], on="pointerover", empty=False)
    base = alt.Chart(frame.select(columns)).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("pooling:N", title="pooling", scale=colours),
        detail="trial:N",
        tooltip=columns,
    )
    # A line has no shape to tell its pooling by in grey: its last epoch has.
    is_last = alt.FieldRangePredicate(field="from_end", range=[0, 0])
    ends = (
        base.transform_joinaggregate(last="max(epoch)", groupby=["trial"])
        .transform_calculate(from_end=alt.datum.last - alt.datum.epoch)
        .transform_filter(is_last)
        .mark_point(filled=True, size=45)
        .encode(shape=alt.Shape("pooling:N", title="pooling", scale=shapes))
    )
    curves = base.mark_line(opacity=0.8).encode(
        strokeDash=alt.StrokeDash("state:N", title="trial", scale=dashes),
        size=alt.condition(near, alt.value(3.5), alt.value(1.2)),
    )
    parts = [
        alt.layer(curves.add_params(near) if name == ranked else curves, ends)
        .encode(y=alt.Y(f"{name}:Q", title=title, scale=alt.Scale(zero=name != ranked)))
        .properties(width=WIDTH, height=height)
        for name, title, height in (
            (ranked, f"{ranked} (nats)", 200),
            ("kl", "KL (nats)", 120),
            ("weight", "KL weight", 80),
        )
        if name in columns
    ]
    title = heading(
        f"Validation {ranked} and KL by epoch, in nats a sequence: {definition.corpus_name}",
        "below, the KL weight that each trial trained with;"
        f" {ranked} and KL are measured at weight 1"
        + (f"; the {MOST_LINES} trials of lowest {ranked}" if len(trials) > MOST_LINES else "")
        + "; a mark stands at each trial's last epoch",
    )
    return alt.vconcat(*parts).properties(title=title)


def setting_importance(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw each setting's share of what separates the best trials; raise StudyError if there are too few trials."""
    frame = importances(definition, trials)
    if frame.height == 0:
        raise StudyError(f"{definition.name} has too few trials to tell which setting matters")
    # Those that only some trials have, or that all have alike.
    left_out = ", ".join(
        name.rsplit(".", 1)[-1] for name in definition.space.searched if name not in [*frame["setting"], "seed"]
    )
    frame = frame.with_columns(pl.col("setting").str.split(".").list.last())
    base = alt.Chart(frame).encode(y=alt.Y("setting:N", title=None, sort="-x"))
    bars = base.mark_bar(color="#56B4E9").encode(x=alt.X("importance:Q", title="share of importance (PED-ANOVA)"))
    spans = base.mark_rule(color="#333333", strokeWidth=2).encode(x="low:Q", x2="high:Q")
    layer = alt.layer(bars, spans).properties(width=WIDTH / 2 - 30, height=alt.Step(24))
    title = heading(
        f"Each setting's share in what separates the best trials from all, after {definition.grace_epochs} epochs",
        "lines: 90 % bootstrap interval over trials; wide is unsure" + (f"; left out: {left_out}" if left_out else ""),
    )
    by_metric = alt.Column("metric:N", title="explained metric", sort=[definition.goal.ranked, "mi"])
    chart: Chart = layer.facet(column=by_metric).properties(title=title)
    return chart


def scaled(frame: pl.DataFrame, definition: Definition) -> pl.DataFrame:
    """Return a row for each trial and searched setting: its value, and its `place` in the searched range, 0 to 1."""
    rows: list[dict[str, object]] = []
    ranked = definition.goal.ranked
    for name, allowed in definition.space.searched.items():
        if name not in frame.columns:
            continue
        for row in frame.filter(pl.col(name).is_not_null()).iter_rows(named=True):
            rows.append(
                {
                    "trial": row["trial"],
                    "state": row["state"],
                    ranked: row[f"valid/{ranked}"],
                    "setting": name.rsplit(".", 1)[-1],
                    "value": show_value(row[name]),
                    "place": allowed.place(row[name]),
                }
            )
    return pl.DataFrame(rows)


def parallel_coordinates(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw each trial as a line over its settings, each scaled to the range that was searched, nll as colour."""
    usable = sorted(drawable(definition, trials), key=lambda trial: trial.score)
    drawn = usable[:: math.ceil(len(usable) / MOST_PATHS)]
    data = scaled(trials_frame(sorted(drawn, key=lambda trial: trial.number)), definition)
    if data.height == 0:
        raise StudyError(f"{definition.name} searches nothing, so that there are no settings to draw")
    order = data["setting"].unique(maintain_order=True).to_list()
    ends = pl.DataFrame(
        [
            {"setting": name.rsplit(".", 1)[-1], "value": show_value(value), "place": allowed.place(value)}
            for name, allowed in definition.space.searched.items()
            for value in allowed.ends()
        ]
    ).filter(pl.col("setting").is_in(order))
    collapsed, ranked = alt.datum.state == State.COLLAPSED.value, definition.goal.ranked
    healthy = data.filter(pl.col("state") != State.COLLAPSED.value)[ranked].to_list()
    # What collapsed trials reached is drawn grey, and must not take up the colours of the others.
    shades = alt.Scale(scheme="viridis", domain=[min(healthy), max(healthy)] if healthy else [0, 1])
    x = alt.X("setting:N", title=None, sort=order, axis=alt.Axis(labelAngle=-20))
    lines = (
        alt.Chart(data)
        .mark_line(strokeWidth=1.8)
        .encode(
            x=x,
            y=alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, 1])),
            detail="trial:N",
            color=alt.condition(
                collapsed, alt.value("#cccccc"), alt.Color(f"{ranked}:Q", title=f"{ranked} (nats)", scale=shades)
            ),
            opacity=alt.condition(collapsed, alt.value(0.6), alt.value(0.9)),
            tooltip=["trial", "state", "setting", "value", ranked],
        )
    )
    labels = alt.Chart(ends).mark_text(align="left", dx=5, fontSize=9, color="#333333")
    text = labels.encode(x=x, y="place:Q", text="value:N")
    whose = "every trial" if len(drawn) == len(usable) else f"{len(drawn)} of {len(usable)} trials, evenly by {ranked}"
    title = heading(
        f"Settings of {whose}, validation {ranked} as colour",
        "each axis is the range that was searched; dark is better; grey lines have collapsed",
    )
    return alt.layer(lines, text).properties(title=title, width=WIDTH, height=300)


def endings(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw how long each trial trained and what ended it."""
    drawable(definition, trials)
    frame = trials_frame([trial for trial in trials if trial.rows]).select("trial", "state", "epochs", "reason")
    shown = present(frame, "state", STATE_COLOURS)
    scale = alt.Scale(domain=shown, range=[STATE_COLOURS[name] for name in shown])
    # For the words behind the longest bars.
    most = int(frame["epochs"].max() or 1)  # type: ignore[arg-type]
    room = alt.Scale(domain=[0, 1.12 * most], nice=False)
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("epochs:Q", title="epochs trained", axis=alt.Axis(tickMinStep=1), scale=room),
            y=alt.Y("trial:O", title="trial, in the order of the search", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color("state:N", title="ended as", scale=scale),
            tooltip=["trial", "state", "epochs", "reason"],
        )
    )
    # In grey, and for whom colours are hard to tell apart; of many trials there is no room for it.
    words = bars.mark_text(align="left", dx=4, fontSize=9).encode(text="state:N", color=alt.value("#333333"))
    rung = alt.Chart(pl.DataFrame({"x": [definition.grace_epochs]})).mark_rule(strokeDash=[4, 3]).encode(x="x:Q")
    scheduled = definition.scheduler != "none"
    title = heading(
        "Epochs that each trial trained, and what ended it",
        "the dashed line is the schedule's first rung" if scheduled else "no schedule ended any of them",
    )
    parts = [bars, *([words] if frame.height <= MOST_WORDS else []), *([rung] if scheduled else [])]
    return alt.layer(*parts).properties(title=title, width=WIDTH, height=alt.Step(max(1, min(16, 480 // frame.height))))


def dispersion_by_pooling(definition: Definition, trials: list[TrialRecord]) -> Chart:
    """Draw how alike the encoder's features are, a point a trial, by pooling."""
    frame = plain(trials_frame(drawable(definition, trials)), definition)
    if "dispersion" not in frame.columns:
        raise StudyError("the trials' own code says nothing of features")
    frame = frame.filter(pl.col("dispersion").is_not_nan())
    points = marks(frame).encode(
        x=alt.X("dispersion:Q", title=METRICS["dispersion"].title),
        y=alt.Y("pooling:N", title="pooling"),
        tooltip=["trial", "state", "pooling", "dispersion", "kl", definition.goal.ranked],
    )
    title = heading(
        "How alike the encoder's features are, by pooling", f"1: every input gives the same feature vector. {FILLS}"
    )
    chart: Chart = points.properties(title=title, width=WIDTH, height=alt.Step(34))
    return chart


def studies_trade_off(studies: list[tuple[Definition, list[TrialRecord]]]) -> Chart:
    """Draw nll over mutual information of several studies, the study as colour.

    Raises StudyError if one is empty, or they do not rank by the same metric.
    """
    ranked = studies[0][0].goal.ranked
    if any(definition.goal.ranked != ranked for definition, _ in studies):
        told = ", ".join(f"{definition.name} by {definition.goal.ranked}" for definition, _ in studies)
        raise StudyError(f"studies that rank by different numbers have no figure together: {told}")
    frames = [
        plain(trials_frame(drawable(definition, trials)), definition)
        .select("trial", "state", "pooling", "epochs", ranked, "mi", "kl", "au")
        .with_columns(pl.lit(definition.name).alias("study"))
        for definition, trials in studies
    ]
    frame = pl.concat(frames, how="vertical_relaxed")
    names = [definition.name for definition, _ in studies]
    # Of more studies than colours, some share one.
    colours = alt.Scale(domain=names, range=[COLOURS[place % len(COLOURS)] for place in range(len(names))])
    shapes = alt.Scale(domain=names, range=[SHAPES[place % len(SHAPES)] for place in range(len(names))])
    points = marks(frame).encode(
        x=alt.X("mi:Q", title=METRICS["mi"].title, scale=from_zero(frame, "mi")),
        y=alt.Y(f"{ranked}:Q", title=METRICS[ranked].title, scale=alt.Scale(zero=False)),
        fill=alt.Fill("study:N", title="study", scale=colours),
        stroke=alt.Stroke("study:N", title="study", scale=colours),
        shape=alt.Shape("study:N", title="study", scale=shapes),
        tooltip=frame.columns,
    )
    title = heading(
        f"Validation likelihood against {TITLES['mi']}, {len(names)} studies",
        f"lower and further right is better; only studies on one corpus and evaluated alike can be compared. {FILLS}",
    )
    chart: Chart = points.properties(title=title, width=WIDTH, height=340)
    return chart


FIGURES: dict[str, Callable[[Definition, list[TrialRecord]], Chart]] = {
    "information-by-weight": information_by_weight,
    "trade-off": trade_off,
    "trade-off-rate": lambda definition, trials: trade_off(definition, trials, "kl"),
    "learning-curves": learning_curves,
    "importance": setting_importance,
    "parallel-coordinates": parallel_coordinates,
    "endings": endings,
    "dispersion": dispersion_by_pooling,
}
"""A study's figures by name."""
