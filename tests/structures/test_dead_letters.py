"""Values for the dead-letter queue: moved, or delivered once more; they block nothing."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

import pytest
from polling import until

import rnvm
from rfp.errors import Empty, NotFound, WrongType
from structures import HashTable, Queue


@pytest.fixture
def address() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder,
        rnvm.Backend(os.path.join(folder, "pool"), size="32MiB", assume_persistent=True) as backend,
    ):
        yield backend.address


@pytest.fixture
def fe(address: str) -> Iterator[rnvm.FrontEnd]:
    with rnvm.connect(address) as fe:
        yield fe


@pytest.fixture
def other(address: str) -> Iterator[rnvm.FrontEnd]:
    with rnvm.connect(address) as fe:
        yield fe


def exhaust(fe: rnvm.FrontEnd, name: str, *values: bytes) -> None:
    """Put values that have been delivered once, in their order."""
    queue = Queue(fe, name)
    queue.put_many(values)
    tokens = [queue.reserve(lease=60)[0] for _ in values]
    for token in tokens:
        queue.nack(token)


@pytest.mark.parametrize("within", [False, True])
def test_a_longest_value_among_many_ended_leases_is_moved(fe, other, within):
    for lease in (0.5, 2, 8):
        name = f"q{lease}"
        queue = Queue(fe, name, dead_letter=f"dead{lease}", max_deliveries=1)
        theirs = Queue(other, name)
        theirs.put(bytes(theirs.largest_value))
        token, _ = theirs.reserve()
        theirs.put_many([b"y"] * 900)
        began = time.monotonic()
        for _ in range(900):
            theirs.reserve(lease=lease)
        theirs.nack(token)
        if time.monotonic() < began + lease:
            break  # none has ended yet: each of the values was reserved
    until(lambda: theirs.reserved == 0)
    if within:
        with fe.transaction(queue, queue.dead_letter):
            first = queue.get()
    else:
        first = queue.get(None)
    # In the caller's transaction it is moved or delivered, if that is full, and never both.
    assert len(queue.dead_letter) + (len(first or b"") > 1) in (1, 901)
    assert len(queue) + len(queue.dead_letter) + (first is not None) == 901


@pytest.mark.filterwarnings("always::RuntimeWarning")
def test_values_are_delivered_although_the_dead_letter_queue_was_dropped(fe, other):
    queue = Queue(fe, "q", dead_letter="dead", max_deliveries=1)
    exhaust(other, "q", b"1", b"2", b"3")
    other.drop("dead")
    with pytest.warns(RuntimeWarning, match="dead-letter"):
        assert queue.get() == b"1"
    with pytest.warns(RuntimeWarning, match="dead-letter"):
        assert queue.get(timeout=20) == b"2"
    with pytest.warns(RuntimeWarning, match="dead-letter"):
        token, value = queue.reserve()
    assert value == b"3"
    with pytest.warns(RuntimeWarning, match="dead-letter"):
        queue.nack(token)
    assert queue.peek() == b"3"


def test_a_transaction_without_the_dead_letter_queue_delivers_once_more(fe, other):
    queue = Queue(fe, "q", dead_letter="dead", max_deliveries=1)
    table = HashTable(fe, "t")
    exhaust(other, "q", b"1", b"2")
    with fe.transaction(queue, table):
        assert queue.get() == b"1"
        token, value = queue.reserve()
        assert value == b"2"
        queue.nack(token)
    with fe.transaction(queue, queue.dead_letter), pytest.raises(Empty):
        queue.get()
    assert list(queue.dead_letter) == [b"2"]


@pytest.mark.parametrize("take", ["get", "reserve"])
def test_an_attempt_moves_so_many_values_and_a_call_all_of_them(fe, other, take):
    queue = Queue(fe, "q", dead_letter="dead", max_deliveries=1)
    exhaust(other, "q", *[b"%d" % i for i in range(150)], b"last")
    attempt = queue._take if take == "get" else lambda: queue._reserve_next(60)
    assert attempt() == ()
    assert len(queue.dead_letter) == 64
    with pytest.raises(Empty):
        getattr(queue, take)()
    assert len(queue.dead_letter) == 151


def test_create_false_makes_no_dead_letter_queue(fe, other):
    Queue(other, "q")
    with pytest.raises(NotFound):
        Queue(fe, "q", dead_letter="dead", create=False)
    assert "dead" not in other.names()
    Queue(other, "dead")
    assert Queue(fe, "q", dead_letter="dead", create=False).dead_letter.name == "dead"


def test_no_delay_is_none_or_zero(fe):
    queue = Queue(fe, "q")
    for delay in (None, 0, 0.0):
        queue.put(b"now", delay=delay)
    with pytest.raises((TypeError, WrongType)):
        queue.put(b"never", delay="")
    assert (len(queue), queue.delayed) == (3, 0)
