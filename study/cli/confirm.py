"""The command confirm: a study's best settings over seeds."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click

from study.cli.types import MOST_DRAWN, Whole, complete_study, storage_option


@click.command("confirm")
@click.argument("name", shell_complete=complete_study)
@click.option("--top", type=Whole(), default=4, show_default=True, help="How many of the best settings to train again.")
@click.option(
    "--seeds",
    type=Whole(),
    default=5,
    show_default=True,
    help="Seeds that the last ones get; fresh ones, the same for all.",
)
@click.option(
    "--samples",
    type=Whole(max=MOST_DRAWN),
    default=500,
    show_default=True,
    help="Importance samples of the winner's test likelihood.",
)
@click.option(
    "--register", metavar="MODEL", help="Name of the winner's best run in MLflow's registry; the study's if not given."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as one JSON object.")
@click.option("--address", help="A running Ray cluster, such as auto; this machine alone if not given.")
@storage_option
def confirm_command(
    name: str,
    top: int,
    seeds: int,
    samples: int,
    register: str | None,
    as_json: bool,
    address: str | None,
    storage: Path,
) -> int:
    """Train the best settings of the study NAME again, halving them as seeds are added, and test the winner.

    All get one seed, the better half three, the next half five; then the first two are compared by a paired test
    and the winner is evaluated on the test split, once, and registered in MLflow as a model that predicts. The same
    command goes on with one that was interrupted.

    \b
    study confirm quick --top 4 --seeds 5
    study confirm quick --register chat-vae      # mlflow.pyfunc.load_model("models:/chat-vae/1") is the winner
    """
    from study.analysis.confirmation import confirmation_tables
    from study.config.stored import without_nan
    from study.console import make_console
    from study.execution.confirm import confirm

    command = shlex.join(["study", *sys.argv[1:]])
    code, found = confirm(
        storage / name, top=top, seeds=seeds, samples=samples, register=register, address=address, command=command
    )
    if found is None:
        return code
    if as_json:
        click.echo(json.dumps(without_nan(found.as_json())))
        return code
    make_console().print(confirmation_tables(found.confirmation, found.test))
    if found.model:
        click.echo(f"registered: {found.model}", err=True)
    return code
