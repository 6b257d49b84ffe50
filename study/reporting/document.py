"""A study as one document: self-contained HTML, or Markdown with its figures beside it."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from data.files import write_text
from study.analysis.findings import answer, collapse_pattern, costs, counted
from study.analysis.pooling_test import verdicts
from study.analysis.seed_noise import known_noise
from study.config.stored import without_nan
from study.errors import StudyError, StudyWarning, first_line
from study.inference.portrait import portrait_of
from study.metrics import METRICS, WIDE, with_ranked
from study.record.final_scores import read_samples
from study.record.formats import code as code_span
from study.record.formats import code_block, prose, show_params, show_value
from study.record.formats import plain as cell
from study.record.ledger import Ledger
from study.record.places import SAMPLES
from study.record.states import State
from study.record.trials import TrialRecord, best_trial, counts, has_collapsed, pareto_trials, shown_state
from study.reporting.chart_style import Chart, save
from study.reporting.figures import FIGURES
from study.reporting.model_figures import PORTRAITS
from study.reporting.outputs import check_output, refuse_foreign
from study.reporting.pooling import test_columns, test_rows, verdict_cells, verdict_columns
from study.reporting.tables import seed_rows
from study.search.definition import Definition
from study.search.ranges import Range

TABLES = "templates/tables.js"
"""What sorts and filters a page's tables."""
FOLLOWS = "true /* until nobody writes it */"
"""What the script of a page that looks for a newer one says of that."""
WORDS = ("reconstructions", "interpolation")
"""Figures that a document has as tables, in which one can search and copy."""

EMBED = """
const wrap = (text, most) => text.split(" ").reduce((lines, word) => {
  const line = lines.at(-1) ? lines.at(-1) + " " + word : word;
  return line.length > most && lines.at(-1) ? [...lines, word] : [...lines.slice(0, -1), line];
}, [""]);
for (const holder of document.querySelectorAll("figure[data-figure]")) {
  const spec = JSON.parse(holder.querySelector("script").textContent);
  const width = holder.clientWidth - 110, wide = Math.min(800, holder.clientWidth - 190);
  spec.config = {...spec.config, background: "transparent"};
  if (wide > 560)
    for (const part of [spec, spec.spec || {}, ...(spec.vconcat || [])])
      if (typeof part.width === "number") {
        if (holder.dataset.figure === "latent-space") part.height *= wide / 560;
        part.width *= wide / 560;
      }
  // On a phone: as wide as the screen, legends below, titles on several lines.
  if (width < 560) {
    if (spec.facet && spec.facet.column) spec.facet = {row: {...spec.facet.column, header: {orient: "top"}}};
    for (const part of [spec, spec.spec || {}, ...(spec.vconcat || [])])
      if (typeof part.width === "number") {
        // Both axes of a latent space have one unit.
        if (holder.dataset.figure === "latent-space") part.height *= width / part.width;
        part.width = width;
      }
    const {text, subtitle} = spec.title;
    spec.title = {...spec.title, text: wrap(text, width / 5.5), subtitle: wrap(subtitle.join(" "), width / 4.5)};
    const config = spec.config || {};
    const below = {orient: "bottom", columns: 3, layout: {bottom: {direction: "vertical", anchor: "start"}}};
    spec.config = {...config, title: {...config.title, fontSize: 11, subtitleFontSize: 9}, legend: below};
  }
  vegaEmbed(holder.querySelector("div"), spec, {actions: false, renderer: "svg"}).catch(console.error);
}
// Of figures with a switch, one at a time; their widths are taken by now.
const choices = [...document.querySelectorAll(".switch input")];
const choose = () => choices.forEach(it => { document.getElementById(`figure-${it.value}`).hidden = !it.checked; });
choices.forEach(it => it.addEventListener("change", choose));
choose();
"""


def write_html(ledger: Ledger, path: Path, price_per_gpu_hour: float | None, following: str = "") -> None:
    """Write a study's report as one HTML file that needs no network, aside and then renamed; raise StudyError.

    `following` says how far a study is that still runs: the page shows it and looks for a newer one every few seconds.
    What the best model of the hour is like is left for the end.
    """
    check_target(path, ".html")
    write_text(path, render(gather(ledger, price_per_gpu_hour, with_model=not following) | {"following": following}))


