"""The writer lock that front-ends settle among themselves by compare-and-swap (lock="cas")."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from typing import Any

import pytest
from slower import rounds

import rnvm
from rfp.errors import (
    CallerError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unsupported,
)
from rfp.fabric import fabric as fabric_module
from rfp.fabric.shm.region import ShmFabric
from rnvm.testing.sample_structure import Sample

from .conftest import Connect, new_path, open_backend
from .processes import SOON, WRITER, Process, address_of, fenced, served

pytestmark = pytest.mark.anywhere


def counted(fe: rnvm.FrontEnd) -> dict[str, int]:
    return {name: fe.figures[name] for name in ("calls", "swaps", "reads", "writes")}


def add_in_threads(samples: list[Sample], times: int) -> list[int]:
    """Add to the counter in a thread for each sample, and return the acknowledged values."""
    acknowledged: list[int] = []

    def work(sample: Sample) -> None:
        acknowledged.extend([sample.add(1) for _ in range(times)])

    threads = [threading.Thread(target=work, args=(sample,)) for sample in samples]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return acknowledged


def test_one_writer_needs_two_swaps_and_no_call_for_an_operation(
    backend: rnvm.Backend, medium: str, connect: Connect
) -> None:
    fe = connect(backend, lock="cas", timeout=20)
    sample = Sample(fe, "s")
    sample.add(1)
    costs = []
    for _ in range(50):
        before = counted(fe)
        sample.add(1)
        costs.append(
            tuple(n - before[name] for name, n in counted(fe).items() if name in ("calls", "swaps"))
        )
    # On a disk the back-end is called to make it durable; on other media only if its thread was
    # kept from running for a while.
    assert (1 if medium == "image" else 0, 2) in costs
    assert {swaps for _, swaps in costs} == {2}


def test_a_user_of_a_dropped_structure_does_not_change_the_lock_word_of_the_next_one(
    direct: rnvm.Backend, connect: Connect
) -> None:
    late, other = (connect(direct, lock="cas", timeout=20) for _ in range(2))
    dropped = Sample(late, "s")
    dropped.add(1)
    late.release()
    other.drop("s")
    with pytest.raises(NotFound):
        dropped.add(1)
    # Its catalog entry, and so its lock word, are those of the dropped structure.
    assert Sample(other, "t").add(1) == 1
    assert direct.figures()["pool"]["fenced"] == 0


def test_a_writer_that_follows_another_one_needs_one_call(
    direct: rnvm.Backend, connect: Connect
) -> None:
    one, two = (Sample(connect(direct, lock="cas"), "s") for _ in range(2))
    for i in range(1, 9):
        before = counted(one.fe)
        assert one.add(1) == 2 * i - 1
        assert two.add(1) == 2 * i
        if i > 1:  # the first call has the lock granted to all
            assert counted(one.fe)["calls"] - before["calls"] == 1


@pytest.mark.parametrize("locks", [["cas"] * 3, ["cas", "cas", "sticky", "each"]], ids="-".join)
def test_each_operation_is_done_once_and_in_one_order(
    backend: rnvm.Backend, connect: Connect, locks: list[str]
) -> None:
    samples = [Sample(connect(backend, lock=lock, timeout=20), "s") for lock in locks]
    acknowledged = add_in_threads(samples, 60)
    assert sorted(acknowledged) == list(range(1, 60 * len(locks) + 1))
    for sample in samples:
        assert sample.numbers() == (len(acknowledged), len(acknowledged))
    samples[0].check()


def test_a_reader_sees_each_acknowledged_operation_of_a_writer(
    backend: rnvm.Backend, connect: Connect, rng: random.Random
) -> None:
    writers = [
        Sample(connect(backend, lock=lock, timeout=20), "s")
        for lock in ("cas", "cas", "sticky", "each")
    ]
    reader = Sample(connect(backend), "s")
    for i in range(1, 60):
        assert rng.choice(writers).add(1) == i
        assert {sample.numbers() for sample in (reader, *writers)} == {(i, i)}


def test_no_other_front_end_is_inside_during_a_batch_or_a_transaction(
    medium: str, connect: Connect
) -> None:
    with new_path(medium) as path, open_backend(path, medium, lease=60.0) as backend:
        one, two = (Sample(connect(backend, lock="cas"), "s") for _ in range(2))
        sticky = Sample(connect(backend), "s")
        one.add(1)
        for context in (one.fe.batch(), one.fe.transaction(one)):
            with context:
                count = one.add(1)
                for other in (two, sticky):
                    with pytest.raises(DeadlineExceeded):
                        other.add(100, timeout=0.01)
                assert one.add(1) == count + 1
            assert two.add(1) == count + 2
        assert two.numbers()[0] == 7
        # The front-end that gave up has left nothing behind.
        assert backend.figures()["pool"]["waiting"] == 0
        assert one.add(1) == 8


def test_transactions_over_several_structures_do_not_deadlock(
    direct: rnvm.Backend, connect: Connect
) -> None:
    def work(fe: rnvm.FrontEnd, names: str) -> None:
        samples = [Sample(fe, name) for name in names]
        for _ in range(40):
            with fe.transaction(*samples):
                for sample in samples:
                    sample.add(1)

    fes = [connect(direct, lock=lock, timeout=20) for lock in ("cas", "sticky", "cas")]
    threads = [
        threading.Thread(target=work, args=(fe, names))
        for fe, names in zip(fes, ("ab", "ba", "bac"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [Sample(fes[0], name + "").numbers()[0] if name == "c" else 120 for name in "abc"] == [
        120,
        120,
        40,
    ]


def test_a_holder_past_its_lease_is_fenced_and_does_not_disturb_its_successor() -> None:
    assert any(fence_a_holder() for _ in range(10))


def fence_a_holder() -> bool:
    """Return whether the successor kept its lease: a busy machine may hold it up for longer."""
    with (
        new_path("direct") as path,
        open_backend(path, lease=0.2) as backend,
        contextlib.ExitStack() as stack,
    ):
        one, two, three = (
            Sample(stack.enter_context(rnvm.connect(backend.address, lock="cas", timeout=20)), "s")
            for _ in range(3)
        )
        with one.fe.batch():
            one.add(1)
            session = one.fe.figures["epoch"], one.fe.figures["session"]
            try:
                with two.fe.transaction(two):
                    # The durable operation of the batch was re-executed, once.
                    assert two.add(1) == 2
                    assert backend.figures()["pool"]["fenced"] == 1
                    # The lock is now the successor's, whatever the first front-end does.
                    with pytest.raises((DeadlineExceeded, ConnectionFailed)):
                        one.add(1, timeout=0.05)
                    with pytest.raises(DeadlineExceeded):
                        three.add(1, timeout=0.05)
                    assert two.add(1) == 3
            except ConnectionFailed:
                if backend.figures()["pool"]["fenced"] == 1:
                    raise
                return False
            assert one.add(1) == 4
        assert (one.fe.figures["epoch"], one.fe.figures["session"]) != session
        assert three.add(1) == 5
        assert three.numbers() == one.numbers() == (5, 5)
        three.check()
        return True


def test_a_structure_that_is_created_again_has_a_lock_of_its_own(
    direct: rnvm.Backend, connect: Connect
) -> None:
    one, two = (connect(direct, lock="cas", timeout=20) for _ in range(2))
    for i in range(5):
        sample = Sample(one, "s")
        sample.add(i)
        with one.batch():
            sample.add(1)
            with pytest.raises(CallerError):
                two.drop("s")
        del sample
        two.drop("s")
        assert Sample(two, "s").add(10) == 10


def test_locks_are_reset_when_a_back_end_starts() -> None:
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        with served(path):
            fe = stack.enter_context(rnvm.connect(address_of(path), lock="cas", timeout=SOON))
            sample = Sample(fe, "s")
            sample.add(1)
            fe.batch().__enter__()
            sample.add(1)
        with served(path):
            other = Sample(
                stack.enter_context(rnvm.connect(address_of(path), lock="cas", timeout=SOON)), "s"
            )
            assert other.add(1) == 3
            assert sample.add(1) == 4


@pytest.mark.shm
@pytest.mark.parametrize("batch", [0, 7])
def test_acknowledged_operations_of_a_killed_writer_are_there_once(
    batch: int, rng: random.Random, connect: Connect
) -> None:
    with new_path("direct") as path, open_backend(path) as backend:
        sample = Sample(connect(backend, timeout=SOON, lock="cas"), "s")
        before = 0
        for i in range(4):
            with Process(WRITER, backend.address, batch, "cas") as writer:
                writer.wait_for(3)
                time.sleep(rng.random() * 0.02)
                writer.kill()
                acknowledged = writer.numbers()
            assert acknowledged == list(range(before + 1, before + 1 + len(acknowledged)))
            fenced(backend, i + 1)
            count = sample.add(1)
            assert sample.numbers() == (count, count)
            assert acknowledged[-1] < count <= acknowledged[-1] + 2
            before = count
        sample.check()


@pytest.mark.parametrize(
    "locks", [["cas", "cas"], pytest.param(["sticky", "cas"], marks=pytest.mark.shm)], ids="-".join
)
def test_a_writer_that_was_stopped_past_its_lease_acknowledges_no_lost_operation(
    locks: list[str], rng: random.Random
) -> None:
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(new_path("direct"))
        address = address_of(path)
        stack.enter_context(served(path, lease=0.5 if address.startswith("rdma") else 0.05))
        sample = Sample(
            stack.enter_context(rnvm.connect(address, timeout=SOON, lock=locks[0])), "s"
        )
        writers = [stack.enter_context(Process(WRITER, address, 0, locks[1])) for _ in range(2)]
        for writer in writers:
            writer.wait_for(1)
        ours: list[int] = []
        for i in range(rounds(15, 6)):
            time.sleep(rng.random() * 0.01)
            writers[i % 2].stop()
            ours += [sample.add(1) for _ in range(3)]
            writers[i % 2].signal(signal.SIGCONT)
        for writer in writers:
            writer.wait_for(5)
            writer.kill()
        count = sample.add(1)
        acknowledged = [
            *ours,
            *(number for writer in writers for number in writer.numbers()),
            count,
        ]
        assert sample.numbers() == (count, count)
        assert len(set(acknowledged)) == len(acknowledged)
        assert len(set(range(1, count + 1)) - set(acknowledged)) <= 2
        sample.check()


class NoAtomics(ShmFabric):
    """A device without atomics."""

    def share(self, memory: Any, offset: int, length: int, rights: int) -> fabric_module.Region:
        if rights & fabric_module.REMOTE_ATOMIC:
            raise InvalidArgument("this device has no atomic operations")
        return super().share(memory, offset, length, rights)


@pytest.mark.shm
def test_a_device_without_atomics_refuses_this_lock_and_serves_other_locks() -> None:
    with (
        new_path("direct") as path,
        NoAtomics() as fabric,
        open_backend(path, fabric=fabric) as backend,
    ):
        with pytest.raises(Unsupported, match="atomic operations") as raised:
            rnvm.connect(backend.address, lock="cas")
        assert "sticky" in (raised.value.hint or "")
        with rnvm.connect(backend.address) as fe:
            assert Sample(fe, "s").add(1) == 1
