"""Read transactions: their queries see one moment of all their structures, without a lock."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from polling import until
from repeating import repeating
from slower import EMULATED, rounds
from structure_kinds import MAPPINGS, VERSIONED, each_of
from time_bounds import in_some_try, soon

import rnvm
from rfp.errors import (
    CallerError,
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    ReadConflict,
    RfpError,
)
from rnvm.frontend import read_set
from rnvm.testing.sample_structure import Sample
from structures import BST, BPlusTree, HashTable, MVBPlusTree

from .conftest import Connect, new_path, open_backend
from .processes import address_of, served

LOCKS: dict[str, dict[str, Any]] = {
    "sticky": {},
    "each": {"lock": "each"},
    "cas": {"lock": "cas"},
    "volatile": {"durability": "volatile"},
    "naive": {"cache": 0, "oplog": False, "lock": "each"},
}
every_writer = pytest.mark.parametrize("options", LOCKS.values(), ids=LOCKS)


@contextlib.contextmanager
def busy(work: Callable[[], None]) -> Iterator[None]:
    """Call work() again and again in a thread.

    A machine that stops it for longer than a lease may have its transaction fenced, now and then.
    """
    fenced = 0

    def turn() -> None:
        nonlocal fenced
        try:
            work()
        except ConnectionFailed:
            fenced += 1
            if fenced > 10:
                raise

    with repeating(turn):
        yield


def table_of(fe: Any, name: str, items: int = 200) -> HashTable:
    table = HashTable(fe, name)
    with fe.batch():
        for n in range(items):
            table[b"%d" % n] = b"0"
    return table


def in_thread(call: Callable[[], object]) -> object:
    """Return the result of a call in another thread, or the class of its error."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except RfpError as error:
            found.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def release(fe: Any) -> None:
    fe.release()


# --- One moment


@every_writer
def test_a_read_transaction_sees_each_transaction_of_another_front_end_whole_or_not_at_all(
    backend: rnvm.Backend, connect: Connect, options: dict[str, Any]
) -> None:
    writer, reader = connect(backend, timeout=20, **options), connect(backend, timeout=20)
    mine = [Sample(writer, name) for name in "abc"]
    theirs = [Sample(reader, name) for name in "cab"]

    def move() -> None:
        with writer.transaction(*mine):
            for each, n in zip(mine, (1, 2, -3)):
                each.add(n)

    def read() -> bool:
        """Return whether the reads have fenced no front-end."""
        fenced = backend.figures()["pool"]["fenced"]
        for _ in range(60):
            found = reader.read(lambda *all: [each.numbers() for each in all], *theirs)
            assert sum(counter for counter, _ in found) == 0
            assert len({changes for _, changes in found}) == 1
            with contextlib.suppress(ReadConflict), reader.read_transaction(*theirs):
                found = [each.numbers() for each in theirs * 2]
                assert found[:3] == found[3:]
                assert sum(counter for counter, _ in found) == 0
        return backend.figures()["pool"]["fenced"] == fenced

    # A machine that stops a thread for longer than a lease may have one fenced.
    with busy(move):
        assert any(read() for _ in range(20))
    for each in theirs:
        each.check()


def test_two_structures_of_two_writers_are_seen_at_one_moment(
    backend: rnvm.Backend, connect: Connect
) -> None:
    """A writer adds to a, then to b: no moment has more in b than in a."""
    writer, reader = connect(backend, timeout=20), connect(backend, timeout=20)
    second = connect(backend, timeout=20)
    a, b = Sample(writer, "a"), Sample(second, "b")
    theirs = Sample(reader, "b"), Sample(reader, "a")

    def step() -> None:
        a.add(1)
        b.add(1)

    with busy(step):
        for _ in range(100):
            in_b, in_a = reader.read(lambda *all: [each.numbers()[0] for each in all], *theirs)
            assert in_b <= in_a <= in_b + 1


