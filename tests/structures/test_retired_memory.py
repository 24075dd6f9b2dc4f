"""The memory of earlier versions in a full pool: other structures, long values, lost snapshots."""

from __future__ import annotations

import contextlib
import os
import random
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
from crc32c import crc32c
from stopping import stop
from structure_kinds import VERSIONED, each_of

import rnvm
import structures
from rfp.errors import DeadlineExceeded, OutOfMemory, SnapshotTooOld, StructureDamaged

from .backends import backend

EACH = each_of(VERSIONED)
PATIENCE = 60.0  # seconds until a process of a test must have done its part


def churn(tree: Any, turns: int, mark: bytes = b"") -> None:
    for turn in range(turns):
        for i in range(100):
            tree[b"%04d" % i] = b"%d" % turn * 30 + mark


@contextlib.contextmanager
def opened_twice(fe: rnvm.FrontEnd, tree: Any) -> Iterator[None]:
    """Open the tree in a second session: a session alone changes nodes in place, and lists few."""
    with rnvm.connect(fe.address, timeout=20) as other:
        theirs = type(tree)(other, tree.name)
        yield
        del theirs


def list_many(fe: rnvm.FrontEnd, tree: Any) -> None:
    """Let the tree list much memory that nobody uses: a snapshot is open meanwhile."""
    churn(tree, 1)
    fe.release()
    with opened_twice(fe, tree), tree.snapshot():
        churn(tree, 10)


def filled(other: Any, batch: Any = contextlib.nullcontext) -> int:
    """Fill the pool; return how many values it took."""
    n = 0
    with contextlib.suppress(OutOfMemory), batch():
        while True:
            other[b"%06d" % n] = b"f" * 900
            n += 1
    return n


# A full pool, for other structures


@EACH
@pytest.mark.parametrize("where", ["here", "elsewhere", "closed", "in a batch"])
def test_another_structure_uses_the_memory_that_nobody_uses(kind: Any, where: str) -> None:
    found = []
    for lists in (False, True):
        with backend("16MiB") as served, contextlib.ExitStack() as stack:
            fe = stack.enter_context(rnvm.connect(served.address, timeout=20))
            mine = fe if where in ("here", "in a batch") else rnvm.connect(served.address)
            tree = kind(mine, "t", codec="utf-8" if where == "closed" else None)
            keys = [f"{i:04}" if where == "closed" else b"%04d" % i for i in range(100)]
            for i in range(100):
                tree[keys[i]] = "v" * 30 if where == "closed" else b"v" * 30
            if lists:
                with tree.snapshot():
                    for turn in range(12):
                        for key in keys:
                            tree[key] = key * (turn + 1)
            if where == "closed":
                mine.close()
                del tree
            other = structures.BPlusTree(fe, "other")
            found.append(
                filled(other, fe.batch if where == "in a batch" else contextlib.nullcontext)
            )
            other.check()
            if where != "closed":
                tree.check()
                mine.close()
    assert found[1] > found[0] * 0.9


@EACH
def test_another_structure_gives_up_no_snapshot(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address, timeout=20) as fe:
        tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
        churn(tree, 1, b"old")
        with tree.snapshot() as before:
            expected = dict(before)
            churn(tree, 3)
            filled(other)
            assert dict(before) == expected


@EACH
def test_partitions_use_the_memory_of_each_other_before_they_give_up_readers(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address, timeout=20) as fe:
        plain, tree = kind(fe, "plain"), kind(fe, "t")
        churn(tree, 1, b"old")
        list_many(fe, plain)
        with rnvm.connect(served.address) as reader, kind(reader, "t").snapshot() as before:
            expected = dict(before)
            free = served.figures()["pool"]["free_blocks"]
            assert free
            other = structures.BPlusTree(fe, "other")
            with fe.batch():
                n = 0
                while served.figures()["pool"]["free_blocks"] > 64:
                    other[b"%06d" % n] = b"f" * 900
                    n += 1
            churn(tree, 2)
            assert dict(before) == expected


