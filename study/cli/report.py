"""What `study report` does with a study, or with several beside each other."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from study.analysis.seed_noise import known_noise
from study.config.stored import without_nan
from study.console import make_console
from study.errors import StudyError
from study.record.ledger import Ledger
from study.record.trials import TrialRecord, json_line
from study.reporting.tables import study_report

POLL_SECONDS = 5.0
"""Between looks at a study that is followed."""


def report_study(
    ledger: Ledger,
    *,
    as_json: bool,
    as_answer: bool,
    html: Path | None,
    watch: bool,
    markdown: Path | None,
    figure: Path | None,
    which: str | None,
    trial: int | None,
    price_per_gpu_hour: float | None,
) -> None:
    """Print a study's report, or write it where it was asked for; raise StudyError."""
    trials = ledger.trials()
    if as_json:
        for each in trials:
            click.echo(json.dumps(without_nan(json_line(each))))
    if as_answer:
        from study.analysis.answer import answer_of

        click.echo(json.dumps(without_nan(answer_of(ledger.definition, trials).as_json()), indent=1))
    if watch and html is not None:
        follow(ledger.folder, html, price_per_gpu_hour)
        html = None
        if not (markdown or figure):
            return
    if html or markdown:
        from study.reporting.document import write_html, write_markdown

        for path, write in ((html, write_html), (markdown, write_markdown)):
            if path is not None:
                write(ledger, path, price_per_gpu_hour)
                click.echo(f"wrote {path}", err=True)
    if figure:
        from study.api import Study
        from study.reporting.chart_style import save

        save(Study(ledger.folder.name, ledger.folder.parent).figure(which or "trade-off", trial), figure)
        click.echo(f"wrote {figure}", err=True)
    if not (as_json or as_answer or html or markdown or figure):
        make_console().print(study_report(ledger.definition, trials, known_noise(ledger, trials)[1]))


def follow(folder: Path, path: Path, price_per_gpu_hour: float | None) -> None:
    """Write a study's page, and again whenever there is more to say, until nobody runs the study.

    However it ends, the page that is left does not look for a newer one.
    """
    from study.reporting.document import end_following

    seen, is_left = None, ""
    try:
        while True:
            ledger = Ledger.open(folder)
            try:
                is_running, trials = ledger.is_locked(), ledger.trials()
                now = (is_running, [(each.state, each.epochs) for each in trials])
                if now != seen:
                    is_left = write_page(ledger, trials, path, price_per_gpu_hour, is_running=is_running)
                    click.echo(f"wrote {path}{f': {is_left}' if is_left else ''}", err=True)
                    seen = now
            finally:
                ledger.disconnect()
            if not is_running:
                return
            time.sleep(POLL_SECONDS)
    finally:
        if is_left:
            end_following(path)


def write_page(
    ledger: Ledger, trials: list[TrialRecord], path: Path, price_per_gpu_hour: float | None, *, is_running: bool
) -> str:
    """Write the page of a study as it is now; return what it says of a study that runs, and nothing of another."""
    from study.execution.live import LiveView
    from study.reporting.document import write_html, write_waiting
    from study.reporting.figures import drawable

    view = LiveView(ledger.definition)
    view.load(trials)
    following = f"Running: {view.progress()}" if is_running else ""
    try:
        drawable(ledger.definition, trials)
    except StudyError:
        if not is_running:
            raise
        write_waiting(ledger, path, following)
    else:
        write_html(ledger, path, price_per_gpu_hour, following)
    return following


def report_studies(ledgers: list[Ledger], html: Path | None, figure: Path | None) -> None:
    """Print studies beside each other, or write them where it was asked for; raise StudyError."""
    from study.reporting.multi_study import compared_table, incomparable, write_studies

    if html is not None:
        write_studies(ledgers, html)
        click.echo(f"wrote {html}", err=True)
    if figure is not None:
        from study.reporting.chart_style import save
        from study.reporting.figures import studies_trade_off

        save(studies_trade_off([(ledger.definition, ledger.trials()) for ledger in ledgers]), figure)
        click.echo(f"wrote {figure}", err=True)
    if not (html or figure):
        make_console().print(compared_table(ledgers))
    if warning := incomparable(ledgers):
        click.echo(warning, err=True)


def report_run(folder: Path, *, as_json: bool) -> None:
    """Print what a run of its own came to, epoch by epoch; raise StudyError if the folder has none."""
    from study.reporting.tables import run_report
    from study.training.run_folder import read_epochs, read_note

    rows = read_epochs(folder)
    if as_json:
        for row in rows:
            click.echo(json.dumps(without_nan(row.to_json())))
        return
    make_console().print(run_report(folder, read_note(folder), rows))
