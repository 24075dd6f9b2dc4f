"""Mirrors and primaries that are killed or stopped while writers go on."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from polling import until
from stopping import await_stop
from time_bounds import in_some_try

import rnvm
import rnvm.mirror.mirror
from rfp.core import clock
from rfp.errors import (
    Closed,
    ConnectionFailed,
    FabricError,
    HandshakeFailed,
    PoolRefused,
    QuotaExceeded,
    RfpError,
    ServerRefused,
    StorageFailed,
    Unsupported,
)
from rfp.fabric.fabric import REMOTE_WRITE
from rfp.protocol.client.opener import Opener
from rnvm import pools
from rnvm.media import identity
from rnvm.media.medium import VolatileMemory
from rnvm.mirror.follower import OVERRUN, PATIENCE, Follower, StreamEnded
from rnvm.mirror.mirror import REQUESTED_BYTES_MAX
from rnvm.testing.sample_structure import Sample
from structures import HashTable
from tests.frontend.processes import SOON, Process, address_of

from .copies import (
    Watching,
    mirror_of,
    mirror_process,
    mirrors,
    numbers,
    open_primary,
    replicated,
    replication,
    two_paths,
)

pytestmark = pytest.mark.anywhere

PRIMARY = """
import signal, sys, rnvm
backend = rnvm.Backend(sys.argv[1], size="8MiB", assume_persistent=True, address=sys.argv[2],
                       min_mirrors=int(sys.argv[3]), mirror_patience=60)
print("serving", flush=True)
signal.pause()
"""

# Prints each number that was acknowledged.
WRITER = """
import os, sys, rnvm
from rnvm.testing.sample_structure import Sample
fe = rnvm.connect(sys.argv[1], timeout=SOON, durability=sys.argv[2])
sample = Sample(fe, "s")
while True:
    os.write(1, b"%d\\n" % sample.add(1))
