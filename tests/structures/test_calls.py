"""What single calls promise, whatever happens beside them: each test for all kinds concerned."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pickle
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from connecting import connect_hasty
from slower import SLOWER
from structure_kinds import KINDS, MAPPINGS, ORDERED, VERSIONED, add, content, each_of, take
from time_bounds import raises_in_some_try

import rnvm
import structures
from rfp.errors import (
    CallerError,
    DeadlineExceeded,
    InvalidArgument,
    OutOfMemory,
    TooLarge,
    WrongType,
)
from rnvm import pools
from structures import BPlusTree, HashTable, Queue, Stack

from . import memory
from .backends import backend

PARTITIONS = pytest.mark.parametrize("partitions", [None, 3], ids=["whole", "partitions"])
PATIENCE = 60.0


@pytest.fixture
def served() -> Iterator[rnvm.Backend]:
    with backend("16MiB") as running:
        yield running


@pytest.fixture
def fe(served: rnvm.Backend) -> Iterator[rnvm.FrontEnd]:
    with rnvm.connect(served.address, timeout=20) as connected:
        yield connected


@pytest.fixture
def other(served: rnvm.Backend) -> Iterator[rnvm.FrontEnd]:
    with rnvm.connect(served.address, timeout=20) as connected:
        yield connected


class Planted(Exception):
    """An error of the caller's own object."""


class Text(bytes):
    """A class of the user."""


# Snapshots

ITERATORS: dict[str, Callable[[Any], Iterator[Any]]] = {
    "iter": iter,
    "reversed": reversed,
    "range": lambda snapshot: snapshot.range(b"1", b"9"),
    "prefix": lambda snapshot: snapshot.prefix(b"1"),
    "keys": lambda snapshot: iter(snapshot.keys()),
    "values": lambda snapshot: iter(snapshot.values()),
    "items": lambda snapshot: iter(snapshot.items()),
    "reversed items": lambda snapshot: reversed(snapshot.items()),
}


@each_of(VERSIONED)
@PARTITIONS
def test_an_iterator_keeps_its_snapshot_open(
    kind: Any, partitions: int | None, fe: rnvm.FrontEnd
) -> None:
    tree = kind(fe, "t", partitions=partitions)
    for way, iterate in ITERATORS.items():
        tree.bulk_load((b"%03d" % i, b"%d" % i) for i in range(400))
        with tree.snapshot() as before:
            expected = list(iterate(before))
        found = iterate(tree.snapshot())
        gc.collect()
        read = [next(found)]
        tree.update(dict.fromkeys(tree, b"changed"))
        assert read + list(found) == expected != [], way


def values_that_fit(kind: Any, end: Callable[[rnvm.FrontEnd, Any, list[Any]], None]) -> int:
    """Replace the content of a tree after a snapshot, end that, and fill the pool with a queue."""
    with (
        backend("32MiB", snapshot_lifetime=600) as served,
        rnvm.connect(served.address, timeout=20) as fe,
    ):
        tree, queue = kind(fe, "t"), Queue(fe, "q")
        for i in range(600):
            tree[b"%03d" % i] = bytes(10_000)
        snapshots = [tree.snapshot()]
        for i in range(600):
            tree[b"%03d" % i] = b"1" * 10_000
        end(fe, queue, snapshots)
        count = 0
        try:
            while True:
                queue.put(bytes(16_000))
                count += 1
        except OutOfMemory:
            return count


def kept(fe: rnvm.FrontEnd, queue: Any, snapshots: list[Any]) -> None:
    pass


def closed(fe: rnvm.FrontEnd, queue: Any, snapshots: list[Any]) -> None:
    snapshots[0].close()


def collected(fe: rnvm.FrontEnd, queue: Any, snapshots: list[Any]) -> None:
    snapshots.clear()


def read_to_the_end(fe: rnvm.FrontEnd, queue: Any, snapshots: list[Any]) -> None:
    found = iter(snapshots.pop())
    assert len(list(found)) == 600
    del found


def collected_in_a_cycle(fe: rnvm.FrontEnd, queue: Any, snapshots: list[Any]) -> None:
    snapshots.append(snapshots[:])
    snapshots[1].append(snapshots[1])
    snapshots.clear()
    gc.collect()


