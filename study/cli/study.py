"""Commands that look at studies: status, report, export, ui and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from study.cli.types import Number, complete_model, complete_preset, complete_study, storage_option


@click.command("status")
@click.argument("name", required=False, shell_complete=complete_study)
@storage_option
def status_command(name: str | None, storage: Path) -> int:
    """Show how far NAME is, or every study here; works from another terminal while it runs.

    \b
    study status
    study status quick
    """
    from study.cli.main import one_line
    from study.console import make_console
    from study.errors import StudyError
    from study.execution.live import LiveView
    from study.record.journal import study_names
    from study.record.ledger import Ledger
    from study.record.states import ENDS
    from study.record.trials import counts
    from study.reporting.tables import trial_table, verdict

    names = [name] if name else study_names(storage)
    console = make_console()
    if not names:
        click.echo(f"no study in {storage} yet; start one by `study run --preset quick`", err=True)
    damaged = False
    for each in names:
        try:
            ledger = Ledger.open(storage / each)
            trials = ledger.trials()
        except StudyError as error:
            # One bad study hides no other.
            damaged = True
            click.echo(one_line(f"{each}: {error}"), err=True)
            continue
        states = (
            ", ".join(f"{count} {state}" for state, count in counts(ledger.definition, trials).items())
            or "no trial yet"
        )
        over = sum(trial.state in ENDS for trial in trials)
        running = "running" if ledger.is_locked() else "not running"
        view = LiveView(ledger.definition)
        view.load(trials)
        console.print(
            f"{each}: {running}, {over} of {ledger.definition.num_trials} trials over ({states}); {view.summary()}",
            markup=False,
        )
        console.print(verdict(trials), markup=False)
        if name:
            console.print(trial_table(ledger.definition, "", trials))
    return 1 if damaged else 0


@click.command("report")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_study)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a trial and line.")
@click.option(
    "--answer", "as_answer", is_flag=True, help="The answer as one JSON object: pooling, best settings, language model."
)
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Write all of it as one HTML file, with figures."
)
@click.option("--watch", is_flag=True, help="With --html: write it again as the study goes on, until it ends.")
@click.option(
    "--markdown", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a .md file, its figures beside it."
)
@click.option(
    "--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw a figure into a .png, .svg or .html file."
)
@click.option("--which", help="Which figure; a wrong name lists them.  [default: trade-off]")
@click.option(
    "--trial", type=click.IntRange(min=0), help="Of which trial, where --which is of a model.  [default: the best]"
)
@click.option("--price-per-gpu-hour", type=Number(min=0), help="Add what the GPUs cost to --html's costs.")
@storage_option
def report_command(names: tuple[str, ...], storage: Path, **given: Any) -> None:
    """Show what a study found: best settings, the trade-off between likelihood and use of z, every trial.

    Several NAMEs are put beside each other. A folder that `study train` made is shown by its epochs.

    \b
    study report quick
    study report quick --html quick.html
    study report quick --html quick.html --watch       # a page that follows the study while it runs
    study report quick --json | jq .valid.nll
    study report quick --figure curves.png --which learning-curves
    study report quick --figure space.svg --which latent-space --trial 3
    study report quick quick-2 --html both.html
    study report runs/longer
    """
    from study.cli.report import report_run, report_studies, report_study
    from study.errors import StudyError
    from study.record.ledger import Ledger
    from study.training.run_folder import RUN

    if given["which"] is not None and given["figure"] is None:
        raise StudyError("--which says which figure --figure FILE draws; name the file")
    if given["watch"] and (given["html"] is None or len(names) > 1):
        raise StudyError("--watch has the page of --html FILE follow one study; name the file, and one study")
    if given["trial"] is not None and given["figure"] is None:
        raise StudyError("--trial says whose model --figure FILE draws; name the file")
    if given["price_per_gpu_hour"] is not None and not (given["html"] or given["markdown"]):
        raise StudyError("--price-per-gpu-hour is for the costs in --html or --markdown; name the file")
    if len(names) == 1 and (Path(names[0]) / RUN).is_file():
        if any(given[name] not in (None, False) for name in given if name != "as_json"):
            raise StudyError(f"{names[0]} is a run of its own, of which there are its table and --json")
        report_run(Path(names[0]), as_json=given["as_json"])
        return
    ledgers = [Ledger.open(storage / name) for name in names]
    if len(ledgers) > 1:
        if any(given[name] not in (None, False) for name in given if name not in ("html", "figure")):
            raise StudyError("of several studies there are --html and --figure; the other options are of one")
        report_studies(ledgers, given["html"], given["figure"])
    else:
        report_study(ledgers[0], **given)


@click.command("export")
@click.argument("name", shell_complete=complete_study)
@click.option(
    "-o",
    "--to",
    "path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .parquet or .csv file.",
)
@click.option(
    "--rows",
    type=click.Choice(["epochs", "trials"]),
    default="epochs",
    show_default=True,
    help="A row for each epoch or trial.",
)
@storage_option
def export_command(name: str, path: Path, rows: str, storage: Path) -> None:
    """Write a study's trials, or every epoch of them, as parquet or CSV.

    \b
    study export quick --to quick.parquet
    study export quick --to trials.csv --rows trials
    """
    from study.record.ledger import Ledger
    from study.reporting.outputs import check_output
    from study.reporting.tables import write_export

    check_output(path, (".parquet", ".csv"), "--to")
    num = write_export(Ledger.open(storage / name).trials(), path, rows)
    click.echo(f"wrote {num} {rows} to {path}", err=True)


@click.command("ui")
@click.argument("name", required=False, shell_complete=complete_study)
@click.option("--port", type=click.IntRange(1, 65535), help="Port; a free one from 5000 on if not given.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is all.")
@click.option("--allow-remote", is_flag=True, help="Let other machines in at --host, by a password.")
@click.option("--tracking-uri", help="Database to show; the one beside the studies if not given.")
@click.option("--optuna", is_flag=True, help="Start optuna-dashboard on the study NAME as well.")
@click.option("--browser/--no-browser", default=True, help="Open a browser, where there is a screen.  [default: do]")
@storage_option
def ui_command(name: str | None, storage: Path, **given: Any) -> int:
    """Open the MLflow UI on the studies here, at the page of NAME if given; for this machine alone.

    \b
    study ui
    study ui quick --optuna
    study ui --host 0.0.0.0 --allow-remote
    """
    from study.tracking.ui import serve

    return serve(storage, name, **given)


@click.command("settings")
@click.argument("name", required=False, metavar="[NAME[:TRIAL]]", shell_complete=complete_model)
@click.option("--toml", "as_toml", is_flag=True, help="As a settings file, for --config.")
@click.option("--presets", is_flag=True, help="List the presets instead.")
@click.option("--methods", is_flag=True, help="List the methods and what each sets instead.")
@click.option("--preset", shell_complete=complete_preset, help="Show a preset's file.")
@storage_option
def settings_command(
    name: str | None, as_toml: bool, presets: bool, methods: bool, preset: str | None, storage: Path
) -> None:
    """List every setting, what it may be and where `study run` searches it, or those of a trial of NAME.

    Of a study without a trial named they are the best trial's.

    \b
    study settings
    study settings --preset ptb
    study settings quick:3 --toml > three.toml      # study run --config three.toml; study train --config three.toml
    """
    from study.config.settings import PRESETS, preset_names, read_preset

    if name is not None:
        show_settings_of(name, storage, as_toml=as_toml)
    elif methods:
        from study.config.methods import METHODS, SOURCES

        for method, bundle in METHODS.items():
            click.echo(f"{method:16} {SOURCES[method]}")
            click.echo(f"{'':16} {', '.join(f'{key}={value}' for key, value in bundle.items()) or 'the plain VAE'}")
    elif preset is not None:
        read_preset(preset)
        click.echo((PRESETS / f"{preset}.toml").read_text("utf-8"), nl=False)
    elif presets:
        for each in preset_names():
            first = (PRESETS / f"{each}.toml").read_text("utf-8").splitlines()[0]
            click.echo(f"{each:10} {first.lstrip('# ')}")
    else:
        show_settings()


def show_settings() -> None:
    """Print every setting: its default, what it may be, where it is searched and what it is."""
    from rich.table import Table

    from study.config.described import described
    from study.console import make_console
    from study.search.usual import OPTIONAL, SEARCHED

    table = Table(box=None, pad_edge=False)
    for heading in ("setting", "default", "may be", "searched", "what it is"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "setting")
    for each in described():
        searched = str(SEARCHED[each.name]) if each.name in SEARCHED else ""
        if each.name in OPTIONAL:
            searched = f"with --search: {OPTIONAL[each.name]}"
        table.add_row(each.name, each.default, each.allowed, searched, each.meaning)
    make_console().print(table, markup=False)


def show_settings_of(name: str, storage: Path, *, as_toml: bool) -> None:
    """Print every setting of a trial, as a list or as a settings file."""
    import tomli_w

    from study.config.settings import flatten
    from study.inference.lookup import trial_named

    ledger, trial = trial_named(name, storage)
    definition = ledger.definition
    # Not as a trial of the pooling test, which no collapse ends.
    settings = definition.space.settings(trial.params)
    if not as_toml:
        for each, value in flatten(settings.model_dump()).items():
            how = "searched" if each in trial.params else ""
            click.echo(f"{each:36} {'unset' if value is None else value!s:12} {how}".rstrip())
        return
    score = f", {trial.ranked} {trial.score:.4f} nats" if trial.best else ""
    click.echo(f"# Trial {trial.number} of {definition.name} on {definition.corpus_name}, {trial.state}{score}")
    click.echo(tomli_w.dumps(settings.model_dump(exclude_none=True)), nl=False)
