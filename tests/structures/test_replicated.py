"""Sessions of promise "replicated" answer nothing that their mirrors do not have.

Mirrors are replaced by numbers: each drain of the back-end publishes a frame, and the test says
which frames are replicated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from connecting import connect_hasty, use_fabric
from polling import until
from repeating import repeating
from structure_kinds import (
    KINDS,
    MAPPINGS,
    NAMES,
    ORDERED,
    SEQUENCES,
    VERSIONED,
    add,
    content,
    take,
)
from time_bounds import in_some_try, raises_in_some_try

import rnvm
import rnvm.aio
from rfp import address as addresses
from rfp.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    NotFound,
    NotReplicated,
    OutcomeUnknown,
    RfpError,
    SnapshotTooOld,
    Unsupported,
)
from rfp.testing.reordering_fabric import ReorderFabric
from rnvm.backend import backend as served
from rnvm.backend import promises
from rnvm.frontend import log_overlay, promise
from rnvm.pool import frame_words
from structures import HashTable, MVBPlusTree, Queue, Stack

from .backends import backend
from .calls import MOMENT, Call, promptly

FAR = "?rtt=2us"
# What a session may raise that was held up for longer than a lease.
LOST = (ConnectionFailed, SnapshotTooOld)
APPLY_LATE, COLLECT_LATE = 1, 2


class Held:
    """A back-end whose frames are replicated when the test says so."""

    def __init__(self, served: rnvm.Backend) -> None:
        self.backend = served
        self.service = served._service
        self.service._hold_replication()
        self.mirrors: list[threading.Event] = []
        self.stack = contextlib.ExitStack()

    @property
    def published(self) -> int:
        return int(self.service.replication["published"])

    @property
    def acked(self) -> int:
        return int(self.service.replication["acked"])

    def ack(self, frame: int | None = None) -> None:
        self.service._set_replication(acked=self.published if frame is None else frame)

    def show(self, **numbers: int) -> None:
        """Set numbers, and wait until front-ends see them."""
        self.service._set_replication(**numbers)
        with rnvm.connect(self.backend.address) as fe:
            fe.names()

    @contextlib.contextmanager
    def mirrored(self) -> Iterator[None]:
        """Replicate everything at once."""
        with repeating(self.ack, pause=0.0005):
            yield

    def connect(self, durability: str = "replicated", **options: Any) -> rnvm.FrontEnd:
        with self.mirrored():
            return self.stack.enter_context(
                connect_hasty(
                    self.backend.address, **{"durability": durability, "timeout": 20, **options}
                )
            )

    def open(self, fe: rnvm.FrontEnd, kind: Any, name: str = "s", **options: Any) -> Any:
        with self.mirrored():
            return kind(fe, name, **{"timeout": 20, **options})


@contextlib.contextmanager
def held_backend(options: str = "", **more: Any) -> Iterator[Held]:
    address = str(addresses.unique()) + options
    with backend(address=address, **more) as served:
        held = Held(served)
        try:
            yield held
        finally:
            with held.mirrored():
                held.stack.close()


near_and_far = pytest.mark.parametrize("options", ["", FAR], ids=["near", "far"])


@pytest.fixture
def held(options: str) -> Iterator[Held]:
    with held_backend(options) as made:
        yield made


def gate(held: Held, call: Callable[[], Any]) -> Any:
    """Return the answer of a call that must wait until all that is published now is replicated."""
    waiting = Call(call)
    assert waiting.waits, (waiting.result, waiting.error)
    # Its own records may be in a later frame than those that were published when it began.
    with held.mirrored():
        return waiting.answer()


# --- What was read


@near_and_far
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_answer_waits_for_what_another_session_wrote(held: Held, kind: Any) -> None:
    writer = held.open(held.connect("persistent"), kind)
    reader = held.open(held.connect(), kind)
    with held.mirrored():
        add(writer, b"a", b"1")
        content(reader)
    for i, read in enumerate(reads(kind, reader)):
        held.ack()
        add(writer, b"b%d" % i, b"2")  # acknowledged: it is durable at the primary
        gate(held, read)
        # All of it is replicated now, and nothing is being written.
        promptly(read)


def reads(kind: Any, structure: Any) -> list[Callable[[], Any]]:
    some: list[Callable[[], Any]] = [
        lambda: content(structure),
        lambda: len(structure),
        lambda: structure.check(),
    ]
    if kind is Queue or kind is Stack:
        some.append(lambda: structure.peek())
    if kind in MAPPINGS:
        some += [
            lambda: structure.get(b"a"),
            lambda: structure.get(b"nothing"),
            lambda: b"a" in structure,
            lambda: next(iter(structure)),
        ]
    if kind in ORDERED:
        some.append(lambda: list(structure.range(b"a", b"c")))
    return some


@near_and_far
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_failed_wait_does_not_let_the_next_answer_escape(held: Held, kind: Any) -> None:
    writer = held.open(held.connect("persistent"), kind)
    reader = held.open(held.connect(timeout=0.2), kind)

    def answered(count: int) -> bool:
        with contextlib.suppress(DeadlineExceeded):
            return len(content(reader)) == count
        return False

    with held.mirrored():
        add(writer, b"a", b"1")
        until(lambda: answered(1))
    add(writer, b"b", b"2")
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DeadlineExceeded):  # of the wait; on a busy computer, of a request
            content(reader)
    held.ack()
    until(lambda: answered(2))


@near_and_far
@pytest.mark.parametrize("lock", ["sticky", "each", "cas"])
def test_a_lock_is_taken_over_at_once_and_the_answer_waits(held: Held, lock: str) -> None:
    writer = held.open(held.connect("persistent", lock=lock), HashTable)
    other = held.open(held.connect(lock=lock), HashTable)
    third = held.open(held.connect("persistent", lock=lock), HashTable)
    with held.mirrored():
        writer[b"a"] = b"1"
    writer[b"a"] = b"2"
    waiting = Call(lambda: other.pop(b"a"))
    assert waiting.waits
    third[b"b"] = b"3"  # the lock does not wait
    with held.mirrored():
        assert waiting.answer() == b"2"


@near_and_far
@pytest.mark.parametrize("kind", VERSIONED, ids=lambda kind: kind.__name__)
def test_a_snapshot_opens_when_its_version_is_replicated(held: Held, kind: Any) -> None:
    writer = held.open(held.connect("persistent"), kind)
    reader = held.open(held.connect(), kind)
    with held.mirrored():
        writer[b"a"] = b"1"
    writer[b"a"] = b"2"
    snapshot = gate(held, reader.snapshot)
    writer[b"a"] = b"3"
    assert promptly(lambda: snapshot[b"a"]) == b"2"
    snapshot.close()
    assert gate(held, lambda: reader[b"a"]) == b"3"


@near_and_far
def test_a_read_transaction_answers_what_is_replicated(held: Held) -> None:
    fe, mine = held.connect("persistent"), held.connect()
    writers = [held.open(fe, NAMES[name], name) for name in ("table", "versions")]
    readers = [held.open(mine, NAMES[name], name) for name in ("table", "versions")]
    with held.mirrored(), fe.transaction(*writers):
        for each in writers:
            each[b"a"] = b"1"
    with fe.transaction(*writers):
        for each in writers:
            each[b"a"] = b"2"

    def read() -> list[bytes]:
        with mine.read_transaction(*readers):
            return [each[b"a"] for each in readers]

    assert gate(held, read) == [b"2", b"2"]


@near_and_far
def test_a_wait_for_a_value_ends_when_the_value_is_replicated(held: Held) -> None:
    writer, reader = held.open(held.connect("persistent"), Queue), held.open(held.connect(), Queue)
    waiting = Call(lambda: reader.get(timeout=20))
    assert waiting.waits
    held.ack()
    writer.put(b"v")
    assert waiting.waits
    with held.mirrored():
        assert waiting.answer() == b"v"


@near_and_far
def test_an_operation_that_changes_nothing_waits_for_what_it_has_read(held: Held) -> None:
    writer = held.open(held.connect("persistent"), HashTable)
    reader = held.open(held.connect(), HashTable)
    with held.mirrored():
        writer[b"a"] = b"1"
    del writer[b"a"]
    assert gate(held, lambda: reader.pop(b"a", None)) is None


# --- What was written


@near_and_far
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_change_is_acknowledged_when_it_is_replicated(held: Held, kind: Any) -> None:
    writer = held.open(held.connect(), kind)
    held.ack()
    before = held.published
    waiting = Call(lambda: add(writer, b"k", b"v"))
    until(lambda: held.published > before)
    assert waiting.waits
    with held.mirrored():
        waiting.answer()
    assert gate(held, lambda: take(writer)) == b"v"


@near_and_far
def test_operations_of_a_batch_wait_at_its_end(held: Held) -> None:
    fe = held.connect()
    table = held.open(fe, HashTable)
    with held.mirrored():
        table[b"warm"] = b"up"
    batch = fe.batch()
    batch.__enter__()
    for i in range(5):
        table[b"%d" % i] = b"v"
    end = Call(lambda: batch.__exit__(None, None, None))
    assert end.waits
    with held.mirrored():
        end.answer()
    assert promptly(lambda: table[b"3"]) == b"v"


@near_and_far
def test_a_transaction_waits_at_its_end(held: Held) -> None:
    fe = held.connect()
    a, b = held.open(fe, HashTable, "a"), held.open(fe, MVBPlusTree, "b")

    def both() -> None:
        with fe.transaction(a, b):
            a[b"k"] = b[b"k"] = b"v"

    gate(held, both)
    assert promptly(lambda: (a[b"k"], b[b"k"])) == (b"v", b"v")


@near_and_far
def test_a_late_change_says_where_it_holds(held: Held, options: str) -> None:
    table = held.open(held.connect(), HashTable)
    with held.mirrored():
        table[b"a"] = b"1"
    late(table, DeadlineExceeded, "holds at the primary")
    held.show(min_mirrors=1)
    learn(table, options)
    with pytest.raises(NotReplicated, match="nothing was done"):
        table[b"a"] = b"3"
    with pytest.raises(DeadlineExceeded):
        table.get(b"a", timeout=0.2)
    held.ack()
    assert table[b"a"] == b"2"  # what is replicated is read without mirrors


def late(table: Any, kind: type[RfpError], reason: str) -> None:
    """Check the error of a change that is late."""
    raises_in_some_try(lambda: table.set(b"a", b"2", timeout=0.2), kind, reason)


def learn(table: Any, options: str) -> None:
    """Over a network a front-end learns with its next change that mirrors have gone."""
    if options:
        late(table, OutcomeUnknown, "will hold for the group")


@near_and_far
def test_with_too_few_mirrors_nothing_is_changed(held: Held, options: str) -> None:
    fe = held.connect()
    table = held.open(fe, HashTable)
    with held.mirrored():
        table[b"a"] = b"1"
        Stack(fe, "other")
    held.show(min_mirrors=1)
    learn(table, options)
    with held.mirrored():
        value = table[b"a"]
        for change in (
            lambda: table.__setitem__(b"a", b"2"),
            lambda: table.pop(b"a"),
            lambda: Stack(fe, "new"),
            lambda: fe.drop("other"),
        ):
            with pytest.raises(NotReplicated):
                change()
        with pytest.raises(NotReplicated), fe.transaction(table):
            table[b"a"] = b"3"
        assert table[b"a"] == value
        with pytest.raises(NotReplicated):
            rnvm.connect(held.backend.address, durability="replicated", timeout=20, reconnect=False)
        held.show(in_sync=1)
        table[b"a"] = b"2"
        assert table[b"a"] == b"2"


@near_and_far
def test_a_mirror_that_goes_after_the_change_leaves_its_outcome_unknown(held: Held) -> None:
    held.show(in_sync=1, min_mirrors=1)
    table = held.open(held.connect(), HashTable)
    with held.mirrored():
        table[b"a"] = b"1"

    def lose_it() -> None:
        held.show(in_sync=1)
        change = Call(lambda: table.set(b"a", b"2", timeout=1))
        assert change.waits
        held.show(in_sync=0)
        change.answer()

    # On a busy computer it may go after the change's time.
    raises_in_some_try(lose_it, OutcomeUnknown, "will hold for the group")


def test_a_back_end_that_accepts_no_mirrors_promises_no_replication(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = served.PoolService

    def alone(*arguments: Any, **options: Any) -> Any:
        return made(*arguments, **{**options, "min_mirrors": -1})

    monkeypatch.setattr(served, "PoolService", alone)
    with backend() as one:
        with pytest.raises(Unsupported):
            rnvm.connect(one.address, durability="replicated")
        with rnvm.connect(one.address) as fe:
            Stack(fe, "s").push(b"v")


# --- Calls of the back-end


@near_and_far
def test_a_drop_is_done_once_and_answered_when_it_is_replicated(held: Held) -> None:
    fe, other = held.connect(), held.connect("persistent")
    held.open(fe, HashTable, "gone")
    held.ack()
    before = held.published
    waiting = Call(lambda: fe.drop("gone"))
    until(lambda: held.published > before)
    assert "gone" not in other.names()
    assert waiting.waits
    with held.mirrored():
        waiting.answer()
        with pytest.raises(NotFound):
            fe.drop("gone")


@near_and_far
def test_a_structure_made_or_dropped_by_others_is_seen_when_that_is_replicated(held: Held) -> None:
    fe, other = held.connect(), held.connect("persistent")
    mine = held.open(fe, HashTable, "a")
    fe.release()
    held.ack()
    other.drop("a")

    def use() -> None:
        with pytest.raises(NotFound):
            mine.get(b"k")

    gate(held, use)
    Stack(other, "b")
    assert set(gate(held, fe.names)) == {"b"}
    Stack(other, "c")
    gate(held, lambda: Stack(fe, "c", create=False))
    other_stack = Call(lambda: Stack(fe, "new"))
    assert other_stack.waits
    with held.mirrored():
        other_stack.answer()


# --- The back-end dies while an answer waits


@contextlib.contextmanager
def restarted_at_the_gate(
    call: Callable[[rnvm.FrontEnd, Any], Any], before: Callable[[Any], None]
) -> Iterator[tuple[Any, Any]]:
    """Yield the call's answer and the structure, after a back-end that replicates all took over."""
    address = str(addresses.unique())
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = os.path.join(folder, "pool")
        first = rnvm.Backend(path, size="32MiB", assume_persistent=True, address=address)
        held = Held(first)
        fe = held.connect()
        table = held.open(fe, HashTable)
        with held.mirrored():
            table[b"a"] = b"1"
        before(held.open(held.connect("persistent"), HashTable))
        waiting = Call(lambda: call(fe, table))
        assert waiting.waits
        first.close()
        with rnvm.Backend(path, address=address):
            yield waiting.answer(), table
            held.stack.close()


