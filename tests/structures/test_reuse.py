"""Readers stopped at any of their READs while the nodes that they read next are reused."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from structure_kinds import ORDERED

import rnvm
from rfp.errors import NotFound, OutOfMemory
from rfp.protocol.client.opener import Opener
from rfp.testing.reordering_fabric import ReorderFabric
from rnvm import pools
from rnvm.frontend.frontend import FrontEnd
from rnvm.testing.sample_structure import Sample
from structures import HashTable, Queue, Stack

pytestmark = pytest.mark.usefixtures("small_logs")

MOMENTS = (1, 2, 3, 4, 5, 6, 7, 9, 11, 14, 18, 23, 29, 37, 47, 60)  # the n-th request
KEYS = [b"%03d" % i for i in range(24)]
OTHERS = [b"%03d" % i for i in range(123, 100, -1)]  # one less; they take the places of KEYS


def value(of: str, key: bytes) -> bytes:
    return of.encode() + key * 300  # two do not fit into a slot of a block


class World:
    """A small pool, a writer, and a reader over the reordering fabric."""

    def __init__(self, stack: contextlib.ExitStack, seed: int) -> None:
        path = os.path.join(
            stack.enter_context(tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"])), "pool"
        )
        pools.create(
            path,
            "2MiB",
            front_ends=4,
            operation_log="64KiB",
            memory_log="64KiB",
            assume_persistent=True,
        )
        self.backend = stack.enter_context(rnvm.Backend(path, lease=20))
        self.writer = stack.enter_context(rnvm.connect(self.backend.address, timeout=20))
        self.fabric = ReorderFabric(seed=seed)
        self.reader = stack.enter_context(
            FrontEnd(Opener(self.backend.address, "rnvm", fabric=self.fabric), timeout=20)
        )

    def fill(self) -> None:
        """Allocate all free blocks for other structures."""
        other = HashTable(self.writer, "other")
        with contextlib.suppress(OutOfMemory):
            for i in range(2000):
                other[b"%d" % i] = value("other", b"%03d" % (i % 24))
        self.writer.release()


def shelf(w: World) -> tuple[Any, Callable[[], None], Callable[[Any], Any]]:
    mine = Sample(w.writer, "s")
    for i, key in enumerate(KEYS):
        mine.put(i, value("old", key))

    def change() -> None:
        # Each node takes the place of another one; only the root shows which one it is.
        mine.take(0)
        for i in range(1, len(KEYS)):
            mine.take(i)
            mine.put(i - 1, value("new", KEYS[i - 1]))
        w.fill()

    def read(theirs: Sample) -> None:
        for i in (7, 20):
            assert theirs.get(i) in (value("old", KEYS[i]), value("new", KEYS[i]), None)

    return mine, change, read


def table(w: World) -> tuple[Any, Callable[[], None], Callable[[Any], Any]]:
    mine = HashTable(w.writer, "s")
    mine.update({key: value("old", key) for key in KEYS})

    def change() -> None:
        for key in KEYS:
            del mine[key]
        mine.update({key: value("new", key) for key in OTHERS})
        w.fill()

    def read(theirs: HashTable) -> None:
        assert theirs.get(KEYS[7]) in (value("old", KEYS[7]), None)
        assert theirs.get(KEYS[7]) in (value("old", KEYS[7]), None)

    return mine, change, read


def ordered(kind: Any, w: World) -> tuple[Any, Callable[[], None], Callable[[Any], Any]]:
    mine = kind(w.writer, "s")
    mine.update({key: value("old", key) for key in KEYS})

    def change() -> None:
        mine.clear()
        mine.update({key: value("new", key) for key in OTHERS})
        w.fill()

    def read(theirs: Any) -> None:
        items = list(theirs.items())
        assert [key for key, _ in items] == sorted({key for key, _ in items})
        for key, found in items:
            assert found in (value("old", key), value("new", key))

    return mine, change, read


def stack(w: World) -> tuple[Any, Callable[[], None], Callable[[Any], Any]]:
    mine = Stack(w.writer, "s")
    mine.push_many(value("old", key) for key in KEYS)

    def change() -> None:
        for _ in KEYS[1:]:
            mine.pop()
        mine.push_many(value("new", key) for key in OTHERS)
        w.fill()

    def read(theirs: Stack) -> None:
        seen = list(theirs)
        assert seen[-1] == value("old", KEYS[0])  # it was there all the time
        olds = [found for found in seen if found.startswith(b"old")]
        assert olds == [value("old", key) for key in KEYS[: len(olds)]][::-1]
        assert set(seen) - set(olds) <= {value("new", key) for key in OTHERS}

    return mine, change, read


def queue(w: World) -> tuple[Any, Callable[[], None], Callable[[Any], Any]]:
    mine = Queue(w.writer, "s")
    for key in KEYS:
        mine.put(value("old", key))

    def change() -> None:
        for key in OTHERS:
            mine.get()
            mine.put(value("new", key))
        w.fill()

    def read(theirs: Queue) -> None:
        order = [value("old", key) for key in KEYS] + [value("new", key) for key in OTHERS]
        places = [order.index(found) for found in theirs]
        assert places == sorted(set(places))
        assert len(KEYS) - 1 in places  # it was there all the time

    return mine, change, read


class Reading(threading.Thread):
    """A read in a thread of its own, and its exception."""

    def __init__(self, read: Callable[[Any], None], theirs: Any) -> None:
        super().__init__()
        self.read, self.theirs = read, theirs
        self.failures: list[BaseException] = []

    def run(self) -> None:
        try:
            self.read(self.theirs)
        except BaseException as error:
            self.failures.append(error)
        del self.read, self.theirs


VICTIMS: dict[str, Any] = {
    "shelf": shelf,
    "table": table,
    "queue": queue,
    "stack": stack,
    **{kind.__name__: functools.partial(ordered, kind) for kind in ORDERED},
}


@pytest.mark.parametrize("victim", VICTIMS.values(), ids=list(VICTIMS))
@pytest.mark.parametrize("dropped", [False, True], ids=["freed", "dropped"])
def test_a_reader_that_was_stopped_reads_the_old_or_the_new_state(
    victim: Callable[[World], Any], dropped: bool, seed: int
) -> None:
    reached = 0
    for moment in MOMENTS:
        with contextlib.ExitStack() as stack:
            w = World(stack, seed + moment)
            mine, change, read = victim(w)
            theirs = type(mine)(w.reader, "s")
            w.reader.release()
            w.fabric.stop(moment)
            reading = Reading(read, theirs)
            reading.start()
            while reading.is_alive() and not w.fabric.stopped:
                time.sleep(0.0005)
            reached += w.fabric.stopped
            if dropped:
                del mine, change
                w.writer.release()
                w.writer.drop("s")
                w.fill()
            else:
                change()
            w.fabric.hold(0)
            reading.join()
            expected = [NotFound] if dropped else []
            assert (
                not reading.failures or [type(error) for error in reading.failures] == expected
            ), reading.failures
    assert reached > 5
