"""Pools on kernels with pages larger than 4 KiB, and pools of a size that is not whole pages."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import rnvm
from rnvm import pools, sizes
from structures import Queue

# The page size that such a kernel reports to each module, before any of them is imported.
LARGE_PAGES = """
import os, sys
real, pages = os.sysconf, int(sys.argv[1])
os.sysconf = lambda name: pages if name in ("SC_PAGE_SIZE", "SC_PAGESIZE") else real(name)
import rnvm, structures
from rnvm import pools
"""
USE = """
path = sys.argv[2]
if not os.path.exists(path):
    pools.create(path, sys.argv[3], block=sys.argv[4], front_ends=3, assume_persistent=True)
with (
    rnvm.Backend(path) as backend,
    rnvm.connect(backend.address) as one,
    rnvm.connect(backend.address) as other,
):
    structures.Queue(one, "jobs").put(b"x" * 5000)
    assert structures.Queue(other, "jobs").get() == b"x" * 5000
    structures.Queue(other, "jobs").put(b"left")
assert os.path.getsize(path) % (pages if os.path.dirname(path).startswith("/dev/shm") else 1) == 0
"""


@pytest.fixture(params=["memory", "disk"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path / "p.pool"
        return
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        yield Path(folder) / "p.pool"


def on_large_pages(pages: int, path: Path, size: str, block: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE_PAGES + USE, str(pages), str(path), size, block],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pages", [16384, 65536])
@pytest.mark.parametrize(("size", "block"), [("4MiB", "4KiB"), ("4097KiB", "512")])
def test_a_pool_works_on_a_kernel_with_larger_pages(
    path: Path, pages: int, size: str, block: str
) -> None:
    on_large_pages(pages, path, size, block)


@pytest.mark.parametrize("pages", [16384, 65536])
def test_a_pool_can_be_moved_to_a_kernel_with_larger_pages_and_back(path: Path, pages: int) -> None:
    pools.create(path, "4100KiB", block=1024, front_ends=3, assume_persistent=True)
    on_large_pages(pages, path, "", "")
    with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
        assert Queue(fe, "jobs").get() == b"left"


@pytest.mark.parametrize("sessions", [2, 3, 17])
@pytest.mark.parametrize("ring", [4096, 12288, 65536, 1 << 20])
def test_a_front_ends_mappings_begin_and_end_at_whole_pages_of_every_kernel(
    sessions: int, ring: int
) -> None:
    parts = sizes.Sizes(
        block=512, names=20, sessions=sessions, operation_ring=ring, memory_ring=4096, group_map=512
    )
    assert parts.rings_at % 65536 == parts.rings % 65536 == parts.groups_at % 65536 == 0
    assert parts.rings >= ring + 4096
    assert parts.rings_at >= parts.sessions_at + 256 * sessions
    assert parts.groups_at >= parts.rings_at + sessions * parts.rings


@pytest.mark.parametrize("block", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("more", [0, 1, 512, 1500, 4095])
def test_front_ends_connect_to_a_pool_of_any_size_which_grows_to_any_size(
    path: Path, block: int, more: int
) -> None:
    pools.create(path, (4 << 20) + more, block=block, front_ends=2, assume_persistent=True)
    for size in ((4 << 20) + more, (5 << 20) + 3 * more + 1024, 6 << 20):
        if size > 5 << 20:
            assert size - 65536 - block < pools.grow(path, size) <= size
        with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
            jobs = Queue(fe, "jobs")
            jobs.put(b"%d" % size)
            assert jobs.get() == b"%d" % size
