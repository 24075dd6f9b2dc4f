"""The line by which clients know that a server runs: rfp/core/owner_word.h."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest

from rfp.errors import InvalidArgument
from rfp.fabric.fabric import REMOTE_READ
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.server.incarnation import Incarnation, kernel_marks_dead_owners
from rfp.testing.partition_harness import Memory
from tests.support import python_programs

HOLD = """
import os, sys
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.server.incarnation import Incarnation
region = ShmFabric().register(64, 1)
incarnation = Incarnation(region)
incarnation.hold()
print(region.fileno(), incarnation.owner, flush=True)
ACTION
sys.stdin.read()
"""


@pytest.fixture
def region():
    with ShmFabric().register(64, REMOTE_READ) as region:
        yield region


def test_this_kernel_marks_dead_owners(region) -> None:
    assert kernel_marks_dead_owners(region)


def test_a_line_is_alive_from_hold_to_release(region) -> None:
    incarnation = Incarnation(region)
    assert not incarnation.alive
    incarnation.hold()
    assert incarnation.alive
    incarnation.release()
    assert not incarnation.alive
    incarnation.release()
    incarnation.hold()
    assert incarnation.alive
    incarnation.release()


def test_a_thread_that_ends_without_release_is_marked(region) -> None:
    incarnation = Incarnation(region)
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        incarnation.hold()
        held.set()
        end.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    assert incarnation.alive
    number = thread.native_id
    end.set()
    thread.join(30)
    while os.path.exists(f"/proc/self/task/{number}"):  # the kernel's thread ends a moment later
        os.sched_yield()
    assert not incarnation.alive


def word_of(process: subprocess.Popen[str], descriptor: int) -> int:
    """The word of a line in another process's memory file."""
    with open(f"/proc/{process.pid}/fd/{descriptor}", "rb") as file:
        file.seek(32)
        return int.from_bytes(file.read(4), "little")


@pytest.mark.parametrize(
    ("action", "end"),
    [
        ("", "kill"),
        ("", "terminate"),
        ("import os; os.fork() or os._exit(0)", "kill"),  # its child owns nothing
    ],
    ids=["killed", "terminated", "killed after a fork"],
)
def test_a_process_that_ends_is_marked(action: str, end: str) -> None:
    process = python_programs.start(
        "-c",
        HOLD.replace("ACTION", action),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    descriptor, owner = map(int, process.stdout.readline().split())
    assert word_of(process, descriptor) == owner
    with open(f"/proc/{process.pid}/fd/{descriptor}", "rb") as file:
        getattr(process, end)()
        process.communicate(timeout=30)
        file.seek(32)
        assert int.from_bytes(file.read(4), "little") & 0x40000000, "the word is not marked"


def test_a_process_that_is_replaced_is_marked() -> None:
    process = python_programs.start(
        "-c",
        HOLD.replace("ACTION", "sys.stdin.readline(); os.execlp('sleep', 'sleep', '60')"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    descriptor, _ = map(int, process.stdout.readline().split())
    with open(f"/proc/{process.pid}/fd/{descriptor}", "rb") as file:
        process.stdin.write("\n")
        process.stdin.flush()
        while os.path.basename(os.readlink(f"/proc/{process.pid}/exe")) != "sleep":
            os.sched_yield()
        file.seek(32)
        assert int.from_bytes(file.read(4), "little") & 0x40000000
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def test_a_region_must_have_a_line() -> None:
    for hold in (Incarnation, kernel_marks_dead_owners):
        with pytest.raises(InvalidArgument, match="at least 64"):
            hold(Memory(0))
