"""What holds together and what does not: batches, transactions, and the lives of structures and threads within them."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rnvm
from rfp.errors import CallerError, ConnectionFailed, DeadlineExceeded, InvalidArgument, NotFound, OutOfMemory, TooLarge
from rnvm import pools
from rnvm.frontend._sample import Sample

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
    """Does it in a process that is killed at its end, before anything goes out of scope."""
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
    """As one sees it who comes new."""
    with rnvm.connect(backend.address) as fe:
        found = []
        for name in names:
            sample = Sample(fe, name, create=False)
            sample.check()
            found.append(sample.numbers()[0])
        return found


@pytest.fixture
def roomy() -> Iterator[rnvm.Backend]:
    """Its logs hold longer records than its tests need."""
    with new_path("direct") as path:
        pools.create(path, "16MiB", front_ends=4, operation_log="512KiB", memory_log="512KiB", assume_persistent=True)
        with open_backend(path) as served:
            yield served


def fill(fe: Any) -> None:
    """Until no block is left in the pool."""
    kept = []
    for length in (28_000, 3000, 3000):
        with contextlib.suppress(OutOfMemory):
            while True:
                kept.append(Sample(fe, f"fill {len(kept)} {length}"))
                for place in range(32):
                    kept[-1].put(place, bytes(length))


# More structures than a record has parts


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


def test_a_killed_batch_over_more_than_64_structures_loses_nothing(roomy: rnvm.Backend) -> None:
    def work() -> None:
        fe = rnvm.connect(roomy.address)
        mine = [Sample(fe, f"s{i}") for i in range(100)]
        for each in mine:
            each.add(1)
        fe.batch().__enter__()
        for each in mine:
            each.add(1)
        die()

    killed_in(work)
    assert counts(roomy, *(f"s{i}" for i in range(100))) == [2] * 100


def test_a_transaction_refuses_to_change_more_than_64_structures_and_does_the_rest(roomy: rnvm.Backend, connect: Connect) -> None:
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


def test_a_transaction_names_the_record_that_it_does_not_fit_into(direct: rnvm.Backend, connect: Connect) -> None:
    sample = Sample(connect(direct), "s")
    with sample.fe.transaction(sample):
        with pytest.raises(TooLarge, match="one record of the memory log"):
            for place in range(32):
                sample.put(place, bytes(5000))
        done = sum(sample.get(place) is not None for place in range(32))
    assert 2 < done == sum(sample.get(place) is not None for place in range(32)) < 32
    sample.check()


# Structures that are not named


def test_a_transaction_is_only_over_the_structures_that_it_names(direct: rnvm.Backend, connect: Connect) -> None:
    fe, other = connect(direct), connect(direct)
    named, held, unused = Sample(fe, "named"), Sample(fe, "held"), Sample(other, "unused")
    held.add(1)
    with fe.transaction(named):
        opened = Sample(fe, "unused")
        for unnamed in (held, opened):
            for call in (lambda: unnamed.add(1), lambda: unnamed.numbers(), lambda: unnamed.get(1), unnamed.check):
                with pytest.raises(CallerError, match="not over"):
                    call()
        named.add(1)
    assert [each.add(1) for each in (named, held, opened)] == [2, 2, 1]
    assert unused.numbers() == (1, 1)


def test_front_ends_that_use_unnamed_structures_crosswise_do_not_wait_for_each_other(direct: rnvm.Backend, connect: Connect) -> None:
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
def test_what_is_made_or_dropped_cannot_be_taken_back_so_a_transaction_refuses_it(
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
        with contextlib.nullcontext() if exists else pytest.raises(CallerError, match="cannot be made"):
            Sample(fe, "new")
        with pytest.raises(NotFound):
            Sample(fe, "none", create=False)
        with pytest.raises(CallerError, match="cannot be dropped"):
            fe.drop("old")
        assert Sample(other, "s").numbers() == (0, 0)
        raise Discarded
    assert sample.numbers() == Sample(other, "s").numbers() == (0, 0)
    assert set(other.names()) == {"s", "old"} | ({"new"} if exists else set())


def test_a_structure_whose_maker_was_killed_before_it_began_it_is_not_begun_by_a_transaction(connect: Connect) -> None:
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


# Numbers of operations


@every_option
@pytest.mark.parametrize("end", ["discarded", "too large", "abandoned"])
def test_acknowledged_operations_behind_a_discarded_transaction_survive(
    direct: rnvm.Backend, options: dict[str, Any], end: str
) -> None:
    def work() -> None:
        fe = rnvm.connect(direct.address, **options)
        sample, second = Sample(fe, "s"), Sample(fe, "t")
        sample.add(100)
        if end == "abandoned":
            thread = threading.Thread(target=lambda: (fe.transaction(sample, second).__enter__(), sample.add(1)))
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
def test_a_writer_that_cannot_do_what_a_dead_one_has_left_does_not_pass_over_it(
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


# What must not happen to locks


@every_option
def test_release_in_a_batch_lets_others_see_it_and_go_on(backend: rnvm.Backend, connect: Connect, options: dict[str, Any]) -> None:
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


def test_what_a_batch_did_is_written_before_something_is_dropped(direct: rnvm.Backend, connect: Connect) -> None:
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
def test_what_finds_no_room_in_the_log_until_its_deadline_is_done_as_a_whole_or_not_at_all(how: str, lock: str) -> None:
    with new_path("direct") as path, served(path, 60) as process, contextlib.ExitStack() as stack:
        fe = stack.enter_context(rnvm.connect(address_of(path), timeout=0.2, lock=lock))
        sample = Sample(fe, "s")
        sample.add(1)
        process.signal(signal.SIGSTOP)
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
                assert sample.add(1) == done + 2
            assert Sample(last, "s").numbers()[0] == done + 2 - (how == "object")
        other.check()
