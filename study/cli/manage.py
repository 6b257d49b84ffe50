"""Commands that keep studies in order: list, stop, drop, rename and delete."""

from __future__ import annotations

from pathlib import Path

import click

from study.cli.types import complete_model, complete_study, storage_option


@click.command("list")
@storage_option
def list_command(storage: Path) -> int:
    """List every study here: its corpus, trials, state, best settings and size.

    The exit code is 1 if one is damaged.

    \b
    study list
    study list --storage /mnt/shared/runs
    """
    from rich.table import Table

    from study.cluster.removal import size_of
    from study.console import make_console
    from study.errors import StudyError, first_line
    from study.record.journal import study_names
    from study.record.ledger import Ledger
    from study.record.states import ENDS
    from study.record.trials import best_trial

    names = study_names(storage)
    if not names:
        click.echo(f"no study in {storage} yet; start one by `study run --preset quick`", err=True)
        return 0
    table, is_damaged = Table(box=None, pad_edge=False), False
    for heading in ("study", "corpus", "trials", "state", "best", "NLL", "MI", "MiB"):
        table.add_column(heading, justify="right" if heading in ("trials", "NLL", "MI", "MiB") else "left")
    for name in names:
        size = f"{size_of(storage / name) / 2**20:.1f}"
        try:
            ledger = Ledger.open(storage / name)
            trials = ledger.trials()
        except StudyError as error:
            is_damaged = True
            table.add_row(name, "", "", f"damaged: {first_line(error)}", "", "", "", size)
            continue
        best = best_trial(trials)
        state = "running" if ledger.is_locked() else "unfinished" if ledger.num_left() else "complete"
        numbers = ["", "", ""]
        if best is not None:
            numbers = [
                f"trial {best.number}",
                f"{best.score:.2f}{'' if best.ranked == 'nll' else f' ({best.ranked})'}",
                f"{best.best['valid/mi']:z.2f}",
            ]
        over = sum(trial.state in ENDS for trial in trials)
        count = f"{over} of {ledger.definition.num_trials}"
        table.add_row(name, ledger.definition.corpus_name, count, state, *numbers, size)
    make_console().print(table, markup=False)
    return 1 if is_damaged else 0


@click.command("stop")
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--address",
    default="http://127.0.0.1:8265",
    show_default=True,
    envvar="RAY_API_SERVER_ADDRESS",
    help="The job server of the cluster, where NAME is a job.",
)
@storage_option
def stop_command(name: str, address: str, storage: Path) -> None:
    """End a study that runs on this machine in order, or job NAME of a cluster: trials save their state.

    `study run --resume`, or `study submit --resume`, goes on.

    \b
    study stop quick
    study stop raysubmit_x5Ksz1
    """
    from study.cluster.driver import stop_driver
    from study.cluster.jobs import connect, stop
    from study.record.journal import storage_hint
    from study.record.places import DEFINITION

    if (storage / name / DEFINITION).is_file():
        stopped = stop_driver(storage / name)
        click.echo(
            f"{name}: {'has ended' if stopped else 'is not running'}; go on with `study run --resume"
            f" {name}{storage_hint(storage)}`",
            err=True,
        )
        return
    stopped = stop(connect(address), name)
    click.echo(f"{name}: {'ending' if stopped else 'has ended already'}", err=True)


@click.command("drop")
@click.argument("trial", metavar="NAME:TRIAL", shell_complete=complete_model)
@click.option("--why", metavar="REASON", help="Why it does not count; kept on record with it.")
@click.option("--undo", is_flag=True, help="Have it count again.")
@storage_option
def drop_command(trial: str, why: str | None, undo: bool, storage: Path) -> None:
    """Have a bad trial of a study count no more, anywhere; it stays on record with its reason.

    Neither the answer nor the report, the sampler, the schedule or a confirmation knows it from then on.

    \b
    study drop quick:13 --why "ran beside a benchmark that filled the memory"
    study drop quick:13 --undo
    """
    from study.errors import StudyError
    from study.execution.launch import tell_mlflow
    from study.record.journal import storage_hint
    from study.record.ledger import Ledger

    name, _, number = trial.partition(":")
    if not number.isdecimal():
        raise StudyError(f"{trial}: expected NAME:TRIAL, such as quick:13")
    if undo == (why is not None) or (why is not None and not why.strip()):
        raise StudyError(f"say why by --why, as in: study drop {trial} --why '...'; --undo takes it back")
    ledger = Ledger.open(storage / name)
    ledger.lock()
    try:
        ledger.drop(int(number), (why or "").strip())
        click.echo(f"{trial}: {'counts again' if undo else 'counts no more'}", err=True)
        if not tell_mlflow(ledger, lambda text: click.echo(text, err=True)):
            hint = storage_hint(storage)
            click.echo(f"MLflow has not heard of it; `study run --resume {name}{hint}` tells it", err=True)
    finally:
        ledger.close()


@click.command("rename")
@click.argument("name", shell_complete=complete_study)
@click.argument("new")
@storage_option
def rename_command(name: str, new: str, storage: Path) -> None:
    """Give the study NAME the name NEW, in its folder and in MLflow; its confirmation goes with it.

    \b
    study rename quick reviews-2
    """
    from study.cluster.removal import rename_study

    for each in rename_study(storage / name, new):
        click.echo(f"renamed to {each}", err=True)


@click.command("delete")
@click.argument("name", shell_complete=complete_study)
@click.option("--yes", is_flag=True, help="Delete; without it only say what would go.")
@click.option("--keep-runs", is_flag=True, help="Leave its runs and models in MLflow.")
@storage_option
def delete_command(name: str, yes: bool, keep_runs: bool, storage: Path) -> int:
    """Say what would go with the study NAME, and with --yes delete it: folder, MLflow runs and model versions.

    \b
    study delete quick
    study delete quick --yes
    """
    from study.cluster.removal import contents, delete_study
    from study.record.journal import storage_hint

    found = contents(storage / name, with_runs=not keep_runs)
    size = f"{found.num_bytes / 2**20:.1f} MiB in {storage / name}"
    models = "".join(f", model {model} version {version}" for model, version in found.recorded.versions)
    runs = "" if keep_runs else f", {len(found.recorded.runs)} runs in MLflow{models}"
    if not yes:
        click.echo(f"{name}: {size}{runs} would go; `study delete {name} --yes{storage_hint(storage)}` deletes them")
        for path in found.foreign:
            click.echo(f"{path} is not the study's, and would stay")
        return 0
    for line in delete_study(storage / name, with_runs=not keep_runs):
        click.echo(line, err=True)
    click.echo(f"{name}: deleted: {size}{runs}", err=True)
    return 0
