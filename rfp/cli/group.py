"""The common part of this package's programs: how an error ends a program."""

from __future__ import annotations

import errno
import sys
from typing import Any, BinaryIO

import click

from rfp.errors import CallerError, RfpError, ServerRefused

REFUSAL, WRONG, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


class Failed(click.ClickException):
    """An error that is printed as one line, with an exit status."""

    def __init__(self, message: str, program: str, status: int) -> None:
        super().__init__(message)
        self.program = program
        self.exit_code = status  # type: ignore[misc,unused-ignore]

    def show(self, file: Any = None) -> None:
        click.echo(f"{self.program}: {self.format_message()}", file=file, err=file is None)


class Program(click.Command):
    """A program of one command, whose errors are one line."""

    program = "rfp"
    refused = REFUSAL  # exit status after a refusal by the server

    def status(self, error: RfpError) -> int:
        """Return the exit status of an error's family."""
        if isinstance(error, ServerRefused):
            return self.refused
        return WRONG if isinstance(error, CallerError) else UNREACHABLE

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RfpError as error:
            raise Failed(str(error), self.program, self.status(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly, as `| head` expects
            # An error of the system: most often an output that cannot be written, since commands
            # read and write nothing else by themselves.
            where = f"{error.filename}: " if error.filename else ""
            raise Failed(f"{where}{error.strerror or error}", self.program, UNREACHABLE) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None


class Commands(Program, click.Group):
    """The commands of a program."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of use, not by name


def standard(name: str) -> BinaryIO:
    """Return the binary stream under sys.stdin or sys.stdout.

    Raises:
        OSError: the program was started without it (`<&-`, `>&-`).
    """
    stream = getattr(sys, name)
    if stream is None:
        raise OSError(errno.EBADF, f"{name} is closed")
    binary: BinaryIO = stream.buffer
    return binary


def report(text: object, done: str) -> None:
    """Print the result of an operation that is done.

    Raises:
        OSError: it cannot be printed; the message says that the operation was done.
    """
    try:
        click.echo(text)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        raise OSError(error.errno, f"cannot write the output: {error.strerror} ({done})") from None
