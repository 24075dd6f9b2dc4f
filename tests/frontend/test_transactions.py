"""Atomicity of batches and transactions, and the lives of structures and threads within them."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from connecting import connect_hasty

import rnvm
from rfp import address as addresses
from rfp.errors import (
    AlreadyExists,
    CallerError,
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    OutOfMemory,
    TooLarge,
)
from rnvm import pools
from rnvm.testing.sample_structure import Sample

from .conftest import Connect, new_path, open_backend
from .processes import address_of, served

OPTIONS: dict[str, dict[str, Any]] = {
    "sticky": {},
    "each": {"lock": "each"},
    "cas": {"lock": "cas"},
    "volatile": {"durability": "volatile"},
    "unlogged": {"oplog": False},
    "naive": {"cache": 0, "oplog": False, "lock": "each"},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


class Discarded(Exception):
    """Ends a transaction."""


def killed_in(work: Callable[[], None]) -> None:
    """Run work() in a process that is killed at its end, before anything goes out of scope."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def counts(backend: rnvm.Backend, *names: str) -> list[int]:
    """Return the counters as a new front-end reads them."""
    with rnvm.connect(backend.address) as fe:
        found = []
        for name in names:
            sample = Sample(fe, name, create=False)
            sample.check()
            found.append(sample.numbers()[0])
        return found


@pytest.fixture
def roomy() -> Iterator[rnvm.Backend]:
    """Yield a back-end whose logs hold longer records than its tests need."""
    with new_path("direct") as path:
        pools.create(
            path,
            "16MiB",
            front_ends=4,
            operation_log="512KiB",
            memory_log="512KiB",
            assume_persistent=True,
        )
        with open_backend(path) as served:
            yield served


def fill(fe: Any) -> None:
    """Take blocks until none is left in the pool."""
    places = [
        (sample, place)
        for sample in [Sample(fe, f"fill {i}") for i in range(30)]
        for place in range(32)
    ]
    for length in (28_000, 3000):
        with contextlib.suppress(OutOfMemory):
            while True:
                places[-1][0].put(places[-1][1], bytes(length))
                places.pop()


# --- More structures than a record has parts


@every_option
def test_a_batch_over_more_than_64_structures_is_written_in_several_records(
    roomy: rnvm.Backend, connect: Connect, options: dict[str, Any]
) -> None:
    fe, other = connect(roomy, **options), connect(roomy)
    mine = [Sample(fe, f"s{i}") for i in range(150)]
    for each in mine:
        each.add(1)
    with fe.batch():
        for turn in range(2):
            for each in mine:
                assert each.add(1) == turn + 2
    assert [each.add(1) for each in mine] == [4] * 150
    assert {Sample(other, f"s{i}").numbers() for i in range(150)} == {(4, 4)}
    del mine
    gc.collect()
    fe.close()
    assert counts(roomy, "s0", "s64", "s149") == [4, 4, 4]


def test_a_batch_over_more_than_64_structures_loses_no_operation_if_its_process_is_killed(
    roomy: rnvm.Backend,
) -> None:
    def work() -> None:
        fe, other = rnvm.connect(roomy.address), rnvm.connect(roomy.address)
        mine = [Sample(fe, f"s{i}") for i in range(100)]
        for each in mine:
            each.add(1)
        with contextlib.suppress(TooLarge), fe.batch():
            for each in mine:
                each.add(1)
        theirs = [Sample(other, f"s{i}") for i in range(50)]
        for each in theirs:
            each.add(1)
        die()

    killed_in(work)
    assert counts(roomy, *(f"s{i}" for i in range(100))) == [3] * 50 + [2] * 50