def closed_during_a_transaction_of_another_thread(
    fe: rnvm.FrontEnd, queue: Any, snapshots: list[Any]
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def run() -> None:
        with fe.transaction(queue):
            entered.set()
            assert leave.wait(PATIENCE)

    thread = threading.Thread(target=run)
    thread.start()
    assert entered.wait(PATIENCE)
    try:
        snapshots[0].close()  # it waits for nobody
        assert snapshots[0].closed
    finally:
        leave.set()
        thread.join()


@each_of(VERSIONED)
def test_nothing_is_kept_for_a_snapshot_that_is_not_read_any_more(kind: Any) -> None:
    most = values_that_fit(kind, closed)
    assert values_that_fit(kind, kept) < most * 0.8
    for end in (
        collected,
        read_to_the_end,
        collected_in_a_cycle,
        closed_during_a_transaction_of_another_thread,
    ):
        assert values_that_fit(kind, end) > most * 0.95, end.__name__


@each_of(VERSIONED)
@PARTITIONS
def test_a_snapshot_of_a_users_class_is_of_its_kind(
    kind: Any, partitions: int | None, fe: rnvm.FrontEnd
) -> None:
    class Named(kind):  # type: ignore[misc]
        def __new__(cls, label: str, *arguments: Any, **options: Any) -> Any:
            return super().__new__(cls)

        def __init__(self, label: str, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.label = label

        def __getitem__(self, key: bytes) -> bytes:
            return self.label.encode() + super().__getitem__(key)

    named = Named("x", fe, "t", partitions=partitions)
    named[b"a"] = b"1"
    with named.snapshot() as before:
        named[b"a"] = b"2"
        assert (before[b"a"], named[b"a"], dict(before)) == (b"1", b"x2", {b"a": b"1"})
        assert before.structure is named


@each_of(VERSIONED)
@PARTITIONS
def test_a_read_transaction_takes_no_snapshot(
    kind: Any, partitions: int | None, fe: rnvm.FrontEnd
) -> None:
    tree = kind(fe, "t", partitions=partitions)
    with fe.read_transaction(tree):
        for snapshot in (tree.snapshot, lambda: structures.snapshots_of([tree])):
            with pytest.raises(CallerError, match="only reads"):
                snapshot()
        assert len(tree) == 0


@each_of(VERSIONED)
@PARTITIONS
def test_a_writers_read_transaction_over_multi_version_structures_has_no_conflict(
    kind: Any, partitions: int | None, fe: rnvm.FrontEnd, other: rnvm.FrontEnd
) -> None:
    mine, theirs = (kind(each, "t", partitions=partitions) for each in (fe, other))
    keys = [b"%d" % i for i in range(20)]
    for turn in range(3):
        mine.update(dict.fromkeys(keys, b"%d" % turn))  # this front-end keeps the lock
        with fe.read_transaction(mine):
            assert mine[keys[0]] == b"%d" % turn
            theirs.update(dict.fromkeys(keys, b"theirs"))
            assert {*mine.values()} == {b"%d" % turn}
        assert {*mine.values()} == {b"theirs"}
    mine.check()


# Partitions


@each_of(ORDERED)
@pytest.mark.parametrize("partitions", [1, 2])
def test_no_put_into_a_partition_fails_because_of_splits(
    kind: Any, partitions: int, rng: random.Random
) -> None:
    """Keys that differ only at their ends make a path of many splits."""
    logs = {"memory_log": "368KiB", "operation_log": "368KiB", "front_ends": 4}
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        pools.create(path, "64MiB", assume_persistent=True, **logs)
        with rnvm.Backend(path) as served, rnvm.connect(served.address, timeout=PATIENCE) as fe:
            tree = kind(fe, "t", partitions=partitions)
            largest = rng.randbytes(tree.largest_value)
            for i in range(1500):
                key = b"k" * 1016 + rng.randbytes(8)
                tree[key] = largest if i % 17 == 0 else bytes(250)
                if i % 17 == 0:
                    tree[key] = b""
            tree.check()


@each_of(MAPPINGS)
def test_a_number_of_partitions_is_an_int(kind: Any, fe: rnvm.FrontEnd) -> None:
    for wrong in (1.5, True, "8", b"8"):
        with pytest.raises(WrongType, match="partitions must be an int"):
            kind(fe, "m", partitions=wrong)
    for wrong in (0, 65, -1):
        with pytest.raises(InvalidArgument):
            kind(fe, "m", partitions=wrong)
    assert fe.names() == {}


# The ends of ordered mappings


class Meddling:
    """A codec that lets another front-end act when the next value is decoded."""

    name = "meddling"

    def __init__(self) -> None:
        self.act: Callable[[], None] | None = None

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, data: bytes) -> bytes:
        act, self.act = self.act, None
        if act is not None:
            act()
        return data


@each_of(ORDERED)
def test_an_item_that_is_popped_is_at_the_end_when_it_is_removed(
    kind: Any, fe: rnvm.FrontEnd, other: rnvm.FrontEnd
) -> None:
    codec = Meddling()
    mine, theirs = kind(fe, "t", codec=codec), kind(other, "t", codec=Meddling())
    for last, size in itertools.product((False, True), (1, 2000)):
        mine.update({b"m": b"0" * size, b"n": b"0" * size})
        beyond, end = (b"z", b"n") if last else (b"a", b"m")
        codec.act = partial(theirs.set, beyond, b"1" * size)
        assert mine.popitem(last=last) == (beyond, b"1" * size)
        codec.act = partial(theirs.set, end, b"2" * size)
        assert mine.popitem(last=last) == (end, b"2" * size)
        codec.act = theirs.clear
        with pytest.raises(KeyError):
            mine.popitem(last=last)
        mine.check()


@each_of(memory.ORDERED)
def test_popping_an_end_is_one_operation(kind: Any) -> None:
    room = memory.Memory()
    tree = kind(room, "t")
    tree.update({b"%d" % i: b"%d" % i * 500 for i in range(10)})
    room.operations()
    assert tree.popitem(last=True)[0] == b"9"
    assert tree.popitem()[0] == b"0"
    assert [bytes_ for _, _, bytes_ in room.operations()] == [b"", b""]
    with room.transaction():
        while tree:
            tree.popitem(last=True)
    tree.check()


@each_of(ORDERED)
@PARTITIONS
@pytest.mark.parametrize("codec", [None, "pickle"])
def test_an_end_that_is_popped_is_that_of_a_sorted_list(
    kind: Any, partitions: int | None, codec: str | None, fe: rnvm.FrontEnd, rng: random.Random
) -> None:
    tree = kind(fe, "t", partitions=partitions, codec=codec)
    model: dict[bytes, bytes] = {}
    encoded = (lambda key: key) if codec is None else pickle.dumps
    for step in range(400):
        if rng.random() < 0.55:
            key = rng.randbytes(rng.choice((1, 3, 40)))
            tree[key] = model[key] = b"%d" % step * rng.choice((1, 200))
        elif model:
            last = rng.random() < 0.5
            key = (max if last else min)(model, key=encoded)
            assert tree.popitem(last=last) == (key, model.pop(key))
    assert dict(tree) == model
    tree.check()


# Arguments


@each_of(KINDS)
def test_a_subclass_of_bytes_is_bytes(kind: Any, fe: rnvm.FrontEnd) -> None:
    class Own:
        name = "own"

        def encode(self, value: str) -> bytes:
            return Text(value.encode())

        def decode(self, data: bytes) -> str:
            return data.decode()

    structure = kind(fe, "s")
    add(structure, Text(b"k"), Text(b"v"))
    assert type(take(structure)) is bytes
    if kind in MAPPINGS:
        structure[b"k"] = b"v"
        assert structure[Text(b"k")] == b"v" and Text(b"k") in structure
        assert structure.setdefault(Text(b"k"), Text(b"w")) == structure.pop(Text(b"k")) == b"v"
    other = kind(fe, "other", codec=Own())
    add(other, "k", "v")  # type: ignore[arg-type]
    assert take(other) == "v"


def test_a_token_may_be_of_a_subclass_of_bytes(fe: rnvm.FrontEnd) -> None:
    queue = Queue(fe, "q")
    queue.put_many([b"1", b"2"])
    first, second = queue.reserve()[0], queue.reserve()[0]
    queue.extend(Text(first))
    queue.nack(Text(first))
    queue.ack(Text(second))
    assert list(queue) == [b"1"]
    for wrong in (None, 7, "text", bytearray(first)):
        for settle in (queue.ack, queue.nack, queue.extend):
            with pytest.raises(WrongType):
                settle(wrong)


@each_of(MAPPINGS)
@PARTITIONS
def test_a_default_that_is_not_set_may_be_anything(
    kind: Any, partitions: int | None, fe: rnvm.FrontEnd
) -> None:
    mapping = kind(fe, "m", partitions=partitions)
    mapping[b"k"] = b"v"
    for default in (None, 7, bytes(2 << 20)):
        assert mapping.setdefault(b"k", default) == b"v"
        with pytest.raises((WrongType, TooLarge)):
            mapping.setdefault(b"absent", default)
    assert dict(mapping) == {b"k": b"v"}


class Codec:
    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, value: bytes) -> bytes:
        return value

    def decode(self, data: bytes) -> bytes:
        return data


