"""Codecs that fail, tokens of several queues and lives, leases: a model of two queues.

Then the behaviour of mappings with values that cannot be decoded.
"""

from __future__ import annotations

import gc
import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from structure_kinds import KINDS, MAPPINGS, ORDERED, each_of

import rnvm
from rfp.errors import CallerError, Empty, InvalidArgument, LeaseEnded, Undecodable, WrongType
from structures import BPlusTree, Queue, Stack

from .backends import backend

LONG, OVER = 3600.0, 1e-9


class Fragile:
    """Numbers as text; those in `bad` cannot be decoded, as if their class were not deployed."""

    name = "fragile"

    def __init__(self) -> None:
        self.bad: set[int] = set()

    def encode(self, value: int) -> bytes:
        return b"%d" % value

    def decode(self, raw: bytes) -> int:
        if int(raw) in self.bad:
            raise ModuleNotFoundError("No module named 'app'")
        return int(raw)


@dataclass
class Line:
    """The contents that a queue must have.  over: reserved, and the lease has ended."""

    queue: Queue
    waiting: list[int] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    reserved: dict[bytes, int] = field(default_factory=dict)
    over: dict[bytes, int] = field(default_factory=dict)
    lost: list[bytes] = field(default_factory=list)

    def reclaim(self) -> None:
        """Do what every taking call does first."""
        for token, value in self.over.items():
            self.lost.append(token)
            self.returned.append(value)
        self.over.clear()

    def line(self) -> list[int]:
        return self.returned or self.waiting


@pytest.fixture(scope="module")
def served():
    with backend("32MiB") as made:
        yield made


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.made = backend("8MiB")
        self.fe = rnvm.connect(self.made.__enter__().address)
        self.codec = Fragile()
        self.lines = [self.line("one"), self.line("two")]
        self.dropped: list[bytes] = []
        self.serial = itertools.count()

    def line(self, name: str) -> Line:
        return Line(Queue(self.fe, name, codec=self.codec))

    def teardown(self) -> None:
        try:
            self.codec.bad.clear()
            for line in self.lines:
                line.reclaim()
                assert [
                    line.queue.get() for _ in range(len(line.queue))
                ] == line.returned + line.waiting
                assert line.queue.get(None) is None
                for token in line.reserved:
                    line.queue.ack(token)
                line.queue.check()
        finally:
            self.fe.close()
            self.made.__exit__(None, None, None)

    which = st.integers(0, 1)

    @rule(which=which, n=st.integers(1, 5), bad=st.booleans())
    def put(self, which: int, n: int, bad: bool) -> None:
        for _ in range(n):
            value = next(self.serial)
            self.lines[which].queue.put(value)
            self.lines[which].waiting.append(value)
            if bad:
                self.codec.bad.add(value)

    @rule()
    def the_class_is_deployed(self) -> None:
        self.codec.bad.clear()

    @rule(which=which, peek=st.booleans(), inside=st.booleans())
    def get(self, which: int, peek: bool, inside: bool) -> None:
        line = self.lines[which]
        # Leases that end together come in any order: with at most one, the order is known.
        expected = (line.returned + list(line.over.values()) + line.waiting or [None])[0]
        take = line.queue.peek if peek else line.queue.get
        if expected in self.codec.bad:
            before = len(line.queue)
            with pytest.raises(Undecodable) as caught:
                take()
            assert caught.value.raw == b"%d" % expected and caught.value.token is None
            assert isinstance(caught.value.__cause__, ModuleNotFoundError)
            # No value was taken, so no lease that has ended was given up.
            assert len(line.queue) == before
            return
        if not peek:
            line.reclaim()
        if inside and not peek:
            with self.fe.transaction(line.queue):
                assert take(None) == expected
        else:
            assert take(None) == expected
        if expected is not None and not peek:
            line.line().pop(0)

    @rule(which=which, over=st.booleans())
    def reserve(self, which: int, over: bool) -> None:
        line = self.lines[which]
        line.reclaim()
        lease = OVER if over else LONG
        if not line.line():
            with pytest.raises(Empty):
                line.queue.reserve()
            return
        expected = line.line().pop(0)
        try:
            token, value = line.queue.reserve(lease=lease)
            assert value == expected not in self.codec.bad
        except Undecodable as error:
            assert expected in self.codec.bad and error.raw == b"%d" % expected
            assert error.token is not None
            token = error.token
        (line.over if over else line.reserved)[token] = expected

    @precondition(lambda self: any(line.reserved for line in self.lines))
    @rule(data=st.data(), give_back=st.booleans())
    def settle(self, data: st.DataObject, give_back: bool) -> None:
        those = [line for line in self.lines if line.reserved]
        line = those[data.draw(st.integers(0, len(those) - 1))]
        token = list(line.reserved)[data.draw(st.integers(0, len(line.reserved) - 1))]
        value = line.reserved.pop(token)
        other = self.lines[1 - self.lines.index(line)].queue
        for wrong in (other.ack, other.nack):
            with pytest.raises(InvalidArgument):
                wrong(token)
        if give_back:
            line.queue.nack(token)
            line.returned.append(value)
        else:
            line.queue.ack(token)
        line.lost.append(token)

    @rule(which=which)
    def reservations_can_be_listed_and_given_back(self, which: int) -> None:
        line = self.lines[which]
        listed = line.queue.reservations()
        assert {each.token for each in listed} == set(line.reserved) | set(line.over)
        for each in listed:
            assert (each.left <= 0) == (each.token in line.over) and each.left <= LONG
        for token in list(line.reserved)[:1]:
            line.queue.nack(token)
            line.returned.append(line.reserved.pop(token))
            line.lost.append(token)

    @rule(give_back=st.booleans())
    def lost_reservations_are_refused(self, give_back: bool) -> None:
        for line in self.lines:
            for token in line.lost[-3:]:
                with pytest.raises(LeaseEnded):
                    (line.queue.nack if give_back else line.queue.ack)(token)
        for token in self.dropped[-3:]:
            with pytest.raises((LeaseEnded, InvalidArgument)):
                self.lines[0].queue.ack(token)
            with pytest.raises((LeaseEnded, InvalidArgument)):
                self.lines[1].queue.ack(token)

    @rule(which=which)
    def a_queue_is_dropped_and_created_again(self, which: int) -> None:
        name = ("one", "two")[which]
        self.dropped += [*self.lines[which].reserved, *self.lines[which].over]
        self.lines[which].queue = None  # type: ignore[assignment]
        gc.collect()  # exceptions that were caught still refer to it
        self.fe.drop(name)
        self.lines[which] = self.line(name)

    @rule(which=which)
    def the_counts_are_right(self, which: int) -> None:
        line = self.lines[which]
        assert len(line.queue) == len(line.waiting) + len(line.returned) + len(line.over)
        assert line.queue.reserved == len(line.reserved)
        line.queue.check()


