"""Commands about one model: train and encode."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from study.cli.corpus import FORMATS
from study.cli.model import open_model, read_texts
from study.cli.types import complete_model, complete_preset, complete_study, storage_option


@click.command("train")
@click.argument("corpus", required=False)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run; one that exists is gone on with.",
)
@click.option("--preset", shell_complete=complete_preset, help="Settings to start from.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, over the preset.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One setting (repeatable).")
@click.option(
    "--from",
    "origin",
    shell_complete=complete_model,
    metavar="STUDY[:TRIAL]",
    help="Have the settings and the corpus of a trial, the best if none is named; --set and --config change some.",
)
@click.option("--continue", "goes_on", is_flag=True, help="With --from: begin from the trial's best weights.")
@click.option(
    "--record", shell_complete=complete_study, metavar="STUDY", help="Put the run beside a study's trials in MLflow."
)
@storage_option
def train_command(
    corpus: str | None,
    out: Path,
    preset: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    origin: str | None,
    goes_on: bool,
    record: str | None,
    storage: Path,
) -> int:
    """Train one model on CORPUS without Ray, printing one JSON object an epoch; interrupted, it goes on.

    With --from a trial is repeated, to the same numbers, or trained otherwise; `study report DIR` shows what came out.

    \b
    study train chitchat --preset quick --set model.pooling=max --out runs/one
    study train --from quick --set training.epochs=60 --out runs/longer
    study train --from quick:3 --continue --set training.epochs=20 --out runs/more --record quick
    """
    from study.errors import StudyError
    from study.inference.lookup import origin_of
    from study.record.ledger import Ledger
    from study.training.single import train_model

    if goes_on and origin is None:
        raise StudyError("--continue goes on from a trial's weights; name the trial by --from STUDY:TRIAL")
    if origin is not None and preset is not None:
        raise StudyError("--from has all settings already; change some by --set or --config, and leave out --preset")
    ledger = Ledger.open(storage / record) if record is not None else None
    begins = origin_of(origin, storage, with_weights=goes_on) if origin is not None else None
    for row in train_model(corpus, out, preset, config, assignments, begins):
        click.echo(json.dumps(row.to_json()))
        sys.stdout.flush()
    if ledger is not None:
        from study.tracking.registry import record_run

        click.echo(f"recorded: run {record_run(ledger, out)} in MLflow", err=True)
    return 0


@click.command("encode")
@click.argument("model", shell_complete=complete_model)
@click.argument("texts", type=click.Path(allow_dash=True, dir_okay=False), default="-")
@click.option("--to", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .parquet file.")
@click.option("--text-column", "--column", help="Name or number of the text's column.  [default: text]")
@click.option("--id-column", help="A column to carry through, as `id`.")
@click.option(
    "--format", "format_name", type=click.Choice(FORMATS), help="What the file is, where its name does not say it."
)
@click.option("--no-header", is_flag=True, help="The first line of .csv and .tsv is a row; columns have numbers.")
@click.option("--quotes", type=click.Choice(["doubled", "backslash"]), help='How .csv writes " inside a quoted value.')
@storage_option
def encode_command(model: str, texts: str, path: Path, storage: Path, **given: str | bool | None) -> None:
    """Write the posterior mean of each text of TEXTS as parquet: `text`, `mean`, and `id` where one is carried through.

    TEXTS is a file as `study corpus prepare` reads them, or stdin with a text a line. MODEL is a folder that training
    wrote, a study (its best trial), or STUDY:TRIAL.

    \b
    study encode quick messages.txt --to means.parquet
    study encode quick reviews.csv --column body --id-column review --to means.parquet
    """
    from study.inference.texts import rows_of_file, rows_of_lines, with_means
    from study.reporting.outputs import check_output, write_output

    check_output(path, (".parquet",), "--to")
    trained = open_model(model, storage)
    if texts == "-":
        rows = rows_of_lines(read_texts(sys.stdin), given)
    else:
        rows = rows_of_file(Path(texts), given, trained.codec)
    frame = with_means(rows, trained.encode(rows["text"]))
    write_output(path, frame.write_parquet)
    click.echo(f"wrote {frame.height} rows of {trained.network.settings.latent_size} dimensions to {path}", err=True)
