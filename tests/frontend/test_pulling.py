"""Readers pull logged records of writers, however slow the back-end is.

They validate each record, and ignore records that may not count.
"""

from __future__ import annotations

import contextlib
import random
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import rnvm
from rfp.errors import ConnectionFailed
from rnvm import pools
from rnvm.frontend import log_overlay
from rnvm.testing import log_driver
from rnvm.testing.sample_structure import Sample

from .conftest import Connect, new_path, open_backend

pytestmark = pytest.mark.usefixtures("small_logs")

MEMORY_LOG = 16384  # bytes: some dozen records to a lap
SIZES = {
    "size": "8MiB",
    "operation_log": MEMORY_LOG,
    "memory_log": MEMORY_LOG,
    "assume_persistent": True,
}
# Offsets of the words that all front-ends READ: in a catalog entry, in a session.
NAME, LINE, SEQUENCE, REPLAYED = 512, 256, 0, 24
SESSION, LIVE, EPOCH, HEAD, DURABLE = 256, 192, 0, 24, 32
LSN = 8  # in a record


@pytest.fixture
def tiny(medium: str) -> Iterator[rnvm.Backend]:
    """Yield a back-end of a pool with logs that wrap early."""
    with new_path(medium) as path:
        pools.create(path, **SIZES)
        with open_backend(path, medium) as backend:
            yield backend


@contextlib.contextmanager
def slow(backend: rnvm.Backend, **options: bool) -> Iterator[None]:
    """Keep a back-end from applying records by itself."""
    backend._service._go_slow(**options)
    yield
    backend._service._go_slow(collecting=True, replaying=True)


def calls(sample: Sample) -> int:
    return int(sample.fe.figures["calls"])


# --- However slow the back-end is


@pytest.mark.anywhere
def test_acknowledged_operations_are_read_without_the_back_end(
    tiny: rnvm.Backend, connect: Connect
) -> None:
    writer, reader = Sample(connect(tiny), "s"), Sample(connect(tiny), "s")
    writer.put(0, b"before")
    assert reader.get(0) == b"before"
    with slow(tiny, collecting=True):
        before = calls(reader)
        for i in range(10):
            writer.put(i % 3, b"%d" % i * 30)
            assert reader.get(i % 3) == b"%d" % i * 30
            assert reader.numbers() == (0, i + 2)
        assert calls(reader) == before
    assert reader.get(0) == b"9" * 30
    reader.check()


def test_on_persistent_memory_no_front_end_needs_the_back_end(
    direct: rnvm.Backend, connect: Connect
) -> None:
    writer, reader = Sample(connect(direct), "s"), Sample(connect(direct), "s")
    writer.add(1)
    assert reader.numbers()[0] == 1
    with slow(direct):
        before = calls(reader), calls(writer)
        for i in range(100):
            assert writer.add(1) == i + 2
            assert reader.numbers() == (i + 2, i + 2)
        assert (calls(reader), calls(writer)) == before


def test_pulled_records_that_did_not_change_are_not_read_twice(
    direct: rnvm.Backend, connect: Connect
) -> None:
    writer, reader = Sample(connect(direct), "s"), Sample(connect(direct), "s")
    writer.add(1)
    with slow(direct):
        writer.add(1)
        assert reader.numbers()[0] == 2
        before = reader.fe.figures
        for _ in range(100):
            assert reader.numbers()[0] == 2
        after = reader.fe.figures
    assert (after["misses"], after["calls"], after["restarts"]) == (
        before["misses"],
        before["calls"],
        before["restarts"],
    )
    time.sleep(0.05)
    assert reader.numbers()[0] == 2


def test_a_reader_calls_a_back_end_that_is_too_far_behind(connect: Connect) -> None:
    with new_path("direct") as path:
        pools.create(
            path,
            "8MiB",
            operation_log="1MiB",
            memory_log="1MiB",
            front_ends=2,
            assume_persistent=True,
        )
        with open_backend(path) as backend:
            writer, reader = Sample(connect(backend), "s"), Sample(connect(backend), "s")
            writer.add(1)
            reader.numbers()
            with slow(backend):
                before = calls(reader)
                for i in range(40):
                    writer.put(i % 4, bytes([i]) * 10_000)
                assert reader.get(39 % 4) == bytes([39]) * 10_000
                assert calls(reader) > before


