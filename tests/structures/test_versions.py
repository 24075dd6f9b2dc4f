"""Versions of multi-version structures: moments, snapshots that have ended, records not written."""

from __future__ import annotations

import contextlib
import os
import signal
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
from structure_kinds import VERSIONED, each_of

import rnvm
import structures
from rfp.errors import DeadlineExceeded, OutOfMemory, SnapshotTooOld

from .backends import backend

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


# Records that were not written


@EACH
@pytest.mark.parametrize("where", ["operation", "transaction"])
def test_a_record_that_was_not_written_leaves_a_later_snapshot_its_nodes(
    kind: Any, where: str, path: Path
) -> None:
    with (
        process(BACKEND, path) as served,
        rnvm.connect(line_of(served), timeout=2, oplog=False) as fe,
    ):
        tree, filler = kind(fe, "t"), structures.BPlusTree(fe, "filler")
        keys = [b"%04d" % i for i in range(300)]
        tree.bulk_load((key, b"old") for key in keys)
        expected = dict(tree)
        filler[b"k"] = b"f" * 200
        served.send_signal(signal.SIGSTOP)
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
        with tree.snapshot() as before:
            for value in (b"new", b"newer"):
                for key in keys:
                    tree[key] = value
                assert dict(before) == expected
        tree.check()
