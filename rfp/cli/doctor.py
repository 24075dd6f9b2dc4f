"""`rfp doctor`: what stands between this machine and RDMA."""

from __future__ import annotations

import click

from rfp.address import RdmaOptions
from rfp.tools import doctor as examination
from rfp.tools.doctor import FAILED, GOOD

STATES = {GOOD: "green", "warning": "yellow", FAILED: "red"}


@click.command()
@click.argument("host", default="")
@click.option("--device", default="", help="Of this RDMA device instead of the one that is chosen.")
@click.option("--port", default=0, type=click.IntRange(0, 255), help="Of this port of it.")
@click.option("--gid-index", default=-1, type=click.IntRange(-1, 255), help="With this GID.")
def doctor(host: str, device: str, port: int, gid_index: int) -> None:
    """Find out whether rdma:// addresses work on this machine, and what to do if not.

    HOST: a peer to which a way is looked for.  Nothing is changed; nothing is sent to HOST.

    \b
    Exit status: 0 rdma:// addresses work here (there may be warnings); 1 they do not.

    \b
    Examples:
      rfp doctor
      rfp doctor node7 --device mlx5_0
    """
    failed = []
    for finding in examination.examine(host, RdmaOptions(device=device, port=port, gid_index=gid_index)):
        mark = click.style(f"{finding.state:<8}", fg=STATES.get(finding.state))
        click.echo(f"{mark} {finding.question}: {finding.answer}")
        if finding.remedy:
            click.echo(f"{'':8} -> {finding.remedy}")
        if finding.state == FAILED:
            failed.append(finding.question)
    click.echo()
    if failed:
        click.echo(f"rdma:// addresses do not work here: {', '.join(failed)}.  shm:// addresses need none of this.")
        raise click.exceptions.Exit(1)
    click.echo("rdma:// addresses work here.")