def test_each_structure_of_a_transaction_is_read_after_it(
    tiny: rnvm.Backend, connect: Connect
) -> None:
    fe, other = connect(tiny), connect(tiny)
    a, b, elsewhere, there = (
        Sample(fe, "a"),
        Sample(fe, "b"),
        Sample(other, "a"),
        Sample(other, "b"),
    )
    a.add(1)
    assert (elsewhere.numbers()[0], there.numbers()[0]) == (1, 0)
    with slow(tiny, collecting=True):
        with fe.transaction(a, b):
            a.add(10)
            b.add(10)
        before = calls(there)
        assert (there.numbers()[0], elsewhere.numbers()[0]) == (10, 11)
        with fe.batch():
            a.add(100)
            assert elsewhere.numbers()[0] == 11
            b.put(1, b"batch")
        assert (there.get(1), elsewhere.numbers()[0]) == (b"batch", 111)
        assert calls(there) == before


# --- Records that count


class Scene:
    """A writer with one acknowledged operation that is not applied, a reader, and their memory."""

    def __init__(self, backend: rnvm.Backend, connect: Connect, **options: bool) -> None:
        self.pool = backend.pool
        self.writer, self.reader = Sample(connect(backend), "s"), Sample(connect(backend), "s")
        self.writer.add(1)
        while self.reader.numbers() != (1, 1) or log_driver.progress(self.pool, b"s")[1] != 2:
            time.sleep(0.001)
        backend._service._go_slow(**options)
        self.writer.fe.names()  # after this call the back-end is slow
        places = log_driver.places(self.pool)
        session = self.writer.fe.figures["session"]
        self.line = places["names"] + NAME * self.pool.names[b"s"] + LINE
        self.live = places["sessions"] + SESSION * session + LIVE
        self.lsn = self.word(self.live + DURABLE)
        self.record = places["rings"] + MEMORY_LOG * (2 * session + 1) + self.lsn % MEMORY_LOG
        self.writer.add(1)
        assert self.word(self.record + LSN) == self.lsn

    def word(self, at: int) -> int:
        return int(struct.unpack("<Q", self.pool.medium.read(at, 8))[0])

    def poke(self, at: int, value: int) -> None:
        self.pool.medium.poke(at, struct.pack("<Q", value))

    def read(self) -> tuple[int, bool]:
        """Return the value that the reader reads, and whether it has called the back-end for it."""
        before = calls(self.reader)
        return self.reader.numbers()[0], calls(self.reader) != before

    def check_crc(self) -> bool:
        """One of its lines is that of the lap before: it is not whole, and not acknowledged."""
        self.pool.medium.poke(self.record + 128, b"\xa5" * 64)
        return self.read() == (1, False)

    def check_epoch(self) -> bool:
        """Its writer is being fenced: only the back-end that fences it knows whether it counts."""
        self.poke(self.live + EPOCH, self.word(self.live + EPOCH) + 1)
        return self.read() == (2, True)

    def check_order(self) -> bool:
        """It cannot be the record that follows the applied one."""
        self.poke(self.line + SEQUENCE, 0)
        return self.read()[1]

    def check_head(self) -> bool:
        """It was overwritten after the status line that refers to it was read."""
        self.poke(self.record + LSN, self.lsn + MEMORY_LOG)
        self.poke(self.live + HEAD, self.lsn + 64)
        return self.read()[1]

    def check_durable(self) -> bool:
        """It is there, and is not durable yet."""
        self.poke(self.live + DURABLE, self.lsn)
        return self.read() == (1, False)


CHECKS = [
    pytest.param("crc", "direct", id="whole"),
    pytest.param("epoch", "direct", id="of its epoch"),
    pytest.param("order", "direct", id="in order"),
    pytest.param("head", "direct", id="not overwritten"),
    pytest.param("durable", "image", id="durable"),
    pytest.param("durable", "emulated", id="durable over a network"),
]


@pytest.mark.parametrize(("check", "medium"), CHECKS)
def test_a_record_is_used_only_if_it_passes_the_check(
    tiny: rnvm.Backend, connect: Connect, check: str
) -> None:
    assert getattr(Scene(tiny, connect, collecting=check == "durable"), f"check_{check}")()


