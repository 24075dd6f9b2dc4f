"""The memory of local copies of nodes, when the nodes become longer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slower import SANITIZED

import rnvm
import structures

CACHE = 256 << 10


@pytest.fixture
def fe() -> Iterator[rnvm.FrontEnd]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        with (
            rnvm.Backend(path, size="32MiB", assume_persistent=True) as served,
            rnvm.connect(served.address, cache=CACHE) as connected,
        ):
            yield connected


def test_copies_of_other_lengths_have_slots_as_well(fe: rnvm.FrontEnd) -> None:
    figures = fe.figures
    for length in range(50, 850, 60):
        tree = structures.BST(fe, f"values of {length} bytes")
        for i in range(2 * CACHE // (length + 100)):
            tree[b"%05d" % i] = bytes(length)
        fe.release()
        for i in range(1500):
            assert tree[b"%05d" % (i % 100)] == bytes(length)
        figures = fe.figures
        assert figures["cached"] < 2 * CACHE
        tree.check()
    if not SANITIZED:  # a build with assertions allocates each node by itself
        assert figures["slots"] > figures["cached"] // 2
