"""`rnvm check` on structures: a flipped bit is found and named, or changes no contents."""

from __future__ import annotations

import functools
import os
import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from structure_kinds import NAMES, add, content, take

import rnvm
from rnvm import pools
from rnvm.check import check
from rnvm.testing import log_driver


def contents(address: object) -> dict[str, list[Any]]:
    with rnvm.connect(address) as fe:
        return {name: content(kind(fe, name, create=False)) for name, kind in NAMES.items()}


@functools.cache
def made() -> tuple[bytes, dict[str, list[Any]], list[tuple[int, str]]]:
    """Return a pool's bytes, its contents, and the blocks of structures.

    Each block is its offset with the name of its structure.
    """
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        with rnvm.Backend(path, size="8MiB", assume_persistent=True) as served:
            with rnvm.connect(served.address) as fe, fe.batch():
                every = [kind(fe, name) for name, kind in NAMES.items()]
                for structure in every:
                    for i in range(300):
                        add(structure, b"%d" % i, b"%d" % i * (i % 5 * 100))
                    for _ in range(100):
                        take(structure)
            inside = contents(served.address)
        with pools.open_pool(path) as pool:
            whose = {0x8000 | index + 1: name.decode() for name, index in pool.names.items()}
            blocks = [
                (log_driver.offset_of(pool, block), whose[owner])
                for block, owner in enumerate(log_driver.owners(pool))
                if owner in whose
            ]
        return path.read_bytes(), inside, blocks


def flip(path: Path, at: int, bit: int) -> check.Checked:
    """Write the pool with one flipped bit, and check it."""
    image = made()[0]
    path.write_bytes(image[:at] + bytes([image[at] ^ 1 << bit]) + image[at + 1 :])
    return check.check(path)


def repaired(path: Path) -> bool:
    """Repair the pool: one bit of a node of this length can always be corrected."""
    repairs, lost = check.repair(path)
    assert lost == []
    assert any("one flipped bit of the node" in text for text in repairs)
    assert check.check(path).sound
    return True


@given(data=st.data())
def test_a_flipped_bit_in_a_structure_is_found_and_the_structure_named_or_it_changes_nothing(
    data: st.DataObject,
) -> None:
    _, inside, blocks = made()
    block, name = data.draw(st.sampled_from(blocks))
    at, bit = block + data.draw(st.integers(0, 4095)), data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        found = flip(path, at, bit)
        assert {finding.where for finding in found.findings} <= {f"structure {name.encode()!r}"}
        if found.sound or repaired(path):
            with rnvm.Backend(path, assume_persistent=True) as served:
                assert contents(served.address) == inside


def test_flipped_bits_often_change_contents(rng: random.Random) -> None:
    _, _, blocks = made()
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        places = [
            (rng.choice(blocks)[0] + rng.randrange(4096), rng.randrange(8)) for _ in range(100)
        ]
        found = sum(not flip(path, at, bit).sound for at, bit in places)
    assert found > 10
