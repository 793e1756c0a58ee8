"""The command line: parse, call the library, print.

Each command is in a file of its own; what they do, the library can do without them.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, TextIO

import click

from .. import __version__
from ..errors import CullamaError
from .system_errors import OUT_OF_MEMORY, describe, lacks_memory

COMMANDS = (
    "chat",
    "story",
    "serve",
    "pull",
    "models",
    "quantize",
    "bench",
    "eval",
    "diff",
    "doctor",
    "kernels",
)


class CommandGroup(click.Group):
    """Imports a command's file when the command is used, so that `--help` stays fast."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f".{name}", __name__).command
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(context, arguments)
        from .dialect import no_such_command

        raise click.UsageError(no_such_command(name, COMMANDS), context)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="cullama %(version)s")
def cli() -> None:
    """Llama inference you can read in an evening and run at the speed of your memory."""


def main(arguments: list[str] | None = None) -> None:
    """Run the `cullama` command, and exit with 0, 1 for failure, 2 for misuse, 130 after Ctrl-C."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; an error is one line on standard error."""
    _open_streams()
    try:
        return _run(arguments)
    except OSError:  # the reader of our output has closed it, as `head` does, or of our errors
        _discard(sys.stdout, sys.stderr)
        return 1


def _run(arguments: list[str] | None) -> int:
    try:
        code: Any = cli.main(arguments, prog_name="cullama", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return 2
    except click.UsageError as error:
        from .dialect import answer

        path = error.ctx.command_path if error.ctx else "cullama"
        words = answer(sys.argv[1:] if arguments is None else arguments)
        words = words or error.format_message().rstrip(".")
        return _print_error(f"{words}; see `{path} --help`", 2)
    except click.ClickException as error:
        return _print_error(error.format_message(), error.exit_code)
    except CullamaError as error:
        return _print_error(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:
        message = describe(error)
        _discard(sys.stdout)
        return _print_error(message, 1)
    except ImportError as error:
        if not lacks_memory(error):
            raise
        return _print_error(OUT_OF_MEMORY, 1)
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """Replace streams that are closed; print characters that a stream cannot encode as '?'."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _discard(*streams: TextIO) -> None:
    """Send what is still buffered to /dev/null, or Python would fail again at exit."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_error(message: str, code: int) -> int:
    """Print one line on standard error and return the exit code."""
    click.echo(f"cullama: {' '.join(message.split())}", err=True)
    return code
