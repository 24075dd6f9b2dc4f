"""The command line: `rfp serve`, and commands that connect to a server.

Exit status: 0 done; 1 the server refused, or the key has no value; 2 the command was wrong; 3 the
connection or the system failed, also if the output cannot be written.
docs/cli.md describes it.
"""

from __future__ import annotations

import click

import rfp
from rfp.cli import doctor, keys, serve, stats, top, tune
from rfp.cli.group import Commands


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(rfp.__version__, message="rfp %(version)s")
def main() -> None:
    """A key-value store whose clients fetch results directly from the server's memory.

    \b
    Getting started:
      rfp serve                      in one terminal
      rfp put greeting hello         in another
      rfp get greeting

    Exit status: 0 done; 1 the server refused, or the key has no value; 2 invalid command or
    argument; 3 the connection or the system failed.
    """


for store in (
    serve.serve,
    keys.ping,
    keys.get,
    keys.put,
    keys.delete,
    keys.incr,
    stats.stats,
    top.top,
):
    main.add_command(store)
for device in (tune.tune, doctor.doctor):
    main.add_command(device)
