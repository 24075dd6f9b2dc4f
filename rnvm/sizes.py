"""Choose and validate the sizes of a pool's parts."""

from __future__ import annotations

from typing import NamedTuple

from rfp import units
from rfp.core.limits import PAGE
from rfp.errors import InvalidArgument
from rnvm.format.layout import (
    ALIGN,
    BLOCK_BYTES_MAX,
    BLOCK_BYTES_MIN,
    NAME_BYTES,
    NAMES_MAX,
    NODE_BYTES_MAX,
    OPERATION_HEAD_MAX,
    OTHER_CHANGES_MAX,
    OWNER_WORD_BYTES,
    OWNERS_PER_WORD,
    POOL_BYTES_MAX,
    RING_BYTES_MAX,
    SESSION_BYTES,
    SESSIONS_MAX,
    VALUE_BYTES_MAX,
    VALUE_BYTES_MIN,
    WAL_BYTES_MAX,
    WAL_BYTES_MIN,
)

FRONT_ENDS_MAX = SESSIONS_MAX - 1  # a pool has one session more
DEFAULT_WAL_BYTES_MAX = 16 << 20

# Structures need a memory log of at least twice the longest transaction of one operation.  That is
# one of a B+tree with keys so long that its pages have one or two children each: it may split a
# page on each level, which writes two pages.
TREE_CUT, TREE_REST, TREE_LEVELS = 8160, 16384, 32
HEADROOM = 3  # levels: pools can grow to eight times their size, and their logs cannot
LOGS_SHARE = 5 / 8  # fraction of a small pool for logs whose size is chosen here
# granularity of logs chosen here: the two of a front-end are then whole units of ALIGN
STEP = 32 << 10


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


class Sizes(NamedTuple):
    """The sizes in a pool's header, in bytes, except names and sessions."""

    block: int
    names: int
    sessions: int
    operation_ring: int
    memory_ring: int
    group_map: int
    wal: int = 0

    @property
    def sessions_at(self) -> int:
        """Return the offset of the sessions, behind the naming entries."""
        return 4 * PAGE + _up(self.names * NAME_BYTES, PAGE)

    @property
    def rings_at(self) -> int:
        """Return the offset of the first session's rings."""
        return _up(self.sessions_at + self.sessions * SESSION_BYTES, ALIGN)

    @property
    def rings(self) -> int:
        """Return the bytes from the rings of one session to those of the next."""
        return _up(self.operation_ring + self.memory_ring, ALIGN)

    @property
    def wal_at(self) -> int:
        """Return the offset of the write-ahead area, if there is one."""
        return self.rings_at + self.sessions * self.rings

    @property
    def groups_at(self) -> int:
        """Return the offset of the data area."""
        return _up(self.wal_at + self.wal, max(ALIGN, self.block))

    @property
    def group(self) -> int:
        """Return the bytes of a whole group."""
        return self.group_map + self.group_map // OWNER_WORD_BYTES * OWNERS_PER_WORD * self.block

    def fit(self, size: int) -> int:
        """Return the most bytes of `size` that a pool can use: whole blocks."""
        rest = (size - self.groups_at) % self.group
        spare = rest if rest < self.group_map + self.block else (rest - self.group_map) % self.block
        fitting = size - spare
        if fitting < self.groups_at + self.group_map + self.block:
            least = self.groups_at + self.group_map + self.block
            front_ends = max(1, self.sessions - 1)
            raise InvalidArgument(
                f"{units.show_size(size)} is too small for a pool with "
                f"{front_ends} front-end{'' if front_ends == 1 else 's'}",
                hint=f"give at least {units.show_size(least)} for these logs "
                "and maps, or smaller logs or fewer front-ends",
            )
        return fitting

    @property
    def largest_value(self) -> int:
        """Return the bytes of a value that every structure accepts, with any other content.

        Structure.largest_value is the same.
        """
        return max(
            VALUE_BYTES_MIN,
            min(
                VALUE_BYTES_MAX,
                self.operation_ring // 2 - OPERATION_HEAD_MAX,
                self.memory_ring // 2 - OTHER_CHANGES_MAX,
            ),
        )