""".replace("SOON", str(SOON))


@contextlib.contextmanager
def primary_process(path: str, min_mirrors: int = 0) -> Iterator[Process]:
    with Process(PRIMARY, path, address_of(path), min_mirrors) as primary:
        primary.wait_for(1)
        yield primary


@pytest.mark.parametrize(
    ("places", "reorders"),
    [
        ("memory to memory", False),
        ("disk to disk", False),
        pytest.param("memory to memory", True, marks=pytest.mark.shm),
    ],
    ids=["memory to memory", "disk to disk", "over the worst network"],
)
@pytest.mark.parametrize("first", ["primary", "mirror"])
def test_a_copy_has_all_that_was_acknowledged_as_replicated(
    places: str, reorders: bool, first: str, rng: random.Random, seed: int
) -> None:
    with two_paths(places) as (path, copy):
        with (
            primary_process(path, min_mirrors=1) as primary,
            mirror_process(copy, address_of(path), seed if reorders else None) as mirror,
            Process(WRITER, address_of(path), "replicated") as writer,
        ):
            writer.wait_for(20)
            time.sleep(rng.random() * 0.05)
            for each in (primary, mirror) if first == "primary" else (mirror, primary):
                each.kill()
            writer.kill()
            acknowledged = writer.numbers()
        count, changes = numbers(copy)
        assert acknowledged == list(range(1, len(acknowledged) + 1))
        assert acknowledged[-1] <= count == changes <= acknowledged[-1] + 1


def test_a_killed_mirror_comes_back_and_the_writer_goes_on(rng: random.Random) -> None:
    with two_paths() as (path, copy):
        with (
            primary_process(path) as primary,
            Process(WRITER, address_of(path), "replicated") as writer,
        ):
            for _ in range(3):
                with mirror_process(copy, address_of(path)):
                    writer.wait_for(20)
                    time.sleep(rng.random() * 0.02)
                writer.wait_for(20)
            with mirror_process(copy, address_of(path)):
                writer.wait_for(20)
                writer.kill()
                primary.kill()
            acknowledged = writer.numbers()
        count, changes = numbers(copy)
        assert acknowledged[-1] <= count == changes <= acknowledged[-1] + 1


def test_a_killed_primary_comes_back_and_its_mirror_follows_it_again(rng: random.Random) -> None:
    with two_paths() as (path, copy), mirror_of(address_of(path), copy) as mirror:
        with Process(WRITER, address_of(path), "persistent") as writer:
            for _ in range(3):
                with primary_process(path) as primary:
                    mirror.wait_level(SOON)
                    writer.wait_for(20)
                    time.sleep(rng.random() * 0.02)
                    primary.kill()
                until(lambda: mirror.state == "waiting")
            writer.kill()
            acknowledged = writer.numbers()
        with rnvm.Backend(path, address=address_of(path)) as backend:
            mirror.wait_level(SOON)
            replicated(backend)
        mirror.close()
        assert numbers(copy) == numbers(path)
        assert numbers(copy)[0] >= acknowledged[-1]


def test_a_stopped_mirror_leaves_after_the_patience_and_comes_back() -> None:
    with two_paths() as (path, copy):
        with (
            open_primary(path, mirror_patience=0.3) as backend,
            rnvm.connect(backend.address, durability="replicated", timeout=SOON) as fe,
            mirror_process(copy, backend.address) as mirror,
        ):
            sample = Sample(fe, "s")
            count = 0

            def leave() -> None:
                nonlocal count
                count = sample.add(1)
                mirror.stop()
                began = time.monotonic()
                count = sample.add(1)
                took = time.monotonic() - began
                left = replication(backend)["in_sync"] == 0
                mirror.signal(signal.SIGCONT)
                until(lambda: replication(backend)["in_sync"] == 1)
                assert left
                assert took >= 0.2

            in_some_try(leave)  # a busy machine may hold it up for as long before
            count = sample.add(1)
            until(lambda: replication(backend)["in_sync"] == 1)
        assert numbers(copy) == (count, count)


def test_a_mirror_catches_up_while_writers_go_on() -> None:
    with two_paths() as (path, copy):
        with (
            open_primary(path, size="64MiB") as backend,
            rnvm.connect(backend.address, timeout=SOON) as fe,
        ):
            table = HashTable(fe, "t")
            ends = threading.Event()
            written: list[bytes] = []

            def write() -> None:
                while not ends.is_set():
                    key = b"%d" % (len(written) % 5000)
                    table[key] = b"%d" % len(written) * 20
                    written.append(key)

            thread = threading.Thread(target=write)
            thread.start()
            try:
                for _ in range(3):
                    with mirror_of(backend, copy) as mirror:
                        mirror.wait_level(SOON)
                        before = len(written)
                        until(lambda before=before: len(written) > before + 50)
                mirror = mirror_of(backend, copy)
                mirror.wait_level(SOON)
            finally:
                ends.set()
                thread.join()
            with mirror:
                replicated(backend)
            expected = {key: table.get(key) for key in set(written)}
        with rnvm.Backend(copy) as backend, rnvm.connect(backend.address, timeout=SOON) as fe:
            table = HashTable(fe, "t")
            assert {key: table.get(key) for key in expected} == expected
            table.check()


def test_a_mirror_whose_medium_fails_says_so_and_is_removed() -> None:
    with two_paths("disk to disk") as (path, copy), open_primary(path) as backend:
        with rnvm.connect(backend.address) as fe:
            sample = Sample(fe, "s")
            mirror = mirror_of(backend, copy)
            try:
                mirror.wait_level(SOON)
                mirror._file.medium.break_sync(5)  # type: ignore[union-attr]
                sample.add(1)
                until(lambda: mirror.failed)
                with pytest.raises(StorageFailed):
                    mirror.wait_level(1)
                until(lambda: not mirrors(backend))
                sample.add(1)
            finally:
                mirror.close()


@pytest.mark.parametrize("how", [os.unlink, None], ids=["removed", "replaced"])
def test_a_mirror_whose_file_is_gone_acknowledges_nothing(how: Any) -> None:
    with two_paths() as (path, copy), open_primary(path, min_mirrors=1) as backend:
        mirror = mirror_of(backend, copy)
        try:
            mirror.wait_level(SOON)
            if how is None:
                Path(f"{copy}.new").touch()
                os.replace(f"{copy}.new", copy)
            else:
                how(copy)
            until(lambda: mirror.failed)
            with pytest.raises(StorageFailed, match="removed or replaced"):
                mirror.wait_level(1)
            until(lambda: not mirrors(backend))
        finally:
            mirror.close()


def test_a_copy_of_two_primaries_is_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The primary dies in the middle of a backup, and another one changes the pool in place."""
    made: list[Follower] = []

    class Slow(Follower):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            made.append(self)

        def copy(self, at: int, n: int, deadline: int) -> None:
            super().copy(at, n, deadline)
            if at == 0 and len(made) == 1:
                first.kill()
                processes.enter_context(primary_process(path))

    monkeypatch.setattr(rnvm.mirror.mirror, "Follower", Slow)
    with two_paths() as (path, copy), contextlib.ExitStack() as processes:
        address = address_of(path)
        first = processes.enter_context(primary_process(path))
        rnvm.backup(copy, of=address, timeout=SOON)
        assert len(made) == 2
        with pools.open_pool(copy) as pool:
            assert pool.names == {}


