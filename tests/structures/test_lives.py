"""A back-end is killed at its n-th persist point and restarted, while front-ends continue."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from restarting_backend import ForkServer
from structure_kinds import NAMES

import rnvm
import structures
from rfp.errors import ConnectionFailed, NotFound, OutcomeUnknown
from rnvm import pools
from rnvm.check import check

from .workload import Contents, Handles, Plan, Reserved

pytestmark = pytest.mark.usefixtures("small_logs")

SOON = 60.0  # seconds

Result = TypeVar("Result")
LEAST = 20  # steps of each worker, however soon the back-ends die


class Worker(threading.Thread):
    """A front-end with its own structures, whose contents it always knows, and a shared queue."""

    def __init__(self, number: int, address: str, lock: str, seed: int) -> None:
        super().__init__()
        self.address, self.lock = address, lock
        self.name = f"w{number}"
        self.rng = random.Random(seed)
        self.plan = Plan(self.rng)
        self.known = Contents()  # acknowledged
        self.begun: Contents | None = None
        self.put: list[bytes] = []  # into the shared queue, in this order
        self.acknowledged: set[bytes] = set()
        self.over, self.given_up = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.steps = 0
        self.fe: rnvm.FrontEnd | None = None

    def run(self) -> None:
        try:
            self.connect()
            while self.steps < LEAST or not self.over.is_set():
                ways: list[Callable[[], None]] = [
                    self.step,
                    self.share,
                    self.make_and_drop,
                    self.connect,
                ]
                self.rng.choices(ways, [80, 15, 3, 2])[0]()
                self.steps += 1
            self.compare([self.known])
        except BaseException as error:
            self.error = error
        finally:
            if self.fe is not None:
                self.fe.close()

    def connect(self) -> None:
        if self.fe is not None:
            self.fe.close()
        self.fe = self.repeat(lambda: rnvm.connect(self.address, timeout=SOON, lock=self.lock))
        fe = self.fe
        self.at = self.repeat(lambda: Handles(fe, f"{self.name}."))
        self.both = self.repeat(lambda: structures.Queue(fe, "both"))

    def give_up(self) -> None:
        """Reconnect no more: no back-end serves the pool."""
        self.given_up.set()
        self.over.set()
        if self.fe is not None:
            self.fe.close()

    def repeat(self, call: Callable[[], Result]) -> Result:
        """Repeat a call until it is known to be done; for calls that may be done twice."""
        while True:
            try:
                return call()
            except (ConnectionFailed, OutcomeUnknown):
                assert not self.given_up.is_set()
                time.sleep(0.001)

    def compare(self, allowed: list[Contents]) -> Contents:
        """Return which of the allowed contents is there."""
        seen = self.repeat(self.at.seen)
        for contents in allowed:
            if contents.seen() == seen:
                return contents
        raise AssertionError(f"{seen}, expected one of {[contents.seen() for contents in allowed]}")

    def begin(self, contents: Contents) -> None:
        self.begun = contents

    def end(self) -> None:
        assert self.begun is not None
        self.known, self.begun = self.begun, None

    def step(self) -> None:
        reserved = list(self.plan.reserved)
        try:
            self.plan.step().run(self.at, self.begin, self.end)
        except OutcomeUnknown:
            self.continue_from([self.known, self.begun or self.known], reserved)
        except ConnectionFailed:  # of a transaction: it was not done
            self.continue_from([self.known], reserved)
        if self.rng.random() < 0.1:
            self.compare([self.known])

    def continue_from(self, allowed: list[Contents], reserved: list[Reserved]) -> None:
        """Continue from one of the allowed contents.

        Args:
            reserved: The reservations before the failed step, whose effect on them is not known.
        """
        self.known = self.plan.now = self.compare(allowed)
        self.begun = None
        self.plan.reserved = [each for each in reserved if each in self.plan.reserved]

    def share(self) -> None:
        value = f"{self.name} {len(self.put)}".encode()
        self.put.append(value)
        with contextlib.suppress(OutcomeUnknown):
            self.both.put(value)
            self.acknowledged.add(value)

    def make_and_drop(self) -> None:
        fe, name = self.at.fe, f"{self.name}.now and then"
        table = [self.repeat(lambda: structures.HashTable(fe, name))]
        content = {b"%d" % i: bytes(self.rng.randrange(900)) for i in range(20)}
        for each in content.items():
            self.repeat(lambda each=each: table[0].update([each]))  # type: ignore[misc]
        assert self.repeat(lambda: dict(table[0])) == content
        table.clear()  # an open structure is not dropped
        with contextlib.suppress(NotFound):  # the first drop was done
            self.repeat(lambda: fe.drop(name))


@contextlib.contextmanager
def pool(medium: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(
        dir=os.environ["TESTS_MEMORY"] if medium == "direct" else None
    ) as folder:
        path = Path(folder) / "pool"
        logs = {"operation_log": "16KiB", "memory_log": "64KiB"}
        pools.create(
            path, "4MiB", block=1024, front_ends=4, names=32, assume_persistent=True, **logs
        )
        yield path


def run(medium: str, points: Iterable[int], rng: random.Random) -> None:
    with pool(medium) as path:
        address = f"shm://{path.parent}/socket"
        lives = ForkServer(path, address)
        workers = [
            Worker(i, address, rng.choice(["sticky", "cas"]), rng.getrandbits(32)) for i in range(2)
        ]
        try:
            for worker in workers:
                worker.start()
            for point in points:
                lives.begin(point)
                assert lives.wait() == -signal.SIGKILL
                assert not [worker.error for worker in workers if worker.error]
            lives.begin(0)
            for worker in workers:
                worker.over.set()
                worker.join()
                if worker.error:
                    raise worker.error
            compare_all(address, workers)
            os.kill(lives.pid, signal.SIGTERM)
            assert lives.wait() == 0
        finally:
            for worker in workers:
                worker.give_up()
            lives.close()
            for worker in workers:
                worker.join()
        checked = check.check(path)
        assert not checked.findings
        assert checked.figures["granted"] == 0


def compare_all(address: str, workers: list[Worker]) -> None:
    """Every acknowledged value is there once, in its order, and no other that was not tried."""
    with rnvm.connect(address, timeout=SOON) as fe:
        names = {
            "both",
            *(f"{worker.name}.{name}" for worker in workers for name in NAMES),
        }
        assert set(fe.names()) == names
        both = structures.Queue(fe, "both")
        both.check()
        found = list(both)
        for worker in workers:
            at = Handles(fe, f"{worker.name}.")
            assert at.seen() == worker.known.seen()
            at.check()
            of_it = [value for value in found if value.startswith(f"{worker.name} ".encode())]
            there = set(of_it)
            assert of_it == [value for value in worker.put if value in there]
            assert worker.acknowledged <= there
        assert len(found) <= sum(len(worker.put) for worker in workers)


@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_back_end_may_die_at_any_persist_point(medium: str, rng: random.Random) -> None:
    points = [*rng.sample(range(1, 60), 12), *rng.sample(range(60, 1500), 8)]
    run(medium, points, rng)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("medium", ["direct", "image"])
def test_a_back_end_may_die_at_every_persist_point(
    medium: str, rng: random.Random, run_ends: float
) -> None:
    points = [*range(1, 400), *(rng.randrange(400, 5000) for _ in range(300))]
    run(medium, itertools.takewhile(lambda _: time.monotonic() < run_ends, points), rng)
