"""Commands about a cluster: submit and jobs; spot; doctor and gc."""

from __future__ import annotations

from pathlib import Path

import click

from study.cli.types import Number, Whole, complete_study, storage_option
from study.cluster.preemption import METADATA
from study.record.places import DEFINITION
from study.record.states import State

address_option = click.option(
    "--address",
    default="http://127.0.0.1:8265",
    show_default=True,
    envvar="RAY_API_SERVER_ADDRESS",
    help="The cluster's job server; `ray dashboard cluster.yaml` makes a tunnel to it.",
)


@click.command("submit", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="RUN-ARGUMENTS...")
@click.option("--folder", default="/mnt/shared", show_default=True, help="Shared folder of the cluster to run in.")
@click.option("--follow", is_flag=True, help="Show what the study prints until it ends; Ctrl-C leaves it running.")
@address_option
def submit_command(arguments: tuple[str, ...], folder: str, follow: bool, address: str) -> int:
    """Start `study run RUN-ARGUMENTS` as a job on a cluster; it goes on when this machine is gone.

    Paths are those of the cluster. Options of this command stand before those of `study run`.

    \b
    study submit --follow corpora/mine --gpus-per-trial 0.5 --name mine
    study submit --resume mine
    """
    from study.cluster.jobs import check_secrets, connect, submit
    from study.cluster.jobs import follow as show

    check_secrets(arguments)
    client = connect(address)
    name = submit(client, arguments, folder)
    click.echo(f"{name}: submitted; `study jobs {name}` shows what it prints, `study stop {name}` ends it", err=True)
    return show(client, name, lambda text: click.echo(text, nl=False)) if follow else 0


@click.command("jobs")
@click.argument("name", required=False)
@address_option
def jobs_command(name: str | None, address: str) -> int:
    """List the jobs of a cluster, or show what job NAME prints until it ends.

    \b
    study jobs
    study jobs raysubmit_x5Ksz1
    """
    from study.cluster.jobs import connect, listing
    from study.cluster.jobs import follow as show

    client = connect(address)
    if name:
        return show(client, name, lambda text: click.echo(text, nl=False))
    for job in listing(client):
        click.echo(f"{job['job']}  {job['state']:9s}  {job['command']}")
    return 0


@click.command("spot")
@click.option("--metadata", default=METADATA, show_default=True, help="Where this instance asks about itself.")
@click.option("--every", default=5.0, show_default=True, type=Number(0.1), help="Seconds between questions.")
def spot_command(metadata: str, every: float) -> None:
    """Wait beside Ray on a spot instance until its end is announced; then its trials save their state and go elsewhere.

    cluster.yaml starts it on its workers; AWS announces an end two minutes before.

    \b
    study spot
    """
    from study.cluster.preemption import leave, wait_for_notice

    click.echo(f"announced: {wait_for_notice(metadata, every)}", err=True)
    click.echo(f"{leave()} trials save their state and go on elsewhere", err=True)


@click.command("doctor")
@click.argument("name", required=False, shell_complete=complete_study)
@click.option("--repair", is_flag=True, help="Mend the record of the study NAME from what of it is whole.")
@click.option("--address", help="Look at a running Ray cluster too, such as auto.")
@click.option("--tracking-uri", help="MLflow server to try; $MLFLOW_TRACKING_URI if not given.")
@storage_option
def doctor_command(name: str | None, repair: bool, address: str | None, tracking_uri: str | None, storage: Path) -> int:
    """Say what is wrong with this machine, the storage, MLflow, a cluster or the study NAME, and how to mend it.

    The exit code is 1 if something is. --repair keeps what is damaged beside the record, leaves trials that are whole
    as they are, and has the others trained again by `study run --resume NAME`.

    \b
    study doctor
    study doctor quick --repair
    study doctor --address auto --storage /mnt/shared/runs
    """
    from rich.table import Table

    from study.cluster.doctor import examine, examine_study
    from study.console import make_console
    from study.errors import StudyError

    if repair:
        if name is None:
            raise StudyError("--repair mends one study; name it, as in `study doctor NAME --repair`")
        return mend_study(storage / name)
    table, ill = Table("", "what", "found", "what to do", box=None), 0
    for finding in examine_study(storage / name) if name else examine(storage, tracking_uri, address):
        ill += bool(finding.mend)
        table.add_row("!" if finding.mend else "ok", finding.what, finding.found, finding.mend)
    make_console().print(table, markup=False)
    return 1 if ill else 0


def mend_study(folder: Path) -> int:
    """Mend a study's record and say what was done; return 0, also where nothing was to do."""
    from study.cluster.repair import repair
    from study.errors import StudyError
    from study.search.definition import read_definition

    if not (folder / DEFINITION).is_file():
        raise StudyError(f"no study named {folder.name} in {folder.parent}; see --storage")
    done = list(repair(folder, read_definition(folder / DEFINITION)))
    for line in done:
        click.echo(line)
    if not done:
        click.echo(f"the record of {folder.name} is whole; nothing to do", err=True)
    return 0


@click.command("gc")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_study)
@click.option("--keep", default=5, show_default=True, type=Whole(1), help="Best trials whose weights stay.")
@click.option("--delete", is_flag=True, help="Delete; without it only show what would go.")
@storage_option
def gc_command(names: tuple[str, ...], keep: int, delete: bool, storage: Path) -> None:
    """Show what finished and crashed studies no longer need, and with --delete remove it.

    Trials' states to go on from, weights outside the best, half-written files. Records that a killed study left
    as running, in Optuna and MLflow, are closed. Studies that are running are left alone.

    \b
    study gc
    study gc quick --keep 1 --delete
    """
    from study.cluster.cleanup import find_garbage, remove, studies
    from study.execution.launch import close_records
    from study.record.ledger import Ledger

    total = 0
    every = studies(storage, lambda text: click.echo(f"left alone: {text}", err=True))
    for ledger in [Ledger.open(storage / name) for name in names] if names else every:
        if ledger.is_locked():
            click.echo(f"{ledger.folder.name}: is running, left alone", err=True)
            continue
        ledger.lock()
        try:
            found = list(ledger.survey())
            for _, problem in found:
                if problem:
                    click.echo(f"{ledger.folder.name}: left alone but for half-written files: {problem}", err=True)
            stale = [trial.number for trial, _ in found if trial is not None and trial.state == State.RUNNING]
            if stale:
                click.echo(f"{ledger.folder.name}: trials {stale} are recorded as running, but nobody runs them")
                if delete and not any(problem for _, problem in found):
                    close_records(ledger, lambda text: click.echo(text, err=True))
            for garbage in list(find_garbage(ledger, keep)):
                size = garbage.num_bytes
                total += size
                click.echo(f"{size / 2**20:9.1f} MiB  {garbage.path}  {garbage.why}")
                if delete:
                    remove(garbage)
        finally:
            ledger.close()
    click.echo(f"{total / 2**20:.1f} MiB {'deleted' if delete else 'could go; --delete removes them'}", err=True)
