"""Front-ends that use several structures, each of them wanting locks that the others keep.

An idle front-end over a network keeps its locks until it is fenced, but a front-end that works or
waits must give back what others request.  So no front-end may be fenced here, and no operation may
take as long as a lease.  A thread that has done its part releases its locks.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from time_bounds import LONG, in_some_try, soon

import rnvm
from rfp import address as addresses
from rfp.errors import ConnectionFailed, DeadlineExceeded
from rnvm.testing.sample_structure import Sample
from structures import HashTable

from .conftest import Connect, new_path, open_backend

pytestmark = pytest.mark.anywhere

kinds = pytest.mark.parametrize(
    "locks",
    [["sticky"] * 2, ["sticky"] * 3, ["sticky", "cas", "sticky"], ["sticky", "each"], ["cas"] * 2],
    ids="-".join,
)


@pytest.fixture
def patient(medium: str) -> Iterator[rnvm.Backend]:
    """Yield a back-end with a long lease."""
    with new_path(medium) as path, open_backend(path, medium, lease=LONG) as served:
        yield served


@pytest.fixture
def backend(patient: rnvm.Backend, connect: Connect) -> Iterator[rnvm.Backend]:
    """Yield the same; until front-ends are closed, none may be fenced."""
    yield patient
    assert patient.figures()["pool"]["fenced"] == 0


def together(*works: Callable[[], object]) -> None:
    """Run each in a thread, and raise the first error of any."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def rows(backend: rnvm.Backend, connect: Connect, locks: list[str]) -> list[list[Sample]]:
    """Return the structures of each front-end; each keeps the lock of the one with its number."""
    fes = [connect(backend, lock=lock, timeout=20) for lock in locks]
    opened = []
    for fe in fes:
        opened.append([Sample(fe, f"s{i}") for i in range(len(fes))])
        fe.release()
    for i, samples in enumerate(opened):
        samples[i].add(1)
    return opened


def add_alone(samples: list[Sample], wanted: Sample) -> None:
    wanted.add(1)


def add_in_batch(samples: list[Sample], wanted: Sample) -> None:
    with wanted.fe.batch():
        for sample in samples:
            if sample is not wanted:
                sample.add(1)
        wanted.add(1)


def add_in_transaction(samples: list[Sample], wanted: Sample) -> None:
    with wanted.fe.transaction(*samples):
        wanted.add(1)


def check_under_lock(samples: list[Sample], wanted: Sample) -> None:
    wanted.check()


