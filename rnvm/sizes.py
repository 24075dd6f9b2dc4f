"""How a pool is cut up."""

from __future__ import annotations

from typing import NamedTuple

from rfp import units
from rfp.errors import InvalidArgument

PAGE = 4096
NAME, SESSION = 512, 256  # bytes of an entry
LARGEST = 1 << 48  # what an address reaches
BLOCKS_PER_WORD, WORD = 3, 8
LEAST_AHEAD, MOST_AHEAD = 8 * PAGE, 16 << 20


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


class Sizes(NamedTuple):
    """What the header of a pool says about its parts; bytes, but for names and sessions."""

    block: int
    names: int
    sessions: int
    operation_ring: int
    memory_ring: int
    group_map: int
    ahead: int = 0

    @property
    def groups_at(self) -> int:
        """Where the data area begins."""
        sessions_at = 4 * PAGE + _up(self.names * NAME, PAGE)
        rings_at = sessions_at + _up(self.sessions * SESSION, PAGE)
        return _up(rings_at + self.sessions * (self.operation_ring + self.memory_ring) + self.ahead, max(PAGE, self.block))

    @property
    def group(self) -> int:
        """Bytes of a whole group."""
        return self.group_map + self.group_map // WORD * BLOCKS_PER_WORD * self.block

    def fit(self, size: int) -> int:
        """The most bytes of `size` that a pool can take: whole blocks."""
        rest = (size - self.groups_at) % self.group
        spare = rest if rest < self.group_map + self.block else (rest - self.group_map) % self.block
        fitting = size - spare
        if fitting < self.groups_at + self.group_map + self.block:
            least = self.groups_at + self.group_map + self.block
            raise InvalidArgument(
                f"{units.show_size(size)} are too few for a pool with {max(1, self.sessions - 1)} front-ends",
                hint=f"these logs and maps alone need {units.show_size(least)}: a larger size, smaller logs or fewer front-ends",
            )
        return fitting


def choose(
    size: int, *, block: int = 4096, front_ends: int = 16, names: int | None = None, operation_log: int | None = None,
    memory_log: int | None = None, write_ahead: int | None = None,
) -> Sizes:  # fmt: skip
    """Sizes for a pool of so many bytes.

    Unless they are given, its logs take a quarter of it, at most 8 MiB each, its write-ahead area a sixteenth, at most 16 MiB,
    and there is a name for each 16 KiB, at most 1024.
    """
    if not 0 < size <= LARGEST:
        raise InvalidArgument(f"a pool of {units.show_size(size)}", hint="256 TiB is the most that an address reaches")
    if block & (block - 1) or not 512 <= block <= 1 << 20:
        raise InvalidArgument(f"blocks of {block} bytes", hint="a power of two from 512 to 1MiB")
    if names is None:
        names = min(1024, max(16, size >> 14))
    if not 1 <= front_ends <= 1024 or not 1 <= names <= 0x3FFF:
        raise InvalidArgument(f"{front_ends} front-ends, {names} names", hint="1 to 1024 front-ends, 1 to 16383 names")
    default = min(8 << 20, max(4 * PAGE, size // (8 * front_ends) // PAGE * PAGE))
    rings = [default if ring is None else ring for ring in (operation_log, memory_log)]
    for ring in rings:
        if ring % PAGE or not PAGE <= ring <= 1 << 30:
            raise InvalidArgument(f"a log of {ring} bytes", hint="a multiple of 4096, from 4KiB to 1GiB")
    if write_ahead is None:
        write_ahead = min(MOST_AHEAD, size // 16 // PAGE * PAGE)
        write_ahead = write_ahead if write_ahead >= LEAST_AHEAD else 0
    if write_ahead % PAGE or (write_ahead and not LEAST_AHEAD <= write_ahead <= 1 << 30):
        raise InvalidArgument(f"a write-ahead area of {write_ahead} bytes", hint="a multiple of 4096, from 32KiB to 1GiB; or 0")
    # A map of 8 blocks describes a group of at least 8 * 192 of them; rows of blocks stay within their group.
    # One session more than front-ends, which only sessions of dead ones leave to somebody: see _service.attach().
    return Sizes(block, names, front_ends + 1, rings[0], rings[1], block if size < 1 << 20 else 8 * block, write_ahead)
