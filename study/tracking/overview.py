"""How MLflow's page of a study opens: the charts and columns that tell its story, grouped over seeds.

The state of the page is stored as a tag of the experiment, as MLflow's own button "share" stores it, and named in
the page's address. It is the UI's own business and may change with MLflow: without it, the page opens as any other.
"""

from __future__ import annotations

import json

from study.config.settings import OWN, Params
from study.metrics import SHOWN, with_ranked
from study.record.formats import show_value
from study.record.trials import TrialRecord
from study.search.definition import Definition

SHARE_KEY = "study"
"""What the page's address names as `viewStateShareKey`."""

TAG = f"mlflow.sharedViewState.{SHARE_KEY}"
SETTINGS_TAG = "settings"
"""Tag of a trial's searched settings without its seed: trials that share it differ by seed only."""

MOST_DRAWN = 100
"""Trials of a longer study are listed, and the best twenty drawn."""

SECTIONS = {"study": "Likelihood and use of z", "valid": "valid", "best": "best", "train": "train", "system": "system"}
"""Sections of charts by id: the study's own, then, closed, one for each group of metrics by MLflow's custom."""

TAG_CHARACTERS = 5000


def feasible_value(definition: Definition) -> str:
    """Return the metric that has the best nll (or what else ranks) of a trial that may win; others come last."""
    return f"best/feasible_{definition.goal.ranked}"


def settings_tag(params: Params) -> str:
    """Return a trial's searched settings, all but its seed, in one line."""
    return ", ".join(
        f"{name.rsplit('.', 1)[-1]}={value:.4g}" if isinstance(value, float) else f"{name.rsplit('.', 1)[-1]}={value}"
        for name, value in params.items()
        if name != "seed"
    )


SHORT = {"model.pooling": "", "objective.kl_weight": "w", "model.latent_size": "z", "method": "", "seed": "seed "}
"""Settings that a run's name says, and what is written before each."""
NAME_LETTERS = 80


def run_name(trial: TrialRecord) -> str:
    """Return what a trial's run is called: its number and what tells it from others, as `13 mean w0.43 z16`."""
    told = {name: trial.params[name] for name in SHORT if name in trial.params}
    own = {name: value for name, value in trial.params.items() if name.startswith(OWN)}
    words = [f"{SHORT[name]}{show_value(value)}" for name, value in told.items()]
    words += [f"{name.removeprefix(OWN)}={show_value(value)}" for name, value in own.items()]
    found = " ".join([str(trial.number), *words])
    return found if len(found) <= NAME_LETTERS else f"{found[: NAME_LETTERS - 3]}..."


def overview(definition: Definition) -> str | None:
    """Return the value of `TAG` for a study; None if it searches so much that MLflow would not store it."""
    # A line is drawn of trials that have all of them.
    searched = [name for name in definition.space.searched if name != "seed" and not definition.space.condition(name)]
    ranked = definition.goal.ranked
    charts = [
        scatter("best/mi", f"best/{ranked}"),
        scatter("best/kl", f"best/{ranked}"),
        *[line(name) for name in (f"valid/{ranked}", "valid/kl", "valid/mi", "train/kl_weight")],
        chart("settings", "PARALLEL", selectedParams=searched, selectedMetrics=[f"best/{ranked}"], showAllRuns=True),
    ]
    columns = ["tags.`state`"]
    columns += [f"metrics.`best/{name}`" for name in with_ranked(SHOWN, ranked)]
    columns += [f"params.`{name}`" for name in definition.space.searched]
    grouping = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": SETTINGS_TAG}]}
    state = {
        "orderByKey": f"metrics.`{feasible_value(definition)}`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "runsHiddenMode": "SHOW_ALL" if definition.num_trials <= MOST_DRAWN else "FIRST_20_RUNS",
        "groupBy": grouping if "seed" in definition.space.searched else None,
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": uuid, "name": name, "display": uuid == "study", "isReordered": True, "columns": 2}
            for uuid, name in SECTIONS.items()
        ],
        "isAccordionReordered": True,
    }
    text = json.dumps(state, separators=(",", ":"))
    return text if len(text) <= TAG_CHARACTERS else None


def chart(name: str, kind: str, **fields: object) -> dict[str, object]:
    """Return a chart of MLflow's page, by a name that is nowhere shown."""
    return {"uuid": name, "type": kind, "metricSectionId": "study", "deleted": False, "isGenerated": False} | fields


def scatter(over: str, value: str) -> dict[str, object]:
    """Return a chart of two metrics, a point a run."""
    axes = {axis: {"key": key, "type": "METRIC"} for axis, key in (("xaxis", over), ("yaxis", value))}
    return chart(over, "SCATTER", runsCountToCompare=MOST_DRAWN, **axes)


def line(metric: str) -> dict[str, object]:
    """Return a chart of a metric by epoch, a line a run."""
    return chart(
        metric,
        "LINE",
        metricKey=metric,
        selectedMetricKeys=[metric],
        lineSmoothness=0,
        scaleType="linear",
        xAxisKey="step",
        xAxisScaleType="linear",
        range={},
        yAxisKey="metric",
        yAxisExpressions=[],
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
        ignoreOutliers=False,
        selectedXAxisMetricKey="",
    )