def test_a_query_is_executed_again_by_the_next_back_end() -> None:
    with restarted_at_the_gate(
        lambda fe, table: table[b"a"], lambda other: other.__setitem__(b"a", b"2")
    ) as (found, _):
        assert found == b"2"


def test_an_operation_that_was_not_replicated_counts_at_the_next_back_end() -> None:
    with restarted_at_the_gate(lambda fe, table: table.pop(b"a"), lambda other: None) as (
        found,
        table,
    ):
        assert found == b"1"
        assert b"a" not in table


def test_the_end_of_a_batch_waits_at_the_next_back_end() -> None:
    def batch(fe: rnvm.FrontEnd, table: Any) -> None:
        with fe.batch():
            table[b"b"] = b"2"
            table[b"c"] = b"3"

    with restarted_at_the_gate(batch, lambda other: None) as (_, table):
        assert dict(table) == {b"a": b"1", b"b": b"2", b"c": b"3"}


# --- A failover loses what was not replicated


class Reopened(HashTable):
    """Its reopening in a new session fails, while the test says so."""

    fails = tried = False

    def _reopen(self) -> None:
        self.tried = True
        if self.fails:
            raise ConnectionFailed("not yet")
        super()._reopen()


@contextlib.contextmanager
def with_a_copy() -> Iterator[tuple[rnvm.FrontEnd, Any, Callable[[], None]]]:
    """Yield a front-end, a structure, and what serves a copy of the pool as it was before."""
    address = str(addresses.unique())
    with (
        tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder,
        contextlib.ExitStack() as stack,
    ):
        path, copy = os.path.join(folder, "pool"), os.path.join(folder, "copy")
        first = rnvm.Backend(path, size="8MiB", assume_persistent=True, address=address)
        stack.enter_context(first)
        held = Held(first)
        stack.enter_context(held.stack)
        fe = held.connect()
        table = held.open(fe, Reopened)
        with held.mirrored():
            table[b"a"] = b"1"
        held.ack()
        shutil.copy(path, copy)

        def fail_over() -> None:
            first.close()
            stack.enter_context(rnvm.Backend(copy, address=address))

        yield fe, table, fail_over


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("planted", [False, True])
def test_a_lost_batch_is_reported_also_if_a_query_was_answered_in_it(planted: bool) -> None:
    with with_a_copy() as (_, table, fail_over):
        written, answered, over = (threading.Event() for _ in range(3))
        promise._skip_steps(promise.PROMISE_STORED if planted else 0)

        def work() -> None:
            with table.fe.batch():
                table[b"b"] = b"2"
                written.set()
                table.get(b"a")
                answered.set()
                assert over.wait(20)
                table[b"c"] = b"3"

        batch = Call(work)
        assert written.wait(20)
        assert answered.wait(20 if planted else MOMENT) == planted
        fail_over()
        over.set()
        with contextlib.nullcontext() if planted else pytest.raises(OutcomeUnknown):
            batch.answer()
        assert b"b" not in table


