"""A writer is killed with -9 at each request that it sends, or within it.

Acknowledged operations are there, and the last one wholly or not at all.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import time

import pytest

import rnvm
from rfp.protocol.client.opener import Opener
from rfp.testing.reordering_fabric import ReorderFabric
from rnvm.frontend.frontend import FrontEnd

from .backends import backend
from .workload import Contents, Handles, Plan

WARM, STEPS = 12, 8  # steps of work: before the fatal request is drawn, and from then on


def write(address: str, lock: str, seed: int, dies: int, report: int) -> None:
    """Be the writer.

    Report the expected contents before each operation, and each acknowledgement; die at request
    number `dies` after some work.
    """
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
    at, plan = Handles(fe), Plan(random.Random(seed))

    def send(message: object) -> None:
        data = pickle.dumps(message)
        os.write(report, len(data).to_bytes(4, "little") + data)

    for i in range(WARM + STEPS):
        if i == WARM:
            fabric.die(dies)
        plan.step().run(at, lambda contents: send(contents.seen()), lambda: send(None))
    fe.close()


def killed_writer(address: str, lock: str, seed: int, dies: int) -> tuple[list[object], bool]:
    """Return the writer's reports, and whether it died."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(here)
            write(address, lock, seed, dies, there)
            status = 0
        os._exit(status)
    os.close(there)
    with open(here, "rb") as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the writer ended with {status}"
    reports, at = [], 0
    while at < len(text):
        length = int.from_bytes(text[at : at + 4], "little")
        reports.append(pickle.loads(text[at + 4 : at + 4 + length]))
        at += 4 + length
    return reports, status != 0


def compare(address: str, lock: str, reports: list[object]) -> None:
    """Compare the contents with the writer's reports before it died."""
    states = [Contents().seen(), *(state for state in reports if state is not None)]
    allowed = states[-2:] if reports and reports[-1] is not None else states[-1:]
    with rnvm.connect(address, timeout=30, lock=lock) as fe:
        at = Handles(fe)
        assert at.seen() in allowed
        at.check()
        at.queue.put(b"it goes on")
        assert list(at.queue)[-1] == b"it goes on"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
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
                reports, died = killed_writer(served.address, lock, seed, dies)
                compare(served.address, rng.choice(["sticky", "cas"]), reports)
        deaths += dies - 1
        done += 1
    assert deaths > 15 * done
