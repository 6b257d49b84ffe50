"""What `study report` does with a study, or with several beside each other."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from study.journal import without_nan
from study.ledger import Ledger
from study.noise import known_noise, seed_noise
from study.report import best_trial, counts, json_line, make_console, show_params, study_report

COMPARED = ("nll", "kl", "mi", "au", "ppl")


def report_study(
    ledger: Ledger,
    *,
    as_json: bool,
    html: Path | None,
    markdown: Path | None,
    figure: Path | None,
    which: str | None,
    price_per_gpu_hour: float | None,
) -> None:
    """Print a study's report, or write it where it was asked for; raise StudyError."""
    trials = ledger.trials()
    if as_json:
        for trial in trials:
            click.echo(json.dumps(without_nan(json_line(trial))))
    if html or markdown:
        from study.page import write_html, write_markdown

        for path, write in ((html, write_html), (markdown, write_markdown)):
            if path is not None:
                write(ledger, path, price_per_gpu_hour)
                click.echo(f"wrote {path}", err=True)
    if figure:
        from study.figures import save
        from study.results import Study

        save(Study(ledger.folder.name, ledger.folder.parent).figure(which or "trade-off"), figure)
        click.echo(f"wrote {figure}", err=True)
    if not (as_json or html or markdown or figure):
        make_console().print(study_report(ledger.definition, trials, known_noise(ledger, trials)[1]))


def compare_studies(ledgers: list[Ledger], figure: Path | None) -> None:
    """Print studies beside each other: what each searched, found and cost; draw their trade-offs where asked."""
    if figure is not None:
        from study.figures import save, studies_trade_off

        save(studies_trade_off([(ledger.definition, ledger.trials()) for ledger in ledgers]), figure)
        click.echo(f"wrote {figure}", err=True)
    table = Table(title="Studies, best trial on validation", title_justify="left", box=None, pad_edge=False)
    for name in ("study", "corpus", "trials", *COMPARED, "seed s.d.", "hours", "best settings"):
        table.add_column(
            name, justify="left" if name in ("study", "corpus", "best settings") else "right", overflow="fold"
        )
    for ledger in ledgers:
        trials = ledger.trials()
        best = best_trial(trials)
        cells = ["-"] * len(COMPARED) if best is None else [f"{best.best[f'valid/{name}']:.2f}" for name in COMPARED]
        states = ", ".join(f"{count} {state}" for state, count in counts(trials).items())
        noise, settings = seed_noise(trials)
        table.add_row(
            ledger.definition.name, ledger.definition.corpus_name, states, *cells, f"{noise:.2f}" if settings else "-",
            f"{sum(trial.seconds for trial in trials) / 3600:.2f}", "-" if best is None else show_params(best.params),
        )  # fmt: skip
    make_console().print(table)
    evaluated = {(each.definition.corpus_fingerprint, each.definition.space.fixed.evaluation) for each in ledgers}
    if len(evaluated) > 1:
        click.echo(
            "these studies differ in corpus or in how validation is measured: their numbers cannot be compared",
            err=True,
        )
