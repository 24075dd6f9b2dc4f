"""Actions on a pool in memory whose back-end was killed, while a front-end still writes into it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from connecting import connect_hasty
from polling import until

import rnvm
from rfp.errors import PoolInUse, RfpError
from rnvm import pools
from rnvm.check import check
from structures import Queue

from .conftest import new_path

SERVE = """
import sys, rnvm
backend = rnvm.Backend(sys.argv[1])
print(backend.address, flush=True)
sys.stdin.read()
"""


class Producer(threading.Thread):
    """Puts the numbers from 0 on into a queue until a put fails; `acknowledged` puts returned."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.fe = connect_hasty(address, 1)
        self.jobs = Queue(self.fe, "jobs", timeout=20)
        self.seconds = 20  # that a put may take
        self.acknowledged = 0
        self.progress = threading.Semaphore(0)

    def run(self) -> None:
        try:
            while True:
                self.jobs.put(b"%d" % self.acknowledged, timeout=self.seconds)
                self.acknowledged += 1
                self.progress.release()
                time.sleep(0.0002)  # its log has room for more than a test takes
        except RfpError:
            pass

    def wait_for(self, more: int) -> None:
        for _ in range(more):
            assert self.progress.acquire(timeout=30)

    def become_hasty(self) -> None:
        """Let each put from now on fail a second after its beginning."""
        self.seconds = 1
        before = self.acknowledged
        until(lambda: self.acknowledged > before + 1)


@pytest.fixture
def orphaned() -> Iterator[tuple[str, Producer]]:
    """Yield a pool whose back-end was just killed, and a front-end that still writes.

    The front-end detects the death some 10 ms later.
    """
    with new_path("direct") as path:
        pools.create(path, "64MiB", front_ends=2, assume_persistent=True)
        served = subprocess.Popen(
            [sys.executable, "-c", SERVE, path],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
        )
        assert served.stdout is not None and served.stdin is not None
        with served.stdout, served.stdin:
            producer = Producer(served.stdout.readline().strip())
            producer.start()
            producer.wait_for(50)
            producer.become_hasty()
            served.kill()
            served.wait()
        yield path, producer
        producer.join(30)
        producer.fe.close()


def contents(path: str) -> list[int]:
    with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
        return [int(value) for value in Queue(fe, "jobs")]


def complete(path: str, producer: Producer) -> bool:
    """Return whether the queue has all acknowledged values and at most one more, in flight."""
    found = contents(path)
    return (
        found == list(range(len(found)))
        and producer.acknowledged <= len(found) <= producer.acknowledged + 1
    )


def change(path: str) -> None:
    with check.changing(path) as view:
        view.poke(200, view.read(200, 8))


def damage(path: str, at: int) -> None:
    fd = os.open(path, os.O_RDWR)
    byte = os.pread(fd, 1, at)[0]
    os.pwrite(fd, bytes([byte ^ 1]), at)
    os.close(fd)


@pytest.mark.parametrize(
    "damaged",
    [(), (4096 + 50,), (50, 4096 + 70), (8192 + 30,), (8192 + 30, 12288 + 20)],
    ids=["whole", "a-copy-of-the-header", "both-headers", "a-superblock", "both-superblocks"],
)
def test_a_repair_loses_no_operation_that_was_acknowledged_meanwhile(
    orphaned: tuple[str, Producer], damaged: tuple[int, ...]
) -> None:
    path, producer = orphaned
    for at in damaged:
        damage(path, at)
    repaired, lost = check.repair(path)
    producer.join(30)
    assert lost == []
    assert len(repaired) >= (1 if damaged else 0)
    assert complete(path, producer)


@pytest.mark.parametrize(
    "action",
    [
        change,
        check.check,
        lambda path: pools.grow(path, "65MiB"),
        lambda path: pools.open_pool(path).close(),
        lambda path: subprocess.run(
            [sys.executable, "-m", "rnvm.cli", "recover", path], check=True, capture_output=True
        ),
    ],
    ids=["changing", "check", "grow", "open_pool", "recover"],
)
def test_no_action_on_a_pool_loses_an_operation_that_was_acknowledged_meanwhile(
    orphaned: tuple[str, Producer], action: Callable[[str], object]
) -> None:
    path, producer = orphaned
    action(path)
    contents(path)  # a new back-end ends the old session
    producer.join(30)
    assert complete(path, producer)


def test_a_front_end_whose_session_has_ended_acknowledges_no_operation(
    orphaned: tuple[str, Producer],
) -> None:
    path, producer = orphaned
    with pools.claim(path):
        # A put waits a second for a new back-end; the log would have room for some more.
        producer.join(30)
        acknowledged = producer.acknowledged
        assert not producer.is_alive()
    assert contents(path)[:acknowledged] == list(range(acknowledged))


def test_a_repair_excludes_all_other_users_until_it_ends(orphaned: tuple[str, Producer]) -> None:
    path, producer = orphaned
    with check.changing(path):
        for open_it in (pools.open_pool, check.check, check.repair, rnvm.Backend):
            with pytest.raises(PoolInUse):
                open_it(path)
    producer.join(30)
    assert complete(path, producer)


@pytest.mark.parametrize("turn", range(4))
def test_a_killed_repair_loses_no_acknowledged_operation(
    orphaned: tuple[str, Producer], turn: int, seed: int
) -> None:
    path, producer = orphaned
    damage(path, 4096 + 50)
    code = "import sys, time; from rnvm import check; print(flush=True); check.repair(sys.argv[1])"
    repair = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert repair.stdout is not None
    with repair.stdout:
        repair.stdout.readline()
        try:
            repair.wait(random.Random(seed + turn).uniform(0, 0.05))
        except subprocess.TimeoutExpired:
            repair.send_signal(signal.SIGKILL)
            repair.wait()
    assert check.repair(path)[1] == []
    producer.join(30)
    assert complete(path, producer)
