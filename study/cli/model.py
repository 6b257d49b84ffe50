"""Commands that have a model make texts: sample, reconstruct, interpolate and traverse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

import click

from study.cli.types import MOST_DRAWN, Number, Whole, complete_model, storage_option, was_given

if TYPE_CHECKING:
    from study.inference.trained_model import Decoding, TrainedModel

Command = TypeVar("Command", bound=Callable[..., None])

OF_DECODING = {"temperature": "sample", "top_k": "sample", "top_p": "sample", "beam_width": "beam"}
"""Options that mean something to one way of choosing tokens alone."""


def decoding_options(command: Command) -> Command:
    """Add the options that say how tokens are chosen."""
    for option in reversed(
        [
            click.option("--decoding", type=click.Choice(["greedy", "sample", "beam"]), help="How tokens are chosen."),
            click.option("--temperature", type=click.FLOAT, default=1.0, show_default=True, help="Of sampling."),
            click.option("--top-k", type=Whole(), help="Sample among so many tokens."),
            click.option(
                "--top-p",
                type=Number(),
                default=1.0,
                show_default=True,
                help="Sample among the tokens of so much probability.",
            ),
            click.option(
                "--beam-width",
                type=Whole(max=1000),
                default=5,
                show_default=True,
                help="Hypotheses kept by beam search.",
            ),
            click.option(
                "--max-tokens",
                type=Whole(max=MOST_DRAWN),
                help="Longest text.  [default: 60 words, 200 characters or atoms, 100 byte pairs]",
            ),
        ]
    ):
        command = option(command)
    return command


def make_decoding(given: Mapping[str, object], method: str) -> Decoding:
    """Return the decoding that the options ask for; raise StudyError for one that the others make idle."""
    from pydantic import TypeAdapter

    from study.errors import StudyError
    from study.inference.trained_model import Decoding

    names = ("temperature", "top_k", "top_p", "beam_width", "max_tokens")
    chosen, context = given["decoding"] or method, click.get_current_context()
    for name, needed in OF_DECODING.items():
        if was_given(context, name) and chosen != needed:
            raise StudyError(f"--{name.replace('_', '-')} has no effect with --decoding {chosen}; it is of {needed}")
    decoding: Decoding = TypeAdapter(Decoding).validate_python(
        {"method": chosen, **{name: given[name] for name in names}}
    )
    return decoding


def open_model(name: str, storage: Path) -> TrainedModel:
    """Open the model that a MODEL argument names; raise ModelError or StudyError."""
    from study.inference.lookup import model_folder
    from study.inference.trained_model import TrainedModel

    return TrainedModel.open(model_folder(name, storage))


def read_texts(stream: TextIO) -> list[str]:
    """Read one text a line; raise StudyError if there is none."""
    from study.errors import StudyError

    try:
        texts = [line.rstrip("\n") for line in stream if line.strip()]
    except UnicodeDecodeError as error:
        raise StudyError(f"the input is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not texts:
        raise StudyError("the input holds no text; expected one sequence a line")
    return texts


@click.command("sample")
@click.argument("model", shell_complete=complete_model)
@click.option("-n", "--num", type=Whole(max=MOST_DRAWN), default=10, show_default=True, help="How many texts.")
@click.option("--seed", type=Whole(), default=0, show_default=True, help="Seed of the draws.")
@click.option(
    "--metrics", is_flag=True, help="Of SMILES: say which share is valid, unique and novel (RDKit), not the texts."
)
@decoding_options
@storage_option
def sample_command(model: str, num: int, seed: int, metrics: bool, storage: Path, **given: object) -> None:
    """Print texts decoded from draws of the prior by MODEL.

    MODEL is a folder that training wrote, a study (its best trial), or STUDY:TRIAL.

    \b
    study sample quick --num 5 --top-p 0.9
    study sample molecules --num 1000 --metrics
    """
    from study.errors import StudyError

    if num < 1:
        raise StudyError(f"--num must be at least 1, got {num}")
    trained = open_model(model, storage)
    texts = trained.sample(num, make_decoding(given, "sample"), seed)
    if metrics:
        show_molecule_metrics(trained, model, storage, texts)
        return
    for text in texts:
        click.echo(text)


def show_molecule_metrics(trained: TrainedModel, name: str, storage: Path, texts: list[str]) -> None:
    """Print what shares of samples are molecules, different ones and new ones."""
    from data.errors import CorpusError
    from study.errors import StudyError
    from study.inference.lookup import model_corpus
    from study.inference.molecules import KnownTexts, molecule_metrics

    if trained.codec.cleaning.tokenizer != "smiles":
        raise StudyError("--metrics are of molecules: of a model of a corpus prepared by --tokenizer smiles")
    known = None
    try:
        known = KnownTexts(trained.codec, model_corpus(trained, name, None, storage).split("train"))
    except (StudyError, CorpusError) as error:
        click.echo(f"novelty is not known: {error}", err=True)
    for share, value in molecule_metrics(texts, known).items():
        click.echo(f"{share:8} {value:.4f}")


@click.command("reconstruct")
@click.argument("model", shell_complete=complete_model)
@click.argument("texts", type=click.File("r", encoding="utf-8"), default="-")
@decoding_options
@storage_option
def reconstruct_command(model: str, texts: TextIO, storage: Path, **given: object) -> None:
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
    "-n",
    "--num",
    type=Whole(max=MOST_DRAWN),
    default=7,
    show_default=True,
    help="Points on the line, both ends included.",
)
@decoding_options
@storage_option
def interpolate_command(model: str, start: str, end: str, num: int, storage: Path, **given: object) -> None:
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
@click.option(
    "-n", "--num", type=Whole(max=MOST_DRAWN), default=5, show_default=True, help="Points along each dimension."
)
@click.option(
    "--reach", type=Number(), default=2.0, show_default=True, help="How far, in standard deviations of the prior."
)
@decoding_options
@storage_option
def traverse_command(
    model: str, text: str | None, dimensions: str | None, num: int, reach: float, storage: Path, **given: object
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
