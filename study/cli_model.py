"""Commands about one model: train, evaluate, sample, reconstruct, interpolate, traverse and encode."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from study.cli_study import storage_option
from study.cli_types import MOST_DRAWN, Number, Whole, was_given
from study.completion import complete_model, complete_preset

OF_DECODING = {"temperature": "sample", "top_k": "sample", "top_p": "sample", "beam_width": "beam"}
"""Options that mean something to one way of choosing tokens alone."""


def decoding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how tokens are chosen."""
    for option in reversed([
        click.option("--decoding", type=click.Choice(["greedy", "sample", "beam"]), help="How tokens are chosen."),
        click.option("--temperature", type=click.FLOAT, default=1.0, show_default=True, help="Of sampling."),
        click.option("--top-k", type=Whole(), help="Sample among so many tokens."),
        click.option(
            "--top-p", type=Number(), default=1.0, show_default=True,
            help="Sample among the tokens of so much probability.",
        ),
        click.option(
            "--beam-width", type=Whole(max=1000), default=5, show_default=True, help="Hypotheses kept by beam search."
        ),
        click.option("--max-tokens", type=Whole(max=MOST_DRAWN), default=60, show_default=True, help="Longest text."),
    ]):  # fmt: skip
        command = option(command)
    return command


def make_decoding(given: dict[str, Any], method: str) -> Any:
    """Return the decoding that the options ask for; raise StudyError for one that the others make idle."""
    from study.errors import StudyError
    from study.models import Decoding

    names = ("temperature", "top_k", "top_p", "beam_width", "max_tokens")
    chosen, context = given["decoding"] or method, click.get_current_context()
    for name, needed in OF_DECODING.items():
        if was_given(context, name) and chosen != needed:
            raise StudyError(f"--{name.replace('_', '-')} has no effect with --decoding {chosen}; it is of {needed}")
    return Decoding(chosen, **{name: given[name] for name in names})


def open_model(name: str, storage: Path) -> Any:
    """Open the model that a MODEL argument names; raise ModelError or StudyError."""
    from study.choose import model_folder
    from study.models import TrainedModel

    return TrainedModel.open(model_folder(name, storage))


