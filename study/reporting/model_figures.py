"""Figures of one trained model: its latent dimensions and space, where its maxima come from, what it decodes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import altair as alt
import numpy as np
import polars as pl

from model.collapse import ACTIVE_VARIANCE
from model.registry import POOLINGS
from study.inference.portrait import Portrait
from study.reporting.chart_style import WIDTH, Chart, heading

HEIGHT = 320
LABEL = 60
MOST_LABELS = 15
"""That a legend names."""


def titled(chart: alt.Chart | alt.LayerChart, title: alt.TitleParams, height: int) -> Chart:
    """Return a chart of the width that all have."""
    made: Chart = chart.properties(title=title, width=WIDTH, height=height)
    return made


def rate_by_dimension(portrait: Portrait) -> Chart:
    """Draw the KL of each latent dimension, the largest first; active ones stand out."""
    found = {"kl": portrait.kl, "variance": portrait.variance}
    frame = pl.DataFrame(
        {
            "dimension": [str(number) for number in range(len(found["kl"]))],
            "kl": found["kl"],
            "state": ["active" if value >= ACTIVE_VARIANCE else "not active" for value in found["variance"]],
        }
    ).sort("kl", descending=True)
    order = frame["dimension"].to_list()
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("dimension:N", title="latent dimension", sort=order, axis=alt.Axis(labelAngle=0)),
            y=alt.Y("kl:Q", title="KL (nats a sequence)"),
            color=alt.Color(
                "state:N",
                title="dimension",
                scale=alt.Scale(domain=["active", "not active"], range=["#0072B2", "#bbbbbb"]),
            ),
            tooltip=["dimension", "kl", "state"],
        )
    )
    total, active = sum(found["kl"]), sum(value >= ACTIVE_VARIANCE for value in found["variance"])
    title = heading(
        f"KL by latent dimension: {total:.2f} nats in all, {active} of {frame.height} dimensions active",
        f"active: the posterior mean varies by at least {ACTIVE_VARIANCE} over inputs",
    )
    return titled(bars, title, 180)


def saved_by_position(portrait: Portrait) -> Chart:
    """Draw how many nats a sequence's own z saves the decoder at each position, with two standard errors."""
    places = list(portrait.saved)
    frame = pl.DataFrame(
        {
            "position": places,
            "saved": [portrait.saved[place] for place in places],
            "low": [portrait.saved[place] - 2 * portrait.saved_se[place] for place in places],
            "high": [portrait.saved[place] + 2 * portrait.saved_se[place] for place in places],
        }
    )
    base = alt.Chart(frame).encode(
        x=alt.X("position:N", title="position of the token in its sequence", sort=places, axis=alt.Axis(labelAngle=0)),
        tooltip=[
            "position",
            alt.Tooltip("saved", format=".3f"),
            *(alt.Tooltip(end, format=".3f") for end in ("low", "high")),
        ],
    )
    # Of one sequence nothing is known of errors.
    reach = [value for value in (*frame["low"], *frame["high"], *frame["saved"], 0.0) if not math.isnan(value)]
    scale = alt.Scale(domain=[min(reach), max(reach)])
    bars = base.mark_bar(color="#0072B2").encode(y=alt.Y("saved:Q", title="nats saved a sequence", scale=scale))
    spans = base.mark_rule(color="#333333", strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    total = sum(portrait.saved.values())
    title = heading(
        f"What z knows: {total:.2f} nats a sequence that its own z saves the decoder, by position",
        "against another sequence's z; together all of it; lines: two standard errors; the end says how long it is",
    )
    layers: alt.LayerChart = alt.layer(bars, spans)  # type: ignore[assignment]
    return titled(layers, title, 180)


def latent_space(portrait: Portrait) -> Chart:
    """Draw the posterior means along their two main directions, coloured by label, or by length without labels."""
    means = np.array(portrait.means)
    centred = means - means.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T
    if places.shape[1] == 1:
        places = np.concatenate([places, np.zeros_like(places)], axis=1)
    share = float(np.square(singular[:2]).sum() / max(np.square(singular).sum(), 1e-12))
    frame = pl.DataFrame(
        {
            "first": places[:, 0].tolist(),
            "second": places[:, 1].tolist(),
            "length": portrait.lengths,
            "text": [text[:120] for text in portrait.texts],
        }
    )
    by_length = alt.Color("length:Q", title="tokens", scale=alt.Scale(scheme="viridis"))
    by_label = alt.Color("label:N", title="label", scale=alt.Scale(scheme="tableau20"))
    if portrait.labels:
        frame = frame.with_columns(label=pl.Series(shown_labels(portrait.labels)))
    # A unit is as long in either direction.
    half = 1.05 * max(float(np.abs(places[:, 0]).max()), float(np.abs(places[:, 1]).max()) * WIDTH / HEIGHT, 1e-3)
    across, up = alt.Scale(domain=[-half, half]), alt.Scale(domain=[-half * HEIGHT / WIDTH, half * HEIGHT / WIDTH])
    points = (
        alt.Chart(frame)
        .mark_circle(size=36, opacity=0.75)
        .encode(
            x=alt.X("first:Q", title="first principal component of the posterior mean", scale=across),
            y=alt.Y("second:Q", title="second principal component", scale=up),
            color=by_label if portrait.labels else by_length,
            tooltip=["text", "length", *(["label"] if portrait.labels else [])],
        )
    )
    title = heading(
        f"Latent space of {frame.height} validation sequences by {'label' if portrait.labels else 'length in tokens'}",
        f"two directions hold {share:.0%} of the means' variance; the prior has standard deviation 1 in each",
    )
    return titled(points, title, HEIGHT)


def shown_labels(labels: list[str]) -> list[str]:
    """Return labels as a legend has room for them: the most frequent ones by name."""
    named = [label for label, _ in Counter(labels).most_common(MOST_LABELS)]
    return [(label or "none") if label in named else "other" for label in labels]


def maxima(portrait: Portrait) -> Chart:
    """Draw where the encoder units' largest states over time lie."""
    names = {"first": "<s>", "last": "</s>"} | {f"words_{tenth}": f"{tenth * 10}" for tenth in range(1, 11)}
    frame = pl.DataFrame(
        {
            "place": [names[name] for name in portrait.maxima],
            "share": list(portrait.maxima.values()),
        }
    )
    bars = (
        alt.Chart(frame)
        .mark_bar(color="#56B4E9")
        .encode(
            x=alt.X(
                "place:N",
                title="place in the sequence (% of its words)",
                sort=frame["place"].to_list(),
                axis=alt.Axis(labelAngle=0),
            ),
            y=alt.Y("share:Q", title="share of units", axis=alt.Axis(format="%")),
            tooltip=["place", alt.Tooltip("share", format=".1%")],
        )
    )
    used = (
        "these are what the features are made of"
        if POOLINGS[portrait.pooling].takes_maxima
        else "not what this pooling takes"
    )
    title = heading(
        "Where the encoder's largest states over time lie, share of units", f"pooling {portrait.pooling}: {used}"
    )
    return titled(bars, title, 180)


def reconstructions(portrait: Portrait) -> Chart:
    """Draw texts and what the decoder makes of their latent values, one under the other."""
    pairs = zip(portrait.texts, portrait.reconstructions, strict=False)
    rows = [row for text, again in pairs for row in (("input", text), ("from z", again), ("", ""))]
    title = heading("Validation texts and their reconstructions", "decoded greedily from the posterior mean")
    return written(rows[:-1], title)


def interpolation(portrait: Portrait) -> Chart:
    """Draw what the decoder makes of latent values between those of two texts."""
    most = len(portrait.interpolation) - 1
    rows = [(f"{step} of {most}", text) for step, text in enumerate(portrait.interpolation)]
    ends = [("one text", portrait.texts[0]), ("another", portrait.texts[1])] if rows else []
    title = heading(
        "From one validation text to another, in equal steps of the latent variable",
        "decoded greedily on the line between their posterior means",
    )
    return written([*ends[:1], *rows, *ends[1:]], title)


def written(rows: list[tuple[str, str]], title: alt.TitleParams) -> Chart:
    """Draw lines of text, each with what it is before it; too long ones are cut."""
    frame = pl.DataFrame(
        {
            "row": list(range(len(rows))),
            "what": [what for what, _ in rows],
            "text": [text for _, text in rows],
        },
        schema={"row": pl.Int64, "what": pl.String, "text": pl.String},
    )
    base = alt.Chart(frame).encode(y=alt.Y("row:O", axis=None)).properties(width=WIDTH)
    whats = base.mark_text(align="left", color="#555555").encode(x=alt.value(0), text="what:N")
    texts = base.mark_text(align="left", limit=WIDTH - LABEL).encode(x=alt.value(LABEL), text="text:N", tooltip="text")
    layers = alt.layer(whats, texts).properties(title=title, height=alt.Step(17))
    chart: Chart = layers.configure_view(stroke=None)
    return chart


PORTRAITS: dict[str, Callable[[Portrait], Chart]] = {
    "rate-by-dimension": rate_by_dimension,
    "saved-by-position": saved_by_position,
    "latent-space": latent_space,
    "maxima": maxima,
    "reconstructions": reconstructions,
    "interpolation": interpolation,
}
"""A model's figures by name."""
