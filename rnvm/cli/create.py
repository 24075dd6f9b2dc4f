"""`rnvm create` and `rnvm grow`."""

from __future__ import annotations

import click

from rfp import units
from rfp.cli.options import SIZE
from rnvm import pools
from rnvm.sizes import FRONT_ENDS_MAX

POOL = click.argument("pool", type=click.Path())


@click.command()
@POOL
@click.option("--size", "-s", type=SIZE, required=True, help="All of it is allocated now, e.g. 1GiB.")
@click.option("--block", type=SIZE, default="4KiB", show_default=True, help="What front-ends get and give back.")
@click.option("--front-ends", type=click.IntRange(1, FRONT_ENDS_MAX),
              help="At most, at the same time.  [default: 16, fewer in small pools]")  # fmt: skip
@click.option("--names", type=click.IntRange(1, 16383), help="Structures at most.  [default: one for each 16KiB, at most 1024]")
@click.option("--operation-log", type=SIZE,
              help="For each front-end.  [default: what structures need; else an eighth of the pool, at most 8MiB]")  # fmt: skip
@click.option("--memory-log", type=SIZE, help="For each front-end.  [default: the same]")
@click.option("--write-ahead", type=SIZE, help="For syncs of a file.  [default: a sixteenth, at most 16MiB; none in memory]")
@click.option("--backend", type=click.IntRange(1, 65535), default=1, show_default=True, help="The number in its addresses.")
@click.option("--assume-persistent", is_flag=True, help="Also on a medium that forgets (/dev/shm): survives process crash only.")
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
    """Make a pool in the file POOL, or on a device (whose content is lost).

    \b
    Examples:
      rnvm create orders.pool --size 1GiB
      rnvm create /dev/dax0.0 --size 16GiB --front-ends 64
      rnvm create /dev/shm/scratch.pool --size 256MiB --assume-persistent
    """
    pools.create(
        pool, size, block=block, front_ends=front_ends, names=names, operation_log=operation_log, memory_log=memory_log,
        write_ahead=write_ahead, backend=backend, assume_persistent=assume_persistent,
    )  # fmt: skip
    with pools.view(pool) as (view, media):
        click.echo(f"made {pool}: {units.show_size(view.length)} on {media.kind}; {media.promise}")
        if media.mode == "image":
            click.echo("its back-end holds in memory what of it is in use, up to all of it")


@click.command()
@POOL
@click.option("--size", "-s", type=SIZE, required=True, help="What it shall have then, e.g. 4GiB.")
def grow(pool: str, size: int) -> None:
    """Make a pool that nobody has open larger.

    \b
    Example:
      rnvm grow orders.pool --size 4GiB
    """
    click.echo(f"{pool} has {units.show_size(pools.grow(pool, size))} now")
