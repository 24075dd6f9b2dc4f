"""`rfp doctor`: checks RDMA on this machine."""

from __future__ import annotations

import click

from rfp.address import RdmaOptions
from rfp.tools import doctor as examination
from rfp.tools.doctor import GOOD, NOT_OK

STATE_COLOURS = {GOOD: "green", "warning": "yellow", NOT_OK: "red"}


@click.command()
@click.argument("host", default="")
@click.option("--device", default="", help="RDMA device to check.  [default: auto]")
@click.option(
    "--port", default=0, type=click.IntRange(0, 255), help="Port of that device.  [default: auto]"
)
@click.option(
    "--gid-index",
    default=-1,
    type=click.IntRange(-1, 255),
    help="GID table index.  [default: auto]",
)
def doctor(host: str, device: str, port: int, gid_index: int) -> None:
    """Check whether rdma:// addresses work on this machine, and how to correct what does not.

    HOST: a peer to find a route to.  Nothing is changed; nothing is sent to HOST.

    \b
    Exit status: 0 rdma:// addresses work here (there may be warnings); 1 they do not.

    \b
    Examples:
      rfp doctor
      rfp doctor node7 --device mlx5_0
    """
    failed = []
    for finding in examination.examine(
        host, RdmaOptions(device=device, port=port, gid_index=gid_index)
    ):
        mark = click.style(f"{finding.state:<8}", fg=STATE_COLOURS.get(finding.state))
        click.echo(f"{mark} {finding.question}: {finding.answer}")
        if finding.remedy:
            click.echo(f"{'':8} -> {finding.remedy}")
        if finding.state == NOT_OK:
            failed.append(finding.question)
    click.echo()
    if failed:
        click.echo(
            f"rdma:// addresses do not work here: {', '.join(failed)}. "
            " shm:// addresses do not need RDMA."
        )
        raise click.exceptions.Exit(1)
    click.echo("rdma:// addresses work here.")
