"""Commands about corpora: prepare, list and show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from study.cli.types import NewFolder, Number, Whole

if TYPE_CHECKING:
    from data.corpus import Corpus
    from data.sources.columns import Columns
    from data.sources.source import Source

FORMATS = ("txt", "jsonl", "ndjson", "json", "csv", "tsv", "parquet")
TOKENIZERS = ("whitespace", "regex", "char", "smiles", "bpe")
OF_FILES = (
    "text_column",
    "group_column",
    "label_column",
    "labels_in_text",
    "no_header",
    "quotes",
    "format_name",
    "max_sequence_bytes",
)
OPTIONS = {"format_name": "format"}


@click.group("corpus")
def corpus_command() -> None:
    """Prepare text for studies, and look at what is prepared.

    \b
    study corpus prepare reviews.jsonl --column text --out corpora/reviews
    study corpus prepare ptb --from ~/ptb --out corpora/ptb
    study corpus show corpora/ptb
    """


@corpus_command.command("prepare")
@click.argument("sources", nargs=-1)
@click.option("-o", "--out", required=True, type=NewFolder(path_type=Path, file_okay=False), help="Folder to make.")
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path),
    help="Where the files of ptb, yahoo, yelp, short-yelp, snli or moses lie.",
)
@click.option("--train", multiple=True, help="File, folder or glob of the training split (with --valid and --test).")
@click.option("--valid", multiple=True, help="The same for validation.")
@click.option("--test", multiple=True, help="The same for test.")
@click.option(
    "--format", "format_name", type=click.Choice(FORMATS), help="What the files are, where their names do not say it."
)
@click.option(
    "--text-column", "--column", help="Name or number of the text's column, where there are some.  [default: text]"
)
@click.option("--no-header", is_flag=True, help="The first line of .csv and .tsv is a row; columns have numbers.")
@click.option("--quotes", type=click.Choice(["doubled", "backslash"]), help='How .csv writes " inside a quoted value.')
@click.option("--group-column", help="Keep rows that share this column's value in one split.")
@click.option("--label-column", help="Keep this column beside the text; it colours the latent space.")
@click.option(
    "--labels-in-text",
    type=click.Choice(["tab", "fasttext"]),
    help="A label before the text of each line, ended by a tab or written __label__x.",
)
@click.option("--tokenizer", type=click.Choice(TOKENIZERS), help="How text becomes tokens.  [default: whitespace]")
@click.option("--pattern", help="The regular expression of a token, for --tokenizer regex.")
@click.option("--normalization", type=click.Choice(["none", "nfc"]), help="Of Unicode.  [default: none]")
@click.option("--lowercase/--keep-case", default=None, help="Lower-case the text first.")
@click.option("--min-tokens", type=Whole(), help="Drop shorter sequences.  [default: 1]")
@click.option("--max-tokens", type=Whole(), help="Drop longer sequences.  [default: 200]")
@click.option(
    "--drop-contacts/--keep-contacts", default=None, help="Drop sequences with a URL, e-mail address or phone number."
)
@click.option(
    "--deduplicate/--keep-duplicates", default=None, help="Keep one of equal sequences.  [default: yes, unless split]"
)
@click.option("--valid-fraction", type=Number(), help="Part of the sequences or groups.  [default: 0.05]")
@click.option("--test-fraction", type=Number(), help="Part of the sequences or groups.  [default: 0.05]")
@click.option("--max-word-bytes", type=Whole(), help="Drop sequences with a longer token.  [default: 1000]")
@click.option(
    "--vocabulary-size", type=Whole(), help="Most frequent tokens to know; all if not given, 8000 with --tokenizer bpe."
)
@click.option("--min-count", type=Whole(), help="Know tokens seen at least so often.  [default: 1]")
@click.option("--max-sequence-bytes", type=Whole(1), help="Refuse a file with a longer line.  [default: 64 MiB]")
@click.option("--seed", type=Whole(0), help="Of synthetic-topics.  [default: 0]")
@click.option("--overwrite", is_flag=True, help="Replace what --out holds.")
@click.option("--force", is_flag=True, help="Go on with a corpus of which nothing can be learnt.")
def prepare_command(sources: tuple[str, ...], out: Path, overwrite: bool, force: bool, **given: object) -> None:
    """Make a corpus from SOURCES: files, folders, globs, or one named corpus.

    Reads .txt (a sequence a line), .jsonl, .json, .csv, .tsv and .parquet, each also with .gz or .zst. Named:
    chitchat, moses, python-code, synthetic-topics, and from the field's standard files ptb, yahoo, yelp, short-yelp,
    snli. `--tokenizer char` suits text without blanks, `smiles` molecules, `bpe` any text.

    \b
    study corpus prepare notes/*.txt.gz --out corpora/notes
    study corpus prepare molecules.smi --format txt --tokenizer smiles --out corpora/molecules
    study corpus prepare --train a.txt --valid b.txt --test c.txt --out corpora/mine
    """
    from data.errors import CorpusError
    from data.prepare import prepare
    from data.settings import PrepareSettings

    source = choose_source(sources, given)
    names = PrepareSettings.model_fields
    chosen = {name: value for name, value in given.items() if name in names and value is not None}
    if given["group_column"]:
        chosen["split_by_group"] = True
    if given["pattern"]:
        chosen.setdefault("tokenizer", "regex")
        if chosen["tokenizer"] != "regex":
            raise CorpusError(f"--pattern has no effect with --tokenizer {chosen['tokenizer']}; leave one out")
    settings = PrepareSettings.resolve(source, chosen)
    corpus, made = prepare(
        source, settings, out, overwrite=overwrite, force=force, progress=lambda line: click.echo(line, err=True)
    )
    if not made:
        click.echo(f"{out} already holds this corpus; nothing to do", err=True)
    show(corpus)


def choose_source(sources: tuple[str, ...], given: Mapping[str, Any]) -> Source:
    """Return the source that the arguments name; raise CorpusError if they do not fit together."""
    from data.errors import CorpusError
    from data.sources.named import NAMED, from_files
    from data.sources.source import SPLITS

    given_splits = {split: list(given[split]) for split in SPLITS if given[split]}
    if given_splits:
        if sources or len(given_splits) < len(SPLITS):
            raise CorpusError("a corpus that comes split needs --train, --valid and --test, and no other SOURCE")
        return from_files(given_splits, columns_of(given), given["format_name"], given["max_sequence_bytes"])
    if not sources:
        raise CorpusError("name at least one SOURCE: a file, a folder, a glob or a named corpus")
    if sources[0] in NAMED and not Path(sources[0]).exists():
        if len(sources) > 1:
            raise CorpusError(f"{sources[0]} is a corpus of its own; give no other SOURCE with it")
        refuse_without_effect(sources[0], given)
        return NAMED[sources[0]](given["folder"], given["seed"] or 0)
    if given["seed"] is not None:
        raise CorpusError("--seed is of synthetic-topics; a split of your own text follows from the text alone")
    if given["folder"]:
        raise CorpusError(f"--from goes with one of {', '.join(NAMED)}, not with {sources[0]}")
    check_known(sources[0], list(NAMED))
    return from_files({"all": list(sources)}, columns_of(given), given["format_name"], given["max_sequence_bytes"])


def columns_of(given: Mapping[str, Any]) -> Columns:
    """Return where the files have what, as the options say."""
    from data.sources.columns import Columns

    return Columns(
        given["text_column"],
        given["group_column"],
        given["label_column"],
        not given["no_header"],
        given["quotes"] or "doubled",
        given["labels_in_text"] or "none",
    )


def refuse_without_effect(name: str, given: Mapping[str, object]) -> None:
    """Raise CorpusError for options that a named corpus does not heed."""
    from data.errors import CorpusError

    ignored = [OPTIONS.get(option, option) for option in OF_FILES if given[option]]
    if given["seed"] is not None and name != "synthetic-topics":
        ignored.append("seed")
    if given["folder"] and name in ("chitchat", "python-code", "synthetic-topics"):
        ignored.append("from")
    if ignored:
        names = ", ".join(f"--{option.replace('_', '-')}" for option in ignored)
        raise CorpusError(f"{names} has no effect on the corpus {name}; leave it out")


def check_known(name: str, named: list[str]) -> None:
    """Raise CorpusError for a word that looks like a misspelt named corpus."""
    from data.errors import CorpusError
    from study.errors import did_you_mean

    if re.fullmatch(r"[a-z-]+", name) and not Path(name).exists():
        hint = did_you_mean(name, named, f"named corpora are {', '.join(named)}")
        raise CorpusError(f"{name} is neither a file nor a named corpus; {hint}")


@corpus_command.command("list")
@click.argument("folder", default="corpora", type=click.Path(path_type=Path, file_okay=False))
def list_command(folder: Path) -> int:
    """List the corpora prepared in FOLDER (corpora if not given), and those that can be prepared by name.

    \b
    study corpus list
    """
    from data.corpus import Corpus
    from data.errors import CorpusError
    from data.manifest import MANIFEST
    from data.sources.named import NAMED

    found = sorted(path for path in folder.glob("*/*") if path.name == MANIFEST)
    is_damaged = False
    for path in found:
        try:
            corpus = Corpus.open(path.parent)
        except CorpusError as error:
            is_damaged = True
            click.echo(f"{path.parent}: {error}", err=True)
            continue
        sizes = " / ".join(f"{split.num_sequences:,}" for split in corpus.manifest.splits.values())
        click.echo(f"{path.parent}  {corpus.name}  {sizes} sequences  {corpus.vocabulary_size:,} tokens known")
    if not found:
        click.echo(f"nothing prepared in {folder}", err=True)
    click.echo(f"by name: {', '.join(NAMED)}", err=True)
    return 1 if is_damaged else 0


