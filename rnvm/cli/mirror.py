"""`rnvm mirror`, `rnvm backup` and `rnvm status`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import click

from rfp import units
from rfp.cli.log import log_to_stderr, logged
from rfp.cli.options import _TLS, DURATION_TYPE, SECRET_FILE
from rfp.cli.serve import Stop, _stop_on_signals
from rfp.cli.text import clock, grouped, plural, table
from rfp.control import Credentials
from rfp.core import clock as clocks
from rnvm.cli.create import POOL
from rnvm.cli.serve import POLL_S
from rnvm.connecting import opener_of
from rnvm.mirror.mirror import Mirror
from rnvm.mirror.mirror import backup as make_backup

LINE_S = 2.0  # seconds between two lines of progress

OF = click.option(
    "--of",
    "of",
    required=True,
    metavar="ADDRESS",
    help="Address of the back-end, or the path of a pool that `rnvm serve` serves on this host.",
)
IN_PLACE = click.option(
    "--in-place",
    is_flag=True,
    help="Allow a copy on a disk of a pool without write-ahead area: pages are synced in place, "
    "which is slow.",
)
TIMEOUT = click.option(
    "--timeout",
    type=DURATION_TYPE,
    default="5s",
    show_default=True,
    help="Time limit for connecting and for each response.",
)


def reaching(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a client over a network."""
    for option in reversed((SECRET_FILE, *_TLS)):
        command = option(command)
    return TIMEOUT(command)


@click.command()
@POOL
@OF
@click.option("--name", help="Name of the mirror in `rnvm status`.  [default: HOST:PROCESS]")
@IN_PLACE
@reaching
@logged
def mirror(
    pool: str, of: str, name: str | None, in_place: bool, timeout: float, log_level: str,
    **access: Any,
) -> None:  # fmt: skip
    """Keep a copy of a served pool in the file POOL, in the foreground until Ctrl-C or SIGTERM.

    An existing POOL is OVERWRITTEN if it is a copy of the same pool, also if it has changes that
    the back-end lacks.  The copy follows the back-end frame by frame, and connects again whenever
    the back-end restarts.  While it is in sync, calls of durability="replicated" wait for it.
    While it is compared and something differs, it cannot be served.

    \b
    Examples:
      rnvm mirror copy.pool --of orders.pool
      rnvm mirror copy.pool --of rdma://10.0.0.1:7002 --secret-file ~/.rfp-secret

    To make the copy the pool that is served, make sure that the back-end does not run any more,
    end the mirror, then run `rnvm serve POOL`.

    Exits with status 3 if the copy's medium fails or is full, or its file is removed; with status 1
    if the back-end, or POOL, is refused.
    """
    following = None
    log_to_stderr(log_level)
    _stop_on_signals()
    try:
        following = Mirror(pool, of=of, name=name, in_place=in_place, timeout=timeout, **access)
        click.echo(f"mirroring {following.address} in {pool}, pid {os.getpid()}")
        report(following)
    except Stop:
        pass
    finally:
        if following is not None:
            following.close()
    click.echo("stopped")


def report(following: Mirror) -> None:
    """Print what a mirror does until it ends; raise the reason."""
    state, shown = "", 0.0
    while True:
        now = following.state
        if following.failed and following.error is not None:
            raise following.error
        if now != state:
            state = now
            if state == "level":
                click.echo(f"in sync, epoch {following.stats()['epoch']}")
            elif state == "waiting":
                click.echo(f"waiting for the back-end: {following.error}", err=True)
            elif state == "copying":
                click.echo("comparing and copying")
            shown = clocks.now()
        elif state == "copying" and clocks.now() - shown > LINE_S:
            shown = clocks.now()
            progress(*following.progress)
        time.sleep(POLL_S)


def progress(done: int, total: int) -> None:
    """Print one line of progress."""
    if total:
        click.echo(f"{units.show_size(done)} of {units.show_size(total)} compared", err=True)


