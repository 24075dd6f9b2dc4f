"""The command line: `rnvm create`, and commands that inspect a pool that no process has open.

Exit status: 0 done; 1 refused, or the check found something; 2 the command was wrong; 3 the system
or the device failed.  docs/pool.md explains it.
"""

from __future__ import annotations

import click

import rfp
from rfp.cli.group import Commands
from rnvm.cli import create, group, inspect, mirror, serve


class _Commands(Commands):
    program = "rnvm"


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(rfp.__version__, message="rnvm %(version)s")
def main() -> None:
    """Pools of persistent data structures that processes share.

    \b
    Getting started:
      rnvm create orders.pool --size 1GiB
      rnvm info orders.pool
      rnvm serve orders.pool

    Exit status: 0 done; 1 refused, or the check found something; 2 the command was wrong; 3 the
    system or the device failed.
    """


for command in (
    create.create,
    inspect.info,
    inspect.check,
    inspect.ls,
    inspect.dump,
    create.grow,
    serve.serve,
    serve.recover,
    mirror.mirror,
    mirror.backup,
    mirror.status,
    group.group,
):
    main.add_command(command)
