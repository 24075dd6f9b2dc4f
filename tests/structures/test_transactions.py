"""Transactions over two structures of each kind, and read transactions beside them."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from slower import rounds
from structure_kinds import KINDS, add, content, each_of, take

import rnvm
from rfp.errors import ReadConflict

from .backends import backend

pytestmark = pytest.mark.anywhere


class Discarded(Exception):
    """Ends a transaction."""


def values(structure: Any) -> list[bytes]:
    """Return the values of a structure of any kind."""
    return [each[1] if isinstance(each, tuple) else each for each in content(structure)]


def move(one: Any, other: Any, key: bytes) -> None:
    """Move a value to the other structure."""
    add(other, key, take(one))


@each_of(KINDS)
def test_a_value_that_transactions_move_is_seen_in_one_of_two_structures(kind: Any) -> None:
    all_values = {b"%d" % i * 30 for i in range(12)}
    over = threading.Event()
    failed: list[BaseException] = []
    with (
        backend("16MiB") as served,
        rnvm.connect(served.address, timeout=30) as fe,
        rnvm.connect(served.address, timeout=30) as reader,
    ):
        a, b = kind(fe, "a"), kind(fe, "b")
        for i, value in enumerate(sorted(all_values)):
            add(a, b"%d" % i, value)
        fe.release()
        theirs = kind(reader, "a"), kind(reader, "b")

        def work() -> None:
            try:
                for turn in range(rounds(200)):
                    full, empty = (a, b) if len(a) else (b, a)
                    with contextlib.suppress(Discarded), fe.transaction(a, b):
                        move(full, empty, b"%d" % turn)
                        if turn % 3 == 0 and len(full):
                            move(full, empty, b"and %d" % turn)
                        if turn % 5 == 0:
                            raise Discarded
            except BaseException as error:
                failed.append(error)
            finally:
                over.set()

        writer = threading.Thread(target=work)
        writer.start()
        try:
            seen = 0
            while not over.is_set() or not seen:
                found = reader.read(lambda *both: [values(each) for each in both], *theirs)
                assert sorted(found[0] + found[1]) == sorted(all_values)
                with contextlib.suppress(ReadConflict), reader.read_transaction(*theirs):
                    first = values(theirs[0])
                    assert sorted(first + values(theirs[1])) == sorted(all_values)
                    assert values(theirs[0]) == first
                seen += 1
        finally:
            writer.join()
        assert not failed, failed
        for each in theirs:
            each.check()


@each_of(KINDS)
def test_an_exception_undoes_a_transaction_of_every_structure(kind: Any) -> None:
    with (
        backend("16MiB") as served,
        rnvm.connect(served.address, timeout=30) as fe,
        rnvm.connect(served.address, timeout=30) as other,
    ):
        a, b = kind(fe, "a"), kind(fe, "b")
        for i in range(5):
            add(a, b"%d" % i, b"%d" % i)
        before = content(a)
        with pytest.raises(Discarded), fe.transaction(a, b):
            while len(a):
                move(a, b, b"%d" % len(b))
            for i in range(60):
                add(a, b"new %d" % i, bytes(100))
            raise Discarded
        assert (content(a), content(b)) == (before, [])
        assert (content(kind(other, "a")), content(kind(other, "b"))) == (before, [])
        for each in (a, b):
            each.check()