def end_following(path: Path) -> None:
    """Have a page that looks for a newer one do so no more: nobody writes it again."""
    write_text(path, path.read_text("utf-8").replace(FOLLOWS, "false"))


def write_waiting(ledger: Ledger, path: Path, following: str) -> None:
    """Write the page of a study that has no epoch yet; it looks for a newer one."""
    check_target(path, ".html")
    content = {"definition": ledger.definition, "following": following, "written": now()}
    write_text(path, to_html("waiting.html.j2", content, {}))


def write_artifacts(ledger: Ledger, folder: Path) -> list[Path]:
    """Write `report.html` and every figure of it, as PNG in `figures`, into a folder; return both paths."""
    content = gather(ledger, None)
    (folder / "figures").mkdir()
    for name, chart in content["charts"].items():
        save(chart, folder / "figures" / f"{name}.png")
    write_text(folder / "report.html", render(content))
    return [folder / "report.html", folder / "figures"]


def render(content: Mapping[str, Any]) -> str:
    """Return what `gather` found as an HTML page."""
    return to_html("report.html.j2", content, content["charts"])


def to_html(template: str, content: Mapping[str, Any], drawn: dict[str, Chart]) -> str:
    """Return a page that draws these charts where its template names them."""
    charts = {name: chart.to_dict() for name, chart in drawn.items()}
    specs = {name: specification(chart) for name, chart in charts.items() if name not in WORDS}
    titles = {name: chart["title"]["text"] for name, chart in charts.items()}
    tables = resources.files("study").joinpath(TABLES).read_text("utf-8")
    scripts = {"script": drawing_script(), "table_script": tables, "follows": FOLLOWS}
    return environment().get_template(template).render(**content, specs=specs, titles=titles, **scripts)


@cache
def drawing_script() -> str:
    """Return what draws charts in a page, fit for a script element: seconds to make, and always the same."""
    return vl_convert.javascript_bundle(EMBED).replace("</script", "<\\/script")


def now() -> str:
    """Return the time of writing."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def write_markdown(ledger: Ledger, path: Path, price_per_gpu_hour: float | None) -> None:
    """Write a study's report as Markdown, its figures as SVG files beside it; raise StudyError."""
    check_target(path, ".md")
    content = gather(ledger, price_per_gpu_hour)
    figures, titles, drawn = {}, {}, {}
    for name, chart in content.pop("charts").items():
        if name in WORDS:
            continue
        titles[name] = chart.to_dict()["title"]["text"]
        figures[name] = f"{path.stem}-{name}.svg"
        drawn[name] = chart
    refuse_foreign([path.with_name(file) for file in figures.values()], path)
    for name, chart in drawn.items():
        save(chart, path.with_name(figures[name]))
    text = environment().get_template("report.md.j2").render(**content, figures=figures, titles=titles)
    write_text(path, text)


def check_target(path: Path, ending: str) -> None:
    """Raise StudyError unless a file of this ending can be written there."""
    check_output(path, (ending,))


