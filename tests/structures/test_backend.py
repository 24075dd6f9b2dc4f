"""The same models on a real back-end, through alternating front-ends, in one thread and several.

All of it also runs over verbs: each kind of structure with few examples.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from slower import EMULATED, rounds
from structure_kinds import KINDS, MAPPINGS, VERSIONED, each_of, take

import rnvm
import structures
from rfp.errors import Empty, WrongKind

from .backends import backend
from .models import MappingModel, QueueModel, StackModel, TreeModel, keys, lengths

pytestmark = pytest.mark.anywhere

FEW = settings(
    max_examples=1 if EMULATED else 6, stateful_step_count=10 if EMULATED else 25, deadline=None
)


class Shared:
    """Two front-ends of one back-end, each with a handle of the structure."""

    def __init__(self) -> None:
        super().__init__()
        self.open = contextlib.ExitStack()
        # The same order of keys in every run: hypothesis repeats failures.
        for module in (structures.hash_table, structures.skip_list):
            self.open.enter_context(mock.patch.object(module, "os", SimpleNamespace(urandom=bytes)))
        served = self.open.enter_context(backend())
        self.one = self.open.enter_context(rnvm.connect(served.address))
        self.two = self.open.enter_context(rnvm.connect(served.address))

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.open.close()


class MappingMachine(Shared, MappingModel):
    kind: ClassVar[type] = structures.HashTable

    def __init__(self) -> None:
        super().__init__()
        self.mapping = self.kind(self.one, "m")
        self.other = self.kind(self.two, "m")

    @rule()
    def the_handles_are_swapped(self) -> None:
        self.one, self.two = self.two, self.one
        self.mapping, self.other = self.other, self.mapping

    @rule(
        items=st.dictionaries(keys, lengths, max_size=40), fails=st.booleans(), batch=st.booleans()
    )
    def many_together(self, items: dict[bytes, int], fails: bool, batch: bool) -> None:
        values = {key: self.value(length) for key, length in items.items()}
        if batch:
            with self.one.batch():
                self.mapping.update(values)
            self.model.update(values)
            return
        with contextlib.suppress(ZeroDivisionError), self.one.transaction(self.mapping):
            self.mapping.update(values)
            for key in list(values)[::3]:
                del self.mapping[key]
            if fails:
                raise ZeroDivisionError
        if not fails:
            self.model.update(values)
            for key in list(values)[::3]:
                del self.model[key]


class TreeMachine(MappingMachine, TreeModel):
    kind = structures.BPlusTree


class SkipListMachine(MappingMachine, TreeModel):
    kind = structures.SkipList


class BSTMachine(MappingMachine, TreeModel):
    kind = structures.BST


class VersionedTreeMachine(MappingMachine, TreeModel):
    kind = structures.MVBPlusTree


class VersionedBSTMachine(MappingMachine, TreeModel):
    kind = structures.MVBST


class QueueMachine(Shared, QueueModel):
    most = 3

    def __init__(self) -> None:
        super().__init__()
        options = {"dead_letter": "dead", "max_deliveries": self.most}
        self.queue = structures.Queue(self.one, "q", **options)
        self.other = structures.Queue(self.two, "q", **options)
        self.dead = self.other.dead_letter

    @rule()
    def the_handles_are_swapped(self) -> None:
        self.one, self.two = self.two, self.one
        self.queue, self.other = self.other, self.queue

    @rule(n=st.integers(1, 60), fails=st.booleans(), batch=st.booleans())
    def many_together(self, n: int, fails: bool, batch: bool) -> None:
        values = [self.value(i * 10) for i in range(n)]
        with contextlib.suppress(ZeroDivisionError):
            with self.one.batch() if batch else self.one.transaction(self.queue):
                for value in values:
                    self.queue.put(value)
                if fails:
                    raise ZeroDivisionError
        if batch or not fails:
            self.model.waiting += values


class StackMachine(Shared, StackModel):
    def __init__(self) -> None:
        super().__init__()
        self.stack = structures.Stack(self.one, "s")
        self.other = structures.Stack(self.two, "s")

    @rule()
    def the_handles_are_swapped(self) -> None:
        self.one, self.two = self.two, self.one
        self.stack, self.other = self.other, self.stack

    @rule(n=st.integers(1, 60), fails=st.booleans(), batch=st.booleans())
    def many_together(self, n: int, fails: bool, batch: bool) -> None:
        values = [self.value(i * 10) for i in range(n)]
        with contextlib.suppress(ZeroDivisionError):
            with self.one.batch() if batch else self.one.transaction(self.stack):
                for value in values:
                    self.stack.push(value)
                if fails:
                    raise ZeroDivisionError
        if batch or not fails:
            self.model += values


for machine in (
    MappingMachine,
    TreeMachine,
    SkipListMachine,
    BSTMachine,
    VersionedTreeMachine,
    VersionedBSTMachine,
    QueueMachine,
    StackMachine,
):
    machine.TestCase.settings = FEW

TestHashTable = MappingMachine.TestCase
TestBPlusTree = TreeMachine.TestCase
TestSkipList = SkipListMachine.TestCase
TestBST = BSTMachine.TestCase
TestMVBPlusTree = VersionedTreeMachine.TestCase
TestMVBST = VersionedBSTMachine.TestCase
TestQueue = QueueMachine.TestCase
TestStack = StackMachine.TestCase


@pytest.fixture(scope="module")
def served():
    with backend("64MiB", **({} if EMULATED else {"lease": 5})) as made:
        yield made


def test_a_name_belongs_to_one_kind(served):
    with rnvm.connect(served.address) as fe:
        structures.Queue(fe, "taken")
        with pytest.raises(WrongKind):
            structures.BPlusTree(fe, "taken")


@each_of(KINDS)
def test_stored_values_are_there_for_the_next_front_end(served, kind):
    name = f"kept {kind.__name__}"
    n = rounds(1000)
    items = {b"%d" % i: b"%d " % i + bytes(i % 700) for i in range(n)}
    with rnvm.connect(served.address) as fe:
        structure = kind(fe, name)
        if kind in MAPPINGS:
            structure.update(items)
        elif kind is structures.Queue:
            structure.put_many(items.values())
        else:
            structure.push_many(items.values())
    with rnvm.connect(served.address) as fe:
        kept = kind(fe, name)
        if kind in MAPPINGS:
            assert kept == items
        else:
            assert sorted(kept) == sorted(items.values())
            assert take(kept) == items[b"0" if kind is structures.Queue else b"%d" % (n - 1)]
        kept.check()


def all_run(*runs: Callable[[], None], failed: list[BaseException]) -> None:
    """Run functions in threads; raise the first exception.

    A function that waits for another one must check `failed`: the other one may have raised.
    """

    def guarded(run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("own", [True, False], ids=["a front-end each", "one front-end"])
def test_producers_and_consumers_in_threads_pass_each_value_once(served, own):
    name = f"passed on {own}"
    each, producers = rounds(300), 2
    got: list[bytes] = []
    failed: list[BaseException] = []
    with contextlib.ExitStack() as stack:
        first = structures.Queue(
            stack.enter_context(rnvm.connect(served.address, timeout=20)), name
        )
        queues = [first]
        while len(queues) < producers + 2:
            queues.append(
                structures.Queue(
                    stack.enter_context(rnvm.connect(served.address, timeout=20)), name
                )
                if own
                else first
            )

        def produce(number: int) -> None:
            for i in range(each):
                queues[number].put(b"%d:%d" % (number, i))

        def consume(number: int) -> None:
            while len(got) < each * producers and not failed:
                try:
                    token, value = queues[number].reserve()
                except Empty:
                    continue
                queues[number].ack(token)
                got.append(value)

        all_run(
            *(lambda n=n: produce(n) for n in range(producers)),
            *(lambda n=n: consume(producers + n) for n in range(2)),
            failed=failed,
        )
        assert sorted(got) == sorted(
            b"%d:%d" % (n, i) for n in range(producers) for i in range(each)
        )
        queues[0].check()
        assert len(queues[0]) == queues[0].reserved == 0


@each_of(MAPPINGS)
def test_readers_see_consistent_states_while_a_writer_changes_them(served, kind):
    """Two keys that change in one transaction are never seen apart.

    An iteration misses no item that stays.
    """
    name = f"read {kind.__name__}"
    stay = {b"stay%d" % i for i in range(rounds(300))}
    done = threading.Event()
    with (
        rnvm.connect(served.address, timeout=20) as one,
        rnvm.connect(served.address, timeout=20) as two,
    ):
        written, read = kind(one, name), kind(two, name)
        written.update(dict.fromkeys(stay, b"x" * 50))

        def write() -> None:
            try:
                for i in range(rounds(400)):
                    with one.transaction(written):
                        written[b"pair"] = b"%d" % i
                        written[b"go%d" % (i % 100)] = bytes(i)
                        written.pop(b"go%d" % ((i + 50) % 100), None)
            finally:
                done.set()

        def read_all() -> None:
            last = 0
            while not done.is_set():
                now = int(read.get(b"pair", b"0"))
                assert now >= last
                last = now
                seen = list(read)
                assert len(seen) == len(set(seen))
                assert stay <= set(seen)

        all_run(write, read_all, failed=[])
        if kind in VERSIONED:
            assert two.figures["restarts"] == 0
        read.check()