def test_a_forked_child_neither_follows_nor_keeps_the_copy_locked() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
            reader, writer = os.pipe()
            forked, ready = os.pipe()
            child = os.fork()
            if not child:
                os.close(writer)
                mirror.close()
                os.write(ready, b"!")
                os.read(reader, 1)
                os._exit(0)
            os.close(reader)
            os.close(ready)
            assert os.read(forked, 1) == b"!"
            os.close(forked)
            mirror.wait_level(SOON)
        rnvm.Backend(copy).close()
        os.close(writer)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.shm
def test_a_mirror_that_lies_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    with two_paths() as (path, copy):
        with (
            open_primary(path) as backend,
            rnvm.connect(backend.address) as fe,
            mirror_of(backend, copy) as honest,
        ):
            honest.wait_level(SOON)
            for lie in (b"\xff" * 32, (10**6).to_bytes(8, "little") + bytes(24)):
                with (
                    contextlib.closing(Opener(backend.address, "rnvm")) as opener,
                    contextlib.closing(
                        Follower(opener, clock.now_ns() + 10**10, member="liar")
                    ) as liar,
                ):
                    words = liar.link.memory(liar.ticket | 1, REMOTE_WRITE, clock.now_ns() + 10**10)
                    with contextlib.closing(VolatileMemory(liar.size)) as medium:
                        liar.begin(medium, clock.now_ns() + 10**10)
                        assert mirrors(backend)["liar"] == "copying"
                        words.write(0, lie)
                        until(lambda: "could not be" in mirrors(backend)["liar"])
                until(lambda: "liar" not in mirrors(backend))
            Sample(fe, "s").add(1)
            replicated(backend)
        assert "could not be" in caplog.text
        assert numbers(copy) == (1, 1)


