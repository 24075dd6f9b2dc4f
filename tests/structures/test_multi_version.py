"""Multi-version structures: snapshots, readers that no writer disturbs, and the retire list."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import server_addresses
from slower import rounds
from stopping import stop
from structure_kinds import VERSIONED, each_of

import rnvm
import structures
from rfp.errors import (
    CallerError,
    Closed,
    NotFound,
    OutOfMemory,
    RfpError,
    SnapshotTooOld,
    StructureDamaged,
)
from rnvm.frontend import node_cache, version_use
from structures.testing.harness import Memory

from . import memory
from .backends import backend

EACH = each_of(VERSIONED)
ON_MEMORY = each_of(memory.VERSIONED)
RETIRED = 16  # type of a chunk of the retire list
PATIENCE = 60.0  # seconds until a process of a test must have done its part

WRITER = """
    import select, sys, rnvm, structures
    address, kind, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with rnvm.connect(address, timeout=30) as fe:
        tree = getattr(structures, kind)(fe, "t")
        print("ready", flush=True)
        turn = 0
        while turn < rounds or not select.select([sys.stdin], [], [], 0)[0]:
            turn += 1
            for i in range(200):
                tree[b"%04d" % i] = b"%d" % turn * 20
    print("done", flush=True)
"""
READER = """
    import sys, rnvm, structures
    from rfp.errors import SnapshotTooOld
    address, kind = sys.argv[1], sys.argv[2]
    with rnvm.connect(address, timeout=30, cache=0) as fe:
        tree = getattr(structures, kind)(fe, "t")
        with tree.snapshot() as before:
            expected = dict(before)
            print("ready", flush=True)
            sys.stdin.readline()
            try:
                print("same" if dict(before) == expected else "WRONG", flush=True)
            except SnapshotTooOld:
                print("too old", flush=True)
        present = dict(tree)
        print("whole" if len({*present.values()}) == 1 else "MIXED", flush=True)
