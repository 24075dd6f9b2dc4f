"""Values to store, and the sizes at which something changes on their way."""

from __future__ import annotations

import random

import rfp

REQUEST_HEADER, RESPONSE_HEADER, PUT = (
    32,
    24,
    24,
)  # bytes before the payload, and of a put before its key (wire.h, messages.h)
PIECE = 128 << 10  # bytes of a large value that travel at once
BLOCK = 1021  # a prime, so that no two pieces of a value are alike


def pattern(size: int, salt: int = 0) -> bytes:
    """Bytes in which a piece that is missing, doubled, or in another's place shows."""
    block = random.Random(salt).randbytes(BLOCK)
    return (block * (size // BLOCK + 1))[:size]


def longest_inline_put(kv: rfp.Client, key: bytes) -> int:
    """The longest value that travels with its key in one slot."""
    return kv.connection.slot_size - REQUEST_HEADER - PUT - len(key)


def longest_inline_get(kv: rfp.Client) -> int:
    """The longest value that comes back in one slot."""
    return kv.connection.slot_size - RESPONSE_HEADER


def edges(kv: rfp.Client, key: bytes) -> list[int]:
    """Sizes of values on either side of each limit."""
    limits = (
        longest_inline_put(kv, key),
        longest_inline_get(kv),
        256 - RESPONSE_HEADER,
        PIECE,
        2 * PIECE,
        4 * PIECE,
        5 * PIECE,
    )
    return [0, 1, *(limit + more for limit in limits for more in (-1, 0, 1))]
