"""Damaged structures: all readable entries are returned, even those after a damaged place."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path
from typing import Any

from structure_kinds import KINDS, SEQUENCES, add, each_of

import rnvm
from rfp.errors import StructureDamaged
from rnvm import pools
from rnvm.testing import log_driver
from structures import Queue

N = 3000


def value(i: int) -> bytes:
    return b"%06d" % i * (100 if i % 50 == 0 else 3)


@each_of(KINDS)
def test_entries_after_a_damaged_node_are_returned_and_each_damage_is_named(
    kind: Any, rng: random.Random
) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        with (
            rnvm.Backend(path, size="8MiB", assume_persistent=True) as served,
            rnvm.connect(served.address) as fe,
        ):
            structure = kind(fe, "s")
            with fe.batch():
                for i in range(N):
                    add(structure, b"%06d" % i, value(i))
            if kind is Queue:
                for _ in range(20):
                    structure.reserve(lease=3600)
                structure.nack(structure.reserve()[0])
        with pools.open_pool(path) as pool:
            owners = log_driver.owners(pool)
            blocks = [
                log_driver.offset_of(pool, block)
                for block, owner in enumerate(owners)
                if owner & 0x8000 and owner != 0xC000
            ]
        image = path.read_bytes()
        lost, hurt = [], 0
        for _ in range(25):
            # Two bytes after the header of some node: no repair corrects them.
            at = rng.choice(blocks[1:]) + rng.randrange(900, 4000)
            if image[at : at + 16] == bytes(16):
                continue
            path.write_bytes(
                image[:at] + bytes([image[at] ^ 0x5A, image[at + 1] ^ 0xA5]) + image[at + 2 :]
            )
            with (
                rnvm.Backend(path, assume_persistent=True) as served,
                rnvm.connect(served.address) as fe,
            ):
                structure = kind(fe, "s")
                damages: list[Any] = []
                found = list(structure.salvage(damages))
                try:
                    structure.check()
                except StructureDamaged:
                    hurt += 1
                if kind in SEQUENCES:
                    assert set(found) <= {value(i) for i in range(N)}
                else:
                    assert all(v == value(int(k)) for k, v in found)
                assert len(found) == len(set(found))
                assert all(isinstance(each, StructureDamaged) for each in damages)
                assert (len(found) < N) <= bool(damages)
                lost.append(N - len(found))
        assert hurt > 5
        # And not all after it, for the few nodes that lead to all others, such as a directory.
        assert sorted(lost)[-4] < N // 3
