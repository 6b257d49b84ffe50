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

COMMANDS = {
    "run": "study.cli.run",
    "list": "study.cli.manage",
    "status": "study.cli.study",
    "stop": "study.cli.manage",
    "drop": "study.cli.manage",
    "rename": "study.cli.manage",
    "delete": "study.cli.manage",
    "report": "study.cli.study",
    "export": "study.cli.study",
    "ui": "study.cli.study",
    "settings": "study.cli.study",
    "compare": "study.cli.compare",
    "confirm": "study.cli.confirm",
    "diagnose": "study.cli.diagnose",
    "train": "study.cli.train",
    "evaluate": "study.cli.train",
    "sample": "study.cli.model",
    "reconstruct": "study.cli.model",
    "interpolate": "study.cli.model",
    "traverse": "study.cli.model",
    "encode": "study.cli.train",
    "corpus": "study.cli.corpus",
    "submit": "study.cli.cluster",
    "jobs": "study.cli.cluster",
    "spot": "study.cli.cluster",
    "doctor": "study.cli.cluster",
    "gc": "study.cli.cluster",
}
OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
"""What a system says of standard output that cannot be written."""

MOST_LETTERS = 2000
"""Of an error's line."""


class LazyGroup(click.Group):
    """Imports a command's module only when that command, or the list of all, is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the commands in the order of use."""
        return list(COMMANDS)

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
