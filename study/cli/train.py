"""Commands about one model: train, evaluate and encode."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from study.cli.corpus import FORMATS
from study.cli.model import open_model, read_texts
from study.cli.types import (
    MOST_DRAWN,
    Number,
    Whole,
    complete_model,
    complete_preset,
    complete_study,
    storage_option,
)


@click.command("train")
@click.argument("corpus", required=False)
@click.option(
    "-o",
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


@click.command("evaluate")
@click.argument("model", shell_complete=complete_model)
@click.option("--corpus", help="Prepared folder; the one it was trained on if not given and known.")
@click.option(
    "--split",
    type=click.Choice(["train", "valid", "test"]),
    default="test",
    show_default=True,
    help="What to evaluate on.",
)
@click.option(
    "--samples",
    type=Whole(max=MOST_DRAWN),
    help="Importance samples a sequence.  [default: evaluation.final_num_samples]",
)
@click.option(
    "--tolerance",
    type=Number(),
    metavar="NATS",
    help="Stop sampling a sequence once its log-likelihood's standard error is this small.  [default: never]",
)
@click.option(
    "--widen/--no-widen",
    default=True,
    show_default=True,
    help="Draw from a posterior drawn towards the prior where that makes more of the samples.",
)
@click.option("--sequences", type=Whole(), help="Evaluate only so many, a random subset.")
@click.option("--bleu", is_flag=True, help="Add the BLEU of greedy reconstructions.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@storage_option
def evaluate_command(
    model: str,
    corpus: str | None,
    split: str,
    samples: int | None,
    tolerance: float | None,
    widen: bool,
    sequences: int | None,
    bleu: bool,
    as_json: bool,
    storage: Path,
) -> None:
    """Measure MODEL on a split, the test split unless another is named.

    MODEL is a folder that training wrote, a study (its best trial), or STUDY:TRIAL.

    \b
    study evaluate quick
    study evaluate quick:7 --split valid --samples 100
    study evaluate quick --tolerance 0.15      # less time, each sequence to a standard error of 0.15 nats
    study evaluate quick --no-widen            # samples from the posterior itself, as papers mostly do
    """
    from study.config.stored import without_nan
    from study.inference.lookup import model_corpus
    from study.training.single import evaluate_network

    trained = open_model(model, storage)
    prepared = model_corpus(trained, model, corpus, storage)
    metrics = evaluate_network(trained.network, trained.about, prepared, split, samples, tolerance, widen, sequences)
    rows = prepared.split(split)
    if bleu:
        metrics["bleu"] = trained.bleu(trained.texts(rows, sequences or len(rows)))
    if as_json:
        click.echo(json.dumps(without_nan({"model": str(trained.folder), "split": split, **metrics})))
    else:
        num = min(sequences or len(rows), len(rows))
        show_metrics(metrics, f"{model} on the {split} split of {prepared.name}, {num:,} sequences")


def show_metrics(metrics: dict[str, object], title: str) -> None:
    """Print metrics by what they are about, and a warning where importance weights cannot be trusted."""
    from study.analysis.claims import TRUSTED
    from study.console import make_console
    from study.reporting.measured import measured_table

    make_console().print(measured_table(metrics, title), markup=False)
    untrusted = metrics["untrusted"]
    if isinstance(untrusted, float) and untrusted > TRUSTED:
        click.echo(
            f"{untrusted:.0%} of the sequences have importance weights with too heavy a tail (Pareto k-hat)"
            " for their number of samples: nll may be too high by more than its bound; give more --samples"
            " (and not --no-widen)",
            err=True,
        )


@click.command("encode")
@click.argument("model", shell_complete=complete_model)
@click.argument("texts", type=click.Path(allow_dash=True, dir_okay=False), default="-")
@click.option(
    "-o", "--to", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .parquet file."
)
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
