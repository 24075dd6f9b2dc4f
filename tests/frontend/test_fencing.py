"""Front-ends that lose their session between any two calls, or within one, and their later results.

A front-end that stays inside a lock while another one waits for it is fenced after a lease.  So a
call of the other one that needs the lock returns when the first one has been fenced, and no test
has to wait for a clock.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structure_kinds import MAPPINGS, each_of

import rnvm
from rfp import address as addresses
from rfp.errors import ConnectionFailed, Empty
from rfp.protocol.client.opener import Opener
from rfp.testing.reordering_fabric import ReorderFabric
from rnvm.frontend.frontend import FrontEnd
from rnvm.testing.sample_structure import Sample
from structures import BST, MVBST, BPlusTree, HashTable, MVBPlusTree, Queue, SkipList, Stack

from .conftest import new_path
from .processes import address_of, served

pytestmark = pytest.mark.shm

LEASE = 0.02  # seconds
WAYS = {"near": ("direct", ""), "far": ("direct", "?rtt=2us"), "image": ("image", "")}
LOCKS = ["sticky", "cas", "each"]


@contextlib.contextmanager
def two(way: str, lock: str, lease: float = LEASE) -> Iterator[tuple[rnvm.FrontEnd, rnvm.FrontEnd]]:
    """Yield a front-end that is about to be fenced, and another one."""
    medium, options = WAYS[way]
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(new_path(medium))
        address = str(addresses.unique()) + options
        stack.enter_context(
            rnvm.Backend(path, size="4MiB", assume_persistent=True, address=address, lease=lease)
        )
        mine = stack.enter_context(rnvm.connect(address, timeout=20, lock=lock))
        yield mine, stack.enter_context(rnvm.connect(address, timeout=20))


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (KeyError, Empty) as error:
        return type(error)


# Two structures, and one value that is always in exactly one of them.

MAPPING_PROBES: dict[str, Callable[[Any], Any]] = {
    "get": lambda at: at.get(b"k"),
    "in": lambda at: b"k" in at,
    "pop": lambda at: at.pop(b"k", None),
    "del": lambda at: outcome(lambda: at.__delitem__(b"k")),
    "len": len,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lock", LOCKS)
@each_of(MAPPINGS, fast=(HashTable, BPlusTree))
def test_a_transaction_that_was_fenced_raises_even_if_it_changes_nothing(
    kind: Any, lock: str, way: str
) -> None:
    with two(way, lock) as (mine, other):
        a, b, theirs_a, theirs_b = (kind(fe, name) for fe in (mine, other) for name in ("a", "b"))
        theirs_b[b"k"] = b"value"
        for name, probe in MAPPING_PROBES.items():
            for moment in range(3):
                if name in ("pop", "del", "len") and moment > 1:
                    continue  # the second of these would change something: its record suffices
                if b"k" in theirs_a:
                    with other.transaction(theirs_a, theirs_b):
                        theirs_b[b"k"] = theirs_a.pop(b"k")
                with (
                    pytest.raises(ConnectionFailed, match="nothing of it was done"),
                    mine.transaction(a, b),
                ):
                    if moment > 0:
                        probe(a)
                    if moment > 1:
                        probe(b)
                    with other.transaction(theirs_a, theirs_b):
                        theirs_a[b"k"] = theirs_b.pop(b"k")
                    if moment < 1:
                        probe(a)
                    if moment < 2:
                        probe(b)
                assert (theirs_a.get(b"k"), theirs_b.get(b"k")) == (b"value", None)
                with mine.transaction(a, b):  # and the next one takes effect
                    assert (a.get(b"k"), b.get(b"k")) == (b"value", None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lock", LOCKS)
def test_a_transaction_that_is_fenced_after_its_last_call_raises(lock: str, way: str) -> None:
    with two(way, lock) as (mine, other):
        table, theirs = HashTable(mine, "t"), HashTable(other, "t")
        with (
            pytest.raises(ConnectionFailed, match="nothing of it was done"),
            mine.transaction(table),
        ):
            assert table.get(b"k") is None
            theirs[b"k"] = b"value"
        with (
            pytest.raises(ConnectionFailed, match="nothing of it was done"),
            mine.transaction(table),
        ):
            theirs[b"k"] = b"other"


# A history of calls, each of which begins when the one before has ended, is right if one
# structure alone would return the same.


def on_mapping(rng: random.Random) -> Callable[[Any], Any]:
    """Return a call that a dict has too, except that popitem may take another item."""
    key, value = b"%d" % rng.randrange(3), b"%d" % rng.randrange(1000)
    return rng.choice(
        [
            lambda at: at.get(key),
            lambda at: key in at,
            lambda at: at.pop(key, None),
            lambda at: outcome(lambda: at.__delitem__(key)),
            lambda at: at.setdefault(key, value),
            lambda at: at.__setitem__(key, value),
            len,
            lambda at: sorted(at.items()),
            lambda at: outcome(lambda: at[key]),
        ]
    )


def on_queue(rng: random.Random) -> Callable[[Any], Any]:
    value = b"%d" % rng.randrange(1000)
    return rng.choice(
        [
            lambda at: at.put(value),
            lambda at: at.get(None),
            lambda at: at.peek(None),
            len,
            list,
            lambda at: outcome(at.get),
        ]
    )


def on_stack(rng: random.Random) -> Callable[[Any], Any]:
    value = b"%d" % rng.randrange(1000)
    return rng.choice(
        [
            lambda at: at.push(value),
            lambda at: at.pop(None),
            lambda at: at.peek(None),
            len,
            list,
            lambda at: outcome(at.pop),
        ]
    )


class ListStack(list):  # type: ignore[type-arg]
    """A list with the methods of a stack, the top at its end."""

    def __iter__(self) -> Any:
        return reversed(self[:])

    push = list.append

    def pop(self, default: Any = Empty) -> Any:
        return super().pop() if self else default

    def peek(self, default: Any) -> Any:
        return self[-1] if self else default


class ListQueue(list):  # type: ignore[type-arg]
    """A list with the methods of a queue."""

    def put(self, value: bytes) -> None:
        self.append(value)

    def get(self, default: Any = Empty) -> Any:
        return self.pop(0) if self else default

    def peek(self, default: Any) -> Any:
        return self[0] if self else default


Call = Callable[[Any], Any]
KINDS: dict[str, tuple[Any, Any, Callable[[random.Random], Call], Call]] = {
    "table": (HashTable, dict, on_mapping, lambda at: at.__setitem__(b"0", b"new")),
    "tree": (BPlusTree, dict, on_mapping, lambda at: at.__setitem__(b"0", b"new")),
    "skips": (SkipList, dict, on_mapping, lambda at: at.__setitem__(b"0", b"new")),
    "bst": (BST, dict, on_mapping, lambda at: at.__setitem__(b"0", b"new")),
    "versions": (MVBPlusTree, dict, on_mapping, lambda at: at.__setitem__(b"0", b"new")),
    "mvbst": (MVBST, dict, on_mapping, lambda at: at.__setitem__(b"0", b"new")),
    "stack": (Stack, ListStack, on_stack, lambda at: at.push(b"new")),
    "queue": (Queue, ListQueue, on_queue, lambda at: at.put(b"new")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_was_fenced_between_any_two_calls_returns_the_present_state(
    kind: str, lock: str, way: str, rng: random.Random
) -> None:
    cls, model_of, draw, change = KINDS[kind]
    with two(way, lock) as (mine, other):
        ours, theirs, model = cls(mine, "s"), cls(other, "s"), model_of()
        for moment in range(8):
            epoch = mine.figures["epoch"], mine.figures["session"]
            with mine.batch():
                change(ours)  # from here on it holds the lock
                change(model)
                for i in range(8):
                    if i == moment:
                        # It needs the lock; a query does not, and would see the state before.
                        change(theirs)
                        change(model)
                        for _ in range(2):
                            call = draw(rng)
                            assert call(theirs) == call(model)
                    call = draw(rng)
                    assert call(ours) == call(model)
            # It was fenced, and has a new session.
            assert (mine.figures["epoch"], mine.figures["session"]) != epoch
            assert len(theirs) == len(model)
        ours.check()
        theirs.check()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("kind", KINDS)
def test_operations_outside_batches_return_the_present_state_after_any_lock_holder(
    kind: str, lock: str, way: str, rng: random.Random
) -> None:
    cls, model_of, draw, _ = KINDS[kind]
    with two(way, lock) as (mine, other):
        ours, theirs, model = cls(mine, "s"), cls(other, "s"), model_of()
        for i in range(60):
            call = draw(rng)
            assert call(theirs if i % 5 == 4 else ours) == call(model)


# Within one call.


@pytest.mark.parametrize("way", ["near", "far"])
@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("operation", [False, True], ids=["query", "operation"])
@pytest.mark.parametrize("inside", ["alone", "batch"])
def test_a_call_that_was_fenced_in_the_middle_reads_one_consistent_state(
    inside: str, operation: bool, lock: str, way: str
) -> None:
    with two(way, lock) as (mine, other):
        sample, theirs = Sample(mine, "s"), Sample(other, "s")

        def change() -> None:
            with other.transaction(theirs):
                theirs.put(0, b"new")
                theirs.put(1, b"new")

        theirs.put(0, b"old")
        theirs.put(1, b"old")
        with mine.batch() if inside == "batch" else contextlib.nullcontext():
            if inside == "batch":
                sample.add(1)
            # From here on in the cache; the value at the other place is not.
            assert sample.get(0) == b"old"
            assert sample.see(0, 1, change, operation=operation) in (b"old|old", b"new|new")
            assert sample.get(1) == b"new"


@pytest.mark.parametrize("way", ["near", "far"])
@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("operation", [False, True], ids=["query", "operation"])
def test_a_transaction_never_reads_values_of_after_its_fence(
    operation: bool, lock: str, way: str
) -> None:
    with two(way, lock) as (mine, other):
        sample, theirs = Sample(mine, "s"), Sample(other, "s")
        theirs.put(0, b"old")
        theirs.put(1, b"old")
        seen = []
        with pytest.raises(ConnectionFailed), mine.transaction(sample):
            seen.append(sample.see(0, 1, lambda: theirs.put(1, b"new"), operation=operation))
        assert seen == []


GROWN = [b"%d" % i for i in range(400)]


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("inside", ["alone", "batch"])
@each_of(MAPPINGS, fast=(HashTable, BPlusTree))
def test_a_key_that_always_existed_is_found_wherever_a_call_was_stopped_and_fenced(
    kind: Any, inside: str, lock: str, seed: int
) -> None:
    """The call is stopped at each of its READs while another front-end splits buckets and pages."""
    reached = 0
    for moment in (1, 2, 3, 4, 5, 7, 9, 12):
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(new_path("direct"))
            backend = stack.enter_context(
                rnvm.Backend(path, size="4MiB", assume_persistent=True, lease=LEASE)
            )
            other = stack.enter_context(rnvm.connect(backend.address, timeout=20))
            theirs = kind(other, "s")
            theirs.update(dict.fromkeys(GROWN[:30], b"value" * 40))
            fabric = ReorderFabric(seed=seed + moment)
            mine = stack.enter_context(
                FrontEnd(
                    Opener(backend.address, "rnvm", fabric=fabric), timeout=20, lock=lock, cache=0
                )
            )
            ours = kind(mine, "s")
            found: list[Any] = []

            def read(ours: Any = ours, found: list[Any] = found) -> None:
                for _ in range(2):
                    found.append(ours.setdefault(GROWN[7], b"never"))
                    found.append(ours.get(GROWN[20]))
                    found.append(ours.pop(b"never there", b"value" * 40))

            with mine.batch() if inside == "batch" else contextlib.nullcontext():
                assert ours.setdefault(GROWN[7], b"never") == b"value" * 40  # it holds the lock
                fabric.stop(moment)
                if inside == "batch":
                    # The batch is this thread's; another thread lets the fabric continue.
                    helper = threading.Thread(target=delete_object, args=(fabric, theirs))
                    helper.start()
                    read()
                    reached += not fabric.stop(0)
                    helper.join()
                else:
                    reader = threading.Thread(target=read)
                    reader.start()
                    reached += delete_object(fabric, theirs, reader)
                    reader.join()
            assert found == [b"value" * 40] * 6
    assert reached > 3


def delete_object(
    fabric: ReorderFabric, theirs: Any, reader: threading.Thread | None = None
) -> bool:
    """Change all values once the reader is stopped, or has ended, and let the reader continue."""
    until = time.monotonic() + 0.5
    while not fabric.stopped and time.monotonic() < until and (reader is None or reader.is_alive()):
        time.sleep(0.0005)
    stopped = fabric.stopped
    if stopped:
        theirs.update(dict.fromkeys(GROWN, b"value" * 40))
    fabric.hold(0)
    return stopped


# --- A back-end that dies and is restarted in the middle


@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "far"])
@pytest.mark.parametrize("medium", ["direct", "image"])
@pytest.mark.parametrize("operation", [False, True], ids=["query", "operation"])
def test_a_call_during_the_death_of_a_back_end_reads_one_consistent_state(
    medium: str, options: str, operation: bool
) -> None:
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        address = address_of(path) + options
        backends = [stack.enter_context(served(path, 60, address))]
        with rnvm.connect(address, timeout=20) as first:
            before = Sample(first, "s")
            before.put(0, b"old")
            before.put(1, b"old")
        mine = stack.enter_context(rnvm.connect(address, timeout=20))
        sample = Sample(mine, "s")

        def restart() -> None:
            backends[-1].kill()
            backends.append(stack.enter_context(served(path, 60, address)))
            with rnvm.connect(address, timeout=20) as other:
                theirs = Sample(other, "s")
                with other.transaction(theirs):
                    theirs.put(0, b"new")
                    theirs.put(1, b"new")

        if operation:
            sample.add(1)  # from here on it holds the lock
        assert sample.get(0) == b"old"  # in the cache; the value at the other place is not
        assert sample.see(0, 1, restart, operation=operation) in (b"old|old", b"new|new")
        assert sample.get(0) == sample.get(1) == b"new"


@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "far"])
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_transaction_during_the_death_of_a_back_end_raises_even_if_it_changes_nothing(
    medium: str, options: str
) -> None:
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        address = address_of(path) + options
        backend = stack.enter_context(served(path, 60, address))
        mine = stack.enter_context(rnvm.connect(address, timeout=20))
        a, b = HashTable(mine, "a"), HashTable(mine, "b")
        b[b"k"] = b"value"
        with (
            pytest.raises(ConnectionFailed, match="nothing of it was done"),
            mine.transaction(a, b),
        ):
            assert a.pop(b"k", None) is None
            backend.kill()
            stack.enter_context(served(path, 60, address))
            with rnvm.connect(address, timeout=20) as other:
                theirs_a, theirs_b = HashTable(other, "a"), HashTable(other, "b")
                with other.transaction(theirs_a, theirs_b):
                    theirs_a[b"k"] = theirs_b.pop(b"k")
            b.pop(b"k", None)
        assert a.get(b"k") == b"value"


@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "far"])
def test_a_batch_during_the_death_of_a_back_end_returns_the_present_state(options: str) -> None:
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        address = address_of(path) + options
        backend = stack.enter_context(served(path, 60, address))
        mine = stack.enter_context(rnvm.connect(address, timeout=20))
        table = HashTable(mine, "t")
        table[b"k"] = b"old"
        with mine.batch():
            assert table.pop(b"k") == b"old"
            backend.kill()
            stack.enter_context(served(path, 60, address))
            with rnvm.connect(address, timeout=20) as other:
                theirs = HashTable(other, "t")
                assert b"k" not in theirs
                theirs[b"k"] = b"new"
            assert table.get(b"k") == b"new"
            assert table.pop(b"k") == b"new"
        assert b"k" not in table