def cascade(size: int, levels: int = 0) -> int:
    """Return the longest transaction of an operation without its value, in a pool of this size.

    levels: Additional tree levels.
    """
    # Measured with keys of 1 KiB that come from both ends: 13 levels in 16 MiB, 1.6 more for each
    # doubling.
    doublings = max(0, (size - 1).bit_length() - 12)
    return min(max(8, 8 * doublings // 5 - 5) + 1 + levels, TREE_LEVELS) * TREE_CUT + TREE_REST


def least_log(size: int) -> int:
    """Return the minimum size of a log for a pool of this size.

    With it every structure works until the last block of the pool is used.
    """
    return _up(2 * cascade(size), PAGE)


def checked_size(size: int) -> int:
    """Return the size of a pool.

    Raises:
        InvalidArgument: No pool has this size.
    """
    if not 0 < size <= POOL_BYTES_MAX:
        raise InvalidArgument(
            f"the size of a pool must be between 1B and 256TiB, got {units.show_size(size)}"
        )
    return size


def choose(
    size: int, *, block: int = 4096, front_ends: int | None = None, names: int | None = None,
    operation_log: int | None = None, memory_log: int | None = None,
    write_ahead: int | None = None,
) -> Sizes:  # fmt: skip
    """Choose the sizes for a pool of this size.

    By default its logs take a quarter of it, at most 8 MiB each, but no less than structures need;
    then there are 16 front-ends, or as many as logs in five eighths of the pool allow; its
    write-ahead area takes a sixteenth, at most 16 MiB, and there is a name for each 16 KiB, at most
    1024.
    """
    checked_size(size)
    if block & (block - 1) or not BLOCK_BYTES_MIN <= block <= BLOCK_BYTES_MAX:
        raise InvalidArgument(f"block must be a power of two between 512 and 1MiB, got {block}")
    if names is None:
        names = min(1024, max(16, size >> 14))
    if not 1 <= (front_ends or 1) <= FRONT_ENDS_MAX or not 1 <= names <= NAMES_MAX:
        raise InvalidArgument(
            f"front_ends must be between 1 and {FRONT_ENDS_MAX} and names between 1 and "
            f"{NAMES_MAX}, got {front_ends} and {names}"
        )
    default = min(8 << 20, size // (8 * (front_ends or 16)) // PAGE * PAGE)
    if default < _up(2 * cascade(size, HEADROOM), STEP):
        # The size that structures need, with headroom to grow if possible; or fewer front-ends,
        # unless their number was given.
        default = next(
            (log for count in ((front_ends,) if front_ends else (16, 1))
             for levels in range(HEADROOM, 0, -1)
             if (count + 1) * 2 * (log := _up(2 * cascade(size, levels), STEP))
             <= LOGS_SHARE * size),
            _up(least_log(size), STEP),
        )  # fmt: skip
    rings = [default if ring is None else ring for ring in (operation_log, memory_log)]
    for ring in rings:
        if ring % PAGE or not least_log(size) <= ring <= RING_BYTES_MAX:
            raise InvalidArgument(
                f"invalid log size {units.show_size(ring)} for a pool of {units.show_size(size)}",
                hint=f"give a multiple of {PAGE} between {units.show_size(least_log(size))} (as "
                "much as the structures need) and 1GiB",
            )
    if front_ends is None:
        front_ends = max(1, min(16, int(LOGS_SHARE * size) // _up(sum(rings), ALIGN) - 1))
    if write_ahead is None:
        write_ahead = min(DEFAULT_WAL_BYTES_MAX, size // 16 // PAGE * PAGE)
        write_ahead = write_ahead if write_ahead >= WAL_BYTES_MIN else 0
    if write_ahead % PAGE or (write_ahead and not WAL_BYTES_MIN <= write_ahead <= WAL_BYTES_MAX):
        raise InvalidArgument(
            f"invalid size of the write-ahead area: {write_ahead} bytes",
            hint=f"give a multiple of {PAGE} between 32KiB and 1GiB, or 0",
        )
    # A map of 8 blocks describes a group of at least 8 * 192 blocks; runs of blocks stay within
    # their group, so the longest node must fit into one.
    maps = 1 if size < 1 << 20 else 8
    while maps > 1 and maps * block // OWNER_WORD_BYTES * OWNERS_PER_WORD * block < NODE_BYTES_MAX:
        maps += 1
    # One session more than front-ends; it stays usable if sessions of dead front-ends occupy all
    # others: see service.attach().
    return Sizes(block, names, front_ends + 1, rings[0], rings[1], maps * block, write_ahead)