@EACH
def test_a_transaction_that_found_no_block_succeeds_when_it_is_repeated(kind: Any) -> None:
    with backend("16MiB") as served, rnvm.connect(served.address, timeout=20) as fe:
        tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
        list_many(fe, tree)
        n = 0
        with pytest.raises(OutOfMemory, match="repeat the transaction"):
            while True:
                with fe.transaction(other):
                    for _ in range(20):
                        other[b"%06d" % n] = b"f" * 900
                        n += 1
        with fe.transaction(other):
            for i in range(100):
                other[b"again %d" % i] = b"f" * 900
        other.check()
        tree.check()


@EACH
def test_a_structure_is_made_in_the_memory_that_another_one_lists(kind: Any) -> None:
    with backend("16MiB") as served, rnvm.connect(served.address, timeout=20) as fe:
        tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
        with fe.transaction(other):
            pass
        churn(tree, 1)
        with opened_twice(fe, tree), tree.snapshot():
            churn(tree, 4)
            filled(other)
        assert structures.HashTable(fe, "new") is not None
        tree.check()


@EACH
def test_a_lock_that_is_not_given_back_costs_half_of_the_time_at_most(kind: Any) -> None:
    with (
        backend("8MiB") as served,
        rnvm.connect(served.address, timeout=20) as fe,
        rnvm.connect(served.address, timeout=20) as holder,
    ):
        tree, other = kind(holder, "t"), structures.BPlusTree(fe, "other")
        list_many(holder, tree)
        late = 0
        with holder.transaction(tree), pytest.raises(OutOfMemory):
            for n in range(100_000):
                try:
                    other.set(b"%06d" % n, b"f" * 900, timeout=2)
                except DeadlineExceeded:  # a busy machine has held up this call
                    late += 1
                    assert late < 3
        other[b"one more"] = b"f" * 900


@pytest.mark.parametrize(
    ("kind", "lock"), [*((each, "sticky") for each in VERSIONED), (VERSIONED[0], "cas")]
)
def test_a_full_pool_ends_no_session_that_keeps_a_lock_of_another_structure(
    kind: Any, lock: str
) -> None:
    lease = 0.25
    with (
        backend("8MiB", lease=lease) as served,
        rnvm.connect(served.address, timeout=20, lock=lock) as fe,
        rnvm.connect(f"{served.address}?rtt=1us", timeout=20) as idle,
        rnvm.connect(served.address, timeout=20, lock=lock) as busy,
    ):
        trees = [kind(idle, "idle"), kind(busy, "busy")]
        other = structures.BPlusTree(fe, "other")
        list_many(idle, trees[0])
        list_many(busy, trees[1])
        churn(trees[0], 1)
        ended = served.figures()["pool"]["fenced"]
        with busy.transaction(trees[1]):
            churn(trees[1], 1)
            until = time.monotonic() + 4 * lease
            while time.monotonic() < until:
                filled(other)
        churn(trees[0], 1)
        assert served.figures()["pool"]["fenced"] == ended
        other.clear()
        for tree in trees:
            tree.check()


@EACH
def test_a_program_that_repeats_puts_in_a_full_pool_makes_few_calls(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address, timeout=20) as fe:
        trees = [kind(fe, f"t{i}") for i in range(12)]
        other = structures.BPlusTree(fe, "other")
        filled(other)
        before = fe.figures["calls"]
        for n in range(50):
            with pytest.raises(OutOfMemory):
                other[b"more%06d" % n] = b"f" * 900
        assert fe.figures["calls"] - before < 50 * len(trees) // 2


# Long values


