"""The command `study`: parse, call one function, print. Data goes to stdout, progress to stderr."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from study.config.addresses import hidden

GROUPS = {
    "Run": {
        "run": ("run", "Test pooling on a corpus, then search the settings of the model"),
        "compare": ("compare", "Methods, or values of any settings, side by side over seeds"),
        "confirm": ("confirm", "Train a study's best settings again with fresh seeds"),
        "train": ("train", "Train one model, without a search"),
        "corpus": ("corpus", "Prepare text for studies, and look at what is prepared"),
        "settings": ("study", "What can be set and searched; a trial's settings as a file"),
    },
    "Look": {
        "report": ("study", "What a study found, on screen, as HTML, Markdown or JSON"),
        "status": ("study", "How far studies are"),
        "list": ("manage", "Every study here, a line each"),
        "ui": ("study", "The MLflow UI on the studies here"),
        "export": ("study", "Trials or epochs as parquet or CSV"),
        "diagnose": ("diagnose", "Whether it has collapsed, since when, and what to do"),
    },
    "Use a model": {
        "evaluate": ("train", "Its likelihood and use of z, on the test split"),
        "sample": ("model", "Texts from the prior"),
        "reconstruct": ("model", "Texts as the model gives them back"),
        "interpolate": ("model", "Texts on the line between two"),
        "traverse": ("model", "Texts along single latent dimensions"),
        "encode": ("train", "The posterior mean of each text, as parquet"),
    },
    "Change and clean up": {
        "stop": ("manage", "End a study that runs, in order"),
        "drop": ("manage", "Have a bad trial count no more"),
        "rename": ("manage", "Give a study another name, everywhere"),
        "delete": ("manage", "Remove a study, everywhere"),
        "gc": ("cluster", "Remove what finished and crashed studies no longer need"),
    },
    "On a cluster": {
        "submit": ("cluster", "Start a study as a job of a cluster"),
        "jobs": ("cluster", "A cluster's jobs, and what they print"),
        "doctor": ("cluster", "What is wrong here or on a cluster, and how to mend it"),
        "spot": ("cluster", "Beside Ray on a spot instance: wait for its end"),
    },
}
"""The commands as they are listed: the module of `study.cli` that has each, and what it is for."""
COMMANDS = {name: f"study.cli.{module}" for group in GROUPS.values() for name, (module, _) in group.items()}
OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
"""What a system says of standard output that cannot be written."""

MOST_LETTERS = 2000
"""Of an error's line."""


class LazyGroup(click.Group):
    """Imports a command's module only when that command is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the commands in the order of use."""
        return list(COMMANDS)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by group, a line each."""
        for title, group in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:11}", words) for name, (_, words) in group.items()])

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named; of one that there is not, say which was meant."""
        name = arguments[0]
        if name not in COMMANDS and not name.startswith("-") and not context.resilient_parsing:
            from study.errors import did_you_mean

            hint = did_you_mean(name, COMMANDS, "`study --help` lists them")
            context.fail(f"No such command {name[:80]!r}; {hint}")
        return super().resolve_command(context, arguments)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return a command."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[name]), f"{name}_command")
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pooled-vae-study", prog_name="study")
def main() -> None:
    """Search the settings of a sequence VAE for the best likelihood without posterior collapse.

    \b
    study run --preset quick          a whole study on the default corpus, on a laptop
    study report quick                what it found
    study ui quick                    its runs in the MLflow UI

    Every term that output uses is in docs/glossary.md.
    """


def user_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that are the user's to mend: printed in one line, without a traceback."""
    from data.errors import CorpusError
    from model.errors import ModelError
    from study.errors import StudyError

    return (CorpusError, ModelError, StudyError)


def run(arguments: list[str] | None = None) -> int:  # noqa: PLR0911 - one a kind of error
    """Run the command line; return 0, 1 for a user's mistake, 2 for wrong usage, 130 if interrupted."""
    warnings.showwarning = show_warning
    try:
        result: Any = main.main(arguments, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return show_usage_error(error)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        discard_output()
        return 0
    except OSError as error:
        # What a system says of a path that is no fault of this program: too long, not allowed, no room, no folder.
        place = str(error.filename)[:200] if error.filename is not None else "the output"
        if error.strerror is None or (error.filename is None and error.errno not in OF_OUTPUT):
            raise
        return fail(f"{place} cannot be used: {error.strerror}")
    except UnicodeError as error:
        if not isinstance(error, UnicodeEncodeError):
            raise
        return fail("an argument or name holds bytes that are no text; rename the file, or mend the argument")
    except MemoryError:
        return fail("this needs more memory than there is; ask for less at once")
    except Exception as error:
        if not isinstance(error, user_errors()):
            raise
        return fail(str(error))
    return result if isinstance(result, int) else 0


def show_usage_error(error: click.ClickException) -> int:
    """Print what click says of wrong usage, without passwords; return the exit code."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        click.echo(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n", err=True)
    click.echo(f"Error: {one_line(error.format_message())}", err=True)
    return error.exit_code


def fail(message: str) -> int:
    """Print an error in one line, and leave nothing for Python to write at its end; return the exit code."""
    with suppress(OSError):
        click.echo(f"study: {one_line(message)}", err=True)
    discard_output(only_if_broken=True)
    return 1


def one_line(message: str) -> str:
    """Return a message as it is printed: in one line of bounded length, without passwords."""
    text = hidden(" ".join(message.split()))
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."


def show_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Print a warning of ours in one line; others' are for developers."""
    from study.errors import StudyWarning

    if issubclass(category, StudyWarning):
        click.echo(f"study: {one_line(str(message))}", err=True)


def discard_output(*, only_if_broken: bool = False) -> None:
    """Have what is still to be written go nowhere: its reader is gone, or there is no room for it."""
    try:
        sys.stdout.flush()
    except OSError:
        only_if_broken = False
    if not only_if_broken:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def write_utf8() -> None:
    """Have text go out as UTF-8 whatever the locale says, and names that are no text as the bytes that they are."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def entry() -> None:
    """Run as the script `study`."""
    write_utf8()
    sys.exit(run())
