"""What the programs of this package share: how their errors end them."""

from __future__ import annotations

from typing import Any

import click

from rfp.errors import CallerError, RfpError, ServerRefused

REFUSED, WRONG, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


class Failed(click.ClickException):
    """An error of the package's, as one line and an exit status."""

    def __init__(self, error: RfpError, program: str) -> None:
        super().__init__(str(error))
        self.program = program
        status = REFUSED if isinstance(error, ServerRefused) else WRONG if isinstance(error, CallerError) else UNREACHABLE
        self.exit_code = status  # type: ignore[misc,unused-ignore]

    def show(self, file: Any = None) -> None:
        click.echo(f"{self.program}: {self.format_message()}", file=file, err=file is None)


class Commands(click.Group):
    """The commands of a program."""

    program = "rfp"

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which one needs them, not by name

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RfpError as error:
            raise Failed(error, self.program) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
