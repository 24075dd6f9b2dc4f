"""`rnvm serve` and `rnvm recover`."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import click

from rfp.address import Address, unique
from rfp.cli.log import log_to_stderr, logged
from rfp.cli.options import ADDRESS_TYPE, serving
from rfp.cli.serve import Stop, _stop_on_signals
from rfp.cli.text import plural
from rfp.core.choices import IDLES
from rfp.protocol.server.shares import raise_open_files
from rnvm.backend.backend import Backend
from rnvm.cli.create import POOL
from rnvm.cli.group import COORDINATOR
from rnvm.cli.kinds import WITH, load
from rnvm.connecting import address_of, connect
from rnvm.coordinator.address import CoordinatorAddress
from rnvm.frontend.structure import kinds
from rnvm.group import admin
from rnvm.group.driver import GroupMember
from rnvm.group.member import Role
from rnvm.group.state import MIRRORS_MAX

POLL_S = 0.2  # seconds between two polls of whether the medium has failed


@click.command()
@POOL
@click.option("--address", "-a", type=ADDRESS_TYPE,
              help="Address to listen at: shm://PATH or rdma://HOST:PORT.  "
                   "[default: POOL.socket beside the pool if its directory "
                   "is private, else a name in your run directory; "
                   "rnvm.connect(POOL) finds either]")  # fmt: skip
@click.option(
    "--lease",
    type=float,
    default=2.0,
    show_default=True,
    help="Seconds before a front-end that holds a contended lock is fenced.",
)
@click.option(
    "--snapshot-lifetime",
    type=float,
    default=60.0,
    show_default=True,
    help="Seconds for which the memory of an open snapshot is kept.",
)
@click.option(
    "--min-mirrors",
    type=click.IntRange(0, MIRRORS_MAX),
    help='Mirrors in sync that calls of durability="replicated" require; with fewer, such a call '
    "changes nothing and raises NotReplicated.  [default: 0; a group has its own number]",
)
@click.option(
    "--mirror-patience",
    type=float,
    default=1.0,
    show_default=True,
    help="Seconds after which a mirror that does not acknowledge is removed.",
)
@click.option(
    "--group",
    help="Be a member of this group: serve the pool if this member is the primary, mirror the "
    "primary if not.  etcd://HOST:PORT[,...]/NAME or zk://HOST:PORT[,...]/NAME, or a name with "
    "--coordinator.",
)
@COORDINATOR
@click.option("--member", help="Name of this member of the group.  [default: the host's name]")
@click.option(
    "--leave-group",
    is_flag=True,
    help="Erase the pool's identity in a group first, and serve it without one.",
)
@click.option("--idle", type=click.Choice(IDLES), default="adaptive",
              show_default=True,
              help="Behaviour of an idle back-end thread: spin "
                   "briefly and then sleep, or always spin.")  # fmt: skip
@serving
@logged
def serve(
    pool: str, address: Address | None, lease: float, snapshot_lifetime: float,
    min_mirrors: int | None, mirror_patience: float, idle: str, log_level: str,
    group: str | None, coordinator: str | None, member: str | None, leave_group: bool,
    **access: Any,
) -> None:  # fmt: skip
    """Serve a pool to front-ends in the foreground until Ctrl-C or SIGTERM.

    \b
    Examples:
      rnvm serve orders.pool
      rnvm serve orders.pool --address shm:///run/user/1000/orders.d/socket
      rnvm serve orders.pool --group etcd://c1:2379,c2:2379,c3:2379/orders --member a
      rnvm serve orders.pool --address rdma://10.0.0.1:7002 --secret-file ~/.rfp-secret

    Exits with status 3 if the pool's medium fails or its file is removed, also in a group.
    """
    _check_options(group, coordinator, member, leave_group, min_mirrors)
    place = address_of(pool) if address is None else address
    backend = None
    log_to_stderr(log_level)
    raise_open_files()
    _stop_on_signals()
    if leave_group:
        admin.leave_group(pool)
    if group is not None:
        where = admin.address_of(group, coordinator)
        _serve_in_group(
            pool,
            where,
            member or socket.gethostname().split(".")[0],
            place,
            lease=lease,
            snapshot_lifetime=snapshot_lifetime,
            mirror_patience=mirror_patience,
            idle=idle,
            **access,
        )
        return
    try:
        backend = Backend(
            pool,
            address=place,
            lease=lease,
            snapshot_lifetime=snapshot_lifetime,
            min_mirrors=min_mirrors or 0,
            mirror_patience=mirror_patience,
            idle=idle,
            **access,
        )
        for text in backend.recovered:
            click.echo(f"recovered: {text}")
        click.echo(f"serving {pool} at {backend.address}, pid {os.getpid()}")
        while not backend.failed:
            time.sleep(POLL_S)
        if backend.removed:
            click.echo(
                f"{pool} was removed or replaced while it was served: its content is lost", err=True
            )
        else:
            click.echo(
                "the pool's medium failed: check the device, then serve the pool again", err=True
            )
        raise SystemExit(3)
    except Stop:
        pass
    finally:
        if backend is not None:
            backend.close()
    click.echo("stopped")


def _check_options(
    group: str | None,
    coordinator: str | None,
    member: str | None,
    leave_group: bool,
    min_mirrors: int | None,
) -> None:
    if group is None:
        for name, value in (("--coordinator", coordinator), ("--member", member)):
            if value is not None:
                raise click.UsageError(f"{name} has no meaning without --group")
    elif leave_group:
        raise click.UsageError("give --group or --leave-group, not both")
    elif min_mirrors is not None:
        raise click.UsageError(
            "--min-mirrors belongs to the group: give it to `rnvm group create` or, later, to "
            "`rnvm group force`"
        )


def _serve_in_group(
    pool: str, group: CoordinatorAddress, member: str, address: Address, **options: Any
) -> None:
    running = None
    try:
        running = GroupMember(pool, group=group, member=member, address=address, **options)
        click.echo(f"member {member} of group {group.group}, pid {os.getpid()}")
        found = printed = ("", False)
        while not running.failed:
            time.sleep(POLL_S)
            before, found = found, _seen(running)
            # Twice: what lasts for a moment only is in the log, if anywhere.
            if found == before and found != printed and found[0]:
                printed = found
                click.echo(found[0], err=found[1])
        click.echo(f"the member has ended: {running.error}", err=True)
        raise SystemExit(3)
    except Stop:
        pass
    finally:
        if running is not None:
            running.close()
    click.echo("stopped")


def _seen(running: GroupMember) -> tuple[str, bool]:
    """Return what a member does in one line, and whether that is trouble; "" between two roles."""
    role, trouble = running.role, running.trouble
    if trouble:
        return trouble, True
    if role == Role.PRIMARY.value:
        return f"primary of epoch {running.epoch} at {running.address}", False
    if role == Role.FOLLOWING.value:
        return f"mirror, {'in sync' if running.in_sync else 'comparing and copying'}", False
    return "", False


class Untouched:
    """A codec that leaves values as they are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, value: bytes) -> bytes:
        return value

    decode = encode