def read_texts(stream: Any) -> list[str]:
    """Read one text a line; raise StudyError if there is none."""
    from study.errors import StudyError

    try:
        texts = [line.rstrip("\n") for line in stream if line.strip()]
    except UnicodeDecodeError as error:
        raise StudyError(f"the input is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not texts:
        raise StudyError("the input holds no text; expected one sequence a line")
    return texts


@click.command("train")
@click.argument("corpus", default="chitchat")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run; one that exists is gone on with.",
)
@click.option("--preset", shell_complete=complete_preset, help="Settings to start from.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, over the preset.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="One setting (repeatable).")
def train_command(corpus: str, out: Path, preset: str | None, config: Path | None, assignments: tuple[str, ...]) -> int:
    """Train one model on CORPUS without Ray, printing one JSON object an epoch; interrupted, it goes on.

    \b
    study train chitchat --preset quick --set model.pooling=max --out runs/one
    """
    from data.corpus import Corpus
    from study.best_weights import best_folder
    from study.errors import StudyError
    from study.options import RunOptions, find_corpus
    from study.settings import merge, nest, parse_assignment, read_preset, read_toml, validate
    from study.training import Diverged, train

    layers = [read_preset(preset)] if preset is not None else []
    if config:
        layers.append(read_toml(config))
    options = RunOptions.resolve(*(layer.pop("study", {}) for layer in layers))
    for layer in layers:
        layer.pop("search", None)
    settings = validate(nest(merge([*layers, dict(parse_assignment(text) for text in assignments)])))
    prepared = Corpus.open(find_corpus(corpus, options.vocabulary_size))
    best: tuple[float, int] | None = None
    try:
        for row in train(settings, prepared, out):
            click.echo(json.dumps(row))
            click.echo(
                f"epoch {row['epoch']}: nll {row['valid/nll']:.2f}, KL {row['valid/kl']:.2f},"
                f" MI {row['valid/mi']:z.2f}, AU {row['valid/au']}{', ' + row['outcome'] if row['outcome'] else ''}",
                err=True,
            )
            found = (row[f"valid/{settings.evaluation.criterion}"], row["epoch"])
            best = found if best is None else min(best, found)
    except Diverged as error:
        raise StudyError(str(error)) from None
    if best is not None:
        click.echo(f"best model: {best_folder(out, best[1])}", err=True)
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
@click.option("--widen", is_flag=True, help="Draw from a wider posterior where that makes more of the samples.")
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
    study evaluate quick --tolerance 0.15 --widen      # less time, each sequence to a standard error of 0.15 nats
    """
    from model.diagnostics import active_dimensions
    from study.choose import model_corpus
    from study.errors import StudyError
    from study.evaluation import positions_of_maxima, score
    from study.journal import without_nan
    from study.settings import Settings

    for option, count, least in (
        ("--samples", samples, 1),
        ("--sequences", sequences, 2),
        ("--tolerance", tolerance, 0),
    ):
        if count is not None and not count >= least:
            raise StudyError(f"{option} must be at least {least}, got {count}")
    trained = open_model(model, storage)
    prepared = model_corpus(trained, model, corpus, storage)
    settings = Settings.model_validate(trained.about["settings"]).evaluation
    rows = prepared.split(split)
    scores = score(
        trained.network, rows, num_samples=samples or settings.final_num_samples, tolerance_nats=tolerance or 0.0,
        widen=widen, num_sequences=sequences, batch_size=settings.batch_size,
        max_decoder_tokens=settings.max_decoder_tokens,
    )  # fmt: skip
    metrics: dict[str, Any] = scores.metrics() | scores.reliability()
    metrics["active_dimensions"] = active_dimensions(scores.dimensions()["variance"])
    metrics["maxima"] = positions_of_maxima(trained.network, rows, num_sequences=sequences)
    if bleu:
        metrics["bleu"] = trained.bleu(trained.texts(rows, sequences or len(rows)))
    if as_json:
        click.echo(json.dumps(without_nan({"model": str(trained.folder), "split": split, **metrics})))
    else:
        show_metrics(metrics)


def show_metrics(metrics: dict[str, Any]) -> None:
    """Print metrics a line each, and a warning where importance weights cannot be trusted."""
    from study.claims import TRUSTED

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
    if metrics["untrusted"] > TRUSTED:
        click.echo(
            f"{metrics['untrusted']:.0%} of the sequences have importance weights with too heavy a tail (Pareto k-hat)"
            " for their number of samples: nll may be too high by more than its bound; draw from a wider posterior by"
            " --widen, or give more --samples",
            err=True,
        )


@click.command("sample")
@click.argument("model", shell_complete=complete_model)
@click.option("--num", type=Whole(max=MOST_DRAWN), default=10, show_default=True, help="How many texts.")
@click.option("--seed", type=Whole(), default=0, show_default=True, help="Seed of the draws.")
@decoding_options
@storage_option
def sample_command(model: str, num: int, seed: int, storage: Path, **given: Any) -> None:
    """Print texts decoded from draws of the prior by MODEL.

    MODEL is a folder that training wrote, a study (its best trial), or STUDY:TRIAL.

    \b
    study sample quick --num 5 --top-p 0.9
    """
    from study.errors import StudyError

    if num < 1:
        raise StudyError(f"--num must be at least 1, got {num}")
    for text in open_model(model, storage).sample(num, make_decoding(given, "sample"), seed):
        click.echo(text)


@click.command("reconstruct")
@click.argument("model", shell_complete=complete_model)
@click.argument("texts", type=click.File("r", encoding="utf-8"), default="-")
@decoding_options
@storage_option
def reconstruct_command(model: str, texts: Any, storage: Path, **given: Any) -> None:
    """Print each text of TEXTS (a file, or stdin) as MODEL decodes it from its posterior mean.

    MODEL is a folder that training wrote, a study (its best trial), or STUDY:TRIAL.

    \b
    echo "how are you ?" | study reconstruct quick
    """
    for text in open_model(model, storage).reconstruct(read_texts(texts), make_decoding(given, "greedy")):
        click.echo(text)


@click.command("interpolate")
@click.argument("model", shell_complete=complete_model)
@click.argument("start")
@click.argument("end")
@click.option(
    "--num", type=Whole(max=MOST_DRAWN), default=7, show_default=True, help="Points on the line, both ends included."
)
@decoding_options
@storage_option
def interpolate_command(model: str, start: str, end: str, num: int, storage: Path, **given: Any) -> None:
    """Print texts decoded along the line between the posterior means of START and END.

    \b
    study interpolate quick "how are you ?" "i like to cook ."
    """
    from study.errors import StudyError

    if num < 2:
        raise StudyError(f"--num must be at least 2, got {num}")
    for text in open_model(model, storage).interpolate(start, end, num, make_decoding(given, "greedy")):
        click.echo(text)


@click.command("traverse")
@click.argument("model", shell_complete=complete_model)
@click.argument("text", required=False)
@click.option("--dimensions", help="Numbers, with commas between.  [default: the four most active]")
@click.option("--num", type=Whole(max=MOST_DRAWN), default=5, show_default=True, help="Points along each dimension.")
@click.option(
    "--reach", type=Number(), default=2.0, show_default=True, help="How far, in standard deviations of the prior."
)
@decoding_options
@storage_option
def traverse_command(
    model: str, text: str | None, dimensions: str | None, num: int, reach: float, storage: Path, **given: Any
) -> None:
    """Print what MODEL decodes along single latent dimensions, from TEXT's posterior mean or the prior's mean.

    Each line is dimension, its value and the text, with tabs between.

    \b
    study traverse quick "how are you ?"
    study traverse quick --dimensions 0,3 --num 7
    """
    from study.errors import StudyError

    if num < 2 or not reach > 0:
        raise StudyError(f"--num must be at least 2 and --reach above 0, got {num} and {reach:g}")
    trained = open_model(model, storage)
    try:
        chosen = [int(number) for number in dimensions.split(",")] if dimensions else trained.active_dimensions[:4]
    except ValueError:
        raise StudyError(f"--dimensions {dimensions}: expected numbers with commas between, such as 0,3") from None
    if not chosen:
        raise StudyError("no latent dimension of the model is active: it has collapsed; name some by --dimensions")
    for dimension, value, decoded in trained.traverse(text, chosen, num, reach, make_decoding(given, "greedy")):
        click.echo(f"{dimension}\t{value:+.2f}\t{decoded}")


@click.command("encode")
@click.argument("model", shell_complete=complete_model)
@click.argument("texts", type=click.File("r", encoding="utf-8"), default="-")
@click.option("--to", "path", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A .parquet file.")
@storage_option
def encode_command(model: str, texts: Any, path: Path, storage: Path) -> None:
    """Write the posterior mean of each text of TEXTS (a file, or stdin) as parquet: `text`, `mean`.

    \b
    study encode quick messages.txt --to means.parquet
    """
    import polars as pl

    from study.outputs import check_output, write_output

    check_output(path, (".parquet",), "--to")
    rows = read_texts(texts)
    means = open_model(model, storage).encode(rows)
    frame = pl.DataFrame({"text": rows, "mean": means}, schema_overrides={"mean": pl.Array(pl.Float32, means.shape[1])})
    write_output(path, frame.write_parquet)
    print(f"wrote {frame.height} rows of {means.shape[1]} dimensions to {path}", file=sys.stderr)
