"""The command line: `rfp serve`, and commands that talk to a server.

Exit status: 0 done; 1 the server refused, or the key has no value; 2 the command was wrong; 3 the connection failed.
docs/cli.md says it in prose.
"""

from __future__ import annotations

from typing import Any

import click

import rfp
from rfp.cli import doctor, keys, serve, stats, top, tune
from rfp.errors import CallerError, RfpError, ServerRefused

REFUSED, WRONG, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


class Failed(click.ClickException):
    """An error of the package's, as one line and an exit status."""

    def __init__(self, error: RfpError) -> None:
        super().__init__(str(error))
        status = REFUSED if isinstance(error, ServerRefused) else WRONG if isinstance(error, CallerError) else UNREACHABLE
        self.exit_code = status  # type: ignore[misc,unused-ignore]

    def show(self, file: Any = None) -> None:
        click.echo(f"rfp: {self.format_message()}", file=file, err=file is None)


class Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which one needs them, not by name

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RfpError as error:
            raise Failed(error) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(rfp.__version__, message="rfp %(version)s")
def main() -> None:
    """A key-value store whose results clients fetch straight from the server's memory.

    \b
    Two commands to start:
      rfp serve                      in one terminal
      rfp put greeting hello         in another
      rfp get greeting

    Exit status: 0 done; 1 the server refused, or the key has no value; 2 the command was wrong; 3 the connection failed.
    """


for store in (serve.serve, keys.ping, keys.get, keys.put, keys.delete, keys.incr, stats.stats, top.top):
    main.add_command(store)
for device in (tune.tune, doctor.doctor):
    main.add_command(device)
