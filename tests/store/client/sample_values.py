"""Values to store, and the sizes at which their transfer changes."""

from __future__ import annotations

import random

import rfp

# Bytes before the payload, and of a put before its key (wire.h, messages.h).
REQUEST_HEADER, RESPONSE_HEADER, PUT = 32, 24, 24
PIECE = 128 << 10  # bytes of a large value that are sent at once
BLOCK = 1021  # a prime, so that no two pieces of a value are alike


def pattern(size: int, salt: int = 0) -> bytes:
    """Return bytes in which a missing, doubled or misplaced piece can be detected."""
    block = random.Random(salt).randbytes(BLOCK)
    return (block * (size // BLOCK + 1))[:size]


def longest_inline_put(kv: rfp.Client, key: bytes) -> int:
    """Return the length of the longest value that fits with its key into one slot."""
    return kv.connection.slot_size - REQUEST_HEADER - PUT - len(key)


def longest_inline_get(kv: rfp.Client) -> int:
    """Return the length of the longest value that is returned in one slot."""
    return kv.connection.slot_size - RESPONSE_HEADER


def edges(kv: rfp.Client, key: bytes) -> list[int]:
    """Return sizes of values on either side of each limit."""
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