@pytest.mark.shm
def test_a_copy_stays_whole_while_nothing_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[str] = []
    arrived, go = threading.Event(), threading.Event()
    go.set()

    class Halting(Watching):
        def copied(self, end: int, found: Any) -> None:
            states.append("new" if found is None else found["state"])
            if end == self.size:
                arrived.set()
                go.wait(SOON)

    monkeypatch.setattr(rnvm.mirror.mirror, "Follower", Halting)
    with two_paths() as (path, copy), open_primary(path) as backend:
        with mirror_of(backend, copy) as mirror:
            with rnvm.connect(backend.address) as fe:
                Sample(fe, "s").add(1)
            mirror.wait_level(SOON)
            replicated(backend)
        assert set(states) == {"catching up"}
        states.clear()
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
        assert set(states) == {"whole"}
        # A frame that comes while nothing has differed yet: the copy is marked, then whole again.
        go.clear()
        arrived.clear()
        with mirror_of(backend, copy) as mirror, rnvm.connect(backend.address) as fe:
            assert arrived.wait(SOON)
            Sample(fe, "s").add(1)
            go.set()
            mirror.wait_level(SOON)
            replicated(backend)
        with pools.view(copy) as (view, _):
            found = identity.read(view)
        assert found is not None
        assert found["state"] == "whole"
        assert any(found["identity"])
        assert numbers(copy) == (2, 2)


@pytest.mark.shm
@pytest.mark.parametrize(
    "error", [FabricError("EMFILE"), ServerRefused("no memory"), MemoryError()], ids=type
)
def test_a_passing_trouble_does_not_end_a_mirror(error: Exception) -> None:
    with two_paths() as (path, copy):
        address = address_of(path)
        with open_primary(path, address=address) as backend:
            mirror = mirror_of(backend, copy)
            mirror.wait_level(SOON)
        with mirror:
            until(lambda: mirror.state == "waiting")
            opener, raised = mirror._opener, []

            class Failing:
                def __call__(self, deadline: int) -> Any:
                    if len(raised) < 3:
                        raised.append(error)
                        raise error
                    return opener(deadline)

                def close(self) -> None:
                    opener.close()

            mirror._opener = Failing()  # type: ignore[assignment]
            with open_primary(path, address=address):
                mirror.wait_level(SOON)
            assert len(raised) == 3


@pytest.mark.shm
@pytest.mark.parametrize("error", [PoolRefused("planted"), Unsupported("planted")], ids=type)
def test_a_refusal_for_good_ends_a_mirror_that_has_followed(error: Exception) -> None:
    with two_paths() as (path, copy):
        with open_primary(path) as backend:
            mirror = mirror_of(backend, copy)
            mirror.wait_level(SOON)
        with mirror, contextlib.closing(mirror._opener):

            class Refusing:
                def __call__(self, deadline: int) -> Any:
                    raise error

                def close(self) -> None:
                    pass

            mirror._opener = Refusing()  # type: ignore[assignment]
            until(lambda: mirror.failed)
            with pytest.raises(type(error), match="planted"):
                mirror.wait_level(1)


@pytest.mark.shm
def test_the_stream_that_a_mirror_requests_fits_to_what_has_happened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused() -> ConnectionFailed:
        error = ConnectionFailed("planted")
        error.__cause__ = ServerRefused("no memory")
        return error

    default, asked = 8 << 20, []
    # Whether it was level; why the stream ended; the factor of the next one.
    ends = [
        (True, StreamEnded(OVERRUN), 2),
        (False, StreamEnded(PATIENCE), 2),  # it was waited for in vain
        (True, StreamEnded(PATIENCE), 1),  # it was slow, or stopped
        (False, refused(), 0.5),
        (False, HandshakeFailed("planted"), 1),  # another primary, perhaps for a moment
        *[(False, StreamEnded(OVERRUN), 2)] * 5,
    ]

    class Scripted(rnvm.Mirror):
        def _connect_and_follow(self, stream: int) -> None:
            asked.append(stream)
            self._connections += 1
            if len(asked) > len(ends):
                raise Closed("the end")
            level, error, _ = ends[len(asked) - 1]
            self._levels += level
            self._last = {"stream": stream or default}
            raise error

    monkeypatch.setattr(rnvm.mirror.mirror, "RETRY_S_MAX", 0.001)
    with two_paths() as (path, copy), Scripted(copy, of=address_of(path)) as mirror:
        until(lambda: mirror.failed)
    expected = [default]
    for _, _, factor in ends:
        expected.append(min(int(expected[-1] * factor), REQUESTED_BYTES_MAX))
    assert asked == [0, *expected[1:]]
    assert expected[-1] == REQUESTED_BYTES_MAX