def test_a_read_transaction_keeps_its_moment_while_others_go_on(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    mine, theirs = table_of(fe, "t"), HashTable(other, "t", create=False)
    release(fe)
    before = dict(theirs)
    release(other)
    with fe.read_transaction(mine):
        assert dict(mine) == before
        for n in range(200):
            theirs[b"%d" % n] = b"1"  # waits for no lock of the reader
        assert dict(mine) == before
        assert mine[b"7"] == b"0"
    assert dict(mine) == dict.fromkeys(before, b"1")
    assert fe.figures["conflicts"] == 0


def test_a_read_transaction_moves_on_if_only_nodes_that_it_has_not_read_were_changed(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    theirs = BPlusTree(other, "tree")
    theirs.bulk_load((b"%05d" % n, b"0") for n in range(3000))
    mine = BPlusTree(fe, "tree")
    with pytest.raises(ReadConflict), fe.read_transaction(mine):
        assert mine[b"00001"] == b"0"
        with other.transaction(theirs):
            theirs[b"01500"] = theirs[b"02999"] = b"1"
        release(other)  # now it is applied
        assert (mine[b"01500"], mine[b"02999"]) == (b"1", b"1")
        assert mine[b"00001"] == b"0"
        theirs[b"00002"] = b"1"
        release(other)
        assert mine[b"00002"] == b"0"  # in a page that it has
        with pytest.raises(ReadConflict):
            mine[b"01000"]
    assert (fe.figures["extensions"], fe.figures["conflicts"]) == (1, 1)


def test_a_change_of_what_was_read_ends_a_read_transaction_with_a_conflict(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    mine, second = Sample(fe, "a"), Sample(fe, "b")
    theirs = Sample(other, "a"), Sample(other, "b")
    for each in theirs:
        each.add(1)
    with pytest.raises(ReadConflict, match="changed meanwhile"), fe.read_transaction(mine, second):
        assert mine.numbers() == (1, 1)
        with other.transaction(*theirs):
            for each in theirs:
                each.add(1)
        release(other)
        second.numbers()
    assert fe.figures["conflicts"] == 1
    # One that was swallowed is raised by all later calls, and at the end.
    with pytest.raises(ReadConflict), fe.read_transaction(mine, second):
        assert mine.numbers() == (2, 2)
        theirs[0].add(1)
        theirs[1].add(1)
        release(other)
        for _ in range(2):
            with pytest.raises(ReadConflict):
                second.numbers()
    assert (mine.numbers(), second.numbers()) == ((3, 3), (3, 3))


def count_all(mapping: Any) -> int:
    return len(mapping)


def search_in_vain(mapping: Any) -> bytes | None:
    found: bytes | None = mapping.get(b"k")
    return found


without_a_node = pytest.mark.parametrize("ask", [count_all, search_in_vain])


@without_a_node
def test_a_query_that_reads_no_node_answers_at_the_moment_too(
    direct: rnvm.Backend, connect: Connect, ask: Callable[[Any], object]
) -> None:
    fe, other = connect(direct), connect(direct)
    tree, table = MVBPlusTree(other, "m"), HashTable(other, "t")
    table[b"n"] = b"0"
    mine = MVBPlusTree(fe, "m"), HashTable(fe, "t")
    with pytest.raises(ReadConflict), fe.read_transaction(*mine):
        assert not ask(mine[0])
        with other.transaction(tree, table):
            tree[b"k"] = table[b"n"] = b"1"
        release(other)
        mine[1][b"n"]
    assert (ask(mine[0]), mine[1][b"n"]) in ((1, b"1"), (b"1", b"1"))


def test_a_first_query_never_conflicts(direct: rnvm.Backend, connect: Connect) -> None:
    fe, other = connect(direct), connect(direct)
    mine, theirs = Sample(fe, "a"), Sample(other, "a")
    second = Sample(fe, "b")
    for n in range(50):
        with fe.read_transaction(second, mine):
            theirs.add(1)
            release(other)
            assert mine.numbers()[0] == n + 1


def test_what_a_query_fetched_without_time_to_validate_it_is_not_used_later(
    direct: rnvm.Backend, connect: Connect
) -> None:
    other = connect(direct, timeout=20)
    theirs = BPlusTree(other, "tree")
    theirs.bulk_load((b"%05d" % n, b"0") for n in range(3000))
    release(other)
    rtt = 0.1
    with rnvm.connect(f"{direct.address}?rtt={rtt * 1e6:.0f}us", timeout=20) as fe:
        mine = BPlusTree(fe, "tree")
        with pytest.raises(ReadConflict), fe.read_transaction(mine):
            assert mine[b"00001"] == b"0"
            with other.transaction(theirs):
                theirs[b"00001"] = theirs[b"02999"] = b"1"
            release(other)
            with pytest.raises(DeadlineExceeded):
                mine.get(b"02999", timeout=1.5 * rtt)  # it fetches the page, and cannot validate it
            mine[b"02999"]


def test_records_that_are_logged_and_not_applied_do_not_disturb(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    mine = [Sample(fe, "a"), Sample(fe, "b")]
    theirs = [Sample(other, "a"), Sample(other, "b")]
    for each in theirs:
        each.put(0, b"before")
        each.put(1, b"before")
    direct._service._go_slow(collecting=True, replaying=False)
    with fe.read_transaction(*mine):
        assert mine[0].get(0) == b"before"
        with other.transaction(*theirs):
            for each in theirs:
                each.put(0, b"after")
                each.put(1, b"after")
        assert [each.get(place) for each in mine for place in range(2)] == [b"before"] * 4
    assert [each.get(place) for each in mine for place in range(2)] == [b"after"] * 4
    assert fe.figures["conflicts"] == fe.figures["extensions"] == 0


# Over a network an idle front-end that keeps a lock would be fenced.
@pytest.mark.parametrize("medium", ["direct", "image"])
@pytest.mark.parametrize("lock", ["sticky", "each", "cas"])
def test_a_kept_lock_that_is_taken_away_in_between_changes_nothing(
    backend: rnvm.Backend, connect: Connect, lock: str
) -> None:
    fe, other = connect(backend, lock=lock, cache="64KiB"), connect(backend, timeout=20)
    mine, theirs = Sample(fe, "a"), Sample(other, "a")
    second = Sample(fe, "b")
    for place in range(32):
        mine.put(place, b"%d" % place)
    with fe.read_transaction(mine, second):
        assert mine.get(0) == b"0"
        theirs.check()  # takes the lock and changes nothing
        assert [mine.get(place) for place in range(32)] == [b"%d" % n for n in range(32)]
        assert second.numbers() == (0, 0)
    for n in range(5):
        mine.put(0, b"%d" % n)
        with contextlib.suppress(ReadConflict), fe.read_transaction(mine, second):
            assert mine.get(0) == b"%d" % n
            theirs.put(0, b"x")
            theirs.put(1, b"x")
            assert mine.get(1) in (b"1" if n == 0 else b"x", None)
            assert mine.get(0) == b"%d" % n
        assert mine.get(0) == mine.get(1) == b"x"


def test_a_read_transaction_sees_the_changes_of_its_batch(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    mine, theirs = Sample(fe, "a"), Sample(other, "a")
    with fe.batch():
        mine.add(1)
        with fe.read_transaction(mine):
            assert mine.numbers() == theirs.numbers() == (1, 1)
        mine.add(1)
        assert theirs.numbers() == (1, 1)
    assert theirs.numbers() == (2, 2)


def test_an_iteration_sees_one_moment(direct: rnvm.Backend, connect: Connect) -> None:
    fe, other = connect(direct, timeout=20), connect(direct, timeout=20)
    tree = BPlusTree(other, "tree")
    tree.bulk_load((b"%05d" % n, b"0") for n in range(3000))
    mine = BPlusTree(fe, "tree")
    rounds = 0

    def change() -> None:
        nonlocal rounds
        rounds += 1
        with other.transaction(tree):
            for n in (1, 1500, 2999):
                tree[b"%05d" % n] = b"%d" % rounds

    with busy(change):
        for _ in range(5):
            items = fe.read(lambda t: dict(t.items()), mine)
            assert len({items[b"%05d" % n] for n in (1, 1500, 2999)}) == 1


# --- What a later moment costs


def tree_and_sample(fe: rnvm.FrontEnd, other: rnvm.FrontEnd, count: int) -> tuple[BST, Sample]:
    """Return a tree whose nodes are all in the front-end's cache, and a structure without any."""
    Sample(other, "s").add(1)
    tree, sample = BST(fe, "tree"), Sample(fe, "s")
    tree.bulk_load((b"%05d" % n, b"0") for n in range(count))
    for each in (fe, other):
        release(each)
    return tree, sample


def test_a_later_moment_reads_the_headers_of_many_nodes_in_one_round_trip(
    direct: rnvm.Backend, connect: Connect
) -> None:
    rtt = 0.02
    with rnvm.connect(f"{direct.address}?rtt={rtt * 1e6:.0f}us", timeout=60) as fe:
        other = connect(direct, timeout=20)
        tree, sample = tree_and_sample(fe, other, 3100)
        theirs = BST(other, "tree"), Sample(other, "s")
        with fe.read_transaction(tree, sample):
            assert len(list(tree.range(b"00000", b"03050"))) == 3050
            theirs[0][b"03099"] = b"1"
            theirs[1].add(1)
            release(other)
            before = fe.figures["reads"]
            with soon():
                assert sample.numbers() == (2, 2)
            # Else a round trip for each of them.
            assert (fe.figures["reads"] - before) * rtt > 60
        assert (fe.figures["extensions"], fe.figures["conflicts"]) == (2, 0)


def test_kept_locks_are_given_back_while_many_headers_are_read() -> None:
    in_some_try(give_back_while_headers_are_read)  # a busy machine may stop a thread for a lease


def give_back_while_headers_are_read() -> None:
    rtt, lease = 0.02, 0.2
    with (
        new_path("direct") as path,
        open_backend(path, "direct", lease=lease) as backend,
        contextlib.ExitStack() as stack,
    ):
        with rnvm.connect(f"{backend.address}?rtt={rtt * 1e6:.0f}us", timeout=60) as fe:
            other, third = (
                stack.enter_context(rnvm.connect(backend.address, timeout=20)) for _ in range(2)
            )
            tree, sample = tree_and_sample(fe, other, 3000)
            kept = Sample(fe, "kept")
            kept.add(1)
            theirs = BST(other, "tree"), Sample(other, "s"), Sample(third, "kept")
            with fe.read_transaction(tree, sample):
                assert len(list(tree.range(b"00000", b"02900"))) == 2900
                theirs[0][b"02999"] = b"1"
                theirs[1].add(1)
                release(other)
                before = fe.figures["reads"]

                def ask() -> object:
                    """Request the lock when most of the headers are still to be read."""
                    until(lambda: fe.figures["reads"] > before + 300)
                    return theirs[2].add(1)

                with ThreadPoolExecutor(1) as pool:
                    asked = pool.submit(ask)
                    try:
                        assert sample.numbers() == (2, 2)
                    except ConnectionFailed as error:
                        raise AssertionError("it was fenced") from error
                    assert asked.result() == 2
            assert fe.figures["conflicts"] == backend.figures()["pool"]["fenced"] == 0


def test_a_read_transaction_of_too_many_nodes_conflicts_with_each_later_moment(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    tree, sample = tree_and_sample(fe, other, 300)
    theirs = Sample(other, "s")
    before = read_set._note_at_most(100)
    try:
        with fe.read_transaction(tree, sample):
            assert len(list(tree)) == 300
            assert sample.numbers() == (1, 1)
        for count, raises in ((50, False), (300, True)):
            theirs.add(1)
            with contextlib.ExitStack() as stack:
                if raises:
                    stack.enter_context(pytest.raises(ReadConflict))
                stack.enter_context(fe.read_transaction(tree, sample))
                assert len(list(tree.range(None, b"%05d" % count))) == count
                theirs.add(1)
                BST(other, "tree")[b"00299"] = b"2"
                release(other)
                sample.numbers()
        found = fe.read(lambda tree, sample: (len(list(tree)), sample.numbers()), tree, sample)
        assert found == (300, (5, 5))
    finally:
        read_set._note_at_most(before)


# --- What is refused


def test_a_read_transaction_only_reads_the_structures_that_it_names(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    named, unnamed = Sample(fe, "a"), Sample(fe, "b")
    with fe.read_transaction(named):
        for call in (lambda: named.add(1), lambda: named.put(0, b"x"), named.check):
            with pytest.raises(CallerError, match="only reads"):
                call()
        for use in (unnamed.numbers, lambda: unnamed.add(1)):
            with pytest.raises(CallerError, match="not over"):
                use()
        for scope in (fe.batch(), fe.transaction(named), fe.read_transaction(named)):
            with pytest.raises(CallerError), scope:
                pass
        assert in_thread(lambda: named.numbers(timeout=0.01)) is DeadlineExceeded
        assert named.numbers() == (0, 0)
        Sample(other, "c")
        opened = Sample(fe, "c")
        with pytest.raises(CallerError, match="not over"):
            opened.numbers()
        assert Sample(other, "a").add(1) == 1
    assert [each.add(1) for each in (named, unnamed, opened)] == [2, 1, 1]
    with fe.transaction(named), pytest.raises(CallerError), fe.read_transaction(named):
        pass
    for wrong in ((), (named, named), (named, object()), (Sample(other, "b"),)):
        with pytest.raises(InvalidArgument), fe.read_transaction(*wrong):
            pass
    assert named.add(1) == 3


def test_nothing_is_made_or_dropped_within_a_read_transaction(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    named, unused = Sample(fe, "a"), Sample(other, "b")
    del unused
    with fe.read_transaction(named):
        with pytest.raises(CallerError, match="cannot be made"):
            Sample(fe, "c")
        with pytest.raises(CallerError, match="cannot be dropped"):
            fe.drop("b")
        assert named.numbers() == (0, 0)
    assert set(fe.names()) == {"a", "b"}


def test_a_batch_does_not_end_before_a_read_transaction_within_it(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    mine, theirs = Sample(fe, "a"), Sample(other, "a")
    batch = fe.batch()
    batch.__enter__()
    mine.add(1)
    with fe.read_transaction(mine):
        with pytest.raises(CallerError, match="open in this batch"):
            batch.__exit__(None, None, None)
        assert mine.numbers() == (1, 1)
    mine.add(1)
    assert theirs.numbers() == (1, 1)
    batch.__exit__(None, None, None)
    assert theirs.numbers() == (2, 2)


def test_a_structure_of_a_users_class_may_have_any_attribute(
    direct: rnvm.Backend, connect: Connect
) -> None:
    class Orders(HashTable):
        mapping = "other"

    fe = connect(direct)
    orders = Orders(fe, "orders")
    with fe.transaction(orders):
        orders[b"a"] = b"b"
    with fe.read_transaction(orders):
        assert orders[b"a"] == b"b"


def test_a_read_transaction_ends_with_its_thread_and_with_its_front_end(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    mine, theirs = Sample(fe, "a"), Sample(other, "a")

    def leave_open() -> None:
        fe.read_transaction(mine).__enter__()
        assert mine.numbers()[0] == theirs.numbers()[0]

    for n in range(10):
        thread = threading.Thread(target=leave_open)
        thread.start()
        thread.join()
        assert mine.add(1) == 2 * n + 1
        assert theirs.add(1) == 2 * n + 2
    with pytest.raises(Closed), fe.read_transaction(mine):
        fe.close()
        with pytest.raises(Closed):
            mine.numbers()


# --- Repeating


def test_read_repeats_its_function_and_then_runs_it_under_the_locks(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    mine = Sample(fe, "a"), Sample(fe, "b")
    theirs = Sample(other, "a"), Sample(other, "b")
    calls = refused = 0

    def disturbed(a: Sample, b: Sample) -> tuple[int, int]:
        nonlocal calls, refused
        calls += 1
        found = a.numbers()[0]
        try:
            with other.transaction(*theirs, timeout=0.05 if calls > 8 else 20):
                for each in theirs:
                    each.add(1)
            release(other)
        except DeadlineExceeded:
            refused += 1
        return found, b.numbers()[0]

    assert fe.read(disturbed, *mine) == (8, 8)
    assert (calls, refused) == (9, 1)
    assert fe.figures["conflicts"] == 8
    assert theirs[0].add(1) == 9


def test_read_does_not_repeat_conflicts_that_are_not_its_own_for_ever(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(direct)
    mine = Sample(fe, "a")
    calls = 0

    def conflict(_: Sample) -> None:
        nonlocal calls
        calls += 1
        raise ReadConflict("of another front-end")

    with pytest.raises(ReadConflict, match="of another front-end"):
        fe.read(conflict, mine, timeout=60)
    assert calls == 9
    with pytest.raises(DeadlineExceeded):
        fe.read(conflict, mine, timeout=1e-9)
    assert calls <= 10
    assert mine.add(1) == 1


def test_a_query_that_never_finds_its_structure_at_rest_acquires_the_locks(
    direct: rnvm.Backend, connect: Connect
) -> None:
    """A hook writes in the middle of the query: each moment has passed when it ends."""
    fe, other = connect(direct), connect(direct)
    mine, theirs = Sample(fe, "a"), Sample(other, "a")
    for place in range(2):
        theirs.put(place, b"x")
    writes = 0

    def write() -> None:
        nonlocal writes
        with contextlib.suppress(DeadlineExceeded):
            theirs.put(1, b"x", timeout=0.1 if writes else 20)
            release(other)
            writes += 1

    with fe.read_transaction(mine):
        assert mine.see(0, 1, write) == b"x|x"
    assert writes == 1
    assert fe.figures["restarts"] >= 1
    assert fe.figures["conflicts"] == 0


def test_a_read_transaction_executes_the_operations_that_a_dead_writer_left(
    direct: rnvm.Backend, connect: Connect
) -> None:
    child = os.fork()
    if not child:
        try:
            fe = rnvm.connect(direct.address)
            a, b = Sample(fe, "a"), Sample(fe, "b")
            fe.batch().__enter__()
            a.add(1)
            b.add(2)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    fe = connect(direct, timeout=20)
    a, b = Sample(fe, "a"), Sample(fe, "b")
    with fe.read_transaction(b, a):
        assert (a.numbers()[0], b.numbers()[0]) == (1, 2)
    assert Sample(connect(direct), "b").add(1) == 3


def test_a_dead_writers_operations_that_a_read_transaction_executes_are_no_conflict(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct, timeout=20), connect(direct, timeout=20)
    theirs = BPlusTree(other, "tree")
    theirs.bulk_load((b"%05d" % n, b"0") for n in range(3000))
    Sample(other, "b")
    release(other)
    tree, b = BPlusTree(fe, "tree"), Sample(fe, "b")
    with fe.read_transaction(tree, b):
        assert tree[b"00001"] == b"0"  # now all states are known
        child = os.fork()
        if not child:
            try:
                dying = rnvm.connect(direct.address)
                its = Sample(dying, "b")
                dying.batch().__enter__()
                its.add(1)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        until(lambda: direct.figures()["pool"]["attached"] == 2)
        assert direct.figures()["pool"]["ending"] == 1  # until its operation is executed
        theirs[b"02999"] = b"1"
        release(other)
        assert tree[b"02999"] == b"1"  # moves on, and executes the operation
        assert b.numbers() == (1, 1)
    assert fe.figures["executed_again"] == 1
    assert fe.figures["conflicts"] == 0


# --- Lost sessions


@pytest.mark.parametrize("lock", ["sticky", "cas"])
def test_a_read_transaction_whose_back_end_dies_raises_and_read_repeats_it(lock: str) -> None:
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        first = stack.enter_context(served(path, 2))
        fe = stack.enter_context(rnvm.connect(address_of(path), timeout=20, lock=lock))
        a, b = Sample(fe, "a"), Sample(fe, "b")
        a.add(1)
        b.add(1)
        restarted = False

        def both(a: Sample, b: Sample) -> tuple[int, int]:
            nonlocal restarted
            found = a.numbers()[0]
            if not restarted:
                restarted = True
                first.kill()
                stack.enter_context(served(path, 2))
            return found, b.numbers()[0]

        with pytest.raises(ConnectionFailed), fe.read_transaction(a, b):
            both(a, b)
            b.get(1)
        assert a.add(1) == 2
        assert fe.read(lambda a, b: (a.numbers()[0], b.numbers()[0]), a, b) == (2, 1)


@without_a_node
def test_a_session_that_is_lost_after_a_query_that_read_no_node_ends_a_read_transaction(
    ask: Callable[[Any], object],
) -> None:
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        first = stack.enter_context(served(path, 2))
        fe = stack.enter_context(rnvm.connect(address_of(path), timeout=20))
        tree, table = MVBPlusTree(fe, "m"), HashTable(fe, "t")
        release(fe)
        with pytest.raises(ConnectionFailed), fe.read_transaction(tree, table):
            assert not ask(tree)
            first.kill()
            stack.enter_context(served(path, 2))
            table.get(b"n")


def test_a_session_that_is_lost_before_the_first_query_does_not_matter() -> None:
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        first = stack.enter_context(served(path, 2))
        fe = stack.enter_context(rnvm.connect(address_of(path), timeout=20))
        a, b = Sample(fe, "a"), Sample(fe, "b")
        a.add(1)
        with fe.read_transaction(a, b):
            first.kill()
            stack.enter_context(served(path, 2))
            assert (a.numbers(), b.numbers()) == ((1, 1), (0, 0))
        assert a.add(1) == 2


# --- Many


@pytest.mark.anywhere
@pytest.mark.parametrize("far", ["direct", pytest.param("emulated", marks=pytest.mark.shm)])
@each_of(MAPPINGS)
def test_random_read_transactions_agree_with_a_model(
    connect: Connect, kind: Any, far: str, rng: random.Random
) -> None:
    """Several structures, transactions of two writers, each with a version in all its keys."""
    with new_path(far) as path, open_backend(path, far, lease=5.0) as backend:
        writers = [connect(backend, timeout=20) for _ in range(2)]
        names = ["t0", "t1", "t2"]
        tables = [[kind(fe, name) for name in names] for fe in writers]
        reader = connect(backend, timeout=20, cache=rng.choice([0, "64KiB", "64MiB"]))
        mine = [kind(reader, name) for name in names]
        keys = [b"k%d" % n for n in range(12)]
        with writers[0].transaction(*tables[0]):
            for table in tables[0]:
                table.update(dict.fromkeys(keys, b"0"))
        turn = 0
        apart = far == "emulated" or EMULATED
        if apart:
            writers[0].release()  # others would wait for a part of the lease

        def write() -> None:
            nonlocal turn
            turn += 1
            fe, own = writers[turn % 2], tables[turn % 2]
            key = keys[turn % len(keys)]
            with fe.transaction(*own):
                for table in own:
                    table[key] = b"%d" % turn
            if apart:
                fe.release()

        with busy(write):
            for _ in range(rounds(40 if kind is HashTable else 12)):
                some = rng.sample(keys, 4)
                found = reader.read(
                    lambda *all, some=some: [[t[k] for k in some] for t in all], *mine
                )
                assert found[0] == found[1] == found[2]
        for table in mine:
            table.check()


# --- Multi-version structures


@pytest.mark.anywhere
@each_of(VERSIONED)
def test_multi_version_structures_keep_their_versions_of_the_moment(
    backend: rnvm.Backend, connect: Connect, kind: Any
) -> None:
    fe, other = connect(backend, timeout=20), connect(backend, timeout=20)
    theirs = [kind(other, name) for name in "ab"]
    keys = [b"%04d" % n for n in range(300)]
    with other.transaction(*theirs):
        for tree in theirs:
            for key in keys:
                tree[key] = b"0"
    mine = [kind(fe, name) for name in "ab"]
    turn = 0

    def write() -> None:
        nonlocal turn
        turn += 1
        with other.transaction(*theirs):
            for tree in theirs:
                for key in keys[:: 100 + turn % 7]:
                    tree[key] = b"%d" % turn

    with busy(write):
        for _ in range(rounds(20)):
            with fe.read_transaction(*mine):
                first = [tree[keys[0]] for tree in mine]
                assert first[0] == first[1]
                found = [dict(tree) for tree in mine]
                assert found[0] == found[1]
                assert [tree[keys[0]] for tree in mine] == first
    assert fe.figures["conflicts"] == 0
    for tree in mine:
        tree.check()


def test_a_multi_version_structure_beside_others_is_read_at_their_moment(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct, timeout=20), connect(direct, timeout=20)
    theirs = [MVBPlusTree(other, "m"), HashTable(other, "t")]
    mine = [HashTable(fe, "t"), MVBPlusTree(fe, "m")]
    turn = 0

    def write() -> None:
        nonlocal turn
        turn += 1
        with other.transaction(*theirs):
            for each in theirs:
                each[b"k"] = each[b"%d" % (turn % 50)] = b"%d" % turn

    write()
    with busy(write):
        for _ in range(40):
            found = fe.read(lambda *all: [dict(each.items()) for each in all], *mine)
            assert found[0] == found[1]