def test_a_transaction_refuses_to_change_a_65th_structure_and_does_the_rest(
    roomy: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(roomy)
    mine = [Sample(fe, f"s{i}") for i in range(66)]
    with fe.transaction(*mine):
        for each in mine[:64]:
            each.add(1)
        for each in mine[64:]:
            with pytest.raises(TooLarge, match="64 structures"):
                each.add(1)
            assert each.numbers() == (0, 0)
    assert [each.numbers()[0] for each in mine] == [1] * 64 + [0, 0]
    with pytest.raises(TooLarge, match="64 structures"), fe.transaction(*mine):
        for each in mine:
            each.add(1)
    assert [each.add(1) for each in mine] == [2] * 64 + [1, 1]


def test_the_error_of_a_too_large_transaction_names_the_limit_of_a_record(
    direct: rnvm.Backend, connect: Connect
) -> None:
    sample = Sample(connect(direct), "s")
    with sample.fe.transaction(sample):
        with pytest.raises(TooLarge, match="one record of the memory log"):
            for place in range(32):
                sample.put(place, bytes(5000))
        done = sum(sample.get(place) is not None for place in range(32))
    assert 2 < done == sum(sample.get(place) is not None for place in range(32)) < 32
    sample.check()


# --- Structures that are not named


def test_a_transaction_covers_only_the_structures_that_it_names(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    named, held, unused = Sample(fe, "named"), Sample(fe, "held"), Sample(other, "unused")
    held.add(1)
    with fe.transaction(named):
        opened = Sample(fe, "unused")
        for unnamed in (held, opened):
            for call, *arguments in (
                (unnamed.add, 1),
                (unnamed.numbers,),
                (unnamed.get, 1),
                (unnamed.check,),
            ):
                with pytest.raises(CallerError, match="not over"):
                    call(*arguments)
        named.add(1)
    assert [each.add(1) for each in (named, held, opened)] == [2, 2, 1]
    assert unused.numbers() == (1, 1)


def test_front_ends_that_use_each_others_structures_unnamed_do_not_wait_for_each_other(
    direct: rnvm.Backend, connect: Connect
) -> None:
    one, two = connect(direct), connect(direct)
    a, b = Sample(one, "a"), Sample(two, "b")
    other_a, other_b = Sample(two, "a"), Sample(one, "b")
    with one.transaction(a), two.transaction(b):
        for other in (other_a, other_b):
            with pytest.raises(CallerError):
                other.add(1)
        a.add(1)
        b.add(1)
    assert (other_a.numbers()[0], other_b.numbers()[0]) == (1, 1)
    assert direct.figures()["pool"]["fenced"] == 0


@pytest.mark.parametrize("exists", [False, True])
def test_a_transaction_refuses_to_create_or_drop_since_it_could_not_undo_it(
    direct: rnvm.Backend, connect: Connect, exists: bool
) -> None:
    fe, other = connect(direct), connect(direct)
    sample = Sample(fe, "s")
    Sample(other, "old")
    if exists:
        Sample(other, "new")
    with pytest.raises(Discarded), fe.transaction(sample):
        for _ in range(5):
            sample.add(1)
        with (
            contextlib.nullcontext()
            if exists
            else pytest.raises(CallerError, match="cannot be made")
        ):
            Sample(fe, "new")
        with pytest.raises(NotFound):
            Sample(fe, "none", create=False)
        with pytest.raises(CallerError, match="cannot be dropped"):
            fe.drop("old")
        assert Sample(other, "s").numbers() == (0, 0)
        raise Discarded
    assert sample.numbers() == Sample(other, "s").numbers() == (0, 0)
    assert set(other.names()) == {"s", "old"} | ({"new"} if exists else set())


def test_a_transaction_does_not_initialise_a_structure_whose_creator_was_killed(
    connect: Connect,
) -> None:
    with new_path("direct") as path:
        pools.create(path, "8MiB", assume_persistent=True)
        with pools.open_pool(path) as pool:
            pool.create(b"new", Sample.KIND)
        with open_backend(path) as backend:
            fe = connect(backend)
            sample = Sample(fe, "s")
            with fe.transaction(sample):
                sample.add(1)
                with pytest.raises(CallerError):
                    Sample(fe, "new")
            assert Sample(fe, "new").add(1) == 1
            assert sample.numbers() == (1, 1)


# --- Numbers of operations


@every_option
@pytest.mark.parametrize("end", ["discarded", "too large", "abandoned"])
def test_acknowledged_operations_after_a_discarded_transaction_survive(
    direct: rnvm.Backend, options: dict[str, Any], end: str
) -> None:
    def work() -> None:
        fe = rnvm.connect(direct.address, **options)
        sample, second = Sample(fe, "s"), Sample(fe, "t")
        sample.add(100)
        if end == "abandoned":
            thread = threading.Thread(
                target=lambda: (fe.transaction(sample, second).__enter__(), sample.add(1))
            )
            thread.start()
            thread.join()
        else:
            with contextlib.suppress(Discarded, TooLarge), fe.transaction(sample, second):
                for n in range(5):
                    sample.add(n)
                    second.add(n)
                with contextlib.suppress(CallerError):
                    Sample(fe, "new")
                with contextlib.suppress(CallerError):
                    fe.release()
                if end == "too large":
                    sample.put(0, bytes(1 << 20))
                raise Discarded
        fe.batch().__enter__()
        for _ in range(5):
            sample.add(1)
            second.add(1)
        die()

    killed_in(work)
    assert counts(direct, "s", "t") == [105, 5]


@pytest.mark.parametrize("lock", ["sticky", "each", "cas"])
def test_a_writer_that_cannot_re_execute_a_pending_operation_does_not_skip_it(
    roomy: rnvm.Backend, connect: Connect, lock: str
) -> None:
    def work() -> None:
        sample = Sample(rnvm.connect(roomy.address), "s")
        sample.fe.batch().__enter__()
        for place in range(10):
            sample.put(place, bytes(8000))
        die()

    fe = connect(roomy)
    Sample(fe, "s").add(1)
    gc.collect()
    killed_in(work)
    fill(fe)
    sample = Sample(connect(roomy, lock=lock), "s")
    for call in (lambda: sample.add(1), lambda: sample.get(0), lambda: sample.add(1)):
        with pytest.raises(OutOfMemory):
            call()
    gc.collect()
    for name in fe.names():
        if name != "s":
            fe.drop(name)
    assert sample.add(1) == 2
    assert [sample.get(place) for place in range(10)] == [bytes(8000)] * 10
    assert counts(roomy, "s") == [2]


# --- Locks


@every_option
def test_release_in_a_batch_publishes_it_and_frees_its_locks(
    backend: rnvm.Backend, connect: Connect, options: dict[str, Any]
) -> None:
    fe, other = connect(backend, **options), connect(backend)
    mine, theirs = Sample(fe, "s"), Sample(other, "s")
    with fe.batch():
        for n in range(0, 10, 2):
            assert mine.add(1) == n + 1
            fe.release()
            assert theirs.add(1) == n + 2
    assert mine.numbers() == theirs.numbers() == (10, 10)
    assert counts(backend, "s") == [10]


@every_option
def test_a_structure_can_be_opened_and_read_while_a_transaction_of_its_maker_is_open(
    connect: Connect, options: dict[str, Any]
) -> None:
    with new_path("direct") as path, open_backend(path, lease=60.0) as backend:
        fe, other = connect(backend, **options), connect(backend, timeout=10)
        for n in range(20):
            mine = Sample(fe, f"s{n}")
            with fe.transaction(mine):
                assert Sample(other, f"s{n}").numbers() == (0, 0)
                mine.add(1)
            assert mine.numbers() == (1, 1)


@every_option
def test_a_batch_locks_no_structure_that_it_has_only_read(
    connect: Connect, options: dict[str, Any]
) -> None:
    with new_path("direct") as path, open_backend(path, lease=60.0) as backend:
        fe, other = connect(backend, **options), connect(backend, timeout=10)
        mine, theirs = Sample(fe, "s"), Sample(other, "s")
        mine.add(1)
        with fe.batch():
            for n in range(1, 4):
                assert mine.numbers() == (n, n)
                assert theirs.add(1) == n + 1


@every_option
def test_release_in_a_transaction_is_refused_and_changes_nothing(
    backend: rnvm.Backend, connect: Connect, options: dict[str, Any]
) -> None:
    fe, other = connect(backend, **options), connect(backend)
    mine, theirs = Sample(fe, "s"), Sample(other, "s")
    with fe.transaction(mine):
        mine.add(1)
        with pytest.raises(CallerError, match="keeps its locks"):
            fe.release()
        assert theirs.numbers() == (0, 0)
        mine.add(1)
    assert theirs.add(1) == 3


def test_the_changes_of_a_batch_are_written_before_a_structure_is_dropped(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(direct), connect(direct)
    Sample(other, "old")
    sample = Sample(fe, "s")
    with fe.batch():
        sample.add(1)
        fe.drop("old")
        assert Sample(other, "s").numbers() == (1, 1)
        assert sample.add(1) == 2
    assert counts(direct, "s") == [2]


@pytest.mark.parametrize("lock", ["sticky", "cas"])
@pytest.mark.parametrize("how", ["batch", "object", "transaction"])
def test_an_operation_that_finds_no_room_in_the_log_by_its_deadline_is_done_whole_or_not_at_all(
    how: str, lock: str
) -> None:
    with new_path("direct") as path, served(path, 60) as process, contextlib.ExitStack() as stack:
        fe = stack.enter_context(connect_hasty(address_of(path), 0.2, lock=lock))
        sample = Sample(fe, "s", timeout=20)
        sample.add(1, timeout=20)
        process.stop()
        done = 1
        with pytest.raises(DeadlineExceeded):
            while True:
                done = sample.add(1)
        if how == "transaction":
            with pytest.raises(DeadlineExceeded), fe.transaction(sample):
                assert sample.add(1) == done + 1
        elif how == "batch":
            with pytest.raises(DeadlineExceeded), fe.batch():
                done = sample.add(1)
        else:
            with contextlib.suppress(DeadlineExceeded, ConnectionFailed), fe.batch():
                done = sample.add(1)
                del sample
        process.signal(signal.SIGCONT)
        other = Sample(stack.enter_context(rnvm.connect(address_of(path), timeout=20)), "s")
        assert other.add(1) == done + 1
        with rnvm.connect(address_of(path), timeout=20) as last:
            if how != "object":
                assert sample.add(1, timeout=20) == done + 2
            assert Sample(last, "s").numbers()[0] == done + 2 - (how == "object")
        other.check()


# --- Room: in the logs, in the pool, in the cache


@pytest.mark.usefixtures("small_logs")
@pytest.mark.parametrize("memory_log", ["64KiB", "256KiB"])
def test_an_operation_in_a_batch_never_waits_for_room_that_only_the_batch_can_free(
    memory_log: str,
) -> None:
    """One operation is at most half a ring; at each place in the ring it need not wait."""
    with new_path("direct") as path:
        pools.create(
            path,
            "8MiB",
            front_ends=2,
            operation_log="64KiB",
            memory_log=memory_log,
            assume_persistent=True,
        )
        with open_backend(path) as backend, rnvm.connect(backend.address, timeout=20) as fe:
            sample = Sample(fe, "s")
            with fe.batch():
                for n in range(200):
                    sample.put(0, bytes(64 * n))
                    sample.put(1, bytes(30_000 + 5 * n))
            assert len(sample.get(1)) == 30_995
            assert counts(backend, "s") == [0]


@pytest.mark.parametrize("many", ["batch", "transaction", "alone"])
@pytest.mark.parametrize("length", [3000, 20_000])
def test_freed_blocks_of_a_full_pool_are_used_again(
    roomy: rnvm.Backend, connect: Connect, many: str, length: int
) -> None:
    fe = connect(roomy)
    sample = Sample(fe, "s")
    for place in range(10):
        sample.put(place, bytes(length))
    fill(fe)
    with pytest.raises(OutOfMemory):
        sample.put(11, bytes(length))
    for turn in range(3):
        with (
            contextlib.nullcontext()
            if many == "alone"
            else fe.batch()
            if many == "batch"
            else fe.transaction(sample)
        ):
            for place in range(10):
                assert sample.take(place) is not None
            for place in range(10):
                sample.put(place, bytes([turn]) * length)
        with pytest.raises(Discarded), fe.transaction(sample):
            for place in range(10):
                sample.take(place)
            for place in range(12, 22):
                sample.put(place, b"x" * length)
            raise Discarded
        assert [sample.get(place) for place in range(10)] == [bytes([turn]) * length] * 10
        sample.check()
    assert counts(roomy, "s") == [0]


def test_a_batch_frees_blocks_in_one_structure_that_another_one_needs(
    roomy: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(roomy)
    one, two = Sample(fe, "one"), Sample(fe, "two")
    one.put(0, bytes(50_000))
    two.add(1)
    fill(fe)
    with fe.batch():
        for n in range(6):
            source, to = (one, two) if n % 2 == 0 else (two, one)
            to.put(0, source.take(0))
    assert len(one.get(0)) == 50_000
    one.check()
    two.check()


def test_the_error_of_a_pool_without_consecutive_blocks_states_how_many_it_needs(
    roomy: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(roomy)
    fill(fe)
    sample = Sample(fe, "fill 0")
    with pytest.raises(OutOfMemory, match=r"no 13 blocks in a row \(53248 bytes\)"):
        sample.put(0, bytes(50_000))


@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "emulated"])
@pytest.mark.parametrize("kind", ["batch", "transaction"])
def test_the_cache_keeps_its_budget_within_a_batch_and_a_transaction(
    connect: Connect, kind: str, options: str
) -> None:
    with new_path("direct") as path:
        pools.create(
            path,
            "16MiB",
            front_ends=4,
            operation_log="288KiB",
            memory_log="288KiB",
            assume_persistent=True,
        )
        with open_backend(path, address=str(addresses.unique()) + options) as backend:
            check_budget(connect(backend, cache="64KiB", timeout=20), kind)


def check_budget(fe: Any, kind: str) -> None:
    samples = [Sample(fe, f"s{i}") for i in range(30)]
    for each in samples:
        for place in range(32):
            each.put(place, b"%d" % place * 500)
    most = 0
    with fe.batch() if kind == "batch" else fe.transaction(*samples):
        for each in samples * 2:
            for place in range(32):
                assert each.get(place) == b"%d" % place * 500
                if kind == "batch":
                    each.put(place, b"%d" % place * 500)
                most = max(most, fe.figures["cached"])
    # Nodes that one record changes cannot be evicted before it is written.
    assert most < 400 << 10
    for each in samples:
        each.check()


def test_a_check_in_a_batch_evicts_no_unwritten_node(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(direct, cache=0)
    sample = Sample(fe, "s")
    for turn in range(20):
        with fe.batch():
            for place in range(8):
                sample.put(place, b"%d" % turn * 300)
            sample.check()
            assert sample.add(1) == turn + 1
        assert [sample.get(place) for place in range(8)] == [b"%d" % turn * 300] * 8
        sample.check()


# --- Objects that are deleted and threads that end


@every_option
def test_objects_may_be_deleted_anywhere_in_a_batch_or_a_transaction(
    direct: rnvm.Backend, connect: Connect, options: dict[str, Any]
) -> None:
    fe, other = connect(direct, **options), connect(direct, timeout=20)
    with fe.batch():
        for n in range(5):
            Sample(fe, "s").add(1)
            gc.collect()
            assert Sample(other, "s").add(1) == 2 * n + 2
            gc.collect()
    opened = fe.transaction(Sample(fe, "s"), Sample(fe, "t"))
    with opened:
        opened.structures[0].add(1)
        opened.structures[1].add(1)
        gc.collect()
        assert Sample(other, "s").numbers()[0] == 10
    del opened
    gc.collect()
    assert counts(direct, "s", "t") == [11, 1]


def test_an_unreferenced_transaction_keeps_its_structures_and_is_discarded_with_its_front_end(
    direct: rnvm.Backend, connect: Connect
) -> None:
    other = Sample(connect(direct), "s")
    fe = rnvm.connect(direct.address)
    fe.transaction(Sample(fe, "s")).__enter__()
    fe.structures["s"].add(1)
    gc.collect()
    fe.structures["s"].add(1)
    del fe
    gc.collect()
    assert other.add(1) == 1
    assert direct.figures()["pool"]["fenced"] <= 1


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@every_option
@pytest.mark.parametrize("kind", ["batch", "transaction", "both"])
def test_a_thread_that_ends_leaves_no_batch_and_no_transaction_behind(
    direct: rnvm.Backend, connect: Connect, options: dict[str, Any], kind: str
) -> None:
    fe, other = connect(direct, **options), connect(direct)
    sample, theirs = Sample(fe, "s"), Sample(other, "s")
    left: list[Any] = []

    def leave_open() -> None:
        if kind != "transaction":
            fe.batch().__enter__()
            sample.add(10)
        if kind != "batch":
            left.append(fe.transaction(sample))
            left[-1].__enter__()
            sample.add(1)

    kept = 0 if kind == "transaction" else 10
    for n in range(20):  # the next thread gets the ID of the last one
        in_thread(leave_open)
        assert in_thread(lambda: sample.add(100)) == (kept + 100) * (n + 1)
        assert theirs.numbers()[0] == (kept + 100) * (n + 1)
    for each in left:
        with pytest.raises(CallerError, match="not under way"):
            each.__exit__(None, None, None)
        each.__exit__(Discarded, Discarded(), None)
    assert theirs.add(0) == 20 * (kept + 100)


def test_a_waiting_thread_is_admitted_when_the_thread_with_the_transaction_ends(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(direct, timeout=20)
    sample = Sample(fe, "s")
    begun, end = threading.Event(), threading.Event()

    def leave_open() -> None:
        fe.transaction(sample).__enter__()
        sample.add(1)
        begun.set()
        end.wait(20)

    holder = threading.Thread(target=leave_open)
    holder.start()
    begun.wait(20)
    with pytest.raises(DeadlineExceeded, match="batch or transaction"):
        sample.add(10, timeout=0.01)
    waiting = threading.Thread(target=lambda: sample.add(10))
    waiting.start()
    end.set()
    holder.join()
    waiting.join()
    assert sample.numbers() == (10, 1)


@pytest.mark.parametrize("kind", ["batch", "transaction"])
@pytest.mark.parametrize("how", ["ended", "closed", "collected"])
def test_a_generator_may_be_ended_in_another_thread(
    direct: rnvm.Backend, connect: Connect, kind: str, how: str
) -> None:
    fe, other = connect(direct), connect(direct)
    sample, theirs = Sample(fe, "s"), Sample(other, "s")

    def work() -> Iterator[None]:
        with fe.batch() if kind == "batch" else fe.transaction(sample):
            sample.add(1)
            yield

    generators = [work()]
    in_thread_begun, end = threading.Event(), threading.Event()
    holder = threading.Thread(
        target=lambda: (next(generators[0]), in_thread_begun.set(), end.wait(60))
    )
    holder.start()
    try:
        in_thread_begun.wait(20)
        if how == "ended":
            assert next(generators[0], None) is None
        elif how == "closed":
            generators[0].close()
        generators.clear()
        gc.collect()
        expected = 1 if kind == "batch" or how == "ended" else 0
        assert theirs.numbers()[0] == expected
        assert sample.add(1) == expected + 1
    finally:
        end.set()
        holder.join()


def test_an_object_deleted_in_another_thread_does_not_exclude_the_one_with_the_transaction(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(direct, timeout=20)
    sample = Sample(fe, "s")
    over = threading.Event()

    def delete_object() -> None:
        while not over.is_set():
            with contextlib.suppress(DeadlineExceeded):
                Sample(fe, "t", timeout=0.0001)

    thread = threading.Thread(target=delete_object)
    thread.start()
    try:
        for n in range(300):
            with fe.transaction(sample, timeout=20) if n % 2 else fe.batch():
                for _ in range(3):
                    sample.add(1)
    finally:
        over.set()
        thread.join()
    assert sample.numbers() == (900, 900)


def test_threads_that_open_a_structure_at_once_get_one_object(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(direct, timeout=20)
    for n in range(30):
        opened: list[Sample] = []
        start = threading.Barrier(4)

        def open_it(
            opened: list[Sample] = opened, start: threading.Barrier = start, n: int = n
        ) -> None:
            start.wait()
            with contextlib.suppress(AlreadyExists):
                opened.append(Sample(fe, f"s{n % 3}"))

        threads = [threading.Thread(target=open_it) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(opened) == 1
        assert opened[0].add(1) == n // 3 + 1


# --- Contexts in any order


def test_a_context_ends_only_the_batch_or_transaction_that_it_began(
    direct: rnvm.Backend, connect: Connect
) -> None:
    def refused() -> bool:
        with pytest.raises(DeadlineExceeded):
            sample.add(1, timeout=0.01)
        return True

    fe, other = connect(direct), connect(direct)
    sample, theirs = Sample(fe, "s"), Sample(other, "s")
    batch, transaction = fe.batch(), fe.transaction(sample)
    for each in (batch, transaction):
        with pytest.raises(CallerError, match="not under way"):
            each.__exit__(None, None, None)
    with batch:
        sample.add(1)
        with pytest.raises(CallerError), fe.batch():
            pass
        with transaction:
            sample.add(1)
            for begun in (fe.batch(), fe.transaction(sample)):
                with pytest.raises(CallerError):
                    begun.__enter__()
            for wrong in (batch, fe.batch(), fe.transaction(sample)):
                with pytest.raises(CallerError):
                    wrong.__exit__(None, None, None)
            assert theirs.numbers()[0] == 1
        assert theirs.numbers()[0] == 2
        sample.add(1)
        # The batch is still open, and belongs to this thread.
        assert theirs.numbers()[0] == 2
        assert in_thread(refused)
    assert theirs.numbers()[0] == 3
    with pytest.raises(Discarded), batch, transaction:
        sample.add(1)
        raise Discarded
    with batch, transaction:
        sample.add(1)
    assert counts(direct, "s") == [4]


def test_a_transaction_refuses_an_object_that_only_resembles_a_structure(
    direct: rnvm.Backend, connect: Connect
) -> None:
    class Pretender:
        def __init__(self, fe: Any, name: str) -> None:
            self.fe, self.name = fe, name

    fe = connect(direct)
    sample = Sample(fe, "s")
    for name in ("s", "t"):
        with pytest.raises(InvalidArgument), fe.transaction(sample, Pretender(fe, name)):
            pass
    assert in_thread(lambda: sample.add(1)) == 1


@pytest.mark.parametrize("kind", ["batch", "transaction"])
def test_closing_the_front_end_keeps_an_open_batch_and_discards_an_open_transaction(
    direct: rnvm.Backend, connect: Connect, kind: str
) -> None:
    fe = connect(direct)
    sample = Sample(fe, "s")
    with pytest.raises(Closed), fe.batch() if kind == "batch" else fe.transaction(sample):
        sample.add(1)
        fe.close()
        with pytest.raises(Closed):
            sample.add(1)
    assert counts(direct, "s") == [1 if kind == "batch" else 0]


# --- Conflict, deadlock, time-out, fencing, size


@pytest.mark.parametrize("locks", [("sticky", "sticky"), ("cas", "cas"), ("sticky", "cas")])
def test_transactions_over_the_same_structures_in_any_order_never_wait_in_a_circle(
    direct: rnvm.Backend, connect: Connect, locks: tuple[str, str]
) -> None:
    errors: list[BaseException] = []

    def move(lock: str, turn: int) -> None:
        try:
            fe = connect(direct, timeout=20, lock=lock)
            samples = [Sample(fe, name) for name in "abc"]
            for n in range(40):
                named = samples[n % 3 :] + samples[: n % 3]
                with fe.transaction(*(named if turn else named[::-1])):
                    for each, change in zip(samples, (1, 2, -3)):
                        each.add(change)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=move, args=each) for each in zip(locks, (0, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    assert counts(direct, "a", "b", "c") == [80, 160, -240]


@pytest.mark.parametrize("lock", ["sticky", "cas", "each"])
def test_a_transaction_whose_start_times_out_gives_back_what_it_has_locked(
    direct: rnvm.Backend, connect: Connect, lock: str
) -> None:
    fe, late, other = (connect(direct, lock=lock) for _ in range(3))
    held = [Sample(fe, name) for name in "abc"]
    wanted = [Sample(late, name) for name in "abc"]
    free = [Sample(other, name) for name in "ab"]
    with fe.transaction(held[2]):
        held[2].add(1)
        with pytest.raises(DeadlineExceeded), late.transaction(*wanted, timeout=0.05):
            raise AssertionError("the transaction began")
        assert [each.add(1) for each in free] == [1, 1]
        # It is in no queue any more: the lock is not granted to it at the end.
    with late.transaction(*wanted):
        assert [each.add(1) for each in wanted] == [2, 2, 2]
    assert counts(direct, "a", "b", "c") == [2, 2, 2]


def test_a_transaction_that_stays_inside_for_longer_than_a_lease_is_fenced_and_undone(
    connect: Connect,
) -> None:
    with new_path("direct") as path, open_backend(path, lease=0.1) as backend:
        fe, other = connect(backend), connect(backend, timeout=20)
        mine = Sample(fe, "a"), Sample(fe, "b")
        theirs = Sample(other, "b")
        with (
            pytest.raises(ConnectionFailed, match="nothing of it was done"),
            fe.transaction(*mine),
        ):
            for each in mine:
                each.add(1)
            assert theirs.add(10) == 10  # waits for the lease
        assert [each.numbers()[0] for each in mine] == [0, 10]


def test_the_error_of_a_too_large_transaction_names_a_log_that_is_large_enough(
    direct: rnvm.Backend, connect: Connect
) -> None:
    sample = Sample(connect(direct), "s")
    values = [(place, bytes([place]) * 6000) for place in range(32)]
    with pytest.raises(TooLarge) as raised, sample.fe.transaction(sample):
        for place, value in values:
            sample.put(place, value)
    assert sample.numbers() == (0, 0)
    found = re.search(
        r"one record of the memory log, of at most (\d+) bytes: it would take (\d+) bytes "
        r"\(use several transactions, or create the pool with larger logs: "
        r"rnvm create --memory-log (\w+)\)",
        str(raised.value),
    )
    assert found, raised.value
    assert int(found[1]) < int(found[2])
    with new_path("direct") as path:
        pools.create(path, "16MiB", front_ends=2, memory_log=found[3], assume_persistent=True)
        with open_backend(path) as backend:
            sample = Sample(connect(backend), "s")
            fits = [each for each in values if each[0] * 6000 < int(found[1])]
            with sample.fe.transaction(sample):
                for place, value in fits:
                    sample.put(place, value)
            assert [sample.get(place) for place, _ in fits] == [value for _, value in fits]


@every_option
def test_a_batch_of_many_times_the_logs_is_split_into_records(
    direct: rnvm.Backend, connect: Connect, options: dict[str, Any]
) -> None:
    fe = connect(direct, timeout=20, **options)
    samples = [Sample(fe, name) for name in "ab"]
    written = 0
    with fe.batch():
        for turn in range(60):
            for each in samples:
                for place in range(8):
                    each.put(place, b"%d" % turn * 3000)
                    written += 3000
    assert written > 10 * (64 << 10)
    for each in samples:
        assert [each.get(place) for place in range(8)] == [b"59" * 3000] * 8
        each.check()
    assert counts(direct, "a", "b") == [0, 0]
