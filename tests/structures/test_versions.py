"""Versions of multi-version structures: moments, snapshots that have ended, records not written."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connecting import connect_hasty
from crc32c import crc32c
from stopping import stop
from structure_kinds import VERSIONED, each_of

import rnvm
import structures
from rfp.errors import DeadlineExceeded, OutOfMemory, SnapshotTooOld, StructureDamaged

from .backends import backend
from .test_replicated import held_backend

EACH = each_of(VERSIONED)
PATIENCE = 60.0  # seconds until a process of a test must have done its part


@pytest.fixture
def path() -> Iterator[Path]:
    """Return the path of a pool on memory, which does not exist yet."""
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        yield Path(folder) / "pool"


# Moments

# A process with two sessions: what it stores into b follows from what it has stored into a.
CAUSES = """
    import sys, rnvm, structures
    address, kind = sys.argv[1:]
    one = rnvm.connect(address, timeout=30)
    a = getattr(structures, kind)(one, "a")
    a[b"n"] = b"%09d" % 0
    print("ready", flush=True)
    sys.stdin.readline()
    two = rnvm.connect(address, timeout=30)
    b = getattr(structures, kind)(two, "b")
    b[b"n"] = b"%09d" % 0
    print("both", flush=True)
    n = 0
    while True:
        n += 1
        a[b"n"] = b"%09d" % n
        b[b"n"] = b"%09d" % n
