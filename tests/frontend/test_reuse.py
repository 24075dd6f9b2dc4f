"""Freed, dropped or replayed memory is never read as its earlier contents."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest

import rnvm
from rfp.errors import NotFound, OutOfMemory
from rnvm.check.check import check
from rnvm.testing.sample_structure import Sample
from structures import HashTable

from .conftest import Connect, new_path, open_backend


def check_dropped(sample: Sample) -> None:
    for call in (lambda: sample.get(0), sample.numbers, lambda: sample.add(1)):
        with pytest.raises(NotFound, match="dropped"):
            call()


@pytest.mark.anywhere
def test_a_dropped_structure_is_no_longer_read(backend: rnvm.Backend, connect: Connect) -> None:
    writer, reader, other = connect(backend), connect(backend), connect(backend)
    one, two = Sample(writer, "s"), Sample(reader, "s")
    one.put(0, b"old")
    assert two.get(0) == two.get(0) == b"old"  # the second time from its cache
    del one
    writer.drop("s")
    check_dropped(two)
    # Another structure in the same place, with as many operations.
    three = Sample(other, "s")
    three.put(0, b"new")
    assert three.numbers() == (0, 1)
    check_dropped(two)
    del two
    assert Sample(reader, "s").get(0) == b"new"


def test_memory_of_which_the_cache_has_another_structures_node_is_freed(connect: Connect) -> None:
    """The sanitizers' build asserts that a record frees nodes of its own structures alone."""
    with new_path("direct") as path:
        with open_backend(path, size="4MiB") as backend:
            free_unread(connect(backend), connect(backend))
        assert check(path).sound


def free_unread(fe: rnvm.FrontEnd, other: rnvm.FrontEnd) -> None:
    reader, writer = HashTable(fe, "before"), HashTable(other, "before")
    long, kept = bytes(9000), 0
    with contextlib.suppress(OutOfMemory):
        while True:
            writer[b"%d" % kept] = long
            kept += 1
    assert all(reader[b"%d" % i] == long for i in range(kept))
    writer.clear()
    same, table = HashTable(fe, "after"), HashTable(other, "after")
    with contextlib.suppress(OutOfMemory):
        for i in range(kept):
            table[b"%d" % i] = long
    for key in [*table]:
        same[key] = b"short"  # frees the long value, and does not read it
    assert {*same.values()} == {b"short"} and len(same) > kept // 2


BACKEND = """
import signal, sys, rnvm
backend = rnvm.Backend(sys.argv[1], size="8MiB", assume_persistent=True, address=sys.argv[2],
                       lease=60)
print("serving", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("options", ["", "?rtt=2us"])
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_front_end_reads_no_old_value_from_the_memory_of_a_killed_back_end(
    medium: str, options: str
) -> None:
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        address = f"shm://{path}.socket{options}"

        def serve() -> subprocess.Popen[bytes]:
            running = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", BACKEND, path, address], stdout=subprocess.PIPE
                )
            )
            stack.callback(running.kill)
            assert running.stdout is not None
            assert running.stdout.readline() == b"serving\n"
            return running

        first = serve()
        writer, reader = (stack.enter_context(rnvm.connect(address, timeout=20)) for _ in range(2))
        one, two = Sample(writer, "s"), Sample(reader, "s")
        one.put(0, b"old")
        assert two.get(0) == two.get(0) == b"old"
        first.kill()
        first.wait()
        serve()
        with rnvm.connect(address, timeout=20) as other:
            Sample(other, "s").put(0, b"new")
            # Even the front-end that had the lock and would have kept it for half a minute unread.
            assert one.get(0) == two.get(0) == b"new"
        writer.close()
        reader.close()