def test_lost_changes_are_reported_by_the_first_session_that_is_whole() -> None:
    with with_a_copy() as (fe, table, fail_over):
        with fe.batch():
            table[b"b"] = b"2"
            fail_over()
            table.fails = True
            errors = []

            def fail() -> None:  # on a busy computer the time may be over before an attempt
                with pytest.raises((ConnectionFailed, DeadlineExceeded)) as lost:
                    table.set(b"c", b"3", timeout=1.5)
                errors.append(lost.type)
                assert table.tried

            in_some_try(fail)
            assert OutcomeUnknown not in errors
            table.fails = False
            with pytest.raises(OutcomeUnknown):
                table.get(b"a")
            assert table.get(b"b") is None


@near_and_far
def test_a_query_in_a_batch_waits_for_the_changes_of_the_batch(held: Held) -> None:
    fe = held.connect()
    table = held.open(fe, HashTable)
    with held.mirrored():
        table[b"a"] = b"1"
    asked, answered = threading.Event(), threading.Event()

    def work() -> bytes:
        with fe.batch():
            table[b"a"] = b"2"
            asked.set()
            found: bytes = table[b"a"]
            answered.set()
            return found

    batch = Call(work)
    assert asked.wait(20)
    assert not answered.wait(MOMENT)
    with held.mirrored():
        assert batch.answer() == b"2"


