"""Mirrors and primaries that are killed or stopped while writers go on."""

from __future__ import annotations

import contextlib
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

import rnvm
import rnvm.mirror.mirror
from rfp.core import clock
from rfp.errors import StorageFailed
from rfp.fabric.fabric import REMOTE_WRITE
from rfp.protocol.client.opener import Opener
from rnvm import pools
from rnvm.media.medium import VolatileMemory
from rnvm.mirror.follower import Follower
from rnvm.testing.sample_structure import Sample
from structures import HashTable
from tests.frontend.processes import SOON, Process, address_of

from .copies import (
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
                       min_mirrors=int(sys.argv[3]))
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


@pytest.mark.parametrize("places", ["memory to memory", "disk to disk"])
@pytest.mark.parametrize("first", ["primary", "mirror"])
def test_a_copy_has_all_that_was_acknowledged_as_replicated(
    places: str, first: str, rng: random.Random
) -> None:
    with two_paths(places) as (path, copy):
        with (
            primary_process(path, min_mirrors=1) as primary,
            mirror_process(copy, address_of(path)) as mirror,
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
            sample.add(1)
            mirror.stop()
            began = time.monotonic()
            sample.add(1)
            assert time.monotonic() - began >= 0.2
            assert replication(backend)["in_sync"] == 0
            mirror.signal(signal.SIGCONT)
            until(lambda: replication(backend)["in_sync"] == 1)
            sample.add(1)
        assert numbers(copy) == (3, 3)


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
            mirror.wait_level(1)
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
