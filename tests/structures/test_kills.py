"""A writer is killed with -9 at each request that it sends, or at any moment over any network.

Acknowledged operations are there, and the last one wholly or not at all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pytest
from slower import SLOWER, rounds

import rnvm
from rfp.protocol.client.opener import Opener
from rfp.testing.reordering_fabric import ReorderFabric
from rnvm.frontend.frontend import FrontEnd

from .backends import backend
from .workload import Contents, Handles, Plan

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

WARM, STEPS = 12, 8  # steps of work: before the fatal request is drawn, and from then on

Report = object | None  # the contents after the next operation; None: it was acknowledged


def work(fe: rnvm.FrontEnd, seed: int, report: int) -> Iterator[int]:
    """Work on a structure of each kind, and yield the number of each step before it.

    Report the expected contents before each operation, and each acknowledgement.
    """
    at, plan = Handles(fe), Plan(random.Random(seed))

    def send(message: Report) -> None:
        data = pickle.dumps(message)
        data = len(data).to_bytes(4, "little") + data
        while data:
            data = data[os.write(report, data) :]

    for i in itertools.count():
        yield i
        plan.step().run(at, lambda contents: send(contents.seen()), lambda: send(None))


def write_until_request(address: str, lock: str, seed: int, dies: int, report: int) -> None:
    """Be the writer, which dies at request number `dies` after some work."""
    fabric = ReorderFabric(seed=seed)
    opener = Opener(address, "rnvm", fabric=fabric)
    fe = FrontEnd(
        opener,
        durability="persistent",
        timeout=30,
        reconnect=True,
        cache=1 << 20,
        oplog=True,
        lock=lock,
    )
    for i in work(fe, seed, report):
        if i == WARM:
            fabric.die(dies)
        if i == WARM + STEPS:
            break
    fe.close()


def write_for_ever(address: str, lock: str, seed: int, report: int) -> None:
    """Be the writer, which another process kills."""
    fe = rnvm.connect(address, timeout=30, cache=1 << 20, lock=lock)
    for _ in work(fe, seed, report):
        pass


@contextlib.contextmanager
def writer(write: Callable[..., None], *arguments: object) -> Iterator[tuple[int, BinaryIO]]:
    """Yield the pid of a writer, and the pipe with its reports."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(here)
            write(*arguments, there)
            status = 0
        os._exit(status)
    os.close(there)
    with open(here, "rb") as pipe:
        try:
            yield pid, pipe
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise


def next_report(pipe: BinaryIO) -> Report:
    """Return the next report; EOFError after the last whole one."""
    length = pipe.read(4)
    data = pipe.read(int.from_bytes(length, "little"))
    if len(length) < 4 or len(data) < int.from_bytes(length, "little"):
        raise EOFError
    return pickle.loads(data)


def remaining(pipe: BinaryIO) -> list[Report]:
    """Return all reports up to the end of the writer."""
    found: list[Report] = []
    with contextlib.suppress(EOFError):
        while True:
            found.append(next_report(pipe))
    return found


def compare(address: str, lock: str, reports: list[Report]) -> None:
    """Compare the contents with the writer's reports before it died."""
    states = [Contents().seen(), *(state for state in reports if state is not None)]
    allowed = states[-2:] if reports and reports[-1] is not None else states[-1:]
    with rnvm.connect(address, timeout=30, lock=lock) as fe:
        at = Handles(fe)
        assert at.seen() in allowed
        at.check()
        at.queue.put(b"it goes on")
        assert list(at.queue)[-1] == b"it goes on"


@pytest.mark.parametrize("lock", ["sticky", "cas"])
@pytest.mark.parametrize(
    "histories", [1, pytest.param(40, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_a_writer_may_die_at_any_request(
    histories: int, lock: str, rng: random.Random, run_ends: float
) -> None:
    deaths = done = 0
    for _ in range(histories):
        if done and time.monotonic() > run_ends:
            break
        seed, dies, died = rng.getrandbits(32), 0, True
        while died:
            dies += 1
            with backend("8MiB", lease=0.2) as served:
                with writer(write_until_request, served.address, lock, seed, dies) as (pid, pipe):
                    reports = remaining(pipe)
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                assert status in (0, -signal.SIGKILL), f"the writer ended with {status}"
                died = status != 0
                compare(served.address, rng.choice(["sticky", "cas"]), reports)
        deaths += dies - 1
        done += 1
    assert deaths > 15 * done


@pytest.mark.anywhere
@pytest.mark.parametrize("lock", ["sticky", "cas"])
def test_a_writer_may_be_killed_at_any_moment(lock: str, rng: random.Random) -> None:
    for _ in range(rounds(12)):
        with backend("8MiB") as served:
            with writer(write_for_ever, served.address, lock, rng.getrandbits(32)) as (pid, pipe):
                reports = [next_report(pipe) for _ in range(2 * rng.randrange(5, 40))]
                time.sleep(rng.random() * 0.002 * SLOWER)  # not to synchronise: to hit any moment
                os.kill(pid, signal.SIGKILL)
                reports += remaining(pipe)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            compare(served.address, lock, reports)
