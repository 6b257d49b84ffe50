"""The command `study`: parse, call one function, print. Data goes to stdout, progress to stderr."""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from typing import Any

import click

COMMANDS = {
    "run": "study.cli_study", "status": "study.cli_study", "report": "study.cli_study",
    "export": "study.cli_study", "ui": "study.cli_study", "settings": "study.cli_study",
    "compare": "study.cli_compare", "confirm": "study.cli_confirm",
    "diagnose": "study.cli_look",
    "train": "study.cli_model", "evaluate": "study.cli_model", "sample": "study.cli_model",
    "reconstruct": "study.cli_model", "interpolate": "study.cli_model", "traverse": "study.cli_model",
    "encode": "study.cli_model",
    "corpus": "study.cli_corpus",
    "submit": "study.cli_cluster", "jobs": "study.cli_cluster", "stop": "study.cli_cluster",
    "spot": "study.cli_cluster", "doctor": "study.cli_cluster", "gc": "study.cli_cluster",
}  # fmt: skip


OF_THE_SYSTEM = (
    errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR,
)  # fmt: skip
"""What a system says of a path that is no fault of this program: too long, not allowed, no room, no folder."""


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
    """


def user_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that are the user's to mend: printed in one line, without a traceback."""
    from data.errors import CorpusError
    from model.errors import ModelError
    from study.errors import StudyError

    return (CorpusError, ModelError, StudyError)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; return 0, 1 for a user's mistake, 2 for wrong usage, 130 if interrupted."""
    try:
        result: Any = main.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno not in OF_THE_SYSTEM or error.filename is None:
            raise
        click.echo(f"study: {str(error.filename)[:200]} cannot be used: {error.strerror}", err=True)
        return 1
    except Exception as error:
        if not isinstance(error, user_errors()):
            raise
        click.echo(f"study: {error}", err=True)
        return 1
    return result if isinstance(result, int) else 0


def entry() -> None:
    """Run as the script `study`."""
    sys.exit(run())