def environment() -> Environment:
    """Return the templates; HTML escapes whatever texts hold."""
    made = Environment(
        loader=PackageLoader("study"),
        autoescape=select_autoescape(["html.j2"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["short"] = show_value
    made.filters["code"] = lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped
    made.filters |= {"cell": cell, "prose": prose, "code_block": code_block, "code_span": code_span}
    return made


def specification(chart: dict[str, Any]) -> str:
    """Return a chart's specification as JSON that can stand inside a script element."""
    return json.dumps(without_nan(chart), default=str, allow_nan=False).replace("<", "\\u003c")


def gather(ledger: Ledger, price_per_gpu_hour: float | None, *, with_model: bool = True) -> dict[str, Any]:
    """Return everything that a report says; raise StudyError if there is nothing to say yet."""
    definition, trials = ledger.definition, ledger.trials()
    best = best_trial(trials)
    charts: dict[str, Chart] = {}
    for name, draw in FIGURES.items():
        try:
            charts[name] = draw(definition, trials)
        except StudyError:
            if name == "trade-off":
                raise
        except Exception as error:
            # A report is not lost for want of a drawing.
            warnings.warn(StudyWarning(f"the figure {name} was not drawn: {first_line(error)}"), stacklevel=2)
    portrait = portrait_of(ledger, best) if best is not None and with_model else None
    if portrait is not None:
        # One that an older version stored does not say what z saves.
        old = () if portrait.saved else ("saved-by-position",)
        charts |= {name: draw_portrait(portrait) for name, draw_portrait in PORTRAITS.items() if name not in old}
    noise_nats, noise = known_noise(ledger, trials)
    ranges = definition.space.searched
    # Code of a user's own says nothing of some.
    known = {name for trial in trials for name in trial.best.valid} or set(WIDE)
    names = [name for name in with_ranked(WIDE, definition.goal.ranked) if name in known]
    return {
        "definition": definition,
        "answer": answer(definition, trials, noise, noise_nats),
        "how_many": counted(len(trials))
        + ("" if len(trials) >= definition.num_trials else f" of {definition.num_trials} so far"),
        "failures": [(trial.number, trial.reason) for trial in trials if trial.state == State.FAILED],
        "states": counts(definition, trials),
        "best": best,
        "best_settings": {} if best is None else best.params,
        "pareto": [table_row(definition, trial) for trial in pareto_trials(trials)],
        "ranked": definition.goal.ranked,
        "metrics": names,
        "terms": [METRICS[name] for name in names],
        "trials": [table_row(definition, trial) for trial in trials],
        "seeds": None if definition.num_tested else seed_rows(trials),
        "pooling_rows": test_rows(definition, trials),
        "test_columns": test_columns(definition),
        "verdict_rows": [verdict_cells(one) for one in verdicts(definition, trials)],
        "verdict_columns": verdict_columns(definition),
        "pattern": collapse_pattern(definition, trials).to_dicts(),
        "num_collapsed": sum(has_collapsed(definition, trial) for trial in trials),
        "collapsed_otherwise": [
            f"trial {trial.number} is {trial.state}"
            for trial in trials
            if trial.state != State.COLLAPSED and has_collapsed(definition, trial)
        ],
        "samples": samples_of(ledger, best),
        "interpolation": portrait.interpolation if portrait is not None else [],
        "between": portrait.texts[:2] if portrait is not None else [],
        "costs": costs(definition, trials, price_per_gpu_hour),
        "searched": {name: show_range(allowed) for name, allowed in ranges.items()},
        "versions": definition.provenance or {"versions": "not recorded"},
        "written": now(),
        "following": "",
        "charts": charts,
    }


def samples_of(ledger: Ledger, trial: TrialRecord | None, num: int = 8) -> list[dict[str, str]]:
    """Return validation texts beside their reconstructions, and prior samples, of a trial; empty if it wrote none."""
    path = ledger.trial_folder(trial.number) / SAMPLES if trial is not None else None
    if path is None or not os.path.lexists(path):
        return []
    try:
        table = read_samples(path.parent)
    except StudyError as error:
        # No reason to lose the rest of the report.
        warnings.warn(StudyWarning(str(error)), stacklevel=2)
        return []
    return [dict(zip(table, row, strict=True)) for row in list(zip(*table.values(), strict=True))[:num]]


def table_row(definition: Definition, trial: TrialRecord) -> dict[str, object]:
    """Return a trial as a report's tables show it."""
    return {
        "trial": trial.number,
        "state": shown_state(definition, trial),
        "epochs": len(trial.rows),
        "seconds": f"{trial.seconds:.0f}",
        "settings": show_params(trial.params),
        **{name: METRICS[name].show(trial.best.get(f"valid/{name}")) for name in with_ranked(WIDE, trial.ranked)},
    }


def show_range(allowed: Range) -> str:
    """Return a search range in words."""
    if allowed.values is not None:
        return ", ".join(map(str, allowed.values))
    return f"{allowed.low} to {allowed.high}{' (log)' if allowed.log else ''}"