@click.command()
@POOL
@OF
@IN_PLACE
@reaching
def backup(pool: str, of: str, in_place: bool, timeout: float, **access: Any) -> None:
    """Copy a served pool into the file POOL while front-ends use it.

    The result is an ordinary pool with everything that was acknowledged before the command; opening
    it is ordinary recovery.  To restore it, copy it to the pool's place while no process has that
    open.  An existing copy of the same pool is brought up to date: only what differs is written;
    it is no pool until the command has ended.

    The address may be that of a group, whose primary is copied.

    \b
    Examples:
      rnvm backup orders-monday.pool --of orders.pool
      rnvm backup orders-monday.pool --of etcd://c1:2379,c2:2379/orders
      rnvm check orders-monday.pool
    """
    last = [clocks.now()]

    def tell(done: int, total: int) -> None:
        if clocks.now() - last[0] > LINE_S:
            last[0] = clocks.now()
            progress(done, total)

    began = clocks.now()
    make_backup(pool, of=of, progress=tell, connect_timeout=timeout, in_place=in_place, **access)
    size = os.path.getsize(pool)
    click.echo(f"{pool}: {units.show_size(size) if size else of} in {clocks.now() - began:.1f} s")


@click.command()
@click.argument("address", metavar="ADDRESS")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@click.option("--interval", type=DURATION_TYPE, help="Print again after this time, until Ctrl-C.")
@reaching
def status(
    address: str, as_json: bool, interval: float | None, timeout: float, **access: Any
) -> None:
    """Print the figures of a running back-end: its sessions, and its mirrors with their lag.

    ADDRESS may be the path of a pool that `rnvm serve` serves on this host, or a group, whose
    present primary answers.

    \b
    Examples:
      rnvm status orders.pool
      rnvm status etcd://c1:2379,c2:2379,c3:2379/orders
      rnvm status rdma://10.0.0.1:7002 --secret-file ~/.rfp-secret --json
    """
    credentials = Credentials.of(
        None, access["secret_file"], access["tls_cert"], access["tls_key"], access["tls_ca"]
    )
    opener = opener_of(address, credentials)
    try:
        while True:
            deadline = clocks.deadline_in(timeout)
            connection = opener(deadline)
            try:
                figures = connection.figures(deadline)
            finally:
                connection.close()
            click.echo(json.dumps(figures) if as_json else "\n".join(shown(figures)))
            if interval is None:
                break
            time.sleep(interval)
    finally:
        opener.close()


def shown(figures: dict[str, Any]) -> list[str]:
    """Return the lines of `rnvm status`."""
    pool = figures["pool"]
    where = f"{figures['address']}, process {figures['pid']}, up {clock(figures['uptime'])}"
    rows = [
        ["address", where],
        ["front-ends", f"{pool['attached']} attached, {pool['ending']} ending"],
        ["blocks", f"{grouped(pool['blocks'])}, {grouped(pool['free_blocks'])} free"],
        ["transactions", grouped(pool["transactions"])],
    ]
    about = pool.get("replication")
    if about is None:
        return table(None, rows, "<<")
    frames = f"{grouped(about['published'])} published, {grouped(about['acked'])} replicated"
    rows += [
        ["epoch", str(about["epoch"])],
        ["frames", frames],
        ["mirrors", f"{about['in_sync']} in sync, at least {about['min_mirrors']} required"],
    ]
    lines = table(None, rows, "<<")
    if figures["mirrors"]:
        each = [
            [
                mirror["member"],
                mirror["state"],
                plural(mirror["lag_frames"], "frame") if "lag_frames" in mirror else "-",
                units.show_size(mirror["lag_bytes"]) if mirror.get("lag_bytes") else "0",
                clock(mirror["seconds"]),
            ]
            for mirror in figures["mirrors"]
        ]
        lines += ["", *table(["mirror", "state", "lag", "bytes", "connected"], each, "<<>>>")]
    return lines


__all__ = ["backup", "mirror", "status"]
