"""The command run: a study, new, gone on with, or begun from an earlier one."""

from __future__ import annotations

import math
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from study.cli.types import Folder, Names, OneOf, Whole, complete_preset, complete_study, storage_option
from study.config.run_options import OBJECTIVE_NAMES, SAMPLER_NAMES, SCHEDULER_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from study.search.definition import Definition


@click.command("run")
@click.argument("corpus", required=False)
@click.option(
    "--preset", shell_complete=complete_preset, help="Settings to start from; `study settings --presets` lists them."
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, over the preset.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Hold a setting fixed (repeatable).")
@click.option("--search", "also", multiple=True, metavar="NAME", help="Search an optional setting too (repeatable).")
@click.option("--name", help="Name of the study; made from preset or corpus if not given.")
@click.option(
    "-n",
    "--trials",
    type=Whole(),
    help="How many settings the search tries; the pooling test's runs come on top.  [default: 24, or the preset's]",
)
@click.option(
    "--try",
    "tries",
    multiple=True,
    metavar="'NAME=VALUE ...'|FILE",
    help="Try this point first, or those of a .toml, .csv or .parquet file; what is left out is searched (repeatable).",
)
@click.option("--try-outside", is_flag=True, help="Let --try have values that are not searched.")
@click.option("--concurrent", type=Whole(), help="Trials at once; as many as CPUs or GPUs allow if not given.")
@click.option("--cpus-per-trial", type=float, help="CPUs of each trial, may be a fraction.")
@click.option(
    "--gpus-per-trial",
    type=float,
    help="Share of a GPU for each trial: 0.25 packs four on one, 0 trains on the CPU; as little as fits if not given.",
)
@click.option("--mps", is_flag=True, help="Have trials that share a GPU compute at once, by NVIDIA MPS.")
@click.option("--sampler", type=OneOf(*SAMPLER_NAMES), help="What proposes settings.  [default: tpe]")
@click.option(
    "--objective",
    type=OneOf(*OBJECTIVE_NAMES),
    help="nll: lowest of trials that may win; pareto: low nll and high mi; elbo: for your own code without nll."
    "  [default: nll]",
)
@click.option(
    "--floor", "floors", multiple=True, metavar="METRIC=VALUE", help="Least au, mi or kl of a winner (repeatable)."
)
@click.option("--scheduler", type=OneOf(*SCHEDULER_NAMES), help="What ends bad trials early.  [default: asha]")
@click.option("--stages", type=Names(), help="The pooling test, the search, or both.  [default: pooling,search]")
@click.option("--poolings", type=Names(), help="Poolings of the test beside last.  [default: mean,max]")
@click.option("--seeds", type=Whole(max=1000), help="Seeds of the pooling test.  [default: 2]")
@click.option("--test-weights", type=Names(), help="KL weights of the pooling test.  [default: 0.15,0.3,0.6]")
@click.option("--time-budget", type=float, metavar="MINUTES", help="End in order after so long; --resume goes on.")
@click.option("--max-gpu-hours", type=float, help="End in order once the study has used so many; --resume goes on.")
@click.option(
    "--stop-when-settled",
    is_flag=True,
    help="End when as many trials again can be expected to gain less than seeds alone do.",
)
@click.option("--seed", type=int, help="Seed of the search and of every trial.  [default: 0]")
@click.option("--address", help="A running Ray cluster, such as auto; this machine alone if not given.")
@click.option("--tracking-uri", help="MLflow server or database; $MLFLOW_TRACKING_URI, or one beside the studies.")
@click.option("--optuna-url", help="Optuna's database, such as postgresql://USER@HOST/optuna; a file if not given.")
@click.option(
    "--trainable",
    metavar="MODULE:FUNCTION",
    help="Train by a function of your own, train(settings, folder, seed); see docs/own-model.md.",
)
@click.option(
    "--command",
    "shell",
    metavar="'COMMAND {NAME} ...'",
    help="Train by a command of your own that prints a JSON object an epoch.",
)
@click.option("--space", type=click.Path(path_type=Path), help="TOML file: settings and ranges of your own trainable.")
@click.option("--check", is_flag=True, help="Train one epoch by your own trainable, say what was read, and end.")
@click.option("--dry-run", is_flag=True, help="Show what would be run, and write nothing.")
@click.option(
    "--from", "from_study", shell_complete=complete_study, metavar="NAME", help="Begin from what another study found."
)
@click.option(
    "--resume",
    shell_complete=complete_study,
    metavar="NAME",
    help="Go on with a study; --trials, --try, --concurrent, budgets and --address may be new.",
)
@click.option(
    "--corpus",
    "moved_corpus",
    type=Folder(path_type=Path, exists=True, file_okay=False),
    help="With --resume: where the corpus lies now.",
)
@storage_option
def run_command(**given: object) -> int:
    """Search the settings of a pooled VAE on CORPUS: a prepared folder, chitchat or synthetic-topics.

    Settings that are given are held fixed, the others are searched.

    \b
    study run --preset quick
    study run corpora/ptb --preset ptb --trials 40 --gpus-per-trial 0.5
    study run corpora/mine --set model.pooling=max --search training.learning_rate
    study run --resume mine --trials 80 --try "model.pooling=max objective.kl_weight=0.3"
    study run corpora/mine --from mine --search model.hidden_size
    study run --trainable mymodel.train:train --space space.toml --trials 40
    """
    from study.config.request import RunRequest
    from study.errors import StudyError
    from study.execution.start import start
    from study.planning.plan import create, new_study
    from study.planning.resume import resume_study

    say = partial(click.echo, err=True)
    request = RunRequest.of(given)
    for option, most in (("--time-budget", request.time_budget), ("--max-gpu-hours", request.max_gpu_hours)):
        if most is not None and not 0 < most < math.inf:
            raise click.BadParameter("must be above 0, and finite", param_hint=option)
    if request.resume is not None:
        return start(resume_study(request, say), request)
    if request.moved_corpus is not None:
        raise StudyError("--corpus says where the corpus of a study that is resumed lies now; a new one takes CORPUS")
    definition = new_study(request, shlex.join(["study", *sys.argv[1:]]), say=say)
    if request.check:
        check_trainable(definition, say)
        return 0
    if request.dry_run:
        show_plan(definition)
        return 0
    return start(create(request.storage, definition), request)


def check_trainable(definition: Definition, say: Callable[[str], None]) -> None:
    """Have a trainable train one epoch by the middle of its space; say what was read of it."""
    import tempfile

    from study.planning.own import check_one_epoch

    with tempfile.TemporaryDirectory() as scratch:
        for line in check_one_epoch(definition, Path(scratch)):
            say(line)


def show_plan(definition: Definition) -> None:
    """Print what a study would do."""
    import tomli_w

    from study.console import make_console
    from study.planning.plan import sharing
    from study.reporting.tables import space_table

    console = make_console()
    console.print(
        f"{definition.name}: {definition.num_trials} trials on {definition.corpus_name},"
        f" {definition.concurrent} at once, sampler {definition.sampler},"
        f" objective {definition.goal.name}, scheduler {definition.scheduler}"
        f" with its first rung at epoch {definition.grace_epochs}",
        markup=False,
    )
    if (shared := sharing(definition)) is not None:
        console.print(f"GPUs: {shared}", markup=False)
    console.print(space_table(definition))
    console.print("\nFixed", style="italic")
    fixed = definition.space.fixed.model_dump(exclude_none=True)
    if definition.is_own:
        # Of the rest its code makes what it will.
        fixed = {"seed": fixed["seed"], "own": fixed["own"], "training": {"epochs": fixed["training"]["epochs"]}}
    for name in definition.space.searched:
        table, _, leaf = name.rpartition(".")
        (fixed[table] if table else fixed).pop(leaf, None)
    console.print(tomli_w.dumps(fixed), markup=False)