@each_of(KINDS)
def test_the_whole_name_of_a_codec_is_compared(kind: Any, fe: rnvm.FrontEnd) -> None:
    for name in ("a-very-long-codec-name-1", "ä" * 9):
        with pytest.raises(InvalidArgument, match="at most 16 bytes"):
            kind(fe, "s", codec=Codec(name))
    structure = kind(fe, "s", codec=Codec("ä" * 8))
    assert structure.codec_name == "ä" * 8
    assert fe.names()["s"]["codec"] == "ä" * 8


@each_of(KINDS)
def test_text_that_is_no_utf_8_is_the_callers_error(kind: Any, fe: rnvm.FrontEnd) -> None:
    with pytest.raises(InvalidArgument, match="UTF-8"):
        kind(fe, "\ud800")
    with pytest.raises(InvalidArgument, match="UTF-8"):
        fe.drop("\ud800")
    structure = kind(fe, "s", codec="utf-8")
    with pytest.raises(WrongType):
        add(structure, "\ud800", "\ud800")  # type: ignore[arg-type]
    loop: list[Any] = []
    loop.append(loop)
    cyclic, pickled = kind(fe, "json", codec="json"), kind(fe, "pickle", codec="pickle")
    with pytest.raises(WrongType):
        add(cyclic, "k", loop)  # type: ignore[arg-type]
    with pytest.raises(WrongType):
        add(pickled, "k", lambda: None)  # type: ignore[arg-type]
    assert not structure and not cyclic and not pickled
    if kind in MAPPINGS:
        with pytest.raises(InvalidArgument, match="UTF-8"):
            kind(fe, "\ud800", partitions=2)


