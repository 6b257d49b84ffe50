"""The command evaluate: what a trained model is worth on a split."""

from __future__ import annotations

import json
from pathlib import Path

import click

from study.cli.model import open_model
from study.cli.types import MOST_DRAWN, Number, Whole, complete_model, storage_option


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
        show_metrics(metrics)


def show_metrics(metrics: dict[str, object]) -> None:
    """Print metrics a line each, and a warning where importance weights cannot be trusted."""
    from study.analysis.claims import TRUSTED

    for name, value in metrics.items():
        match value:
            case float():
                shown = f"{value:.4f}"
            case dict():
                shown = "  ".join(f"{place} {share:.0%}" for place, share in value.items())
            case list():
                shown = " ".join(map(str, value)) or "none"
            case _:
                shown = str(value)
        click.echo(f"{name:17} {shown}")
    untrusted = metrics["untrusted"]
    if isinstance(untrusted, float) and untrusted > TRUSTED:
        click.echo(
            f"{untrusted:.0%} of the sequences have importance weights with too heavy a tail (Pareto k-hat)"
            " for their number of samples: nll may be too high by more than its bound; give more --samples"
            " (and not --no-widen)",
            err=True,
        )