Machine.TestCase.settings = settings(max_examples=8, stateful_step_count=30, deadline=None)
TestQueues = Machine.TestCase


@each_of(MAPPINGS)
@pytest.mark.parametrize("inside", [False, True])
def test_a_value_that_cannot_be_decoded_stays_in_its_mapping(served, kind, inside):
    codec = Fragile()
    with rnvm.connect(served.address) as fe:
        m = kind(fe, f"{kind.__name__} {inside}", codec=codec)
        m.update({1: 10, 2: 20})
        codec.bad = {10, 20}
        with fe.batch() if inside else fe.transaction(m):
            for take in (
                lambda: m.pop(1),
                m.popitem,
                lambda: m[1],
                lambda: m.get(1),
                lambda: m.setdefault(1, 5),
            ):
                with pytest.raises(Undecodable) as caught:
                    take()
                assert caught.value.raw == caught.value.key + b"0"
        assert len(m) == 2
        codec.bad = {1, 2}
        with pytest.raises(Undecodable) as caught:
            m.popitem()
        assert caught.value.raw == caught.value.key
        codec.bad = {20}
        assert m.pop(1) == 10
        del m[2]
        assert not m
        m.check()


@each_of(MAPPINGS)
def test_poppers_of_decoded_values_in_threads_get_each_once(served, kind):
    got: list[Any] = []
    with (
        rnvm.connect(served.address, timeout=30) as one,
        rnvm.connect(served.address, timeout=30) as two,
    ):
        handles = [kind(fe, f"popped {kind.__name__}", codec="json") for fe in (one, two)]
        handles[0].update({f"{i}": i for i in range(400)})

        def take(m: Any) -> None:
            with pytest.raises(KeyError):
                while True:
                    got.append(m.popitem()[1])

        threads = [threading.Thread(target=take, args=(m,)) for m in handles]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == list(range(400))


@pytest.mark.parametrize("last", [False, True])
def test_peek_returns_the_value_that_get_would_take_while_others_reserve_and_nack(served, last):
    """One of two values is always there, and before the third one, which is never taken."""
    name = f"peeked {last}"
    failed: list[BaseException] = []
    over = threading.Event()
    with (
        rnvm.connect(served.address, timeout=30) as one,
        rnvm.connect(served.address, timeout=30) as two,
    ):
        work, seen = Queue(one, name), Queue(two, name)
        for value in (b"a", b"b", b"c")[: 3 if last else 2]:
            work.put(value)

        token, _ = work.reserve(lease=LONG)
        work.nack(work.reserve(lease=LONG)[0])

        def move(token: bytes) -> None:
            try:
                for _ in range(3000):
                    work.nack(token)
                    token, _ = work.reserve(lease=LONG)
            except BaseException as error:
                failed.append(error)
            finally:
                over.set()

        thread = threading.Thread(target=move, args=(token,))
        thread.start()
        answers = set()
        while not over.is_set():
            answers.add(seen.peek())
        thread.join()
        assert not failed
        assert answers <= {b"a", b"b"}


