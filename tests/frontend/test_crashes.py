"""Processes that are killed or stopped: no acknowledged operation is lost, none is done twice."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time

import pytest
from slower import rounds

import rnvm
from rfp import address as addresses
from rfp.errors import ConnectionFailed
from rnvm.pool.pool import Pool, format_medium
from rnvm.sizes import choose
from rnvm.testing.crash_model import Model
from rnvm.testing.sample_structure import Sample
from structures import HashTable

from .conftest import Connect, new_path
from .processes import SOON, WRITER, Process, address_of, fenced, served

pytestmark = pytest.mark.anywhere


@pytest.mark.parametrize("batch", [pytest.param(0, marks=pytest.mark.shm), 7])
@pytest.mark.parametrize("medium", ["direct", pytest.param("image", marks=pytest.mark.shm)])
def test_acknowledged_operations_of_a_killed_writer_are_there_once(
    medium: str, batch: int, rng: random.Random, connect: Connect
) -> None:
    with (
        new_path(medium) as path,
        rnvm.Backend(path, size="8MiB", assume_persistent=True) as backend,
    ):
        reader = Sample(connect(backend, timeout=20), "s")
        done = 0
        for i in range(rounds(4, 2)):
            with Process(WRITER, backend.address, batch) as writer:
                writer.wait_for(1)
                time.sleep(rng.random() * 0.05)
                writer.kill()
                acknowledged = writer.numbers()
            assert acknowledged == list(range(done + 1, done + 1 + len(acknowledged)))
            # The changes of an unfinished batch are visible when its writer is known to be dead.
            fenced(backend, i + 1)
            done, changes = reader.numbers()
            # One more operation may have become durable without being acknowledged.
            assert acknowledged[-1] <= done == changes <= acknowledged[-1] + 1
        reader.check()
        assert reader.add(1) == done + 1


@pytest.mark.shm
def test_a_reader_re_executes_the_batch_of_a_dead_writer(
    direct: rnvm.Backend, connect: Connect
) -> None:
    fe = connect(direct, timeout=20)
    sample = Sample(fe, "s")
    code = WRITER.replace("sample.add(1))", "sample.add(1)); time.sleep(0.001)")
    code = code.replace("import", "import time,", 1)
    with Process(code, direct.address, 1_000_000) as writer:
        writer.wait_for(20)
        writer.kill()
        acknowledged = writer.numbers()[-1]
    fenced(direct, 1)
    count, changes = sample.numbers()
    assert acknowledged <= count == changes <= acknowledged + 1
    assert fe.figures["executed_again"] == count
    assert sample.numbers() == (count, changes)
    assert fe.figures["executed_again"] == count
    sample.check()


@pytest.mark.shm
def test_sessions_of_dead_processes_become_free(direct: rnvm.Backend, connect: Connect) -> None:
    fe = connect(direct, timeout=20)
    for _ in range(3):
        with Process(WRITER, direct.address, 0) as writer:
            writer.wait_for(1)
    Sample(fe, "s").add(1)
    end = time.monotonic() + SOON
    while direct.figures()["pool"]["ending"] or direct.figures()["pool"]["attached"] != 1:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("batch", [pytest.param(0, marks=pytest.mark.shm), 5])
@pytest.mark.parametrize("medium", [pytest.param("direct", marks=pytest.mark.shm), "image"])
def test_front_ends_continue_after_a_back_end_was_killed(
    medium: str, batch: int, rng: random.Random
) -> None:
    with new_path(medium) as path, contextlib.ExitStack() as stack:
        with served(path):
            writers = [
                stack.enter_context(Process(WRITER, address_of(path), batch)) for _ in range(2)
            ]
            for writer in writers:
                writer.wait_for(3)
        for _ in range(rounds(3)):
            with served(path):
                for writer in writers:
                    writer.wait_for(10)
                time.sleep(rng.random() * 0.05)
        with served(path), rnvm.connect(address_of(path), timeout=20) as fe:
            sample = Sample(fe, "s")
            for writer in writers:
                writer.wait_for(10)
            for writer in writers:
                writer.kill()
            acknowledged = [number for writer in writers for number in writer.numbers()]
            end = time.monotonic() + SOON
            while sample.numbers()[0] < max(acknowledged):
                assert time.monotonic() < end
            # Taking the lock also makes changes of a batch visible that were not so yet.
            count = sample.add(1)
            assert sample.numbers() == (count, count)
            # Each number was acknowledged once; one of each writer may have become durable without
            # being acknowledged.
            assert len(set(acknowledged)) == len(acknowledged)
            assert len(set(range(1, count)) - set(acknowledged)) <= 2
            sample.check()


def test_a_writer_that_was_stopped_past_its_lease_acknowledges_no_lost_operation(
    rng: random.Random,
) -> None:
    with (
        new_path("direct") as path,
        served(path, lease=0.5 if address_of(path).startswith("rdma") else 0.05),
        rnvm.connect(address_of(path), timeout=20) as fe,
        Process(WRITER, address_of(path), 0) as writer,
    ):
        sample = Sample(fe, "s")
        writer.wait_for(1)
        ours: list[int] = []
        for _ in range(rounds(15, 5)):
            time.sleep(rng.random() * 0.01)
            writer.stop()
            ours += [sample.add(1) for _ in range(3)]
            writer.signal(signal.SIGCONT)
        writer.wait_for(10)
        writer.kill()
        count = sample.add(1)
        acknowledged = [*ours, *writer.numbers(), count]
        assert sample.numbers() == (count, count)
        assert len(set(acknowledged)) == len(acknowledged)
        assert len(set(range(1, count + 1)) - set(acknowledged)) <= 1
        sample.check()


READER = """
import os, sys, rnvm
from rfp.errors import ConnectionFailed
from structures import HashTable
fe = rnvm.connect(sys.argv[1], timeout=20, cache=0, lock=sys.argv[2])
table = HashTable(fe, "t")
while True:
    try:
        with fe.transaction(table):
            found = {table[b"%d" % i] for i in range(64)}
        os.write(1, b"%d\\n" % len(found))
    except ConnectionFailed:
        os.write(1, b"0\\n")
