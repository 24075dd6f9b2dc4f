"""Nodes of a memory of structures.testing.harness that are damaged, one after the other."""

from __future__ import annotations

import random
from collections.abc import Iterator

from structures.testing.harness import Memory

HEADER = 32  # bytes of a node before its content


def flipped_bits(memory: Memory, rng: random.Random) -> Iterator[None]:
    """Flip one bit of each node; it is as before when the next one is."""
    for address, _, content in memory.nodes():
        at = rng.randrange(HEADER, HEADER + len(content))
        byte = content[at - HEADER]
        memory.damage(address, at, bytes([byte ^ 1 << rng.randrange(8)]))
        yield
        memory.damage(address, at, bytes([byte]))


def replaced_words(
    memory: Memory, rng: random.Random, times: int, first: int = 48
) -> Iterator[None]:
    """Replace four bytes of a random node, half of them near its start, with a valid checksum."""
    for _ in range(times):
        address, _, content = rng.choice(memory.nodes())
        at = rng.randrange(0, len(content), 4)
        at = min(at, rng.randrange(first)) if rng.random() < 0.5 else at
        old = content[at : at + 4]
        values = (
            bytes(4),
            b"\xff" * 4,
            rng.randbytes(4),
            bytes([old[0] ^ 1 << rng.randrange(8)]) + old[1:],
        )
        memory.damage(address, HEADER + at, rng.choice(values)[: len(old)], sealed=True)
        yield
        memory.damage(address, HEADER + at, old, sealed=True)