@pytest.mark.shm
def test_only_a_mirror_whose_stream_cannot_grow_is_waited_for_while_it_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def connect(*_: Any, waits: bool, **__: Any) -> None:
        waited.append(waits)
        raise ConnectionFailed("planted")

    monkeypatch.setattr(rnvm.mirror.mirror, "Follower", connect)
    waited: list[bool] = []
    bare: Any = object.__new__(rnvm.Mirror)
    bare._opener, bare.timeout, bare.name, bare._changed = None, 1, "m", threading.Condition()
    for joins, stream in itertools.product(
        (True, False), (0, REQUESTED_BYTES_MAX - 1, REQUESTED_BYTES_MAX)
    ):
        bare._joins = joins
        with pytest.raises(ConnectionFailed):
            bare._follow_once(stream)
    assert waited == [False, False, True, False, False, False]


@pytest.mark.shm
def test_a_backup_waits_for_a_back_end_that_ends_and_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ending(Follower):
        def copy(self, at: int, n: int, deadline: int) -> None:
            super().copy(at, n, deadline)
            if at == 0 and not ended.is_set():
                backends[0].close()
                ended.set()

    def progress(_copied: int, _size: int) -> None:
        if ended.is_set() and len(backends) == 1:
            backends.append(open_primary(path, address=address_of(path)))

    ended = threading.Event()

    monkeypatch.setattr(rnvm.mirror.mirror, "Follower", Ending)
    monkeypatch.setattr(rnvm.mirror.mirror, "PROGRESS_S", 0.01)
    with two_paths() as (path, copy):
        backends = [open_primary(path, address=address_of(path))]
        try:
            rnvm.backup(copy, of=address_of(path), progress=progress, timeout=SOON)
        finally:
            backends[-1].close()
        assert len(backends) == 2
        pools.open_pool(copy).close()


# Stops itself while it copies.
BACKUP = """
import os, signal, sys, rnvm, rnvm.mirror.mirror

class Stopping(rnvm.mirror.mirror.Follower):
    def copy(self, at, n, deadline):
        super().copy(at, n, deadline)
        if at == 0:
            print("copying", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)

rnvm.mirror.mirror.Follower = Stopping
rnvm.backup(sys.argv[1], of=sys.argv[2], connect_timeout=SOON)
print("done", flush=True)
""".replace("SOON", str(SOON))


@pytest.mark.shm
def test_no_front_end_waits_for_a_backup() -> None:
    with two_paths() as (path, copy):
        with (
            open_primary(path, size="64MiB", mirror_patience=10 * SOON) as backend,
            rnvm.connect(backend.address, timeout=SOON) as fe,
            Process(BACKUP, copy, backend.address) as backup,
        ):
            table = HashTable(fe, "t")
            backup.wait_for(1)
            until(lambda: list(mirrors(backend).values()) == ["copying"])
            written = 0
            while list(mirrors(backend).values()) == ["copying"]:
                for _ in range(20):
                    table[b"%d" % (written % 500)] = b"%d" % written * 2000
                    written += 1
                assert written < 100_000
            until(lambda: "its stream was full" in str(mirrors(backend)))
            await_stop(backup.running.pid)  # it stops after it has printed the line
            while b"done" not in backup.printed():
                backup.signal(signal.SIGCONT, lines=1)
                await_stop(backup.running.pid)
            replication(backend)
        with rnvm.Backend(copy) as backend, rnvm.connect(backend.address, timeout=SOON) as fe:
            assert len(HashTable(fe, "t")) == min(written, 500)