@corpus_command.command("show")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--verify", is_flag=True, help="Read everything and compare with the fingerprint.")
@click.option("--examples", type=Whole(0), default=3, show_default=True, help="Training sequences to print.")
def show_command(folder: Path, verify: bool, examples: int) -> None:
    """Show what the prepared corpus in FOLDER holds.

    \b
    study corpus show corpora/chitchat --verify
    """
    from data.corpus import Corpus
    from data.tokens.codec import codec_of

    corpus = Corpus.open(folder)
    if verify:
        corpus.verify()
        click.echo("content matches the fingerprint", err=True)
    show(corpus)
    train, codec = corpus.split("train"), codec_of(corpus)
    for index in range(min(examples, len(train))):
        click.echo("  " + codec.decode(train.sequence(index)))


def show(corpus: Corpus) -> None:
    """Print a corpus' sizes, drop reasons and fingerprint."""
    from rich.table import Table

    from data.sources.synthetic import exact_nll
    from data.tokens.cleaning import AROUND
    from study.console import make_console

    manifest = corpus.manifest
    table = Table(box=None, pad_edge=False)
    for name in ("split", "sequences", "tokens", "mean length", "bytes", "unknown tokens", "also in train"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for name, split in manifest.splits.items():
        overlap = manifest.also_in_train.get(name)
        table.add_row(
            name,
            f"{split.num_sequences:,}",
            f"{split.num_tokens:,}",
            f"{split.num_tokens / split.num_sequences:.2f}",
            f"{split.num_bytes:,}",
            f"{split.num_unknown / max(1, split.num_tokens):.2%}",
            "" if overlap is None else f"{overlap:,}",
        )
    console = make_console()
    console.print(f"{corpus.folder.name}: {corpus.name}, fingerprint {corpus.fingerprint}", markup=False)
    console.print(table)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in manifest.dropped.items()) or "nothing"
    around = manifest.text_bytes.dropped.get(AROUND, 0)
    if around:
        dropped += f"; {around:,} bytes of white space around texts"
    console.print(
        f"vocabulary: {corpus.vocabulary_size - 4:,} tokens and 4 special ones; dropped: {dropped}", markup=False
    )
    if manifest.source == "synthetic-topics":
        seed = int(str(manifest.origin["seed"]))
        exact = ", ".join(f"{name} {exact_nll(corpus.split(name), seed):.3f}" for name in manifest.splits)
        console.print(f"exact nll in nats a sequence, which no model can beat: {exact}", markup=False)
