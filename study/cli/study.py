"""Commands about studies: run, status, report, export, ui and settings."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.cli.completion import complete_preset, complete_study
from study.cli.types import Names, Number, Whole

if TYPE_CHECKING:
    from study.search.definition import Definition


class Folder(click.Path):
    """A folder; an object store's address, which looks like a relative path, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if not str(value).strip():
            self.fail("expected a folder, got an empty name", param, ctx)
        if "://" in str(value):
            self.fail(f"{value}: expected a folder, such as an NFS mount; object stores do not do", param, ctx)
        return super().convert(value, param, ctx)


storage_option = click.option(
    "--storage",
    default="runs",
    show_default=True,
    type=Folder(path_type=Path, file_okay=False),
    help="Folder of all studies; on a cluster, one that every node shares.",
)


@click.command("run")
@click.argument("corpus", required=False)
@click.option(
    "--preset", shell_complete=complete_preset, help="Settings to start from; `study settings --presets` lists them."
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, over the preset.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Hold a setting fixed (repeatable).")
@click.option("--search", "also", multiple=True, metavar="NAME", help="Search an optional setting too (repeatable).")
@click.option("--name", help="Name of the study; made from preset or corpus if not given.")
@click.option("--trials", type=Whole(), help="How many settings the search tries; the pooling test's runs come on top.")
@click.option("--concurrent", type=Whole(), help="Trials at once; as many as CPUs or GPUs allow if not given.")
@click.option("--cpus-per-trial", type=float, help="CPUs of each trial, may be a fraction.")
@click.option(
    "--gpus-per-trial",
    type=float,
    help="Share of a GPU for each trial: 0.25 packs four on one, 0 trains on the CPU; as little as fits if not given.",
)
@click.option("--mps", is_flag=True, help="Have trials that share a GPU compute at once, by NVIDIA MPS.")
@click.option("--sampler", help="tpe, random, grid, qmc, gp, cma-es or nsga2.")
@click.option("--objective", help="nll: lowest of trials that are not collapsed; pareto: low nll and high mi.")
@click.option(
    "--floor", "floors", multiple=True, metavar="METRIC=VALUE", help="Least au, mi or kl of a winner (repeatable)."
)
@click.option("--scheduler", help="asha, median or none: what ends bad trials early.")
@click.option("--stages", type=Names(), help="The pooling test, the search, or both.  [default: pooling,search]")
@click.option("--poolings", type=Names(), help="Poolings of the test beside last.  [default: mean,max]")
@click.option("--seeds", type=Whole(max=1000), help="Seeds of the pooling test.  [default: 2]")
@click.option("--test-weights", type=Names(), help="KL weights of the pooling test.  [default: 0.15,0.3,0.6]")
@click.option("--time-budget", type=float, metavar="MINUTES", help="End in order after so long; --resume goes on.")
@click.option("--max-gpu-hours", type=float, help="End in order once the study has used so many; --resume goes on.")
@click.option("--seed", type=int, help="Seed of the search and of every trial.  [default: 0]")
@click.option("--address", help="A running Ray cluster, such as auto; this machine alone if not given.")
@click.option("--tracking-uri", help="MLflow server or database; $MLFLOW_TRACKING_URI, or one beside the studies.")
@click.option("--optuna-url", help="Optuna's database, such as postgresql://USER@HOST/optuna; a file if not given.")
@click.option("--dry-run", is_flag=True, help="Show what would be run, and write nothing.")
@click.option("--resume", shell_complete=complete_study, metavar="NAME", help="Continue a study that was interrupted.")
@storage_option
def run_command(**given: object) -> int:
    """Search the settings of a pooled VAE on CORPUS: a prepared folder, chitchat or synthetic-topics.

    Settings that are given are held fixed, the others are searched.

    \b
    study run --preset quick
    study run corpora/ptb --preset ptb --trials 40 --gpus-per-trial 0.5
    study run corpora/mine --set model.pooling=max --search training.learning_rate
    """
    from study.config.request import RunRequest
    from study.execution.plan import create, new_study, resume_study, start

    request = RunRequest.of(given)
    for option, most in (("--time-budget", request.time_budget), ("--max-gpu-hours", request.max_gpu_hours)):
        if most is not None and not 0 < most < math.inf:
            raise click.BadParameter("must be above 0, and finite", param_hint=option)
    if request.resume is not None:
        return start(resume_study(request), request)
    definition = new_study(request, shlex.join(["study", *sys.argv[1:]]))
    if request.dry_run:
        show_plan(definition)
        return 0
    return start(create(request.storage, definition), request)


def show_plan(definition: Definition) -> None:
    """Print what a study would do."""
    import tomli_w

    from study.console import make_console
    from study.execution.plan import sharing
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
    for name in definition.space.searched:
        table, _, leaf = name.rpartition(".")
        (fixed[table] if table else fixed).pop(leaf, None)
    console.print(tomli_w.dumps(fixed), markup=False)


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
            click.echo(f"{each}: {one_line(str(error))}", err=True)
            continue
        states = (
            ", ".join(f"{count} {state}" for state, count in counts(ledger.definition, trials).items())
            or "no trial yet"
        )
        running = "running" if ledger.is_locked() else "not running"
        view = LiveView(ledger.definition)
        view.load(trials)
        console.print(
            f"{each}: {running}, {len(trials)} of {ledger.definition.num_trials} trials ({states}); {view.summary()}",
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

    Several NAMEs are put beside each other.

    \b
    study report quick
    study report quick --html quick.html
    study report quick --json | jq .valid.nll
    study report quick --figure curves.png --which learning-curves
    study report quick --figure space.svg --which latent-space --trial 3
    study report quick quick-2 --html both.html
    """
    from study.cli.report import report_studies, report_study
    from study.errors import StudyError
    from study.record.ledger import Ledger

    if given["which"] is not None and given["figure"] is None:
        raise StudyError("--which says which figure --figure FILE draws; name the file")
    if given["trial"] is not None and given["figure"] is None:
        raise StudyError("--trial says whose model --figure FILE draws; name the file")
    if given["price_per_gpu_hour"] is not None and not (given["html"] or given["markdown"]):
        raise StudyError("--price-per-gpu-hour is for the costs in --html or --markdown; name the file")
    ledgers = [Ledger.open(storage / name) for name in names]
    if len(ledgers) > 1:
        if any(given[name] not in (None, False) for name in given if name not in ("html", "figure")):
            raise StudyError("of several studies there are --html and --figure; the other options are of one")
        report_studies(ledgers, given["html"], given["figure"])
    else:
        report_study(ledgers[0], **given)


@click.command("export")
@click.argument("name", shell_complete=complete_study)
@click.option("--to", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .parquet file.")
@click.option(
    "--rows",
    type=click.Choice(["epochs", "trials"]),
    default="epochs",
    show_default=True,
    help="A row for each epoch or trial.",
)
@storage_option
def export_command(name: str, path: Path, rows: str, storage: Path) -> None:
    """Write a study's trials, or every epoch of them, as parquet.

    \b
    study export quick --to quick.parquet
    study export quick --to trials.parquet --rows trials
    """
    from study.record.ledger import Ledger
    from study.reporting.outputs import check_output
    from study.reporting.tables import write_export

    check_output(path, (".parquet",), "--to")
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
@click.option("--presets", is_flag=True, help="List the presets instead.")
@click.option("--methods", is_flag=True, help="List the methods and what each sets instead.")
@click.option("--preset", shell_complete=complete_preset, help="Show a preset's file.")
def settings_command(presets: bool, methods: bool, preset: str | None) -> None:
    """List every setting with its default and whether `study run` searches it.

    \b
    study settings
    study settings --preset ptb
    """
    from study.config.settings import PRESETS, Settings, flatten, preset_names, read_preset
    from study.search.space import OPTIONAL, SEARCHED

    if methods:
        from study.config.methods import METHODS, SOURCES

        for name, bundle in METHODS.items():
            click.echo(f"{name:16} {SOURCES[name]}")
            click.echo(f"{'':16} {', '.join(f'{key}={value}' for key, value in bundle.items()) or 'the plain VAE'}")
    elif preset is not None:
        read_preset(preset)
        click.echo((PRESETS / f"{preset}.toml").read_text("utf-8"), nl=False)
    elif presets:
        for name in preset_names():
            first = (PRESETS / f"{name}.toml").read_text("utf-8").splitlines()[0]
            click.echo(f"{name:10} {first.lstrip('# ')}")
    else:
        for name, value in flatten(Settings().model_dump()).items():
            how = "searched" if name in SEARCHED else "searched with --search" if name in OPTIONAL else ""
            click.echo(f"{name:36} {'unset' if value is None else value!s:12} {how}".rstrip())