@pytest.mark.parametrize("codec", ["utf-8", "json"])
def test_a_value_that_a_codec_cannot_encode_is_refused_as_a_wrong_type(served, codec):
    with rnvm.connect(served.address) as fe:
        q = Queue(fe, f"typed {codec}", codec=codec)
        with pytest.raises(WrongType, match=codec):
            q.put(b"bytes")
        assert len(q) == 0


def test_the_error_of_a_lease_out_of_bounds_names_the_bounds(served):
    with rnvm.connect(served.address) as fe:
        for lease in (0, -1, 1e9 + 1, float("nan")):
            with pytest.raises(InvalidArgument, match="lease must be between 1e-09 and 1e"):
                Queue(fe, "bounds").reserve(lease=lease)
            fe.drop("bounds")


def test_the_error_of_a_delay_out_of_bounds_names_the_bounds(served):
    with rnvm.connect(served.address) as fe:
        queue = Queue(fe, "delays")
        for delay in (-1, 1e9 + 1, float("nan")):
            with pytest.raises(InvalidArgument, match="delay must be between 0 and 1e"):
                queue.put(b"never", delay=delay)
        assert (len(queue), queue.delayed) == (0, 0)


@pytest.mark.parametrize("call", [Queue.get, Queue.reserve])
def test_the_error_of_a_wait_out_of_bounds_names_zero_and_infinity(served, call):
    with rnvm.connect(served.address) as fe:
        queue = Queue(fe, "waits")
        for timeout in (-1, 1e9 + 1, 10**400, float("nan"), -float("inf")):
            with pytest.raises(InvalidArgument, match="timeout must be between 0 and 1e") as caught:
                call(queue, timeout=timeout)
            assert 'float("inf") to wait without limit' in caught.value.hint
        queue.put(b"1")
        assert call(queue, timeout=float("inf"))
        with pytest.raises(Empty):
            call(queue, timeout=0)
        del queue
        fe.drop("waits")


def test_the_error_of_a_str_without_a_codec_names_keys_only_of_a_mapping(served):
    with rnvm.connect(served.address) as fe:
        index, queue = BPlusTree(fe, "strings"), Queue(fe, "texts")
        for key, value in (("k", b"v"), (b"k", "v")):
            with pytest.raises(WrongType, match="^keys and values must be bytes, got str"):
                index[key] = value
        with pytest.raises(WrongType, match="^values must be bytes, got str"):
            queue.put("v")


@each_of(KINDS)
def test_every_call_of_a_subclass_that_was_never_opened_raises(kind):
    class Forgetful(kind):
        def __init__(self) -> None:
            pass

    for half in (Forgetful(), kind.__new__(kind)):
        calls = (
            [
                lambda half=half: half.put(b""),
                lambda half=half: half.get(),
                lambda half=half: half.reserve(),
                lambda half=half: half.peek(),
                lambda half=half: half.reservations(),
                lambda half=half: half.reserved,
                lambda half=half: half.ack(bytes(24)),
            ]
            if kind is Queue
            else [
                lambda half=half: half.push(b""),
                lambda half=half: half.pop(),
                lambda half=half: half.peek(),
                lambda half=half: half.clear(),
            ]
            if kind is Stack
            else [
                lambda half=half: half[b"k"],
                lambda half=half: half.set(b"k", b"v"),
                lambda half=half: half.pop(b"k"),
                lambda half=half: half.popitem(),
                lambda half=half: half.clear(),
                lambda half=half: b"k" in half,
            ]
        )
        for call in [
            lambda half=half: half.largest_value,
            lambda half=half: list(half),
            *calls,
            half.check,
            lambda half=half: len(half),
            half._reopen,
            half._acquire,
            half._take_lock,
        ]:
            with pytest.raises(CallerError, match="never opened"):
                call()


@each_of(MAPPINGS)
def test_invalid_keys_are_not_in_a_mapping(served, kind):
    with rnvm.connect(served.address) as fe:
        m = kind(fe, f"odd keys {kind.__name__}")
        m[b"k"] = b"v"
        for key in (b"", bytes(1025), b"x" * 100_000):
            assert key not in m and m.get(key) is None and m.pop(key, 1) == 1
            for missing in (lambda: m[key], lambda: m.pop(key), lambda: m.__delitem__(key)):  # noqa: B023
                with pytest.raises(KeyError):
                    missing()
            with pytest.raises(InvalidArgument):
                m[key] = b""
        if kind in ORDERED:
            m.update({b"\xff" * 1024: b"last", b"a": b"first"})
            assert (
                list(m.range(b"", b""))
                == list(m.range(b"\xff" * 1025))
                == list(m.range(b"\xff" * 9999, reverse=True))
                == []
            )
            assert list(m.range(b"")) == list(m.range(hi=b"\xff" * 1025)) == list(m.items())
            assert list(m.range(b"k" * 5000, b"\xff" * 5000)) == [(b"\xff" * 1024, b"last")]
            assert list(m.range(b"", b"k" * 5000, reverse=True)) == [(b"k", b"v"), (b"a", b"first")]
