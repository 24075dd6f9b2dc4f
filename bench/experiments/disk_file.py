"""A pool in an ordinary file on a disk, where only fdatasync() makes data durable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack

import rnvm
import structures
from bench.experiments import durable_peers, pool
from bench.experiments.other_process import OtherProcess
from bench.experiments.pool import VALUE
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import median_of
from bench.placement import pinned

QUESTION = (
    "What does a durable operation cost on a disk, compared with write and fdatasync, and "
    "do writers share fdatasync?"
)
WRITERS = 8

WRITER = """
import sys, time, rnvm, structures
address, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
with rnvm.connect(address, timeout=60) as fe:
    queue = structures.Queue(fe, name)
    queue.put(bytes(64))
    print("ready", flush=True)
    for _ in sys.stdin:
        done, began = 0, time.perf_counter()
        until = began + seconds
        while (now := time.perf_counter()) < until:
            queue.put(bytes(64))
            done += 1
        print(done / (now - began), flush=True)
"""


@contextlib.contextmanager
def one_put(setting: Setting) -> Iterator[Side]:
    """Yield put of 64 B by one front-end: {"p50"}."""
    values = [VALUE] * setting.count(2000, 20)
    with pool.served(setting, None) as backend, rnvm.connect(backend.address, timeout=60) as fe:
        queue = structures.Queue(fe, "queue")

        def side() -> Figures:
            with pinned(setting.client):
                return {"p50": median_of(queue.put, values, setting.seconds)}

        yield side


@contextlib.contextmanager
def writers(setting: Setting) -> Iterator[dict[str, Side]]:
    """Yield processes that put, each into its own queue: {"rate"} of one of them alone, and of all
    together."""
    with ExitStack() as stack:
        backend = stack.enter_context(pool.served(setting, None))
        arguments = [
            (backend.address, f"queue {number}", str(setting.seconds)) for number in range(WRITERS)
        ]
        processes = [stack.enter_context(OtherProcess(WRITER, *each)) for each in arguments]
        for process in processes:
            process.hear()

        def together(some: list[OtherProcess]) -> Figures:
            for process in some:
                process.send("go")
            return {"rate": sum(float(process.hear()) for process in some)}

        yield {"one": lambda: together(processes[:1]), "all": lambda: together(processes)}


def measure(setting: Setting) -> list[Row]:
    """Measure all sides; one side at a time uses the disk."""
    with (
        one_put(setting) as put,
        durable_peers.write_and_sync(setting) as sync,
        writers(setting) as both,
    ):
        found = take_turns({"put": put, "sync": sync, **both}, setting.rounds)
    return [
        Row("Queue.put on a disk, p50", found["put"]["p50"], "s", found["sync"]["p50"],
            f"pwrite of {durable_peers.LOGGED_BYTES} B + fdatasync", 1.2, at_least=False),
        Row(f"Queue.put on a disk, {WRITERS} processes", found["all"]["rate"], "op/s",
            found["one"]["rate"], "one process", 4),
    ]  # fmt: skip