@kinds
@pytest.mark.parametrize("use", [add_alone, add_in_batch, add_in_transaction, check_under_lock])
def test_front_ends_that_each_want_the_lock_that_the_next_one_keeps(
    backend: rnvm.Backend,
    connect: Connect,
    locks: list[str],
    use: Callable[[list[Sample], Sample], None],
) -> None:
    opened = rows(backend, connect, locks)
    for turn in range(1, 4):
        barrier = threading.Barrier(len(opened))

        def work(
            i: int, samples: list[Sample], turn: int = turn, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait()
            with soon():
                use(samples, samples[(i + turn) % len(samples)])
            samples[i].fe.release()

        together(*(lambda i=i, s=s: work(i, s) for i, s in enumerate(opened)))
        # So that in the next turn each keeps the lock of one structure again.
        for i, samples in enumerate(opened):
            samples[(i + turn) % len(samples)].add(1)


@kinds
def test_front_ends_that_use_several_structures_in_random_order(
    backend: rnvm.Backend, connect: Connect, rng: random.Random, locks: list[str]
) -> None:
    names = [f"s{i}" for i in range(4)]
    done = dict.fromkeys(names, 0)
    counting = threading.Lock()

    def work(fe: rnvm.FrontEnd, seed: float) -> None:
        rng = random.Random(seed)
        samples = {name: Sample(fe, name) for name in names}
        for _ in range(60):
            chosen = rng.sample(names, rng.randint(1, 3))
            with soon():
                step = rng.random()
                if step < 0.4:
                    chosen = chosen[:1]
                    samples[chosen[0]].add(1)
                elif step < 0.6:
                    with fe.batch():
                        for name in chosen:
                            samples[name].add(1)
                elif step < 0.8:
                    with fe.transaction(*(samples[name] for name in chosen)):
                        for name in chosen:
                            samples[name].add(1)
                elif step < 0.9:
                    for name in chosen:
                        samples[name].numbers()
                    chosen = []
                else:
                    samples.pop(chosen[0])
                    samples[chosen[0]] = Sample(fe, chosen[0])
                    samples[chosen[0]].check()
                    chosen = []
            with counting:
                for name in chosen:
                    done[name] += 1
        fe.release()

    fes = [connect(backend, lock=lock, timeout=20) for lock in locks]
    seeds = [rng.random() for _ in fes]
    together(
        *(lambda fe=fe, seed=seed: work(fe, seed) for fe, seed in zip(fes, seeds, strict=True))
    )
    for name in names:
        sample = Sample(fes[0], name)
        assert sample.numbers()[0] == done[name]
        sample.check()


@pytest.mark.parametrize("busy", ["operations", "queries", "a batch", "a transaction"])
def test_a_front_end_that_uses_other_structures_gives_a_kept_lock_back(
    backend: rnvm.Backend, connect: Connect, busy: str
) -> None:
    one, two = (connect(backend, timeout=20) for _ in range(2))
    used, kept = Sample(one, "used"), Sample(one, "kept")
    wanted = Sample(two, "kept")
    used.add(1)
    if busy == "queries":
        one.release()
    kept.add(1)
    begun, stopped = threading.Event(), threading.Event()

    def work() -> None:
        scope: Any = contextlib.nullcontext()
        if busy == "a batch":
            scope = one.batch()
        elif busy == "a transaction":
            scope = one.transaction(used)
        with scope:
            while not stopped.is_set():
                if busy == "queries":
                    used.numbers()
                else:
                    used.add(1)
                begun.set()
                stopped.wait(0.0005)

    def want() -> None:
        try:
            assert begun.wait(20)
            with soon():
                wanted.add(1)
        finally:
            stopped.set()

    together(work, want)


@pytest.mark.parametrize("lock", ["sticky", "cas"])
def test_a_front_end_whose_wait_times_out_gives_kept_locks_back_meanwhile(
    backend: rnvm.Backend, connect: Connect, lock: str
) -> None:
    holder, waiter, third = (connect(backend, lock=each, timeout=20) for each in [lock] * 3)
    kept, wanted = Sample(waiter, "kept"), Sample(waiter, "wanted")
    waiter.release()
    held = Sample(holder, "wanted")
    kept.add(1)
    others = Sample(third, "kept")
    begun, given = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        while not given.is_set():
            with pytest.raises(DeadlineExceeded):
                wanted.add(1, timeout=0.5)

    def want() -> None:
        assert begun.wait(20)
        try:
            with soon():
                others.add(1)
        finally:
            given.set()

    with holder.batch():
        held.add(1)
        together(wait, want)
    with soon():
        held.add(1)


@pytest.mark.parametrize("lock", ["sticky", "each", "cas"])
def test_a_front_end_that_times_out_at_any_moment_leaves_no_lock_behind(
    patient: rnvm.Backend, connect: Connect, rng: random.Random, lock: str
) -> None:
    # A time-out while records are written ends the session, which the next one replaces.
    hasty, other = (connect(patient, lock=lock, timeout=20) for _ in range(2))
    mine, theirs = (Sample(fe, "s") for fe in (hasty, other))
    for _ in range(150):
        with contextlib.suppress(DeadlineExceeded, ConnectionFailed):
            mine.add(1, timeout=rng.uniform(0.000001, 0.0003))
        hasty.release()
        with soon():
            theirs.add(1)
        other.release()


@pytest.mark.shm  # a network is emulated
def test_a_long_query_gives_a_kept_lock_back() -> None:
    lease = 0.25
    with new_path("direct") as path, contextlib.ExitStack() as stack:
        address = str(addresses.unique())
        backend = stack.enter_context(open_backend(path, address=address, lease=lease))
        near, far = (
            stack.enter_context(rnvm.connect(address + options, timeout=20))
            for options in ("", "?rtt=1ms")
        )
        table = HashTable(near, "table")
        with near.batch():
            for i in range(700):
                table[b"%d" % i] = b"v" * 1000
        near.release()
        scanned, kept, wanted = HashTable(far, "table"), Sample(far, "kept"), Sample(near, "kept")

        def scan_while_another_wants() -> None:
            near.release()
            kept.add(1)
            before = backend.figures()["pool"]["fenced"]
            took, begun = [], threading.Event()

            def scan() -> None:
                begun.set()
                began = time.monotonic()
                with contextlib.suppress(ConnectionFailed):  # it was fenced
                    scanned.check()
                took.append(time.monotonic() - began)

            def want() -> None:
                assert begun.wait(20)
                wanted.add(1)

            together(scan, want)
            assert took[0] > 2 * lease
            assert backend.figures()["pool"]["fenced"] == before

        # A busy machine may stop a thread for longer than this lease.
        in_some_try(scan_while_another_wants)