@pytest.mark.parametrize(("check", "medium"), CHECKS)
def test_an_invalid_record_is_used_without_the_check(
    tiny: rnvm.Backend, connect: Connect, check: str
) -> None:
    log_overlay._skip_checks(getattr(log_overlay, f"OVERLAY_CHECK_{check.upper()}"))
    try:
        assert not getattr(Scene(tiny, connect, collecting=check == "durable"), f"check_{check}")()
    finally:
        log_overlay._skip_checks(0)


# --- While other front-ends write


class Busy:
    """Two structures, written by all threads in turn.

    Operation n adds 1 to the counter of one of them and leaves n at place n % 5.
    """

    def __init__(self) -> None:
        self.begun = {"a": 0, "b": 0}
        self.acknowledged = {"a": 0, "b": 0}
        self.over = threading.Event()
        self.failures: list[BaseException] = []

    def guarded(self, work: Any, *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.failures.append(error)
                self.over.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def write(
        self, turn: threading.Lock, samples: dict[str, Sample], rng: random.Random, length: int
    ) -> None:
        while not self.over.is_set():
            with turn:
                for _ in range(rng.randrange(1, 4)):
                    self.step(samples, rng, length)

    def step(self, samples: dict[str, Sample], rng: random.Random, length: int) -> None:
        fe = samples["a"].fe
        kind = rng.randrange(4)
        names = ["a", "b"] if kind == 0 else [rng.choice("ab")]
        count = 2 if kind == 1 else 1
        for name in names:
            self.begun[name] += count
        while True:
            try:
                with (
                    fe.transaction(*samples.values())
                    if kind == 0
                    else fe.batch()
                    if kind == 1
                    else contextlib.nullcontext()
                ):
                    for name in names:
                        for n in range(self.begun[name] - count + 1, self.begun[name] + 1):
                            value = struct.pack("<Q", n) * rng.randrange(1, length)
                            samples[name].put(n % 5, value)
                break
            except ConnectionFailed:
                # A thread that is held up in a transaction for a lease does it again.
                if kind != 0:
                    raise
        self.acknowledged.update({name: self.begun[name] for name in names})

    def read(self, samples: dict[str, Sample], rng: random.Random) -> None:
        seen = {"a": 0, "b": 0}
        places: dict[tuple[str, int], int] = {}
        while not self.over.is_set():
            name, place = rng.choice("ab"), rng.randrange(5)
            least = max(self.acknowledged[name], seen[name])
            if rng.randrange(2):
                seen[name] = samples[name].numbers()[1]
                assert least <= seen[name] <= self.begun[name]
                continue
            value = samples[name].get(place)
            most = self.begun[name]
            n = struct.unpack("<Q", value[:8])[0] if value else 0
            assert value is None or value == struct.pack("<Q", n) * (len(value) // 8)
            assert n == 0 or n % 5 == place
            # The last number at this place, of a state not older than one acknowledged or read.
            assert least - (least - place) % 5 <= max(n, 0) <= most or (n == 0 and least < 5)
            assert n >= places.get((name, place), 0)
            places[name, place] = n
            seen[name] = max(seen[name], n)


@pytest.mark.parametrize("collecting", [True, False], ids=["slow", "normal"])
@pytest.mark.anywhere
def test_every_read_is_of_a_state_between_the_acknowledged_and_the_begun_operations(
    tiny: rnvm.Backend, medium: str, connect: Connect, rng: random.Random, collecting: bool
) -> None:
    fes = [connect(tiny, timeout=20, **({"cache": "8KiB"} if i == 3 else {})) for i in range(4)]
    samples = [{name: Sample(fe, name) for name in "ab"} for fe in fes]
    busy, turn = Busy(), threading.Lock()
    if collecting:
        tiny._service._go_slow(collecting=True)
    seeds = [random.Random(rng.random()) for _ in fes]
    threads = [busy.guarded(busy.write, turn, samples[i], seeds[i], 40) for i in (0, 1)]
    threads += [busy.guarded(busy.read, samples[i], seeds[i]) for i in (2, 3)]
    # On a busy computer until there is something to compare.
    begun = time.monotonic()
    while not busy.over.is_set() and time.monotonic() < begun + (
        1.5 if min(busy.acknowledged.values(), default=0) > 5 else 20
    ):
        time.sleep(0.05)
    busy.over.set()
    for thread in threads:
        thread.join()
    assert not busy.failures, busy.failures
    assert min(busy.acknowledged.values()) > 5
    for sample in samples[3].values():
        sample.check()
