"""`rnvm create` and `rnvm grow`."""

from __future__ import annotations

import click

from rfp import units
from rfp.cli.options import SIZE_TYPE
from rnvm import pools
from rnvm.sizes import FRONT_ENDS_MAX

POOL = click.argument("pool", type=click.Path())


@click.command()
@POOL
@click.option(
    "--size",
    "-s",
    type=SIZE_TYPE,
    required=True,
    help="Size of the pool, allocated immediately, e.g. 1GiB.",
)
@click.option("--block", type=SIZE_TYPE, default="4KiB", show_default=True, help="Allocation unit.")
@click.option("--front-ends", type=click.IntRange(1, FRONT_ENDS_MAX),
              help="Maximum number of attached front-ends.  "
                   "[default: 16, fewer in small pools]")  # fmt: skip
@click.option(
    "--names",
    type=click.IntRange(1, 16383),
    help="Maximum number of structures.  [default: one for each 16KiB, at most 1024]",
)
@click.option("--operation-log", type=SIZE_TYPE,
              help="Size of each front-end's operation log.  "
                   "[default: an eighth of the pool for all, at most "
                   "8MiB each, at least as much as structures need]")  # fmt: skip
@click.option(
    "--memory-log",
    type=SIZE_TYPE,
    help="Size of each front-end's memory log.  [default: like --operation-log]",
)
@click.option(
    "--write-ahead",
    type=SIZE_TYPE,
    help="Size of a file's write-ahead area.  [default: a sixteenth, at most 16MiB; 0 in memory]",
)
@click.option(
    "--backend",
    type=click.IntRange(1, 65535),
    default=1,
    show_default=True,
    help="Back-end ID stored in addresses.",
)
@click.option(
    "--assume-persistent",
    is_flag=True,
    help="Allow a volatile medium (/dev/shm); the pool then survives process crashes only.",
)
def create(
    pool: str,
    size: int,
    block: int,
    front_ends: int | None,
    names: int | None,
    operation_log: int | None,
    memory_log: int | None,
    write_ahead: int | None,
    backend: int,
    assume_persistent: bool,
) -> None:
    """Create a pool in the file POOL, or on a device, whose content is overwritten.

    \b
    Examples:
      rnvm create orders.pool --size 1GiB
      rnvm create /dev/dax0.0 --size 16GiB --front-ends 64
      rnvm create /dev/shm/scratch.pool --size 256MiB --assume-persistent
    """
    pools.create(
        pool, size, block=block, front_ends=front_ends, names=names, operation_log=operation_log,
        memory_log=memory_log, write_ahead=write_ahead, backend=backend,
        assume_persistent=assume_persistent,
    )  # fmt: skip
    with pools.view(pool) as (view, media):
        click.echo(
            f"created {pool}: {units.show_size(view.length)} on {media.kind}; {media.promise}"
        )
        if media.mode == "image":
            click.echo(
                "the back-end keeps the used part of the pool in memory, up to its full size"
            )


@click.command()
@POOL
@click.option(
    "--size", "-s", type=SIZE_TYPE, required=True, help="New size of the pool, e.g. 4GiB."
)
def grow(pool: str, size: int) -> None:
    """Enlarge a pool that no process has open.

    \b
    Example:
      rnvm grow orders.pool --size 4GiB
    """
    click.echo(f"{pool} now has {units.show_size(pools.grow(pool, size))}")
