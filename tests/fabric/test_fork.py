"""A forked child inherits nothing of the fabric that works, and does no harm to its parent."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import traceback
from pathlib import Path

import pytest

from rfp.errors import Closed
from rfp.fabric.fabric import FLUSHED, READ, SUCCESS, WRITE
from rfp.fabric.shm.region import ShmFabric

from .connected_pairs import PAGE, connected

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(check) -> None:
    """Run check() in a forked child; fail here with the child's output if it failed there."""
    pid = os.fork()
    if pid == 0:
        try:
            check()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def shared_maps() -> list[str]:
    return [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:rfp" in line
    ]


def memfds() -> list[str]:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return [link for link in links if "memfd:rfp" in link]


@pytest.fixture
def ends():
    with connected(ShmFabric(), ShmFabric()) as ends:
        yield ends


def test_a_child_has_neither_the_mappings_nor_the_file_descriptors(ends):
    assert len(shared_maps()) == 4
    assert len(memfds()) == 2

    def check():
        assert shared_maps() == []
        assert memfds() == []

    in_child(check)


def test_a_childs_handles_raise_and_the_parents_still_work(ends):
    a, b = ends
    a.memory.write(64, b"hello")

    def check():
        assert a.pair.execute(WRITE, a.memory, 64, a.theirs, 64, 5) == FLUSHED
        assert not a.pair.alive()
        assert not a.channel.wait(a.channel.prepare_wait(), 1.0)
        a.channel.notify()
        for call in (
            lambda: a.memory.read(0, 1),
            lambda: a.theirs.read(0, 1),
            lambda: a.theirs.write(0, b"x"),
            a.memory.fileno,
            a.memory.descriptor,
            a.pair.descriptor,
        ):
            with pytest.raises(Closed):
                call()

    in_child(check)
    assert b.memory.read(64, 5) == bytes(5)
    assert a.pair.execute(WRITE, a.memory, 64, a.theirs, 64, 5) == SUCCESS
    assert b.memory.read(64, 5) == b"hello"


def test_a_child_that_drops_its_handles_unmaps_nothing_of_its_own():
    held = [ShmFabric().register(64 * PAGE, 7) for _ in range(4)]

    def check():
        # These maps are likely to be where the regions were.
        mine = [mmap.mmap(-1, 64 * PAGE) for _ in range(16)]
        held.clear()
        gc.collect()
        for each in mine:
            each[:] = b"x" * len(each)

    in_child(check)
    held.clear()


def test_a_child_opens_a_fabric_of_its_own():
    with connected(ShmFabric(), ShmFabric()):

        def check():
            with connected(ShmFabric(), ShmFabric()) as (a, b):
                b.memory.write(64, b"hello")
                assert a.pair.execute(READ, a.memory, 64, a.theirs, 64, 5) == SUCCESS
                assert a.memory.read(64, 5) == b"hello"

        in_child(check)


def test_a_started_program_inherits_no_file_descriptor(ends):
    out = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
    )
    assert "/dev/null" in out.stdout or "pipe:" in out.stdout
    assert "memfd:rfp" not in out.stdout