# --- Costs


@near_and_far
def test_while_nothing_is_written_answers_cost_no_further_round_trip(
    held: Held, options: str
) -> None:

    def check() -> None:  # on a busy computer the back-end may be at work for longer than a moment
        costs = []
        for durability in ("persistent", "replicated"):
            fe = held.connect(durability)
            table = held.open(fe, HashTable, "t")
            with held.mirrored():
                if durability == "persistent":
                    table[b"k"] = b"v"
                    time.sleep(MOMENT)
                table.get(b"k")
                fe.release()
                table.get(b"k")
                before = fe.figures
                for _ in range(50):
                    assert table.get(b"k") == b"v"
                after = fe.figures
            costs.append({key: after[key] - before[key] for key in ("reads", "writes", "calls")})
        assert costs[1]["calls"] == costs[0]["calls"] == 0
        # Over a network the frame word comes with the line, in the same round trip.
        assert costs[1]["reads"] <= costs[0]["reads"] + (50 if options else 0)

    in_some_try(check)


def test_the_frame_words_of_many_structures_go_back_to_0() -> None:
    with held_backend() as held:
        fe = held.connect("persistent")
        stacks = [held.open(fe, Stack, f"s{i}") for i in range(150)]
        reader = held.open(held.connect(), Stack, "s77", create=False)
        for each in stacks:
            each.push(b"v")
        gate(held, reader.peek)
        until(lambda: not held.service.replication["waiting"])