@click.command()
@POOL
@WITH
def recover(pool: str, modules: tuple[str, ...]) -> None:
    """Recover a pool that no process has open: apply its logs, execute pending operations, check.

    Opening a pool always applies its logs.  The pending operations of dead front-ends wait for the
    next writer of their structure, or for this command.

    \b
    Examples:
      rnvm recover orders.pool
      rnvm recover orders.pool --with my_structures
    """
    load(modules)
    with Backend(pool, address=unique()) as backend, connect(backend.address, timeout=60) as fe:
        for text in backend.recovered:
            click.echo(text)
        unknown = []
        for name, about in fe.names().items():
            known = kinds.get(about["kind"])
            if known is None or known.format != about["format"]:
                unknown.append(name)
                continue
            # Takes its writer lock, and therefore executes pending operations first.
            codec = Untouched(about["codec"]) if about["codec"] else None
            # A mapping whose maker was killed may lack partitions: they are made, empty.
            split = {"partitions": about["partitions"]} if "partitions" in about else {}
            known.cls(fe, name, codec=codec, create=bool(split), **split).check(timeout=3600)
        done = fe.figures["executed_again"]
        click.echo(f"{plural(done, 'operation')} executed")
        if passed := fe.figures["passed_over"]:
            click.echo(
                f"{plural(passed, 'operation')} skipped: unknown to "
                "their structures (not logged by any front-end)"
            )
        for name in unknown:
            click.echo(
                f"{name!r} has an unknown kind or format: its log records are kept", err=True
            )
    if unknown:
        raise SystemExit(1)


__all__ = ["recover", "serve"]
