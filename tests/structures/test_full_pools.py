"""Full pools of many geometries.

Structures take entries to the last block, and give each of them back in any order.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slower import examples
from structure_kinds import KINDS, MAPPINGS, ORDERED, VERSIONED, add, each_of

import rnvm
from rfp.errors import Empty, InvalidArgument, LeaseEnded, OutOfMemory, TooLarge
from rnvm import pools, sizes
from rnvm.check import check
from structures import BPlusTree, HashTable, MVBPlusTree, Queue, Stack

FEW = settings(max_examples=examples(15), deadline=None)
KIB = 1024
LONG = 3600.0

logs = st.sampled_from([16 * KIB, 32 * KIB, 64 * KIB, 256 * KIB])
blocks = st.sampled_from([512, 1024, 4096, 65536])
mappings = st.sampled_from(MAPPINGS)
ways = st.sampled_from(["one by one", "batch", "transactions"])


@contextlib.contextmanager
def small_pool(log: int, block: int = 4096, size: str = "2MiB") -> Iterator[rnvm.Backend]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        # Short logs test the operations that leave work for later records.
        with mock.patch.object(sizes, "least_log", return_value=4 * KIB):
            pools.create(
                path,
                size,
                block=block,
                front_ends=2,
                memory_log=log,
                operation_log=32 * KIB,
                assume_persistent=True,
            )
        with rnvm.Backend(path) as served:
            yield served


def key_of(sort: str, i: int) -> bytes:
    scattered = b"%08d" % (i * 7919 % 10**8)
    return {
        "short": scattered,
        "ascending": b"%08d" % i,
        "long": b"p" * 1000 + scattered,
        "descending": b"p" * 900 + b"%08d" % (10**8 - i),
    }[sort]


sorts = st.sampled_from(["short", "ascending", "long", "descending"])


def fill(put: Callable[[int], Any]) -> int:
    """Put until no block is free; return the number of entries."""
    n = 0
    with pytest.raises(OutOfMemory):
        while True:
            put(n)
            n += 1
    return n


@contextlib.contextmanager
def done(
    fe: rnvm.FrontEnd, way: str, *structures: Any
) -> Iterator[Callable[[], contextlib.AbstractContextManager[Any]]]:
    """Yield a context manager for each single call, within a batch or a transaction around all."""
    with fe.batch() if way == "batch" else contextlib.nullcontext():
        yield (
            lambda: (
                fe.transaction(*structures) if way == "transactions" else contextlib.nullcontext()
            )
        )


@FEW
@given(
    kind=mappings,
    log=logs,
    block=blocks,
    sort=sorts,
    length=st.sampled_from([0, 10, 100, 300, 3000]),
    way=ways,
    order=st.sampled_from(["its own", "reversed", "shuffled", "popitem", "pop", "clear"]),
    rng=st.randoms(),
)
def test_a_mapping_fills_the_pool_and_is_emptied_in_any_order_and_filled_again(
    kind: Any, log: int, block: int, sort: str, length: int, way: str, order: str, rng: Any
) -> None:
    # Copies of all nodes on the way to a key do not fit into the shortest logs.
    log = max(log, 128 * KIB) if kind in VERSIONED else log
    size = "8MiB" if kind is MVBPlusTree else "2MiB"
    with small_pool(log, block, size) as served, rnvm.connect(served.address, timeout=30) as fe:
        mapping = kind(fe, "m")
        length = min(length, mapping.largest_value)

        def put(i: int) -> None:
            mapping[key_of(sort, i)] = bytes(length)

        n = fill(put)
        mapping.check()
        keys = list(mapping)
        assert sorted(keys) == sorted(key_of(sort, i) for i in range(n))
        if order == "reversed":
            keys.reverse()
        elif order == "shuffled":
            rng.shuffle(keys)
        with done(fe, way, mapping) as each:
            if order == "clear":
                mapping.clear()
            for key in [] if order == "clear" else keys:
                with each():
                    if order == "popitem":
                        mapping.popitem()
                    elif order == "pop":
                        assert mapping.pop(key) == bytes(length)
                    else:
                        del mapping[key]
        assert len(mapping) == 0 and list(mapping) == []
        mapping.check()
        for i in range(n * 9 // 10):
            put(i)
        mapping.check()


@FEW
@given(
    log=logs,
    block=blocks,
    length=st.sampled_from([0, 10, 100, 480, 481, 3000]),
    way=ways,
    filler=st.booleans(),
    data=st.data(),
)
def test_workers_drain_a_queue_in_a_full_pool_and_it_can_be_filled_again(
    log: int, block: int, length: int, way: str, filler: bool, data: st.DataObject
) -> None:
    with small_pool(log, block) as served, rnvm.connect(served.address, timeout=30) as fe:
        queue = Queue(fe, "q")
        length = min(length, queue.largest_value - 8)
        value = functools.partial(b"%08d".__mod__)
        n = 0
        if filler:
            other = BPlusTree(fe, "filler")
            for n in range(40):
                queue.put(value(n) + bytes(length))
            n = 40
            fill(lambda i: other.__setitem__(b"%08d" % i, bytes(200)))
        with contextlib.suppress(OutOfMemory):
            while True:
                queue.put(value(n) + bytes(length))
                n += 1
        waiting, returned, reserved = list(range(n)), [], {}
        script = data.draw(
            st.lists(
                st.sampled_from(["reserve", "reserve", "ack", "nack", "get", "peek"]),
                min_size=5,
                max_size=30,
            )
        )
        with done(fe, way, queue) as each:
            while waiting or returned or reserved:
                for act in script:
                    line = returned or waiting
                    # Room for so many is reserved.
                    most = min(960, max(24, len(waiting) // 8))
                    with each():
                        if act == "reserve" and line and len(reserved) + len(returned) < most:
                            token, got = queue.reserve(lease=LONG)
                            assert int(got[:8]) == line.pop(0)
                            reserved[token] = int(got[:8])
                        elif act == "get" and line:
                            assert int(queue.get()[:8]) == line.pop(0)
                        elif act == "peek" and line:
                            assert int(queue.peek()[:8]) == line[0]
                        elif act in ("ack", "nack") and reserved:
                            token = next(iter(reserved))
                            number = reserved.pop(token)
                            if act == "ack":
                                queue.ack(token)
                            else:
                                queue.nack(token)
                                returned.append(number)
                # Without this some scripts never end.
                if waiting or returned:
                    with each():
                        assert int(queue.get()[:8]) == (returned or waiting).pop(0)
                elif reserved:
                    with each():
                        queue.ack(reserved.popitem()[0])
        queue.check()
        assert len(queue) == queue.reserved == 0
        if not filler:
            # The pool has some twenty blocks of 64 KiB, of which slabs keep some partly filled.
            for i in range(n * (9 if block < 65536 else 7) // 10):
                queue.put(value(i) + bytes(length))
            queue.check()


@FEW
@given(
    log=logs,
    block=blocks,
    length=st.sampled_from([0, 10, 100, 480, 481, 3000]),
    way=ways,
    order=st.sampled_from(["pop", "clear", "both"]),
)
def test_a_stack_fills_the_pool_and_is_emptied_and_filled_again(
    log: int, block: int, length: int, way: str, order: str
) -> None:
    with small_pool(log, block) as served, rnvm.connect(served.address, timeout=30) as fe:
        stack = Stack(fe, "s")
        length = min(length, stack.largest_value - 8)
        n = fill(lambda i: stack.push(b"%08d" % i + bytes(length)))
        stack.check()
        with done(fe, way, stack) as each:
            for i in range(n // 2 if order == "both" else n if order == "pop" else 0):
                with each():
                    assert int(stack.pop()[:8]) == n - 1 - i
            if order != "pop":
                stack.clear()
        assert len(stack) == 0 and list(stack) == []
        stack.check()
        assert stack.push_many(bytes(length + 8) for _ in range(n * 9 // 10)) == n * 9 // 10
        stack.check()


@pytest.mark.parametrize("length", [10, 100])
def test_values_whose_leases_end_in_a_full_pool_are_given_again(length):
    with small_pool(64 * KIB) as served, rnvm.connect(served.address) as fe:
        queue = Queue(fe, "q")
        fill(lambda i: queue.put(b"%08d" % i + bytes(length)))
        given_out = [queue.reserve(lease=1e-9) for _ in range(30)]
        # Each reservation finds that the lease of the one before has ended.
        assert {value for _, value in given_out} <= set(queue)
        queue.check()
        order = list(queue)
        while order:
            token, value = queue.reserve(lease=LONG)
            assert value == order.pop(0)
            queue.ack(token)
        queue.check()


@pytest.mark.parametrize("log", [32 * KIB, 64 * KIB])
@pytest.mark.parametrize("length", [10, 300])
def test_a_table_emptied_in_the_order_of_its_iteration_becomes_empty_and_grows_again(log, length):
    with small_pool(log, size="8MiB") as served, rnvm.connect(served.address, timeout=30) as fe:
        table = HashTable(fe, "t")
        n = 40_000 if length == 10 else 8_000
        with fe.batch():
            for i in range(n):
                table[b"%d" % i] = bytes(length)
        for key in list(table):
            del table[key]
        table.check()
        assert len(table) == 0
        with fe.batch():
            for i in range(n):
                table[b"%d" % i] = bytes(length)
        table.check()
        with pytest.raises(KeyError):
            while True:
                table.popitem()
        table.check()


# Copies of all nodes on the way to a key do not fit into the shortest of these logs.
@pytest.mark.parametrize(
    ("kind", "log"),
    [
        pytest.param(kind, log, id=f"{kind.__name__}-{log}")
        for kind in KINDS
        for log in (32 * KIB, 64 * KIB, 1024 * KIB)
        if kind not in VERSIONED or log > 32 * KIB
    ],
)
def test_the_largest_value_is_accepted_and_one_byte_more_is_refused_with_the_limit(kind, log):
    with small_pool(log, size="16MiB") as served, rnvm.connect(served.address) as fe:
        structure = kind(fe, "s")
        largest = structure.largest_value
        limit = min(1 << 20, log // 2 - 8192, 16 * KIB - 2048)
        if kind in VERSIONED:  # they copy nodes as well
            limit = min(limit, max(256, log // 2 - 28 * KIB))
        assert largest in range(limit - 64, limit + 1)
        for i in range(100):
            value = bytes([i]) * largest
            add(structure, b"k" * 1000 + b"%03d" % (i * 7 % 30), value)
        with pytest.raises(TooLarge, match=str(largest)):
            add(structure, b"k", value + b"x")
        structure.check()
        if kind is Queue:
            token, first = structure.reserve()
            assert first == bytes(largest)
            structure.ack(token)
        else:
            structure.clear()
            assert len(structure) == 0
        structure.check()


@each_of(ORDERED)
def test_bulk_loading_works_with_a_log_that_takes_less_than_sixteen_kilobytes(kind):
    log = 128 * KIB if kind in VERSIONED else 32 * KIB
    with small_pool(log, size="8MiB") as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        items = {b"%08d" % (i * 7919 % 10**8): bytes(20) for i in range(20_000)}
        assert tree.bulk_load(items) == 20_000
        assert tree == items
        tree.check()


def test_a_burst_of_reservations_frees_its_slots_and_costs_nothing_afterwards():
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        with rnvm.Backend(path, size="32MiB", assume_persistent=True) as served:
            with (
                rnvm.connect(served.address, timeout=30) as fe,
                rnvm.connect(served.address) as reader,
            ):
                queue = Queue(fe, "q")
                with fe.batch():
                    for _ in range(20_000):
                        queue.put(b"job")
                with fe.batch():
                    tokens = [queue.reserve(lease=LONG)[0] for _ in range(20_000)]
                queue.check()
                assert {each.token for each in queue.reservations()} == set(tokens)
                keep = tokens.pop()
                with fe.batch():
                    for token in tokens:
                        queue.ack(token)
                queue.check()
                queue.put(b"late")
                queue.reserve(lease=1e-9)
                fe.release()
                seen = Queue(reader, "q")
                before = reader.figures["reads"]
                assert (len(seen), seen.reserved) == (1, 1)
                # Not one for each table that there was.
                assert reader.figures["reads"] - before < 30
                assert queue.get() == b"late"
                queue.ack(keep)
                queue.check()
        assert check.check(path).figures["used"][b"q"] < 12


def test_a_token_is_accepted_only_by_its_own_queue_and_once():
    with small_pool(64 * KIB) as served, rnvm.connect(served.address) as fe:
        one, two = Queue(fe, "one"), Queue(fe, "two")
        one.put(b"1")
        two.put(b"2")
        mine, _ = one.reserve()
        other, _ = two.reserve()
        for queue, token in ((one, other), (two, mine)):
            for settle in (queue.ack, queue.nack):
                with pytest.raises(InvalidArgument, match="another queue"):
                    settle(token)
        two.ack(other)
        one.ack(mine)
        with pytest.raises(LeaseEnded):
            one.ack(mine)
        with pytest.raises(Empty):
            one.get()


def test_a_structure_is_created_in_the_room_that_another_one_has_just_freed():
    with small_pool(64 * KIB) as served, rnvm.connect(served.address) as fe:
        tree = BPlusTree(fe, "t")
        fill(lambda i: tree.__setitem__(b"%08d" % i, bytes(100)))
        tree.clear()
        assert len(HashTable(fe, "h")) == 0