@EACH
def test_a_long_value_that_finds_no_row_of_blocks_ends_no_snapshot(kind: Any) -> None:
    with (
        backend("16MiB") as served,
        rnvm.connect(served.address, timeout=20) as fe,
        rnvm.connect(served.address, cache=0) as reader,
    ):
        tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
        churn(tree, 1, b"old")
        fe.release()
        with kind(reader, "t").snapshot() as before:
            expected = dict(before)
            tree[b"0000"] = b"changed"
            n = filled(other)
            with pytest.raises(OutOfMemory, match="in a row"):
                tree[b"long"] = b"l" * 100_000
            assert dict(before) == expected
        for i in range(n // 2):
            del other[b"%06d" % i]
        churn(tree, 2)


@EACH
def test_a_long_value_takes_the_row_of_an_earlier_one_from_a_snapshot(kind: Any) -> None:
    with (
        backend("16MiB") as served,
        rnvm.connect(served.address, timeout=20) as fe,
        rnvm.connect(served.address, cache=0) as reader,
    ):
        tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
        tree[b"long"] = b"l" * 100_000
        with kind(reader, "t").snapshot() as before:
            del tree[b"long"]
            filled(other)
            tree[b"longer"] = b"m" * 95_000
            with contextlib.suppress(SnapshotTooOld):
                assert before[b"long"] == b"l" * 100_000
        assert tree[b"longer"] == b"m" * 95_000
        tree.check()


# Names


@EACH
def test_the_end_of_a_dropped_structures_snapshot_ends_no_other(kind: Any) -> None:
    with (
        backend("32MiB") as served,
        rnvm.connect(served.address, timeout=20) as fe,
        rnvm.connect(served.address) as other,
    ):
        dropped = kind(fe, "dropped")
        dropped[b"k"] = b"v"
        before = dropped.snapshot()
        fe.release()
        other.drop("dropped")
        tree = kind(fe, "t")  # in the place of the dropped one
        assert tree._index() == dropped._index()
        churn(tree, 1, b"old")
        fe.release()
        with tree.snapshot() as kept:
            expected = dict(kept)
            before.close()
            theirs = kind(other, "t")
            churn(theirs, 10)
            assert dict(kept) == expected


# A root from the future


def forge_root(path: Path, ahead: int) -> None:
    """Let the older half of the only multi-version root be of a later transaction, as if the pool's
    progress had been lost; all checksums are right.

    rnvm/format/version.h and node.h have the layout.
    """
    data = bytearray(path.read_bytes())
    seed = crc32c(bytes(data[4096 + 40 : 4096 + 56]))  # the UUID in the header
    at = next(
        at
        for at in range(0, len(data) - 128, 8)
        if struct.unpack_from("<IxxxxH", data, at + 4) == (128, 1)
        and struct.unpack_from("<Q", data, at + 16)[0] & (1 << 48) - 1 == at
        and crc32c(bytes(data[at + 4 : at + 128]), seed) == struct.unpack_from("<I", data, at)[0]
    )
    root = struct.pack("<Q", *struct.unpack_from("<Q", data, at + 16))
    halves = [struct.unpack_from("<Q", data, at + 32 + 32 * i)[0] for i in range(2)]
    older = at + 32 + 32 * halves.index(min(halves))
    struct.pack_into("<Q", data, older, max(halves) + ahead)
    struct.pack_into("<I", data, older + 28, crc32c(bytes(data[older : older + 28]),
                                                    crc32c(root, seed)))  # fmt: skip
    struct.pack_into("<I", data, at, crc32c(bytes(data[at + 4 : at + 128]), seed))
    path.write_bytes(data)


@EACH
@pytest.mark.parametrize("ahead", [1, 5])
def test_a_root_of_a_later_transaction_than_the_structure_is_damage(kind: Any, ahead: int) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        path = Path(folder) / "pool"
        with (
            rnvm.Backend(path, size="4MiB", assume_persistent=True) as served,
            rnvm.connect(served.address, timeout=20) as fe,
        ):
            tree = kind(fe, "t")
            for i in range(9):
                tree[b"%d" % i] = b"v"
            tree.check()
            del tree
        forge_root(path, ahead)
        with rnvm.Backend(path) as served, rnvm.connect(served.address, timeout=20) as fe:
            tree = kind(fe, "t")
            for attempt in (
                lambda: tree.update({b"new": b"w"}),  # it would be written beside, and be invisible
                lambda: tree.pop(b"1"),
                tree.check,
            ):
                with pytest.raises(StructureDamaged, match="later transaction"):
                    attempt()


# Time-outs


@EACH
def test_a_time_out_while_memory_is_freed_ends_no_session(kind: Any) -> None:
    rng = random.Random(3)
    with backend("4MiB") as served, rnvm.connect(served.address, timeout=20) as fe:
        tree = kind(fe, "t")
        churn(tree, 1)
        served._service._go_slow(collecting=True)  # the logs become full
        session, late = fe.figures["epoch"], 0
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            try:
                tree.set(b"%04d" % rng.randrange(100), b"w" * rng.randrange(60),
                         timeout=rng.uniform(5e-6, 4e-4))  # fmt: skip
            except DeadlineExceeded:
                late += 1
                assert fe.figures["epoch"] == session
        assert late
        tree.set(b"0000", b"last", timeout=20)
        tree.check()


# A reader that is stopped, at any moment

READER = """
    import sys, time, rnvm, structures
    from rfp.errors import SnapshotTooOld
    address, kind, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None
    right = old = 0
    with rnvm.connect(address, timeout=30, cache=0) as fe:
        tree = getattr(structures, kind)(fe, "t", partitions=partitions)
        print("ready", flush=True)
        ends = time.monotonic() + 8
        while right + old == 0 or time.monotonic() < ends and (right < 8 or old < 1):
            try:
                with tree.snapshot() as before:
                    first = dict(before)
                    assert len({*first.values()}) == 1, "MIXED"
                    for _ in range(5):
                        assert dict(before) == first, "CHANGED"
                    right += 1
            except SnapshotTooOld:
                old += 1
            assert len({tree[b"%03d" % i] for i in range(3)}) <= 3
    print(right, old, flush=True)
"""


@EACH
@pytest.mark.parametrize("partitions", [0, 3], ids=["whole", "partitions"])
@pytest.mark.parametrize(
    "network",
    [pytest.param("", id="mapped"), pytest.param("?rtt=1us", id="network", marks=pytest.mark.long)],
)
def test_a_reader_stopped_at_any_moment_sees_one_version_or_none(
    kind: Any, partitions: int, network: str
) -> None:
    with (
        backend("4MiB", snapshot_lifetime=0.01) as served,
        rnvm.connect(served.address, timeout=30) as fe,
    ):
        tree = kind(fe, "t", partitions=partitions or None)
        keys = [b"%03d" % i for i in range(60)]
        over = threading.Event()

        def write() -> None:
            turn = 0
            while not over.is_set():
                turn += 1
                with fe.transaction(tree):
                    tree.update(dict.fromkeys(keys, b"%d" % turn * 12))

        with fe.transaction(tree):
            tree.update(dict.fromkeys(keys, b"0"))
        arguments = [f"{served.address}{network}", kind.__name__, str(partitions)]
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(READER), *arguments],
            stdout=subprocess.PIPE, text=True,
        ) as reader:  # fmt: skip
            writer = threading.Thread(target=write)
            try:
                assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
                writer.start()
                rng = random.Random(11)
                deadline = time.monotonic() + PATIENCE
                while reader.poll() is None and time.monotonic() < deadline:
                    time.sleep(rng.uniform(0, 0.01))
                    stop(reader.pid)
                    version = fe.figures["writes"]
                    # Long enough for its lifetime, and until its memory was used again.
                    until = time.monotonic() + 0.05
                    while time.monotonic() < until or fe.figures["writes"] < version + 40:
                        time.sleep(0.001)
                    reader.send_signal(signal.SIGCONT)
                assert reader.wait(PATIENCE) == 0
                right, old = map(int, reader.stdout.readline().split())
                assert right + old
            finally:
                over.set()
                if writer.ident:
                    writer.join()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(reader.pid, signal.SIGCONT)
                reader.kill()
        tree.check()
