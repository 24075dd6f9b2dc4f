"""`rnvm group create`, `status` and `force`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from rfp.cli.group import Commands
from rfp.cli.text import plural, table
from rnvm.group import admin
from rnvm.group.state import MIRRORS_MAX

GROUP = click.argument("group")
COORDINATOR = click.option(
    "--coordinator",
    metavar="ADDRESS",
    help="etcd://HOST:PORT[,...] or zk://HOST:PORT[,...], if the group is given by its name alone.",
)
POOL_OPTION = click.option(
    "--pool", type=click.Path(), required=True, help="A pool that no process has open."
)


class _Commands(Commands):
    program = "rnvm group"


@click.group(cls=_Commands)
def group() -> None:
    """Groups: a primary and its mirrors, one of which takes over if the primary dies.

    GROUP is etcd://HOST:PORT[,HOST:PORT...]/NAME or zk://HOST:PORT[,HOST:PORT...]/NAME, or a name
    with --coordinator.
    """


@group.command()
@GROUP
@COORDINATOR
@POOL_OPTION
@click.option("--member", required=True, help="Name of the member that has this pool.")
@click.option(
    "--min-mirrors",
    type=click.IntRange(0, MIRRORS_MAX),
    prompt="Mirrors in sync without which nothing is acknowledged as replicated "
    "(0: the primary goes on alone; 1: rather not write)",
    help="Mirrors in sync without which nothing is acknowledged as replicated; 0: the primary goes "
    "on alone.  There is no default.",
)
def create(group: str, coordinator: str | None, pool: str, member: str, min_mirrors: int) -> None:
    """Create a group whose first copy is the given pool.

    \b
    Example:
      rnvm group create etcd://a:2379,b:2379,c:2379/orders --pool orders.pool --member a \\
          --min-mirrors 1
    """
    address = admin.address_of(group, coordinator)
    made = admin.create_group(address, pool, member=member, min_mirrors=min_mirrors)
    click.echo(f"created group {address.group}: {member} has the first copy")
    if made.min_mirrors:
        mirrors = plural(made.min_mirrors, "mirror")
        verb = "is" if made.min_mirrors == 1 else "are"
        click.echo(f"nothing is acknowledged as replicated before {mirrors} {verb} in sync")


@group.command()
@GROUP
@COORDINATOR
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(group: str, coordinator: str | None, as_json: bool) -> None:
    """Print the state of a group and its members.

    `rnvm status GROUP` prints the figures of its primary.

    \b
    Example:
      rnvm group status etcd://a:2379,b:2379,c:2379/orders
    """
    address = admin.address_of(group, coordinator)
    shown = admin.group_status(address)
    state = shown.state
    if as_json:
        click.echo(json.dumps(asdict(shown)))
        return
    in_sync = ", ".join(each.member for each in state.in_sync)
    rows = [
        ["group", str(address.group)],
        ["epoch", str(state.epoch)],
        ["primary", state.primary or "none"],
        ["in sync", in_sync],
        ["min. mirrors", str(state.min_mirrors)],
    ]
    for line in table(None, rows, "<<"):
        click.echo(line)
    if not shown.members:
        click.echo("no member is registered")
        return
    members = [
        [
            each.listed.member,
            each.role,
            "in sync" if each.listed in state.in_sync else "not in sync",
            each.address,
        ]
        for each in shown.members
    ]
    click.echo()
    for line in table(["member", "role", "copy", "address"], members, "<<<<"):
        click.echo(line)


@group.command()
@GROUP
@COORDINATOR
@click.option("--from", "pool", type=click.Path(), required=True,
              help="The pool to go on with, which no process has open.")  # fmt: skip
@click.option(
    "--min-mirrors",
    type=click.IntRange(0, MIRRORS_MAX),
    help="Mirrors in sync without which nothing is acknowledged as replicated.  [default: the "
    "number in the state; required if the coordinator has lost the state]",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def force(
    group: str, coordinator: str | None, pool: str, min_mirrors: int | None, yes: bool
) -> None:
    """Go on with one copy, whatever the state says: the last resort.

    Stop the old primary first: it may go on serving until it reads the state.  What other copies
    have and this one lacks is lost, also if it was acknowledged as replicated.

    \b
    Example:
      rnvm group force etcd://a:2379,b:2379,c:2379/orders --from orders.pool
    """
    address = admin.address_of(group, coordinator)
    if not yes:
        click.confirm(
            f"Go on with {pool} alone?  Everything that only other copies have is lost, and an old "
            "primary that still runs goes on serving until it reads the state.",
            abort=True,
            err=True,
        )
    new = admin.force_group(address, pool, min_mirrors=min_mirrors)
    click.echo(f"{new.in_sync[0].member} has the only copy in sync, epoch {new.epoch}")
    click.echo("serve it, then let the other members join: they compare their copies with it")


__all__ = ["group"]
