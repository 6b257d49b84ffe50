"""The command compare: methods beside each other over seeds."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.cli.types import MOST_DRAWN, Names, Number, Whole, complete_preset, complete_study, storage_option, was_given

if TYPE_CHECKING:
    from study.analysis.comparison import Comparison


@click.command("compare")
@click.argument("corpus", required=False)
@click.option(
    "--methods",
    default="language-model,vae,aggressive",
    show_default=True,
    help="Names, with commas between, each for all poolings or for its own, as aggressive:last;"
    " `study settings --methods` lists them.",
)
@click.option("--poolings", default="last,max", show_default=True, help="Names, with commas between.")
@click.option("--seeds", type=Whole(max=1000), default=3, show_default=True, help="Runs of each method and pooling.")
@click.option(
    "--preset", shell_complete=complete_preset, help="Settings to start from; what a method decides is left to it."
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, over the preset.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One setting (repeatable).")
@click.option(
    "--time-budget",
    "--budget",
    type=Number(min=0, min_open=True),
    metavar="MINUTES",
    help="End in order after so long; --resume goes on.",
)
@click.option(
    "--max-gpu-hours",
    type=Number(min=0, min_open=True),
    help="End in order once so many are used; --resume goes on.",
)
@click.option(
    "--samples",
    type=Whole(max=MOST_DRAWN),
    default=500,
    show_default=True,
    help="Importance samples of the test likelihood.",
)
@click.option("--concurrent", type=Whole(), help="Trials at once; as many as CPUs or GPUs allow if not given.")
@click.option("--cpus-per-trial", type=Number(), help="CPUs of each trial.")
@click.option(
    "--gpus-per-trial",
    type=Number(),
    help="Share of a GPU for each trial, 0 for the CPU; as little as fits if not given.",
)
@click.option("--mps", is_flag=True, help="Have trials that share a GPU compute at once, by NVIDIA MPS.")
@click.option("--name", help="Name of the study.  [default: compare-CORPUS]")
@click.option(
    "--resume",
    shell_complete=complete_study,
    metavar="NAME",
    help="Continue a comparison that was interrupted, or show a finished one.",
)
@click.option("--published", is_flag=True, help="Print what papers report on this corpus too (yahoo, yelp, ptb, snli).")
@click.option("--json", "as_json", is_flag=True, help="Print the summary and the verdicts as one JSON object.")
@click.option(
    "--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables as a .md file as well."
)
@click.option(
    "--latex", type=click.Path(path_type=Path, dir_okay=False), help="Write the first table as a .tex file as well."
)
@click.option("--columns", type=Names(), help="Of the first table, with commas between, such as nll,kl,mi.")
@click.option("--address", help="A running Ray cluster, such as auto.")
@click.option("--tracking-uri", help="MLflow server or database.")
@storage_option
def compare_command(
    methods: str,
    poolings: str,
    seeds: int,
    samples: int,
    published: bool,
    as_json: bool,
    markdown: Path | None,
    latex: Path | None,
    columns: tuple[str, ...] | None,
    **given: object,
) -> int:
    """Train METHODS x POOLINGS x SEEDS on CORPUS and judge the four claims made for pooling.

    Every run is evaluated once on the test split. Costs are relative to the plain VAE of the same run. What --set or
    --config give of a method's numbers, such as objective.kl_weight, holds for all methods.

    \b
    study compare chitchat --preset quick --methods vae,aggressive --poolings last,max --seeds 3
    study compare --resume compare-chitchat --markdown table.md
    study compare --resume compare-chitchat --latex table.tex --columns nll,kl,mi
    """
    from data.files import write_text
    from study.analysis import comparison, paper_tables
    from study.analysis.published import published_rows
    from study.config.request import RunRequest
    from study.execution.start import start
    from study.planning.plan import create, new_comparison
    from study.planning.resume import resume_study
    from study.reporting.outputs import check_output

    shown = comparison.check_columns(columns or ())
    for path, ending, option in ((markdown, ".md", "--markdown"), (latex, ".tex", "--latex")):
        if path is not None:
            check_output(path, (ending,), option)
    request = RunRequest.of(given)
    if request.resume is not None:
        refuse_idle_options()
        ledger = resume_study(request, partial(click.echo, err=True))
    else:
        planned = comparison.points(methods.split(","), poolings.split(","), seeds)
        definition = new_comparison(request, planned, samples, shlex.join(["study", *sys.argv[1:]]))
        if published:
            published_rows(definition)
        ledger = create(request.storage, definition)
    code = start(ledger, request, show_report=False)
    found = comparison.Comparison(ledger, comparison.results(ledger))
    if found.runs.height == 0:
        click.echo("no trial has been evaluated yet", err=True)
        return code or 1
    stored = comparison.store(found, is_whole=code == 0)
    for path, write in ((markdown, paper_tables.markdown), (latex, paper_tables.latex)):
        if path is not None:
            write_text(path, write(found, shown))
    if as_json:
        rows = {"published": published_rows(ledger.definition)} if published else {}
        click.echo(json.dumps(stored | rows, indent=1))
    else:
        show(found, shown, published=published)
    return code


def refuse_idle_options() -> None:
    """Raise StudyError for options that a comparison which is gone on with does not heed."""
    from study.errors import StudyError

    context = click.get_current_context()
    idle = [name for name in ("methods", "poolings", "seeds", "samples") if was_given(context, name)]
    if idle:
        raise StudyError(f"--resume goes on with a comparison as it was defined; leave out --{', --'.join(idle)}")


def show(found: Comparison, columns: tuple[str, ...], *, published: bool) -> None:
    """Print a comparison's tables and notes."""
    from study.analysis import comparison
    from study.analysis.published import published_table
    from study.console import make_console
    from study.record.places import COMPARED_RUNS, COMPARISON

    console = make_console()
    first, *others = comparison.tables(found, columns)
    console.print(first)
    for note in comparison.notes(found):
        console.print(note, markup=False)
    for table in others:
        console.print()
        console.print(table)
    folder = found.ledger.folder
    click.echo(f"stored: {folder / COMPARISON}, {folder / COMPARED_RUNS}", err=True)
    if published:
        console.print(published_table(found.ledger.definition))
