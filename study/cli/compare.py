"""The command compare: methods, or the values of any settings, beside each other over seeds."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.cli.types import (
    MOST_DRAWN,
    Names,
    Number,
    OneOf,
    Whole,
    complete_preset,
    complete_study,
    storage_option,
    was_given,
)

if TYPE_CHECKING:
    from study.analysis.comparison import Comparison
    from study.config.request import RunRequest
    from study.record.ledger import Ledger
    from study.search.definition import Definition


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
@click.option(
    "--variants",
    multiple=True,
    metavar="NAME=A,B,...",
    help="In place of methods: values of a setting (repeatable: each combination), held against the first.",
)
@click.option("--trainable", metavar="MODULE:FUNCTION", help="Compare --variants of code of your own, as in study run.")
@click.option("--command", "shell", metavar="'COMMAND {NAME} ...'", help="The same, of a command of your own.")
@click.option("--space", type=click.Path(path_type=Path), help="TOML file: settings and ranges of your own code.")
@click.option(
    "--objective", type=OneOf("nll", "elbo"), help="What ranks --variants of code of your own.  [default: nll]"
)
@click.option("--seeds", type=Whole(max=1000), default=3, show_default=True, help="Runs of each row.")
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
    variants: tuple[str, ...],
    **given: object,
) -> int:
    """Train METHODS x POOLINGS x SEEDS on CORPUS and judge the four claims made for pooling.

    Every run is evaluated once on the test split. Costs are relative to the plain VAE of the same run. What --set or
    --config give of a method's numbers, such as objective.kl_weight, holds for all methods.

    With --variants, train every combination of these values x SEEDS instead, all else equal, and say by how much each
    differs from the first, on the validation split; also of code of your own.

    \b
    study compare chitchat --preset quick --methods vae,aggressive --poolings last,max --seeds 3
    study compare chitchat --preset quick --variants model.encoder=lstm,gru --seeds 5
    study compare --trainable motion:train --space space.toml --variants latent_size=4,16
    study compare --resume compare-chitchat --markdown table.md
    study compare --resume compare-chitchat --latex table.tex --columns nll,kl,mi
    """
    from study.analysis import comparison
    from study.analysis.published import published_rows
    from study.config.request import RunRequest
    from study.execution.start import start
    from study.planning.comparing import new_comparison, new_variants
    from study.planning.plan import create
    from study.planning.resume import resume_study
    from study.reporting.outputs import check_output

    output = Output(comparison.check_columns(columns or ()), markdown, latex, as_json, published)
    for path, ending, option in ((markdown, ".md", "--markdown"), (latex, ".tex", "--latex")):
        if path is not None:
            check_output(path, (ending,), option)
    request, command = RunRequest.of(given), shlex.join(["study", *sys.argv[1:]])
    check_kind(variants, request)
    if request.resume is not None:
        ledger = resume_study(request, partial(click.echo, err=True))
        check_comparison(ledger)
    elif variants:
        ledger = create(request.storage, new_variants(request, variants, seeds, command))
    else:
        planned = comparison.points(methods.split(","), poolings.split(","), seeds)
        definition = new_comparison(request, planned, samples, command)
        if published:
            # Refused before anything is trained.
            published_rows(definition)
        ledger = create(request.storage, definition)
    code = start(ledger, request, show_report=False)
    return show_variants(ledger, code, output) if ledger.definition.compared else show_methods(ledger, code, output)


@dataclass(frozen=True)
class Output:
    """What of a comparison is to be written and printed."""

    columns: tuple[str, ...]
    markdown: Path | None
    latex: Path | None
    as_json: bool
    published: bool


def check_kind(variants: tuple[str, ...], request: RunRequest) -> None:
    """Raise StudyError for options of a comparison of methods in one of variants, and the other way round."""
    from study.errors import StudyError

    if request.resume is not None:
        names: tuple[str, ...] = ("methods", "poolings", "seeds", "samples", "variants")
        refuse_options(names, "--resume goes on with a comparison as it was defined")
    elif variants:
        names = ("methods", "poolings", "samples", "published", "latex", "columns")
        refuse_options(names, "--variants are compared in place of methods")
    elif request.objective is not None:
        raise StudyError("--objective is of --variants of code of your own; of methods the nll decides")
    elif request.code is not None or request.space is not None:
        name = "--trainable" if request.trainable else "--command" if request.shell else "--space"
        raise StudyError(f"{name}: of your own code variants are compared; name them, --variants NAME=VALUE,VALUE")


def refuse_options(names: tuple[str, ...], why: str) -> None:
    """Raise StudyError for options that would have no effect."""
    from study.errors import StudyError

    context = click.get_current_context()
    if idle := [name for name in names if was_given(context, name)]:
        raise StudyError(f"{why}; leave out --{', --'.join(idle)}")


def check_comparison(ledger: Ledger) -> None:
    """Raise StudyError, and let go of a study, if it is no comparison, or one that lacks a table that is asked for."""
    from study.errors import StudyError

    try:
        refuse_others(ledger.definition)
    except StudyError:
        ledger.close()
        raise


def refuse_others(definition: Definition) -> None:
    """Raise StudyError for a study that is no comparison, or one that lacks a table that is asked for."""
    from study.errors import StudyError

    name = definition.name
    if not definition.is_comparison:
        raise StudyError(f"{name} is no comparison but a search; go on with it by: study run --resume {name}")
    if definition.compared:
        refuse_options(("latex", "columns", "published"), "a comparison of variants has no such table")


def show_methods(ledger: Ledger, code: int, output: Output) -> int:
    """Print a comparison of methods, and write its tables where that was asked for; return the exit code."""
    from data.files import write_text
    from study.analysis import comparison, paper_tables
    from study.analysis.published import published_rows

    found = comparison.Comparison(ledger, comparison.results(ledger))
    if found.runs.height == 0:
        click.echo("no trial has been evaluated yet", err=True)
        return code or 1
    stored = comparison.store(found, is_whole=code == 0)
    for path, write in ((output.markdown, paper_tables.markdown), (output.latex, paper_tables.latex)):
        if path is not None:
            write_text(path, write(found, output.columns))
    if output.as_json:
        rows = {"published": published_rows(ledger.definition)} if output.published else {}
        click.echo(json.dumps(stored | rows, indent=1))
    else:
        show(found, output.columns, published=output.published)
    return code


def show_variants(ledger: Ledger, code: int, output: Output) -> int:
    """Print a comparison of variants, and write its tables where that was asked for; return the exit code."""
    from data.files import write_text
    from study.analysis import paper_tables, variants
    from study.config.stored import without_nan
    from study.console import make_console
    from study.record.formats import code as code_span

    definition, trials = ledger.definition, ledger.trials()
    tables = variants.variant_tables(definition, trials)
    if not tables:
        click.echo("no trial has ended yet", err=True)
        return code or 1
    if output.markdown is not None:
        write_text(output.markdown, paper_tables.as_markdown(tables, [code_span(definition.command)]))
    if output.as_json:
        click.echo(json.dumps(without_nan(variants.as_json(definition, trials)), indent=1))
        return code
    console = make_console()
    for table in tables:
        console.print(table)
        console.print()
    return code


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