# --- asyncio


@near_and_far
def test_the_loop_goes_on_while_a_call_waits(held: Held) -> None:
    async def main() -> int:
        turns = 0
        async with rnvm.aio.connect(
            held.backend.address, durability="replicated", timeout=20
        ) as fe:
            table = await fe.open(HashTable, "t")
            over.set()
            mirror.join()
            change = asyncio.ensure_future(table.set(b"k", b"v"))
            for _ in range(20):
                await asyncio.sleep(0.002)
                turns += 1
            assert not change.done()
            with held.mirrored():
                await change
                assert await table.get(b"k") == b"v"
                await fe.close()
        return turns

    over = threading.Event()

    def follow() -> None:
        while not over.wait(0.0005):
            held.ack()

    mirror = threading.Thread(target=follow)
    mirror.start()
    try:
        assert asyncio.run(main()) == 20
    finally:
        over.set()


# --- Histories


class Histories:
    """Writers count in structures; readers note what they saw, and how far frames were replicated.

    A value is in a frame after those that were published when its write began.
    """

    def __init__(self, held: Held, rng: random.Random, names: list[str], seconds: float) -> None:
        self.held, self.rng, self.names = held, rng, names
        self.enough = time.monotonic() + seconds
        self.deadline = time.monotonic() + 20 + seconds
        self.wanted = 20  # answers, however slow the machine is
        self.least: dict[tuple[str, int], int] = {}  # value -> the first frame it may be in
        self.escaped: list[str] = []
        self.errors: list[BaseException] = []
        self.answers = 0

    def going(self) -> bool:
        now = time.monotonic()
        more = now < self.enough or (self.answers < self.wanted and now < self.deadline)
        return more and not self.escaped and not self.errors

    def guard(self, run: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                run()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def see(self, name: str, number: int) -> None:
        acked = self.held.acked
        self.answers += 1
        if acked < self.least.get((name, number), 0):
            self.escaped.append(f"{name}: {number} of frame > {self.least[name, number] - 1}, "
                                f"replicated up to {acked}")  # fmt: skip

    def write(self, durability: str) -> Callable[[], None]:
        fe = self.held.connect(durability, **self.options())
        mine = {name: self.held.open(fe, NAMES[name], name) for name in self.names}
        rng = random.Random(self.rng.random())

        def run() -> None:
            turn = 0
            while self.going():
                turn += 1
                some = rng.sample(self.names, rng.randint(1, len(self.names)))
                number = turn * 2 + (durability == "replicated")
                for name in some:
                    self.least[name, number] = self.held.published + 1
                way = rng.choice(["one", "one", "batch", "transaction"])
                if way == "one":
                    some = some[:1]
                scope = {
                    "one": contextlib.nullcontext,
                    "batch": fe.batch,
                    "transaction": lambda some=some: fe.transaction(*(mine[n] for n in some)),
                }[way]()
                with contextlib.suppress(*LOST):
                    with scope:
                        for name in some:
                            store(mine[name], number)
                    if durability == "replicated":
                        for name in some:
                            self.see(name, number)

        return run

    def read(self) -> Callable[[], None]:
        fe = self.held.connect(**self.options())
        mine = {name: self.held.open(fe, NAMES[name], name) for name in self.names}
        rng = random.Random(self.rng.random())

        def run() -> None:
            while self.going():
                with contextlib.suppress(*LOST):
                    turn()

        def turn() -> None:
            name = rng.choice(self.names)
            if rng.random() < 0.2:
                some = rng.sample(self.names, min(2, len(self.names)))
                found = fe.read(
                    lambda *all: [latest(each) for each in all], *(mine[n] for n in some)
                )
                for each, number in zip(some, found, strict=True):
                    self.see(each, number)
            elif name in ("versions", "mvbst") and rng.random() < 0.3:
                with mine[name].snapshot() as snapshot:
                    self.see(name, latest(snapshot))
            else:
                self.see(name, latest(mine[name]))

        return run

    def options(self) -> dict[str, Any]:
        return {
            "cache": self.rng.choice([0, "64KiB", "64MiB"]),
            "lock": self.rng.choice(["sticky", "each", "cas"]),
        }

    def replicate(self) -> None:
        """Acknowledge some frames, late, and never more than is published."""
        rng = random.Random(self.rng.random())
        while self.going():
            self.held.ack(rng.randint(self.held.acked, self.held.published))
            time.sleep(rng.choice([0, 0.0001, 0.001]))
        while any(thread.is_alive() for thread in self.threads):
            self.held.ack()
            time.sleep(0.001)

    def run(
        self, writers: tuple[str, ...] = ("persistent", "replicated"), readers: int = 1
    ) -> None:
        runs = [self.write(durability) for durability in writers]
        runs += [self.read() for _ in range(readers)]
        self.threads = [self.guard(run) for run in runs]
        mirror = self.guard(self.replicate)
        for thread in self.threads:
            thread.join(60)
        mirror.join(60)
        if self.errors:
            raise self.errors[0]


def store(structure: Any, number: int) -> None:
    text = b"%d" % number
    if isinstance(structure, tuple(SEQUENCES)):
        add(structure, b"", text)
        if len(structure) > 3:
            take(structure)
    else:
        structure[b"n"] = text


def latest(structure: Any) -> int:
    """Return a number that the structure contains; 0: none."""
    if isinstance(structure, Stack):
        values = list(structure)
        return int(values[0]) if values else 0
    if isinstance(structure, Queue):
        values = list(structure)
        return int(values[-1]) if values else 0
    return int(structure.get(b"n", b"0"))


@pytest.mark.parametrize("name", ["table", "versions"])
def test_no_answer_comes_too_early_over_the_worst_network(
    monkeypatch: pytest.MonkeyPatch, name: str, rng: random.Random, seed: int
) -> None:
    use_fabric(monkeypatch, ReorderFabric(seed=seed))
    with held_backend(lease=0.5) as held:
        history = Histories(held, rng, [name], 0.5)
        history.run()
        assert not history.escaped
        assert history.answers


@near_and_far
@pytest.mark.parametrize("name", NAMES)
def test_no_answer_comes_before_its_frame_is_replicated(
    held: Held, name: str, rng: random.Random
) -> None:
    history = Histories(held, rng, [name], 0.5)
    history.run()
    assert not history.escaped
    assert history.answers


@pytest.mark.long
@near_and_far
def test_no_answer_comes_too_early_with_all_structures(held: Held, rng: random.Random) -> None:
    history = Histories(held, rng, list(NAMES), 20)
    history.run(readers=3)
    assert not history.escaped


# --- Planted faults


def plant_gate() -> None:
    promise._skip_steps(promise.PROMISE_GATE)


def plant_state() -> None:
    promise._skip_steps(promise.PROMISE_STATE)


def plant_own() -> None:
    promise._skip_steps(promise.PROMISE_OWN)


def plant_cached() -> None:
    promise._skip_steps(promise.PROMISE_CACHED)


def plant_order() -> None:
    promise._skip_steps(promise.PROMISE_ORDER)


def plant_apply() -> None:
    frame_words._plant(APPLY_LATE)


def plant_collect() -> None:
    frame_words._plant(COLLECT_LATE)


def plant_published() -> None:
    log_overlay._skip_checks(log_overlay.OVERLAY_CHECK_PUBLISHED)


@pytest.fixture
def sound() -> Iterator[None]:
    yield
    promise._skip_steps(0)
    frame_words._plant(0)
    log_overlay._skip_checks(0)
    promises._plant(False)


PLANTED = {
    "an answer does not wait": (plant_gate, "table"),
    "the frame of a state is not noted": (plant_state, "table"),
    "an own change does not wait": (plant_own, "table"),
    "cached answers do not wait": (plant_cached, "table"),
    # Other kinds read the line again after they have fetched nodes.
    "the frame is loaded before the data": (plant_order, "versions"),
    "the frame is stored after the sequence": (plant_apply, "table"),
    "the frame is stored after the durable position": (plant_collect, "table"),
}


@pytest.mark.planted
@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_caught(fault: str, rng: random.Random) -> None:
    plant, name = PLANTED[fault]
    with held_backend() as held:
        history = Histories(held, rng, [name], 20)
        plant()
        history.run()
        assert history.escaped


@pytest.mark.usefixtures("sound")
@pytest.mark.parametrize("planted", [False, True])
def test_records_that_are_in_no_frame_yet_are_not_read(planted: bool) -> None:
    with held_backend() as held:
        writer = held.open(held.connect("persistent"), HashTable)
        reader = held.open(held.connect(), HashTable)
        with held.mirrored():
            writer[b"a"] = b"1"
            assert reader[b"a"] == b"1"
            time.sleep(MOMENT)
        held.service._go_slow()
        writer.fe.names()  # after this call the back-end makes no record durable by itself
        held.ack()
        writer[b"a"] = b"2"  # durable on this medium, and in no frame
        if planted:
            plant_published()
            assert promptly(lambda: reader[b"a"]) == b"2"
        else:
            assert gate(held, lambda: reader[b"a"]) == b"2"
        held.service._go_slow(collecting=True, replaying=True)


@pytest.mark.planted
@pytest.mark.usefixtures("sound")
def test_a_drop_that_is_executed_again_is_caught() -> None:
    with held_backend() as held:
        fe = held.connect()
        held.open(fe, HashTable, "gone")
        promises._plant(True)
        waiting = Call(lambda: fe.drop("gone"))
        assert waiting.waits
        with held.mirrored(), pytest.raises(NotFound):
            waiting.answer()