def test_only_structures_are_named(fe: rnvm.FrontEnd) -> None:
    for scope in (fe.transaction, fe.read_transaction):
        for wrong in (None, "q", 7):
            with pytest.raises(InvalidArgument, match="not an open structure"), scope(wrong):
                pass
    for wrong in (None, Queue(fe, "q"), BPlusTree(fe, "t")):
        with pytest.raises(WrongType, match="multi-version"):
            structures.snapshots_of([wrong])


def test_a_dead_letter_queue_has_the_codec_of_its_queue(fe: rnvm.FrontEnd) -> None:
    dead = Queue(fe, "dead", codec="json")
    for codec in (None, "pickle"):
        for named in (dead, "dead"):
            with pytest.raises(InvalidArgument, match="dead_letter must have codec"):
                Queue(fe, "jobs", codec=codec, dead_letter=named)
        fe.drop("jobs")
    assert Queue(fe, "jobs", codec="json", dead_letter=dead).dead_letter is dead


def test_a_get_that_others_always_precede_says_so(
    served: rnvm.Backend, fe: rnvm.FrontEnd, other: rnvm.FrontEnd
) -> None:
    with connect_hasty(served.address, 0.5 * SLOWER) as hasty:
        codec = Meddling()
        mine = Queue(hasty, "q", codec=codec, timeout=20)
        theirs = Queue(other, "q", codec=Meddling())
        theirs.put(b"0")

        class Precede:
            def __call__(self) -> None:
                theirs.get()
                theirs.put(b"next")
                codec.act = self

        codec.act = Precede()
        raises_in_some_try(mine.get, DeadlineExceeded, "other consumers")


