"""Operations that a mirror has, and reads beside it: two pools in memory on one host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack

import rnvm
from bench.databases.rnvm import MEMORY
from bench.experiments import pool
from bench.experiments.keys import drawn
from bench.experiments.other_process import OtherProcess
from bench.experiments.pool import BATCH, VALUE
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import rate_of
from bench.placement import pinned
from rnvm import Backend
from structures import HashTable

QUESTION = (
    "How fast are operations of promise replicated, with a mirror in memory on the same host, "
    "compared with persistent ones; and how fast are reads beside a mirror that applies changes?"
)
WRITE_BAR, BATCH_BAR = 0.3, 0.5  # of the rates of promise persistent
READ_BAR = 0.5  # of the rate without a mirror

MIRROR = """
import sys
import rnvm

with rnvm.Mirror(sys.argv[1], of=sys.argv[2]) as mirror:
    mirror.wait_level(60)
    print("level", flush=True)
    sys.stdin.read()
"""


# Writes 100 records, then sleeps for 10 ms, from the line "on" to the line "off".
PACED_WRITER = """
import select, sys
import rnvm
from bench.experiments.keys import drawn
from bench.experiments.pool import BATCH, VALUE
from structures import HashTable

address, durability, records = sys.argv[1:]
lines = sys.stdin.buffer.raw  # not buffered: select() must see the next line
keys = drawn(1000 * BATCH, int(records))
with rnvm.connect(address, durability=durability) as fe:
    table = HashTable(fe, "table")
    print("ready", flush=True)
    while lines.readline() == b"on\\n":
        at = 0
        while not select.select([lines], [], [], 0.01)[0]:
            with fe.batch():
                for key in keys[at : at + BATCH]:
                    table[key] = VALUE
            at = (at + BATCH) % len(keys)
        lines.readline()
        fe.release()
        print(at, flush=True)
"""


@contextlib.contextmanager
def mirrored(backend: Backend) -> Iterator[None]:
    """Have a mirror in a process of its own follow the back-end."""
    with (
        pool.folder_on(MEMORY) as folder,
        OtherProcess(MIRROR, str(folder / "mirror"), str(backend.address)) as mirror,
    ):
        mirror.hear()
        yield


@contextlib.contextmanager
def writes(setting: Setting, durability: str, mirror: bool) -> Iterator[Side]:
    """Yield `table[key] = value` of 16 + 64 B, one at a time and in batches, and `table[key]` while
    another process writes: {"rate", "batch", "reads"} in operations per second."""
    keys = drawn(setting.count(200_000, BATCH), setting.records)
    batches = [keys[at : at + BATCH] for at in range(0, len(keys) - BATCH + 1, BATCH)]
    with ExitStack() as stack:
        backend = stack.enter_context(pool.served(setting))
        if mirror:
            stack.enter_context(mirrored(backend))
        fe = stack.enter_context(rnvm.connect(backend.address, durability=durability))
        table = HashTable(fe, "table")
        pool.fill(fe, table, setting.records)
        writer = stack.enter_context(
            OtherProcess(PACED_WRITER, str(backend.address), durability, str(setting.records))
        )
        writer.hear()

        def reads() -> float:
            fe.release()
            writer.send("on")
            try:
                return rate_of(table.get, keys, setting.seconds)
            finally:
                writer.send("off")
                writer.hear()

        def together(some: list[bytes]) -> None:
            with fe.batch():
                for key in some:
                    table[key] = VALUE

        def side() -> Figures:
            with pinned(setting.client):
                return {
                    "rate": pool.rate_of_stores(table, keys, setting.seconds),
                    "batch": rate_of(together, batches, setting.seconds) * BATCH,
                    "reads": reads(),
                }

        yield side


def measure(setting: Setting) -> list[Row]:
    """Measure both promises by turns, each on a back-end of its own."""
    with ExitStack() as stack:
        sides = {
            "persistent": stack.enter_context(writes(setting, "persistent", mirror=False)),
            "replicated": stack.enter_context(writes(setting, "replicated", mirror=True)),
        }
        found = take_turns(sides, setting.rounds)
    alone, both = found["persistent"], found["replicated"]
    return [
        Row("HashTable set, replicated", both["rate"], "op/s", alone["rate"],
            "the same, persistent", WRITE_BAR),
        Row(f"HashTable set, replicated, batches of {BATCH}", both["batch"], "op/s",
            alone["batch"], "the same, persistent", BATCH_BAR),
        Row("HashTable get beside a writer and a mirror", both["reads"], "op/s", alone["reads"],
            "without the mirror", READ_BAR),
    ]  # fmt: skip
