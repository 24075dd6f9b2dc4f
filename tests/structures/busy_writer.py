"""A writer that changes a structure between any two reads of another front-end's query."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator
from typing import Any

from slower import SLOWER
from structure_kinds import add

import rnvm
from rfp.errors import DeadlineExceeded
from rfp.testing.reordering_fabric import ReorderFabric

from .calls import Call

RESTARTS_MAX = 8  # rnvm/frontend/query.pxd
SOON = 30.0 * SLOWER  # seconds until a call must have ended
MOMENT = 0.001  # seconds that the writer waits for the reader's lock
POLL = 0.0002  # seconds

# Structure.query, a method of Cython: the second one of rnvm/frontend/structure.pxd.
QUERY = 1
ADDRESS = ctypes.c_size_t
Function = ctypes.CFUNCTYPE(ctypes.c_int, ADDRESS, ADDRESS)
Query = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ADDRESS, ADDRESS, ADDRESS)
pointer_of = ctypes.PYFUNCTYPE(ADDRESS, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class BusyWriter:
    """Changes the keys z0 to z6 of a mapping, or adds a value.

    Args:
        structure: A handle of its own front-end.
        reader: The other front-end.
    """

    def __init__(self, structure: Any, reader: rnvm.FrontEnd) -> None:
        self.structure, self.reader = structure, reader
        self.changes = self.before = 0

    @property
    def restarts(self) -> int:
        """Of the reader's present query."""
        return int(self.reader.figures["restarts"]) - self.before

    @property
    def locks(self) -> bool:
        """Whether the reader takes the lock, as it must if it may not restart again."""
        return self.restarts >= RESTARTS_MAX

    def begin(self) -> None:
        """The reader begins a query."""
        self.before += self.restarts

    def change(self) -> None:
        """Change the structure, unless the reader has its lock: it may have it now."""
        locks = self.locks
        fe = self.structure.fe
        try:
            with fe.transaction(self.structure, timeout=MOMENT if locks else SOON):
                add(self.structure, b"z%d" % (self.changes % 7), b"%d" % self.changes)
            self.changes += 1
        except DeadlineExceeded:
            assert locks


@contextlib.contextmanager
def at_each_run(structure: Any, writer: BusyWriter) -> Iterator[list[int]]:
    """Let the writer change the structure before and after each run of a query's function: between
    the first look at the status line, the READs of nodes, and the last look.

    So it works also where the reads are loads, which no fabric can stop.

    Yields:
        How often the function of each query of this object was run.
    """
    methods = (ADDRESS * (QUERY + 1)).from_address(pointer_of(type(structure).__pyx_vtable__, None))
    before = methods[QUERY]
    original = Query(before)
    runs: list[int] = []

    @Query
    def query(asked: Any, function: int, context: int, timeout: int) -> int:
        if asked is not structure:
            return original(asked, function, context, timeout)
        writer.begin()
        runs.append(0)

        @Function
        def disturbed(instance: int, context: int) -> int:
            runs[-1] += 1
            writer.change()
            found = Function(function)(instance, context)
            writer.change()
            return found

        return original(asked, address_of(disturbed), context, timeout)

    methods[QUERY] = address_of(query)
    try:
        yield runs
    finally:
        methods[QUERY] = before


def address_of(function: Any) -> int:
    found = ctypes.cast(function, ctypes.c_void_p).value
    assert found
    return found


def at_each_request(fabric: ReorderFabric, query: Callable[[], Any], writer: BusyWriter) -> Any:
    """Return the answer of a query; each request of the reader, which is on this fabric, stops in
    the middle until the writer has changed the structure.

    When the reader takes the lock, the writer goes on, but nothing is stopped: a front-end must use
    its lock within 20 ms.
    """
    writer.begin()
    fabric.stop(1)
    call = Call(query)
    deadline = time.monotonic() + SOON
    try:
        while not call.over.wait(POLL) and time.monotonic() < deadline:
            if fabric.stopped or writer.locks:
                writer.change()
                fabric.stop(0 if writer.locks else 1)  # at the next one
                fabric.hold(0)
    finally:
        fabric.stop(0)
        fabric.hold(0)
    return call.answer()