"""


@contextlib.contextmanager
def process(source: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the end of the block at most."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def fill(tree: Any, value: bytes = b"x" * 20, n: int = 200) -> None:
    tree.bulk_load((b"%04d" % i, value) for i in range(n))


# Readers


@EACH
def test_a_busy_writer_makes_no_reader_begin_again(kind: Any) -> None:
    with backend() as served, rnvm.connect(served.address, timeout=30) as fe:
        tree = kind(fe, "t")
        fill(tree)
        fe.release()
        with process(WRITER, served.address, kind.__name__, 40) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
            assert writer.stdin is not None
            lookups = scans = 0
            deadline = time.monotonic() + PATIENCE
            while writer.poll() is None and time.monotonic() < deadline:
                for i in range(0, 200, 7):
                    assert tree[b"%04d" % i]
                    lookups += 1
                assert len(list(tree)) == 200
                scans += 1
                if lookups > 100 and scans > 10 and not writer.stdin.closed:
                    writer.stdin.close()  # it may end
            assert writer.wait(PATIENCE) == 0
        assert lookups > 100 and scans > 10
        assert fe.figures["restarts"] == 0
        tree.check()


@EACH
@pytest.mark.anywhere
def test_an_iteration_of_a_snapshot_sees_one_version(kind: Any) -> None:
    n = rounds(200)
    with backend() as served, rnvm.connect(served.address, timeout=30) as fe:
        tree = kind(fe, "t")
        fill(tree, b"old", n)
        with tree.snapshot() as before:
            seen = []
            for key, value in before.items():
                seen.append((key, value))
                tree[key] = b"new"
                tree[key + b"+"] = b"added"
                del tree[min(tree)]
            assert seen == [(b"%04d" % i, b"old") for i in range(n)]
        tree.check()


@EACH
@pytest.mark.anywhere
@pytest.mark.parametrize(
    "network", ["", pytest.param("?rtt=1us", marks=pytest.mark.shm)], ids=["mapped", "network"]
)
def test_snapshots_are_as_the_model_was(kind: Any, network: str) -> None:
    rng = random.Random(17)
    keys = [b"%03d" % i for i in range(120)]
    with (
        backend() as served,
        rnvm.connect(served.address) as fe,
        rnvm.connect(f"{served.address}{network}", lock="each") as other,
    ):
        trees = [kind(fe, "t"), kind(other, "t")]
        model: dict[bytes, bytes] = {}
        opened: list[tuple[Any, dict[bytes, bytes]]] = []
        for step in range(rounds(1500)):
            tree = rng.choice(trees) if rng.random() < 0.05 else trees[0]
            if tree is not trees[0]:
                fe.release()  # over verbs it would be fenced, and lose its snapshots
            key = rng.choice(keys)
            action = rng.random()
            if action < 0.5:
                model[key] = tree[key] = b"%d" % step * rng.choice((1, 10, 100))
            elif action < 0.7:
                assert tree.pop(key, None) == model.pop(key, None)
            elif action < 0.71:
                tree.clear()
                model.clear()
            elif action < 0.75:
                with fe.batch():
                    for more in rng.sample(keys, 9):
                        model[more] = trees[0][more] = b"batch %d" % step
            elif action < 0.8:
                opened.append((rng.choice(trees).snapshot(), dict(model)))
            elif action < 0.84 and opened:
                opened.pop(rng.randrange(len(opened)))[0].close()
            elif opened:
                snapshot, then = rng.choice(opened)
                low, high = sorted(rng.sample(keys, 2))
                assert snapshot.get(key) == then.get(key)
                assert len(snapshot) == len(then)
                within = sorted(item for item in then.items() if low <= item[0] < high)
                assert list(snapshot.range(low, high)) == within
                assert snapshot.count(low, high) == len(within)
                assert list(snapshot.range(low, high, reverse=True)) == within[::-1]
        for snapshot, then in opened:
            assert dict(snapshot) == then
            if then:
                assert snapshot.first() == min(then.items())
                assert snapshot.last() == max(then.items())
            snapshot.close()
        assert dict(trees[1]) == model
        for tree in trees:
            tree.check()
            fe.release()


@EACH
def test_a_snapshot_reads_nothing_that_it_has_cached(kind: Any) -> None:
    with backend() as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        fill(tree)
        with rnvm.connect(served.address) as other:
            with kind(other, "t").snapshot() as before:
                expected = dict(before)
                reads = other.figures["reads"]
                tree[b"0007"] = b"changed"
                assert dict(before) == expected
                assert other.figures["reads"] == reads


# Memory


@EACH
def test_endless_updates_take_bounded_memory(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        for turn in range(40):
            for i in range(100):
                tree[b"%04d" % i] = b"%d" % turn * 30
        tree.check()
        assert len(tree) == 100


@EACH
def test_a_snapshot_is_given_up_before_a_writer_runs_out_of_memory(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        fill(tree, b"old")
        with rnvm.connect(served.address) as other:
            before = kind(other, "t").snapshot()
            for turn in range(60):
                for i in range(100):
                    tree[b"%04d" % i] = b"%d" % turn * 30
            with pytest.raises(SnapshotTooOld):
                dict(before)
            before.close()
            assert kind(other, "u") is not None
        tree.check()


def kept(kind: Any) -> bool:
    """Return whether a snapshot is complete after many changes for which there is room."""
    with (
        backend("32MiB") as served,
        rnvm.connect(served.address) as fe,
        rnvm.connect(served.address) as other,
    ):
        tree = kind(fe, "t")
        fill(tree, b"old")
        fe.release()
        with kind(other, "t").snapshot() as before:
            for turn in range(8):
                for i in range(100):
                    tree[b"%04d" % i] = b"%d" % turn * 30
            tree.check()
            try:
                return set(before.values()) == {b"old"}
            except SnapshotTooOld:
                return False


@EACH
def test_a_snapshot_keeps_its_memory_while_blocks_last(kind: Any) -> None:
    assert kept(kind)


@EACH
def test_a_session_that_publishes_no_version_loses_its_snapshots(kind: Any) -> None:
    version_use._skip_publishing(True)
    try:
        assert not kept(kind)
    finally:
        version_use._skip_publishing(False)


@EACH
def test_a_snapshot_is_kept_no_longer_than_its_lifetime(kind: Any) -> None:
    with (
        backend("32MiB", snapshot_lifetime=0.05) as served,
        rnvm.connect(served.address) as fe,
        rnvm.connect(served.address, cache=0) as other,
    ):
        tree = kind(fe, "t")
        fill(tree, b"old")
        before = kind(other, "t").snapshot()
        deadline = time.monotonic() + PATIENCE
        with pytest.raises(SnapshotTooOld):
            while time.monotonic() < deadline:
                for i in range(100):
                    tree[b"%04d" % i] = b"new"
                assert set(before.values()) == {b"old"}
        before.close()


@EACH
def test_clear_is_one_operation_and_frees_the_pages_later(kind: Any) -> None:
    with backend("16MiB") as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        for _turn in range(6):
            tree.bulk_load((b"%05d" % i, b"v" * 200) for i in range(5000))
            tree[b"long"] = b"l" * 5000
            with tree.snapshot() as before:
                tree.clear()
                assert len(tree) == 0 and len(before) == 5001
                assert before[b"long"] == b"l" * 5000
            tree.check()


# Lives of a snapshot


@EACH
@pytest.mark.anywhere
def test_a_snapshot_ends_with_its_session(kind: Any) -> None:
    with backend() as served:
        fe = rnvm.connect(served.address)
        tree = kind(fe, "t")
        tree[b"k"] = b"v"
        before = tree.snapshot()
        with tree.snapshot() as closed:
            pass
        with pytest.raises(CallerError):
            closed[b"k"]
        fe.close()
        with pytest.raises(Closed):
            before[b"k"]
        before.close()
        before.close()


@EACH
@pytest.mark.anywhere
def test_a_snapshot_of_a_restarted_back_end_is_too_old(kind: Any, private: Path) -> None:
    path = os.path.join(os.environ["TESTS_MEMORY"], f"restarted-{kind.__name__}")
    address = server_addresses.own(private)
    try:
        with rnvm.Backend(path, size="8MiB", assume_persistent=True, address=address):
            fe = rnvm.connect(address, timeout=20)
            tree = kind(fe, "t")
            tree[b"k"] = b"v"
            before = tree.snapshot()
        with rnvm.Backend(path, address=address):
            assert tree[b"k"] == b"v"  # in a new session
            with pytest.raises(SnapshotTooOld):
                before[b"k"]
            with tree.snapshot() as again:
                assert again[b"k"] == b"v"
            before.close()
            fe.close()
    finally:
        os.unlink(path)


@EACH
def test_a_snapshot_of_a_dropped_structure_returns_no_wrong_data(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        fill(tree, b"old")
        fe.release()
        with rnvm.connect(served.address) as other:
            other.drop("t")
            with pytest.raises(NotFound):
                tree.snapshot()
            filler = kind(other, "filler")
            with contextlib.suppress(OutOfMemory):
                fill(filler, b"f" * 200, 20000)


@EACH
def test_a_forked_child_cannot_use_or_close_its_parents_snapshot(kind: Any) -> None:
    with backend() as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        tree[b"k"] = b"v"
        with tree.snapshot() as before:
            child = os.fork()
            if not child:
                status = 1
                with contextlib.suppress(BaseException):
                    try:
                        before[b"k"]
                    except RfpError:
                        before.close()
                        status = 0
                os._exit(status)
            assert os.waitpid(child, 0)[1] == 0
            assert before[b"k"] == b"v"


@EACH
@pytest.mark.anywhere
def test_snapshots_in_batches_and_transactions(kind: Any) -> None:
    with backend() as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        tree[b"k"] = b"1"
        with fe.batch():
            tree[b"k"] = b"2"
            with tree.snapshot() as inside:
                tree[b"k"] = b"3"
                assert inside[b"k"] == b"2"
            tree[b"k"] = b"4"
        with tree.snapshot() as before, fe.transaction(tree):
            assert tree.snapshot()[b"k"] == b"4"
            tree[b"k"] = b"5"
            assert before[b"k"] == b"4" and tree[b"k"] == b"5"
            with pytest.raises(CallerError):
                tree.snapshot()
        assert tree[b"k"] == b"5"
        tree.check()
        other = kind(fe, "other")
        with fe.transaction(tree, other):
            tree[b"k"] = other[b"k"] = b"6"
        fe.release()
        with rnvm.connect(served.address) as reader:
            both = [kind(reader, name) for name in ("t", "other")]
            first, second = structures.snapshots_of(both)
            with fe.transaction(tree, other):
                tree[b"k"] = other[b"k"] = b"7"
            with first, second:
                assert first[b"k"] == second[b"k"] == b"6"
            assert both[0][b"k"] == both[1][b"k"] == b"7"


@EACH
def test_snapshots_of_several_structures_are_of_one_moment(kind: Any) -> None:
    with backend() as served, rnvm.connect(served.address) as fe:
        a, b = kind(fe, "a"), kind(fe, "b")
        a[b"n"] = b[b"n"] = b"0"
        fe.release()
        source = """
            import itertools, select, sys, rnvm, structures
            with rnvm.connect(sys.argv[1], timeout=30) as fe:
                a, b = (getattr(structures, sys.argv[2])(fe, name) for name in "ab")
                print("ready", flush=True)
                for i in itertools.count():
                    if i >= 1500 and select.select([sys.stdin], [], [], 0)[0]:
                        break
                    with fe.transaction(a, b):
                        a[b"n"] = b[b"n"] = b"%d" % i
        """
        with process(source, served.address, kind.__name__) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
            assert writer.stdin is not None
            seen = set()
            while writer.poll() is None:
                first, second = structures.snapshots_of([a, b])
                assert first[b"n"] == second[b"n"]
                seen.add(first[b"n"])
                first.close()
                second.close()
                if len(seen) > 2 and not writer.stdin.closed:
                    writer.stdin.close()  # it may end
            assert writer.wait(PATIENCE) == 0
        assert len(seen) > 2


# Snapshots that were given up


def churn(tree: Any, turns: int) -> None:
    for turn in range(turns):
        for i in range(100):
            tree[b"%04d" % i] = b"%d" % turn * 30


@EACH
def test_a_given_up_snapshot_removes_no_copy_of_another_structure(kind: Any) -> None:
    rng = random.Random(5)
    with backend("8MiB", snapshot_lifetime=0.01) as served, rnvm.connect(served.address) as fe:
        tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
        fill(tree, b"old" * 30, 12000)
        before = tree.snapshot()
        time.sleep(0.02)  # its lifetime
        tree.clear()
        churn(tree, 1)
        tree.clear()
        n = 0
        with contextlib.suppress(OutOfMemory), fe.batch():
            for i in range(8000):
                other[b"%05d" % i] = b"new%05d" % i * 8
                n = i + 1
                with contextlib.suppress(SnapshotTooOld, KeyError):
                    assert before[b"%04d" % rng.randrange(9999)] == b"old" * 30
        other.check()
        tree.check()
        assert all(other[b"%05d" % i] == b"new%05d" % i * 8 for i in range(n))
        before.close()


@EACH
def test_a_given_up_snapshot_leaves_later_ones_their_memory(kind: Any) -> None:
    with (
        backend("8MiB") as served,
        rnvm.connect(served.address) as fe,
        rnvm.connect(served.address, cache=0) as other,
    ):
        tree, theirs = kind(fe, "t"), kind(other, "t")
        fill(tree, b"old")
        fe.release()
        forgotten = theirs.snapshot()
        churn(tree, 60)
        for turn in range(5):
            with theirs.snapshot() as before:
                expected = dict(before)
                churn(tree, 1)
                assert dict(before) == expected, turn
        with pytest.raises(SnapshotTooOld):
            dict(forgotten)
        forgotten.close()


@EACH
def test_a_closed_snapshot_keeps_no_memory(kind: Any) -> None:
    found = []
    for early in (True, False):
        with backend("16MiB") as served, rnvm.connect(served.address) as fe:
            tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
            fill(tree, b"old")
            before, second = tree.snapshot(), tree.snapshot()
            if early:
                before.close()
                second.close()
            churn(tree, 6)
            before.close()
            second.close()
            churn(tree, 4)
            n = 0
            with contextlib.suppress(OutOfMemory):
                while True:
                    other[b"%06d" % n] = b"f" * 900
                    n += 1
            found.append(n)
    assert found[1] > found[0] * 0.8


@EACH
def test_a_long_value_in_a_transaction_uses_the_memory_of_earlier_versions(kind: Any) -> None:
    with backend("16MiB") as served, rnvm.connect(served.address) as fe:
        tree, other = kind(fe, "t"), structures.BPlusTree(fe, "other")
        fill(tree, b"old")
        with rnvm.connect(served.address) as reader, kind(reader, "t").snapshot():
            churn(tree, 4)  # few enough for the snapshot to be kept
            with contextlib.suppress(OutOfMemory):
                for i in range(100000):
                    other[b"%06d" % i] = b"f" * 900
        with fe.transaction(tree):
            tree[b"long"] = b"z" * min(tree.largest_value, 20000)
        tree.check()


# A reader that is stopped


def fill_pool(other: Any) -> None:
    """Use all memory, also that of versions whose readers have had their time."""
    with contextlib.suppress(OutOfMemory):
        for i in range(100_000):
            other[b"%06d" % i] = b"f" * 900


def stopped_reader(kind: Any, size: str, rounds: int) -> list[str]:
    """Stop a reader with an open snapshot, change everything many times; return its reports."""
    with (
        backend(size, snapshot_lifetime=0.05) as served,
        rnvm.connect(served.address, timeout=30) as fe,
    ):
        tree = kind(fe, "t")
        fill(tree, b"x" * 20)
        fe.release()
        with process(READER, served.address, kind.__name__) as reader:
            assert reader.stdout is not None and reader.stdin is not None
            assert reader.stdout.readline() == "ready\n"
            stop(reader.pid)
            for turn in range(rounds):
                with fe.batch():
                    for i in range(200):
                        tree[b"%04d" % i] = b"%d" % (turn % 10) * 20
            if rounds:
                fill_pool(structures.BPlusTree(fe, "other"))
            tree.check()
            fe.release()
            os.kill(reader.pid, signal.SIGCONT)
            out, _ = reader.communicate("go on\n", timeout=PATIENCE)
        return out.split("\n")[:-1]


@EACH
def test_a_stopped_reader_sees_its_version_or_none(kind: Any) -> None:
    assert stopped_reader(kind, "8MiB", 300) == ["too old", "whole"]


@EACH
def test_a_stopped_reader_whose_memory_was_not_used_again_goes_on(kind: Any) -> None:
    assert stopped_reader(kind, "32MiB", 0) == ["same", "whole"]


# Planted faults


def misread(kind: Any) -> bool:
    """Return whether a snapshot whose memory was used again returns wrong data or seems damaged."""
    with (
        backend("8MiB", snapshot_lifetime=0.01) as served,
        rnvm.connect(served.address) as fe,
        rnvm.connect(served.address) as other,
    ):
        tree = kind(fe, "t")
        fill(tree, b"old")
        before = kind(other, "t").snapshot()
        for turn in range(60):
            for i in range(100):
                tree[b"%04d" % i] = b"%d" % turn * 30
        try:
            return dict(before) != {b"%04d" % i: b"old" for i in range(200)}
        except SnapshotTooOld:
            return False
        except (StructureDamaged, KeyError):  # a key that its iteration has found is not there
            return True
        finally:
            before.close()


@pytest.mark.planted
@EACH
def test_a_reader_that_checks_no_versions_is_caught(kind: Any) -> None:
    assert not misread(kind)
    node_cache._skip_version_checks(True)
    try:
        assert misread(kind)
    finally:
        node_cache._skip_version_checks(False)


# On plain memory


@ON_MEMORY
def test_listed_nodes_are_freed_when_no_reader_uses_them(kind: Any) -> None:
    with contextlib.nullcontext(Memory()) as fe:
        tree = kind(fe, "t")
        fe.retain(0)
        for i in range(300):
            tree[b"%03d" % i] = b"v" * 50
        kept = fe.used
        tree.check()
        fe.retain(None)
        for i in range(300):
            tree[b"%03d" % i] = b"w" * 50
        tree.check()
        assert fe.used < kept // 4


@ON_MEMORY
def test_an_operation_frees_a_bounded_number_of_nodes(kind: Any) -> None:
    fe = Memory()
    tree = kind(fe, "t")
    fe.retain(0)
    for i in range(2000):
        tree[b"%03d" % (i % 100)] = b"v" * 50
    fe.retain(None)
    before = len(fe.nodes())
    tree[b"000"] = b"w"
    assert before - 200 < len(fe.nodes()) < before


@ON_MEMORY
def test_damage_in_a_retired_tree_does_not_stop_writers(kind: Any) -> None:
    fe = Memory()
    tree = kind(fe, "t")
    for i in range(600):
        tree[b"%03d" % i] = b"v" * 50
    fe.retain(0)
    tree.clear()
    for address, type_of, content in fe.nodes():
        if type_of not in (1, RETIRED):
            fe.damage(address, 32 + len(content) // 2, bytes([content[len(content) // 2] ^ 1]))
    fe.retain(None)
    for i in range(600):
        tree[b"%03d" % i] = b"w" * 50
    assert set(tree.values()) == {b"w" * 50}


@ON_MEMORY
def test_a_snapshot_on_plain_memory_is_unchanged(kind: Any) -> None:
    fe = Memory()
    tree = kind(fe, "t")
    fe.retain(0)
    for i in range(500):
        tree[b"%03d" % i] = b"v"
    with tree.snapshot() as before:
        for i in range(0, 500, 2):
            del tree[b"%03d" % i]
        tree.check()
        assert len(before) == 500 and len(list(before)) == 500
        assert list(tree) == list(before)[1::2]
