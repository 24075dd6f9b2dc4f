"""The queue against a list and a dict, on plain memory.

Failures at every step, readers among writers, every size.
"""

from __future__ import annotations

import contextlib
import queue as standard_queue
import time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from rfp.errors import Empty, InvalidArgument, LeaseEnded, TooLarge, WrongType

from .damage import flipped_bits, replaced_words
from .memory import FULL, LOST, NO_MEMORY, Fault, Memory, Queue
from .models import INLINE, LONGEST, NEVER, OVER, QueueModel, queue_lengths


class Undo(Exception):
    pass


def test_an_empty_queue_raises_what_the_standard_library_names_so():
    queue = Queue(Memory(), "q")
    for take in (queue.get, queue.peek, queue.reserve):
        with pytest.raises(standard_queue.Empty):
            take()
        with pytest.raises(LookupError):
            take()


def test_times_are_numbers_and_no_flags():
    queue = Queue(Memory(), "q")
    for wrong in (True, False, "", "1"):
        with pytest.raises(WrongType, match="delay must be a number of seconds"):
            queue.put(b"value", delay=wrong)
        with pytest.raises(WrongType, match="lease must be a number of seconds"):
            queue.reserve(lease=wrong)
    assert len(queue) == queue.delayed == 0


class Machine(QueueModel):
    """On plain memory, on which any step may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.queue = Queue(self.memory, "q")
        self.other = Queue(self.memory, "q")

    @rule(
        part=st.sampled_from(["reads", "news", "changes"]),
        after=st.integers(0, 12),
        code=st.sampled_from([FULL, LOST, NO_MEMORY]),
        length=queue_lengths,
        act=st.sampled_from(["put", "many", "later", "get", "reserve", "ack", "nack", "extend"]),
    )
    def a_failed_operation_changes_nothing(
        self, part: str, after: int, code: int, length: int, act: str
    ) -> None:
        if act in ("ack", "nack", "extend") and not self.model.reserved:
            return
        before = self.memory.nodes()
        with contextlib.suppress(Undo), self.memory.transaction(self.queue):
            self.memory.fail(part, after=after, code=code)
            try:
                if act == "put":
                    self.queue.put(bytes(length))
                elif act == "many":
                    self.queue.put_many([bytes(length), b"", bytes(length)])
                elif act == "later":
                    self.queue.put(bytes(length), delay=NEVER)
                elif act in ("ack", "nack", "extend"):
                    getattr(self.queue, act)(self.model.reserved[0].token)
                else:
                    with contextlib.suppress(Empty):
                        getattr(self.queue, act)()
            except Fault as error:
                assert error.code == code
                assert self.memory.nodes() == before
            else:
                # A reserved value for which no node is free stays in its segment.
                assert not self.memory.failed or (act, part, code) == ("reserve", "news", FULL)
            self.memory.fail()
            raise Undo
        assert self.memory.nodes() == before

    @rule(data=st.data())
    def a_failed_transaction_changes_nothing(self, data: st.DataObject) -> None:
        before = self.memory.nodes()
        tokens = [r.token for r in self.model.reserved]
        with pytest.raises(ZeroDivisionError):
            with self.memory.transaction(self.queue):
                for act in data.draw(
                    st.lists(
                        st.sampled_from(["put", "large", "get", "reserve", "settle"]), max_size=60
                    )
                ):
                    if act == "put":
                        self.queue.put(self.value(100))
                    elif act == "large":
                        self.queue.put(self.value(1000))
                    elif act == "get":
                        self.queue.get(None)
                    elif act == "reserve" and len(self.queue):
                        tokens.append(self.queue.reserve(lease=NEVER)[0])
                    elif act == "settle" and tokens:
                        try:
                            data.draw(st.sampled_from([self.queue.ack, self.queue.nack]))(
                                tokens.pop()
                            )
                        except LeaseEnded:
                            pass
                raise ZeroDivisionError
        assert self.memory.nodes() == before

    @rule(again=st.sampled_from([0, 0.02, 0.2]), mixing=st.booleans())
    def reads_are_disturbed(self, again: float, mixing: bool) -> None:
        self.memory.disturb(again, mixing)


class DeadLetterMachine(QueueModel):
    """With a dead-letter queue, after two deliveries."""

    most = 2

    def __init__(self) -> None:
        super().__init__()
        memory = Memory()
        self.queue = Queue(memory, "q", dead_letter="dead", max_deliveries=self.most)
        self.other, self.dead = Queue(memory, "q"), Queue(memory, "dead")


TestQueue = Machine.TestCase
TestDeadLetters = DeadLetterMachine.TestCase


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.mark.parametrize(
    "length", [0, 1, 7, 8, INLINE - 1, INLINE, INLINE + 1, 2016, 65536, LONGEST - 1, LONGEST]
)
def test_values_of_every_length_are_returned(memory, length):
    q = Queue(memory, "q")
    value = bytes(range(256)) * (length // 256) + bytes(length % 256)
    for _ in range(3):
        q.put(value)
    token, reserved = q.reserve()
    assert reserved == value
    q.ack(token)
    assert q.peek() == value
    assert list(q) == [value, value]
    assert q.get() == value
    q.check()


def test_values_beyond_the_longest_are_refused(memory):
    q = Queue(memory, "q")
    with pytest.raises(TooLarge):
        q.put(bytes(LONGEST + 1))
    assert len(q) == 0


def test_invalid_arguments_are_refused(memory):
    q = Queue(memory, "q")
    for lease in (0, -1, float("nan"), 1e10):
        with pytest.raises(InvalidArgument):
            q.reserve(lease=lease)
    with pytest.raises(InvalidArgument):
        q.ack(b"token")
    q.put(b"job")
    token, _ = q.reserve()
    for made_up in (bytes(24), b"\xff" * 24):
        with pytest.raises(InvalidArgument):
            q.ack(made_up)
    for made_up in (bytes(16), b"\xff" * 16):
        with pytest.raises(LeaseEnded):
            q.ack(token[:8] + made_up)
    q.ack(token)
    with pytest.raises(WrongType):
        q.put("text")


@pytest.mark.parametrize(
    ("codec", "value"), [("utf-8", "Grüße"), ("json", {"a": [1, None]}), ("pickle", {1, (2, 3)})]
)
def test_a_codec_maps_other_values(memory, codec, value):
    q = Queue(memory, "q", codec=codec)
    q.put(value)
    assert q.peek() == value
    assert list(q) == [value]
    token, reserved = q.reserve()
    assert reserved == value
    q.nack(token)
    assert q.get() == value


def test_many_reservations_deepen_their_directory_and_are_given_again_in_order(memory):
    q = Queue(memory, "q")
    values = [b"%d" % i for i in range(2000)]
    for value in values:
        q.put(value)
    tokens = [q.reserve(lease=NEVER) for _ in values]
    assert [value for _, value in tokens] == values
    q.check()
    for token, _ in tokens:
        q.nack(token)
    q.check()
    assert list(q) == values
    for i in range(0, 2000, 2):
        assert q.get() == values[i]
        assert q.reserve()[1] == values[i + 1]
    q.check()
    assert len(q) == 0
    assert q.reserved == 1000


def test_more_leases_may_end_than_one_operation_reclaims(memory):
    q = Queue(memory, "q")
    for i in range(1000):
        q.put(b"%d" % i)
    tokens = [q.reserve(lease=1e-3 if i % 3 else NEVER)[0] for i in range(1000) if len(q)]
    assert len(set(tokens)) == len(tokens)
    deadline = time.monotonic() + 10
    while q.reserved > 334 and time.monotonic() < deadline:
        time.sleep(1e-3)
    got = []
    while (value := q.get(None)) is not None:
        got.append(value)
        q.check()
    assert len(got) == len(set(got)) >= 666


def test_freed_space_is_used_again(memory):
    q = Queue(memory, "q")
    for _ in range(100):
        q.put(bytes(70))
    used = memory.used
    for i in range(2000):
        q.put(bytes(70) if i % 7 else bytes(5000))
        q.get()
    while q.peek() != bytes(70) or len(q) > 80:
        q.get()
    assert memory.used <= used + 2016 + 80 // 7 * 5032


def test_an_iteration_yields_values_that_stay_once_while_others_put_and_get(memory):
    q, other = Queue(memory, "q"), Queue(memory, "q")
    for i in range(300):
        q.put(b"%d" % i)
    seen = []
    for i, value in enumerate(q):
        seen.append(int(value))
        if i % 2:
            other.get()
        if i < 50:
            other.put(b"%d" % (300 + i))
    assert seen == sorted(set(seen))
    assert set(range(200, 300)) <= set(seen)


def test_re_executed_operations_have_the_same_result():
    one, two = Memory(), Memory()
    q, twin = Queue(one, "q"), Queue(two, "q")
    tokens = []
    for i in range(400):
        q.put(bytes(i * 3))
        if i % 3 == 0:
            tokens.append(q.reserve(lease=OVER if i % 2 else NEVER)[0])
        if i % 5 == 0:
            q.get(None)
        if i % 7 == 0:
            try:
                q.nack(tokens.pop())
            except LeaseEnded:
                pass
    for _, code, operation in one.operations():
        two.again(twin, code, operation)
    assert one.nodes() == two.nodes()


def filled(memory: Memory) -> Queue:
    q = Queue(memory, "q")
    for i in range(100):
        q.put(b"%d" % i * (1 if i % 9 else 300))
    for i in range(60):
        token, _ = q.reserve(lease=NEVER)
        if i % 3 == 0:
            q.nack(token)
        if i % 3 == 1:
            q.ack(token)
    return q


def test_a_flipped_bit_is_found(memory, rng):
    q = filled(memory)
    for _ in flipped_bits(memory, rng):
        with pytest.raises(Fault) as caught:
            q.check()
        assert caught.value.code < 0
    q.check()


def test_no_contents_of_a_node_harm_its_reader(memory, rng):
    """Damage with a valid checksum may be found or not; no reader crashes, hangs or overreads."""
    found = 0
    q = filled(memory)
    for _ in replaced_words(memory, rng, 1500):
        # list() would call len() first
        for act in (q.check, q.__len__, lambda: [value for value in q], q.peek):  # noqa: C416
            try:
                act()
            except (Fault, Empty) as error:
                found += isinstance(error, Fault)
        for act in (q.get, q.reserve, lambda: q.put(b"x")):
            with contextlib.suppress(Undo), memory.transaction(q):
                with contextlib.suppress(Fault, Empty):
                    act()
                raise Undo
    q.check()
    assert found > 100
