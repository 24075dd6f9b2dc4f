"""The commands for single keys: ping, get, put, delete, incr."""

from __future__ import annotations

import os
import statistics
import sys
from typing import NoReturn

import click

from rfp.cli.group import report, standard
from rfp.cli.options import DURATION_TYPE, Target, connected
from rfp.server import STORE_VALUE_BYTES_MAX


class Key(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A key as the shell passes it: any bytes."""

    name = "key"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> bytes:
        return os.fsencode(value)


KEY = Key()


def _missing(key: bytes) -> NoReturn:
    click.echo(f"rfp: {key.decode(errors='backslashreplace')!r} has no value", err=True)
    raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--count", "-c", type=click.IntRange(1), default=1, show_default=True, help="Number of pings."
)
@connected
def ping(target: Target, count: int) -> None:
    """Measure the response time of the server, over all its workers.

    \b
    Examples:
      rfp ping
      rfp ping --count 1000
    """
    with target.connect() as kv:
        times = [kv.ping() * 1e6 for _ in range(count)]
        if count == 1:
            click.echo(f"{kv.connection.address} responded in {times[0]:.1f} us{target.emulated}")
        else:
            click.echo(
                f"{kv.connection.address} responded {count} times: min {min(times):.1f} us,"
                f" median {statistics.median(times):.1f} us,"
                f" max {max(times):.1f} us{target.emulated}"
            )


@click.command()
@click.argument("key", type=KEY)
@click.option(
    "--show-version",
    is_flag=True,
    help="Print the value's version to stderr (for put --if-version).",
)
@connected
def get(target: Target, key: bytes, show_version: bool) -> None:
    """Write the value of KEY to stdout, byte for byte.

    Adds a newline on a terminal.  If KEY has no value, writes nothing to stdout and exits with
    status 1.

    \b
    Examples:
      rfp get greeting
      rfp get picture > picture.png
      rfp get flag || echo "not set"
    """
    out = standard("stdout")
    with target.connect() as kv:
        item = kv.item(key)
    if item is None:
        _missing(key)
    out.write(item.value)
    if sys.stdout.isatty() and not item.value.endswith(b"\n"):
        out.write(b"\n")
    out.flush()
    if show_version:
        click.echo(f"version {item.version}", err=True)


@click.command()
@click.argument("key", type=KEY)
@click.argument("value", type=KEY, metavar="VALUE|-")
@click.option(
    "--ttl", type=DURATION_TYPE, help="Time until the value expires, e.g. 5s.  [default: never]"
)
@click.option("--if-absent", is_flag=True, help="Store only if the key has no value.")
@click.option(
    "--if-version",
    type=click.IntRange(0, 2**64 - 1),
    metavar="N",
    help="Store only if the value has this version.",
)
@connected
def put(
    target: Target,
    key: bytes,
    value: bytes,
    ttl: float | None,
    if_absent: bool,
    if_version: int | None,
) -> None:
    """Store VALUE under KEY and print its version.

    A VALUE of - means stdin, byte for byte.  Write a value that begins with a dash after --.

    \b
    Examples:
      rfp put greeting hello
      rfp put picture - < picture.png
      rfp put session 42 --ttl 30min
      rfp put lock me --if-absent                   exit status 1 if the key has a value
      rfp put config "$new" --if-version 1234       exit status 1 if the value has changed
      rfp put number -- -5
    """
    if if_absent and if_version is not None:
        raise click.UsageError("cannot use both --if-absent and --if-version")
    if value == b"-":
        # One byte more than allowed: the server's refusal has the best message.
        value = standard("stdin").read(STORE_VALUE_BYTES_MAX + 1)
    with target.connect() as kv:
        report(
            kv.put(key, value, ttl=ttl, if_absent=if_absent, if_version=if_version),
            "the value is stored",
        )


@click.command()
@click.argument("key", type=KEY)
@connected
def delete(target: Target, key: bytes) -> None:
    """Delete KEY and its value; exit with status 1 if it has none.

    \b
    Example:
      rfp delete greeting
    """
    with target.connect() as kv:
        if not kv.delete(key):
            _missing(key)


@click.command(context_settings={"ignore_unknown_options": True})  # so that -3 is a number
@click.argument("key", type=KEY)
@click.argument("amount", type=click.IntRange(-(2**63), 2**63 - 1), default=1)
@connected
def incr(target: Target, key: bytes, amount: int) -> None:
    """Add AMOUNT to the decimal number under KEY.

    Prints the sum.  AMOUNT defaults to 1; a missing key starts at 0.  Exits with status 1 if the
    value is not a 64-bit number.

    \b
    Examples:
      rfp incr visits
      rfp incr stock -3
    """
    with target.connect() as kv:
        report(kv.incr(key, amount), "the amount is added")
