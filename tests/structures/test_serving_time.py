"""Front-ends of a group answer only while their back-end is known to be the primary still.

The test says until when: in place of mirrors, whose promises to a primary that time depends on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from connecting import connect_hasty
from polling import until
from time_bounds import SOON, in_some_try, raises_in_some_try

import rnvm
from rfp import address as addresses
from rfp.core import clock
from rfp.errors import ConnectionFailed, NotFound, OutcomeUnknown
from rfp.protocol.client import connection
from rfp.protocol.client.opener import Opener
from rnvm.frontend import promise
from structures import HashTable, MVBPlusTree

from .calls import Call, promptly
from .test_replicated import FAR, near_and_far

LONG_AGO = -1000.0  # seconds


class Primary:
    """A back-end of a group without a coordinator."""

    def __init__(self, path: str, address: str) -> None:
        self.backend = rnvm.Backend(
            path,
            size="8MiB",
            assume_persistent=True,
            address=address,
            _group=bytes(range(16)),
            _epoch=3,
            lease=SOON,
        )
        self.freeze = self.backend._service._freeze_serving

    def connect(self, durability: str = "replicated", **options: Any) -> rnvm.FrontEnd:
        return connect_hasty(
            self.backend.address, **{"durability": durability, "timeout": SOON, **options}
        )


@contextlib.contextmanager
def served(options: str = "") -> Iterator[Primary]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        primary = Primary(os.path.join(folder, "pool"), f"{addresses.unique()}{options}")
        with primary.backend:
            yield primary


@pytest.fixture
def primary(options: str) -> Iterator[Primary]:
    with served(options) as made:
        yield made


def calls(fe: rnvm.FrontEnd) -> dict[str, Callable[[], Any]]:
    table, tree = HashTable(fe, "table", timeout=SOON), MVBPlusTree(fe, "tree", timeout=SOON)
    for each in (table, tree):
        each.set(b"a", b"1", timeout=SOON)
    HashTable(fe, "gone", timeout=SOON)

    def transaction() -> None:
        with fe.transaction(table):
            table[b"b"] = b"2"

    def batch() -> None:
        with fe.batch():
            table[b"c"] = b"2"

    def read() -> bytes:
        with fe.read_transaction(table):
            found: bytes = table[b"a"]
            return found

    def absent() -> None:
        with pytest.raises(NotFound):
            HashTable(fe, "nothing", create=False)

    return {
        "query": lambda: table[b"a"],
        "query of nothing": lambda: table.get(b"nothing"),
        "operation": lambda: table.__setitem__(b"a", b"2"),
        "operation that changes nothing": lambda: table.pop(b"nothing", None),
        "transaction": transaction,
        "batch": batch,
        "read transaction": read,
        "snapshot": lambda: tree.snapshot().close(),
        "names": fe.names,
        "name that is not there": absent,
        "opening": lambda: HashTable(fe, "new"),
        "drop": lambda: fe.drop("gone"),
    }


@near_and_far
@pytest.mark.parametrize("durability", ["persistent", "replicated"])
def test_nothing_is_answered_after_the_time_is_over(primary: Primary, durability: str) -> None:
    with primary.connect(durability) as fe:
        each_call = calls(fe)
        primary.freeze(LONG_AGO)
        until_untrusted(primary)
        for name, call in each_call.items():
            began = time.monotonic()
            waiting = Call(call)
            assert waiting.waits, name
            while not waiting.over.wait(0.1):
                primary.freeze(0.2)
            try:
                waiting.answer()
            except ConnectionFailed:  # a busy computer let it wait for long enough to give up
                assert time.monotonic() > began + 1, name
            primary.freeze(LONG_AGO)
            until_untrusted(primary, 0.2)


def until_untrusted(primary: Primary, seconds: float = 1.0) -> None:
    """Over a network: wait until what the back-end has granted before is over."""
    if "rtt" in str(primary.backend.address):
        time.sleep(seconds + 0.05)


@near_and_far
def test_a_volatile_front_end_answers_without_it(primary: Primary) -> None:
    with primary.connect("volatile") as fe:
        table = HashTable(fe, "t")
        table[b"a"] = b"1"
        primary.freeze(LONG_AGO)
        until_untrusted(primary)
        assert promptly(lambda: table[b"a"]) == b"1"


@near_and_far
def test_a_moment_without_time_costs_no_session(primary: Primary) -> None:
    with primary.connect() as fe:
        tree = MVBPlusTree(fe, "t")

        def moment() -> None:  # on a busy computer it may last for a second, which costs a session
            tree[b"a"] = b"1"
            session = fe.figures["epoch"]
            with tree.snapshot() as snapshot:
                tree[b"a"] = b"2"
                primary.freeze(0)
                until_untrusted(primary)
                waiting = Call(lambda: tree[b"a"])
                assert waiting.waits
                primary.freeze()
                assert waiting.answer() == b"2"
                assert fe.figures["epoch"] == session
                assert snapshot[b"a"] == b"1"
            assert fe.figures["epoch"] == session

        in_some_try(moment)


@near_and_far
def test_without_time_for_a_second_the_next_primary_is_looked_for(primary: Primary) -> None:
    with primary.connect() as fe:
        table = HashTable(fe, "t")
        table[b"a"] = b"1"
        session = fe.figures["epoch"]
        primary.freeze(LONG_AGO)
        until_untrusted(primary)
        waiting = Call(lambda: table[b"a"])
        until(lambda: fe.figures["epoch"] != session, SOON)
        primary.freeze()
        assert waiting.answer() == b"1"


@near_and_far
def test_a_wait_at_a_silent_primary_ends(primary: Primary) -> None:
    """Its process is alive and another front-end has the lock: nothing else would end the wait."""
    with primary.connect() as fe, primary.connect() as other:
        table, theirs = HashTable(fe, "t"), HashTable(other, "t")
        table[b"a"] = b"1"
        fe.release()
        session = fe.figures["epoch"]
        with other.transaction(theirs):
            theirs[b"b"] = b"2"
            primary.freeze(1000)
            waiting = Call(lambda: table.__setitem__(b"a", b"2"))
            until(lambda: fe.figures["epoch"] != session, SOON)
            primary.freeze()
        waiting.answer()
        assert dict(table) == {b"a": b"2", b"b": b"2"}


WAYS = {
    "an operation": ("", "replicated", "operation"),
    "a transaction": ("", "replicated", "transaction"),
    "a batch": ("", "replicated", "batch"),
    "a far operation": (FAR, "replicated", "operation"),
    "a persistent operation": ("", "persistent", "operation"),
    "a persistent transaction": ("", "persistent", "transaction"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_change_that_was_made_is_not_denied(way: str) -> None:
    # On a busy computer the change may not be made in its time.
    raises_in_some_try(lambda: change_in_doubt(*WAYS[way]), OutcomeUnknown)


def change_in_doubt(options: str, durability: str, what: str) -> None:
    with served(options) as primary, primary.connect(durability, timeout=1.2) as fe:
        change = calls(fe)[what]
        table = HashTable(fe, "new", timeout=SOON)

        def transaction() -> None:
            with fe.transaction(table):
                table[b"b"] = b"2"
                primary.freeze(LONG_AGO)

        if what == "transaction":
            change = transaction
        else:
            primary.freeze(LONG_AGO)
            until_untrusted(primary)
        waiting = Call(change)
        assert waiting.waits
        primary.backend.close()
        waiting.answer()


@near_and_far
def test_a_change_in_doubt_is_not_said_to_hold(primary: Primary) -> None:
    with primary.connect() as fe:
        table = HashTable(fe, "t")
        primary.freeze(LONG_AGO)
        until_untrusted(primary)
        raises_in_some_try(
            lambda: table.set(b"a", b"1", timeout=0.3),
            OutcomeUnknown,
            "another back-end may be the primary",
        )
        primary.freeze()
        assert table[b"a"] == b"1"


def test_a_persistent_front_end_says_what_a_failover_has_taken_back() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path, copy = os.path.join(folder, "pool"), os.path.join(folder, "copy")
        address = str(addresses.unique())
        first = Primary(path, address)
        with first.connect("persistent") as fe:
            table = HashTable(fe, "t")
            table[b"a"] = b"1"
            shutil.copy(path, copy)
            first.backend.close()
            with Primary(copy, address).backend as second:
                assert table[b"a"] == b"1"
                shutil.copy(copy, path)
                table[b"b"] = b"2"
                second.close()
            with Primary(path, address).backend:
                with pytest.raises(OutcomeUnknown, match="acknowledged as persistent"):
                    table.get(b"a")
                assert dict(table) == {b"a": b"1"}


def test_a_session_that_the_next_primary_never_knew_says_what_was_taken_back() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path, copy = os.path.join(folder, "pool"), os.path.join(folder, "copy")
        address = str(addresses.unique())
        first = Primary(path, address)
        with first.connect("persistent") as fe:
            HashTable(fe, "t")[b"a"] = b"1"
        shutil.copy(path, copy)
        with first.connect("persistent") as fe:
            table = HashTable(fe, "t")
            table[b"b"] = b"2"
            first.backend.close()
            with Primary(copy, address).backend:
                with pytest.raises(OutcomeUnknown):
                    table.get(b"a")
                assert dict(table) == {b"a": b"1"}


def test_a_far_front_end_asks_once_a_second() -> None:
    with served(FAR) as primary, primary.connect() as fe:
        table = HashTable(fe, "t")
        table[b"a"] = b"1"
        began, before = time.monotonic(), fe.figures["calls"]
        for _ in range(100):
            assert table[b"a"] == b"1"
        seconds = time.monotonic() - began
        assert fe.figures["calls"] - before <= 1 + seconds / 0.5


@pytest.fixture
def clock_of_this_process() -> Iterator[None]:
    yield
    promise._shift_clock(0)


@pytest.mark.usefixtures("clock_of_this_process")
@pytest.mark.parametrize("seconds", [-1000, 1000])
def test_a_front_end_of_another_time_namespace_asks_the_back_end(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    with served() as primary:
        promise._shift_clock(seconds)
        monkeypatch.setattr(connection, "time_namespace", lambda: "another one")
        with primary.connect() as fe:
            table = HashTable(fe, "t")
            assert promptly(lambda: table.get(b"a")) is None  # its clock is ahead
            primary.freeze(LONG_AGO)
            time.sleep(1.05)
            waiting = Call(lambda: table.get(b"a"))
            assert waiting.waits  # its clock is behind
            primary.freeze()
            assert waiting.answer() is None


class Slow:
    """An opener that needs some time, as that of a group whose coordinator is slow does."""

    def __init__(self, address: Any, seconds: float) -> None:
        self.address, self.seconds = address, seconds
        self.opener = Opener(address, "rnvm")

    def __call__(self, deadline: int) -> Any:
        if clock.now_ns() + self.seconds * 1e9 > deadline:
            time.sleep(max(0, (deadline - clock.now_ns()) / 1e9))
            raise ConnectionFailed("no answer in time")
        time.sleep(self.seconds)
        return self.opener(deadline)

    def close(self) -> None:
        self.opener.close()


def test_an_attempt_to_connect_again_that_used_its_time_gets_more() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path, address = os.path.join(folder, "pool"), addresses.unique()
        first = rnvm.Backend(path, size="8MiB", assume_persistent=True, address=address)
        opener = Slow(first.address, 0)
        with rnvm.FrontEnd(opener, timeout=SOON) as fe:
            HashTable(fe, "t")[b"a"] = b"1"
            first.close()
            opener.seconds = 1.1
            with rnvm.Backend(path, address=address):
                assert set(fe.names()) == {"t"}
