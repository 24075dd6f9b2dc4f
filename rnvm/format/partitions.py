"""The names of partitions in the catalog.

A mapping of N partitions is N structures.  Their naming entries have the name of the mapping, the
separator U+001F, the number of the partition and N: `orders` U+001F `3/8`.  The separator is not
allowed in the names that users give.

Partition 0 decides whether the mapping exists: it is made first and dropped first.  Without it, the
others are what a drop has left: no opening finds them, and making partition 0 drops them before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rfp.errors import InvalidArgument

SEPARATOR = "\x1f"
MAPPING_PARTS_MAX = 64  # of a mapping: all of them can change in one transaction
NAME = re.compile(rb"(.*)\x1f(\d{1,2})/(\d{1,2})", re.DOTALL)


def name_bytes(name: str) -> bytes:
    """Return the name of a structure as the catalog contains it."""
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"a structure's name must be encodable in UTF-8, got {name!r}"
        ) from error


def entry_name(name: bytes, partition: int, partitions: int) -> bytes:
    """Return the name of a partition's naming entry."""
    return b"%b%b%d/%d" % (name, SEPARATOR.encode(), partition, partitions)


def parsed(entry: bytes) -> tuple[bytes, int, int]:
    """Return the mapping's name, the partition's number and the number of partitions.

    Any other structure's: its name, 0 and 0.
    """
    found = NAME.fullmatch(entry)
    if found is None:
        return entry, 0, 0
    return found[1], int(found[2]), int(found[3])


def entries_of(entries: Iterable[bytes], name: bytes) -> list[bytes]:
    """Return the naming entries that belong to a name, partition 0 first."""
    found = [each for each in entries if parsed(each)[0] == name]
    return sorted(found, key=lambda each: parsed(each)[1])


def label(entry: bytes) -> str:
    """Return how messages name a structure.

    >>> label(b"orders"), label(entry_name(b"orders", 3, 8))
    ("b'orders'", "b'orders' (partition 3 of 8)")
    """
    name, partition, partitions = parsed(entry)
    return f"{name!r} (partition {partition} of {partitions})" if partitions else repr(name)