"""
BACKEND = """
    import sys, rnvm
    with rnvm.Backend(sys.argv[1], size="32MiB", assume_persistent=True) as served:
        print("ready", flush=True)
        print(served.address, flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def process(source: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            yield child
            if source is BACKEND:
                child.communicate(timeout=PATIENCE)
        finally:
            child.kill()


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@EACH
def test_a_moment_has_no_effect_without_its_cause(kind: Any) -> None:
    with (
        backend() as served,
        process(CAUSES, served.address, kind.__name__) as child,
        # Its long records take the back-end's time between the rings of the two others.
        rnvm.connect(served.address, timeout=30) as between,
    ):
        stack = structures.Stack(between, "long")
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        assert line_of(child) == "both"
        over = threading.Event()

        def write() -> None:
            while not over.is_set():
                stack.push(b"l" * 150_000)
                stack.pop()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            with rnvm.connect(served.address, timeout=30) as fe:
                a, b = kind(fe, "a"), kind(fe, "b")
                seen = set()
                until = time.monotonic() + 1.5
                served._service._go_slow()  # each moment finds much to collect
                while time.monotonic() < until or len(seen) < 10:
                    first, second = structures.snapshots_of([a, b])
                    with first, second:
                        assert first[b"n"] >= second[b"n"]
                        seen.add(first[b"n"])
                    assert child.poll() is None
        finally:
            over.set()
            writer.join()


def damage_newest(path: Path, number: int) -> None:
    """Flip a bit in the half of this transaction of the only multi-version root that has one.

    rnvm/format/version.h has the layout.
    """
    data = path.read_bytes()
    seed = crc32c(data[4096 + 40 : 4096 + 56])  # the UUID in the header
    for at in range(0, len(data) - 128, 8):
        length, kind, address = struct.unpack_from("<IxxxxHxxQ", data, at + 4)
        if (length, kind, address & (1 << 48) - 1) != (128, 1, at):
            continue
        for half in (at + 32, at + 64):
            root = struct.pack("<Q", address)
            version, crc = struct.unpack_from("<Q20xI", data, half)
            if version == number and crc == crc32c(data[half : half + 28], crc32c(root, seed)):
                with path.open("r+b") as file:
                    file.seek(half + 16)  # count
                    file.write(bytes([data[half + 16] ^ 1]))
                return
    raise AssertionError("there is no such root")


@EACH
@pytest.mark.parametrize("cached", [False, True], ids=["read", "cached"])
def test_a_damaged_root_gives_no_earlier_version(kind: Any, cached: bool, path: Path) -> None:
    with rnvm.Backend(path, size="8MiB", assume_persistent=True) as served:
        fe, other = (rnvm.connect(served.address, timeout=20) for _ in range(2))
        with fe, other:
            trees = [kind(fe, name) for name in "ab"]
            for i in range(20):
                trees[0][b"%02d" % i] = b"v"
            trees[1][b"k"] = b"v"
            with trees[0].snapshot() as before:
                newest = before.version
            fe.release()
            damage_newest(path, newest)
            mine = trees if cached else [kind(other, name) for name in "ab"]
            for both in (mine, mine[::-1]):
                with pytest.raises(StructureDamaged):
                    structures.snapshots_of(both)


@EACH
def test_a_snapshot_of_64_partitions_has_one_moment(kind: Any) -> None:
    with backend() as served, rnvm.connect(served.address, timeout=20) as fe:
        tree = kind(fe, "t", partitions=64)
        expected = {b"%03d" % i: b"v" for i in range(300)}
        tree.update(expected)
        with tree.snapshot() as before:
            tree.clear()
            assert dict(before) == expected


# Snapshots that have ended


def fill(other: Any) -> None:
    """Let no block be free, so that all structures free what they list and nobody uses."""
    with contextlib.suppress(OutOfMemory):
        for n in range(100_000):
            other[b"%06d" % n] = b"f" * 900


@EACH
def test_a_snapshot_that_was_too_old_once_stays_so(kind: Any) -> None:
    with backend("8MiB", snapshot_lifetime=0.01) as served, rnvm.connect(served.address) as fe:
        tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
        # The nodes at the left edge of a binary tree are the long ones.  They are listed first, and
        # the memory that is used again first is that of a node below them.
        expected = {b"%03d" % i: b"v" * (8 if i & (i + 1) else 48) for i in range(400)}
        tree.update(expected)
        keys = list(expected)
        before = tree.snapshot()
        tree[keys[9]] = b"w" * 8
        time.sleep(0.02)  # its lifetime
        fill(other)

        def is_too_old(key: bytes) -> bool:
            try:
                assert before[key] == expected[key]
            except SnapshotTooOld:
                return True
            return False

        for key in keys[10:]:
            tree[key] = b"w" * len(expected[key])
            if any(is_too_old(old) for old in keys):
                break
        with fe.batch():
            for key in keys:
                tree.pop(key)
                assert all(is_too_old(old) for old in keys[::40])
        before.close()
        tree.check()


@EACH
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_a_snapshot_that_was_not_replicated_in_time_keeps_nothing(kind: Any, several: bool) -> None:
    with held_backend() as held:
        writer, fe = held.connect("persistent"), held.connect()
        theirs = [held.open(writer, kind, name) for name in "ab"]
        mine = [held.open(fe, kind, name) for name in "ab"]

        def snapshots(timeout: float | None = None) -> list[Any]:
            if several:
                return structures.snapshots_of(mine, timeout=timeout)
            return [mine[0].snapshot(timeout=timeout)]

        def calls() -> int:
            with held.mirrored():
                assert [len(tree) for tree in mine] == [1, 1]
                before: int = fe.figures["calls"]
                for each in snapshots():
                    each.close()
            return int(fe.figures["calls"]) - before

        with held.mirrored():
            for tree in theirs:
                tree[b"k"] = b"v"
        usual = calls()
        for tree in theirs:
            tree[b"k"] = b"w"
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                snapshots(timeout=0.05)
        assert calls() == usual


# Records that were not written


@EACH
@pytest.mark.parametrize("where", ["operation", "transaction"])
def test_a_record_that_was_not_written_leaves_a_later_snapshot_its_nodes(
    kind: Any, where: str, path: Path
) -> None:
    with (
        process(BACKEND, path) as served,
        connect_hasty(line_of(served), 2, oplog=False) as fe,
    ):
        tree = kind(fe, "t", timeout=PATIENCE)
        filler = structures.BPlusTree(fe, "filler", timeout=PATIENCE)
        keys = [b"%04d" % i for i in range(300)]
        tree.bulk_load(((key, b"old") for key in keys), timeout=PATIENCE)
        expected = dict(tree)
        filler[b"k"] = b"f" * 200
        stop(served.pid)
        try:
            with pytest.raises(DeadlineExceeded):
                while True:
                    filler.set(b"k", b"f" * 200, timeout=0.1)
            # The redo log is full.
            change = fe.transaction(tree) if where == "transaction" else contextlib.nullcontext()
            with pytest.raises(DeadlineExceeded), change:
                tree.set(keys[7], b"lost", timeout=0.1)
        finally:
            served.send_signal(signal.SIGCONT)
        with tree.snapshot(timeout=PATIENCE) as before:
            for value in (b"new", b"newer"):
                for key in keys:
                    tree.set(key, value, timeout=PATIENCE)
                assert dict(before) == expected
        tree.check(timeout=PATIENCE)