@pytest.mark.shm
def test_one_call_applies_more_than_a_stream_holds_and_no_mirror_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with two_paths() as (path, copy), contextlib.ExitStack() as stack:
        pools.create(
            path,
            "192MiB",
            operation_log="4MiB",
            memory_log="4MiB",
            front_ends=8,
            assume_persistent=True,
        )
        backend = stack.enter_context(open_primary(path, size=None, mirror_patience=10 * SOON))
        mirror = stack.enter_context(mirror_process(copy, backend.address))
        tables = []
        for i in range(6):
            fe = stack.enter_context(rnvm.connect(backend.address, timeout=SOON))
            tables.append(HashTable(fe, f"t{i}"))
            tables[-1][b"0"] = b"0"
        backend._service._go_slow()  # type: ignore[attr-defined]
        for i in range(1, 160):
            for table in tables:
                table[b"%d" % i] = b"%10d" % i * 2000
        mirror.stop()
        # It requests that all rings be applied.
        checker = threading.Thread(target=tables[0].check)
        checker.start()
        try:
            until(lambda: lag(backend) > 8 << 20)
        finally:
            mirror.signal(signal.SIGCONT)
            checker.join()
        assert list(mirrors(backend).values()) == ["in sync"]
        assert "its stream was full" not in caplog.text
        for table in tables:
            assert len(table) == 160


@pytest.mark.shm
def test_a_back_end_closes_while_a_call_waits_for_a_mirror() -> None:
    with two_paths() as (path, copy), contextlib.ExitStack() as stack:
        backend = open_primary(path, mirror_patience=10 * SOON)
        with mirror_process(copy, backend.address) as mirror:
            fe = stack.enter_context(rnvm.connect(backend.address, timeout=SOON, reconnect=False))
            table = HashTable(fe, "t")
            table[b"0"] = b"0"
            mirror.stop()

            def write() -> None:
                with contextlib.suppress(RfpError):
                    for i in itertools.count():
                        table[b"%d" % (i % 10)] = b"%10d" % i * 2000

            writer = threading.Thread(target=write)
            writer.start()
            until(lambda: lag(backend) > 4 << 20)
            began = time.monotonic()
            backend.close()
            assert time.monotonic() - began < SOON
            writer.join()


def lag(backend: rnvm.Backend) -> int:
    return max(each.get("lag_bytes", 0) for each in backend.figures()["mirrors"])


@pytest.mark.shm
def test_the_connections_of_one_process_do_not_keep_other_mirrors_out() -> None:
    with two_paths() as (path, copy), open_primary(path) as backend, contextlib.ExitStack() as all:

        def connect() -> None:
            opener = all.enter_context(contextlib.closing(Opener(backend.address, "rnvm")))
            all.enter_context(contextlib.closing(Follower(opener, clock.now_ns() + 10**10)))

        for _ in range(4):
            connect()
        with pytest.raises(QuotaExceeded):
            connect()
        with mirror_process(copy, backend.address):
            assert list(mirrors(backend).values()) == ["in sync"]


@pytest.mark.shm
@pytest.mark.long
def test_the_place_of_a_removed_mirror_is_free_soon_although_it_stays_connected() -> None:
    with two_paths() as (path, _), open_primary(path) as backend:
        with (
            contextlib.closing(Opener(backend.address, "rnvm")) as opener,
            contextlib.closing(Follower(opener, clock.now_ns() + 10**10)) as liar,
            contextlib.closing(VolatileMemory(liar.size)) as medium,
        ):
            liar.begin(medium, clock.now_ns() + 10**10)
            liar.link.memory(liar.ticket | 1, REMOTE_WRITE, clock.now_ns() + 10**10).write(
                0, b"\xff" * 32
            )
            until(lambda: "could not be" in str(mirrors(backend)))
            until(lambda: not mirrors(backend))
            with pytest.raises(ConnectionFailed):
                liar.finish(clock.now_ns() + 10**10)
