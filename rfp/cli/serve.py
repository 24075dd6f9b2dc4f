"""`rfp serve`: a server in the foreground."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import time
from functools import partial
from types import FrameType
from typing import Any

import click

import rfp
from rfp import units
from rfp.address import Address, default
from rfp.cli.log import log_to_stderr, logged
from rfp.cli.options import ADDRESS_TYPE, SIZE_TYPE, serving
from rfp.cli.text import plural
from rfp.core.choices import EVICTIONS, IDLES
from rfp.core.limits import WORKERS_MAX
from rfp.protocol.server.shares import raise_open_files

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop(BaseException):
    """A signal requested the end of the program."""


def _stop_on_signals() -> None:
    """Until the command has ended, make the first signal raise Stop in the main thread, and the
    second end the process."""

    def first(number: int, frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:
            if signal.getsignal(each) is first:
                signal.signal(each, second)
        raise Stop

    def second(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    for each in STOP_SIGNALS:
        before = signal.getsignal(each)
        if before is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(each, first)
            click.get_current_context().call_on_close(partial(signal.signal, each, before))


@click.command()
@click.option(
    "--address",
    "-a",
    type=ADDRESS_TYPE,
    help="Address to listen at: shm://PATH or rdma://HOST:PORT. "
    " [default: this user's default server]",
)
@click.option(
    "--memory",
    "-m",
    type=SIZE_TYPE,
    default="256MiB",
    show_default=True,
    help="Memory for keys, values and their index.",
)
@click.option(
    "--workers",
    "-w",
    type=click.IntRange(1, WORKERS_MAX),
    default=1,
    show_default=True,
    help="Number of worker threads; each owns a part of the keys.",
)
@click.option(
    "--idle",
    type=click.Choice(IDLES),
    default="adaptive",
    show_default=True,
    help="Behaviour of an idle worker: spin briefly and then sleep, or always spin.",
)
@click.option(
    "--eviction",
    type=click.Choice(EVICTIONS),
    default="clock",
    show_default=True,
    help="Eviction policy if memory is full: clock = second chance "
    "among all values, bucket = the least recently used"
    " of 8 neighbours, none = refuse puts.",
)
@click.option(
    "--direct-reads/--no-direct-reads",
    default=True,
    show_default=True,
    help="Let clients read values from the server's memory without the server.",
)
@click.option(
    "--direct-memory",
    type=SIZE_TYPE,
    help="Over RDMA: bytes registered for direct reads of all "
    "client processes.  [default: 4 x --memory]",
)
@click.option(
    "--quota",
    type=SIZE_TYPE,
    help="Bytes of large values that one client thread may hold "
    "at a worker.  [default: half of its memory]",
)
@click.option(
    "--rings",
    type=SIZE_TYPE,
    help="Memory for clients' rings, in addition to --memory; one "
    "client may use half.  [default: 1GiB or more]",
)
@serving
@logged
def serve(
    address: Address | None,
    memory: int,
    workers: int,
    idle: str,
    eviction: str,
    log_level: str,
    **options: Any,
) -> None:
    """Serve a store in the foreground until Ctrl-C or SIGTERM.

    \b
    Examples:
      rfp serve                                     the default server, which needs no address
      rfp serve --memory 4GiB --workers 2
      rfp serve --address shm:///run/user/1000/cache.d/socket
      rfp serve --idle spin                         lowest latency; keeps its CPUs busy
      rfp serve --address rdma://10.0.0.1:7001 --secret-file ~/.rfp-secret

    The stored values are lost when the server stops.  A second signal stops it at once.
    """
    place = default() if address is None else address
    server = None
    log_to_stderr(log_level)
    raise_open_files()
    _stop_on_signals()
    try:
        server = rfp.Server(
            memory, workers=workers, address=place, idle=idle, eviction=eviction, **options
        )
        what = (
            f"{units.show_size(memory)}, {plural(workers, 'worker')}, eviction {eviction}, idle "
            f"{idle}"
        )
        try:
            _greet(server, address is None, options, what)
        except OSError as error:  # a log on a full disk is no reason not to serve
            click.echo(
                f"rfp: serving at {server.address}; cannot write the output: {error.strerror}",
                err=True,
            )
        while True:
            time.sleep(3600)
    except Stop:
        pass
    finally:
        if server is not None:
            server.close()
    with contextlib.suppress(OSError):
        click.echo("stopped")


def _greet(server: rfp.Server, is_default: bool, access: dict[str, Any], what: str) -> None:
    """Print the server's address and how to use it."""
    option = "" if is_default else f" --address {shlex.quote(server.address)}"
    argument = "" if is_default else repr(server.address)
    if access["secret_file"]:
        option += f" --secret-file {shlex.quote(access['secret_file'])}"
        argument += f", secret_file={access['secret_file']!r}"
    if access["tls_cert"]:
        option += " --tls-ca FILE"
        argument += ", tls_ca=FILE"
    click.echo(f"serving at {server.address}  (process {os.getpid()}; {what})")
    if server.device:
        click.echo(f"  over {server.device}")
    click.echo(f"  from Python:  kv = rfp.connect({argument})")
    click.echo(f"  from a shell: rfp ping{option}")
    click.echo("  press Ctrl-C to stop")