# Calls of several operations within a transaction


def many_of(structure: Any) -> list[Callable[[Any], Any]]:
    """Return the calls of a structure that take many values, or many items."""
    if isinstance(structure, Queue):
        return [structure.put_many]
    if isinstance(structure, Stack):
        return [structure.push_many]
    calls = [structure.update]
    if not isinstance(structure, HashTable):
        calls.append(structure.bulk_load)
    return calls


def some(structure: Any, count: int, error: bool = False) -> Iterator[Any]:
    for i in range(count):
        yield (b"%08d" % i, bytes(1000)) if isinstance(structure, tuple(MAPPINGS)) else bytes(1000)
    if error:
        raise Planted


@each_of(KINDS)
@pytest.mark.parametrize("batch", [False, True], ids=["alone", "in a batch"])
def test_a_call_in_a_transaction_is_done_as_a_whole_or_not_at_all(
    kind: Any, batch: bool, fe: rnvm.FrontEnd, other: rnvm.FrontEnd
) -> None:
    structure, beside = kind(fe, "s"), Queue(fe, "beside")
    theirs = kind(other, "s")
    calls = many_of(structure)
    for number, call in enumerate(calls):
        with fe.batch() if batch else contextlib.nullcontext():
            with fe.transaction(structure, beside):
                add(structure, b"before", b"1")
                beside.put(b"%d" % number)
                before = content(structure)
                with pytest.raises(Planted):
                    call(some(structure, 60, error=True))
                with pytest.raises(TooLarge):
                    call(some(structure, 20_000))
                with pytest.raises(WrongType):
                    call([*some(structure, 40), (b"k", 7) if kind in MAPPINGS else 7])
                assert content(structure) == before
                add(structure, b"z after", b"2")
        after = content(structure)
        assert len(after) == len(before) + 1
        assert content(theirs) == after
        structure.clear() if hasattr(structure, "clear") else [take(structure) for _ in after]
    assert list(beside) == [b"%d" % number for number in range(len(calls))]
    structure.check()
    beside.check()


@each_of([Stack, *MAPPINGS])
@PARTITIONS
def test_a_clear_in_a_transaction_removes_all_or_nothing(
    kind: Any, partitions: int | None, fe: rnvm.FrontEnd
) -> None:
    if kind is Stack and partitions:
        return
    structure = kind(fe, "s", **({} if kind is Stack else {"partitions": partitions}))
    with fe.batch():
        if kind is Stack:
            structure.push_many(bytes(1000) for _ in range(1200))
        else:
            structure.update((b"%05d" % i, bytes(300)) for i in range(4000))
    before = len(structure)
    cleared = True
    with fe.transaction(structure):
        try:
            structure.clear()
        except TooLarge:
            cleared = False
        assert len(structure) == (0 if cleared else before)
        add(structure, b"after", b"1")
    assert len(structure) == (1 if cleared else before + 1)
    structure.check()


# Answers


@each_of(MAPPINGS)
def test_a_finalizer_that_calls_the_front_end_changes_no_answer(
    kind: Any, fe: rnvm.FrontEnd
) -> None:
    """The garbage collector may run wherever an object is made."""
    mapping, beside = kind(fe, "m"), HashTable(fe, "beside")
    expected = {b"%04d" % i: b"%d" % i * 10 for i in range(3000)}
    mapping.update(expected)
    beside[b"k"] = b"x" * 4000
    held = [(i, i) for i in range(5000)]  # pairs come from the allocator, not from its free list
    inside = calls = 0

    def call(phase: str, info: Any) -> None:
        nonlocal inside, calls
        if phase == "start" and not inside:
            inside = 1
            try:
                beside[b"k"]
                calls += 1
            except CallerError:
                pass  # it is inside a call
            finally:
                inside = 0

    thresholds = gc.get_threshold()
    gc.callbacks.append(call)
    gc.set_threshold(1, 1000, 1000)
    try:
        found = list(mapping.items())
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(call)
    assert dict(found) == expected and len(held) == 5000 and calls