"""


@pytest.mark.shm
@pytest.mark.parametrize("lock", ["sticky", "cas"])
@pytest.mark.parametrize("options", ["", "?rtt=2us"], ids=["near", "emulated"])
def test_a_reader_that_was_stopped_under_its_lock_reads_one_consistent_state(
    options: str, lock: str, rng: random.Random
) -> None:
    address = str(addresses.unique()) + options
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(new_path("direct"))
        stack.enter_context(
            rnvm.Backend(path, size="8MiB", assume_persistent=True, address=address, lease=0.2)
        )
        table = HashTable(
            stack.enter_context(
                rnvm.connect(address, timeout=20, lock=rng.choice(["sticky", lock]))
            ),
            "t",
        )
        table.update({b"%d" % i: b"" for i in range(64)})
        reader = stack.enter_context(Process(READER, address, lock))
        for n in range(100):
            if n >= 12 and 0 in reader.numbers():
                break
            reader.wait_for(2)
            time.sleep(rng.random() * 0.002)  # not to synchronise: to hit another moment
            reader.stop()
            while True:
                with contextlib.suppress(ConnectionFailed):  # we were held up for a lease
                    with table.fe.transaction(table):
                        table.update(dict.fromkeys(table, b"%d" % n))
                    break
            reader.signal(signal.SIGCONT)
        found = reader.numbers()
    assert 1 in found
    assert 0 in found  # it was fenced now and then
    assert set(found) == {0, 1}


@pytest.mark.shm
def test_a_busy_back_end_grants_no_lock_before_its_holder_has_stopped_using_it() -> None:
    """Over a network, on which a holder relies on its clock for a part of the lease."""
    model = Model(2 << 20, shared=True)
    format_medium(model, choose(2 << 20, front_ends=3))
    address = str(addresses.unique()) + "?rtt=2us"
    over = threading.Event()

    def keep_busy(sample: Sample) -> None:
        while not over.is_set():
            sample.add(1)

    with rnvm.Backend(Pool(model), address=address, lease=0.05), contextlib.ExitStack() as stack:
        one, two, three = (stack.enter_context(rnvm.connect(address, timeout=30)) for _ in range(3))
        writer, reader = Sample(one, "s"), Sample(two, "s")
        busy = threading.Thread(target=keep_busy, args=(Sample(three, "other"),))
        model.delay_drain(0.03)
        busy.start()
        try:
            for i in range(1, 5):
                assert writer.add(1) == i
                assert reader.numbers()[0] == i
                writer, reader = reader, writer
        finally:
            over.set()
            busy.join()
            model.delay_drain(0)


@pytest.mark.shm
def test_a_lost_back_end_is_an_error_without_reconnecting() -> None:
    with (
        new_path("direct") as path,
        served(path) as backend,
        rnvm.connect(address_of(path), reconnect=False) as fe,
    ):
        Sample(fe, "s").add(1)
        backend.kill()
        with pytest.raises(ConnectionFailed):
            fe.names()


@pytest.mark.shm
def test_a_mapped_front_end_waits_for_its_back_end_and_loses_no_operation() -> None:
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        with served(path):
            fe = stack.enter_context(rnvm.connect(address_of(path), timeout=10))
            sample = Sample(fe, "s")
            done = sample.add(1)
        with pytest.raises(ConnectionFailed):
            while True:
                done = sample.add(1, timeout=0.1)
        with served(path):
            assert sample.add(1) == done + 1
            assert Sample(stack.enter_context(rnvm.connect(address_of(path))), "s").numbers() == (
                done + 1,
                done + 1,
            )


@pytest.mark.shm
def test_a_long_batch_during_the_death_of_a_back_end_does_each_operation_once() -> None:
    """Its logs become full while no back-end empties them.

    A durable operation then meets a commit that cannot be written.
    """
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        with served(path):
            fe = stack.enter_context(rnvm.connect(address_of(path), timeout=20))
            sample = Sample(fe, "s")
            sample.add(1)
        acknowledged: list[int] = []

        def work() -> None:
            with fe.batch():
                while len(acknowledged) < 4000:
                    acknowledged.append(sample.add(1))

        worker = threading.Thread(target=work)
        worker.start()
        stuck = -1
        while stuck != len(acknowledged):
            stuck = len(acknowledged)
            time.sleep(0.3)
        with served(path):
            worker.join()
            assert acknowledged == list(range(2, 4002))
            other = Sample(stack.enter_context(rnvm.connect(address_of(path))), "s")
            assert sample.numbers() == other.numbers() == (4001, 4001)
            assert stuck < 4000
            sample.check()


@pytest.mark.shm
def test_a_transaction_that_loses_its_session_is_not_done() -> None:
    with new_path("image") as path, contextlib.ExitStack() as stack:
        with served(path):
            fe = stack.enter_context(rnvm.connect(address_of(path), timeout=10))
            sample = Sample(fe, "s")
            sample.add(1)
        with served(path):
            assert sample.add(1) == 2
        # The back-end has ended: whether it made the last record durable cannot be known.
        with pytest.raises(ConnectionFailed), fe.transaction(sample):
            sample.add(1)
        with served(path):
            assert sample.numbers() == (2, 2)
            with fe.transaction(sample):
                sample.add(1)
            assert sample.numbers() == (3, 3)
