"""Multi-version structures that one session alone has opened: their nodes are changed in place."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest
from structure_kinds import VERSIONED, each_of
from time_bounds import in_some_try

import rnvm
import structures
from rfp.errors import OutOfMemory, SnapshotTooOld
from rnvm.backend import openings
from structures.testing.harness import Memory

from . import memory
from .backends import backend

EACH = each_of(VERSIONED)
ON_MEMORY = each_of(memory.VERSIONED)
KEYS = [b"%05d" % i for i in range(2000)]
PATIENCE = 60.0  # seconds until a process of a test must have done its part

# Changes two keys by turns until it is stopped, so that the second is never ahead of the first.
WRITER = """
    import sys, rnvm, structures
    address, kind, batches = sys.argv[1], sys.argv[2], sys.argv[3] == "batches"
    with rnvm.connect(address, timeout=30) as fe:
        tree = getattr(structures, kind)(fe, "t")
        print("ready", flush=True)
        n = 0
        while True:
            n += 1
            if batches:
                with fe.batch():
                    tree[b"00000"] = tree[b"01999"] = b"%09d" % n
            else:
                tree[b"00000"] = b"%09d" % n
                tree[b"01999"] = b"%09d" % n
                tree[b"%05d+" % (n % 2000)] = b"x"
                tree.pop(b"%05d+" % ((n + 1000) % 2000), None)
"""


@contextlib.contextmanager
def writer(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), *map(str, arguments)],
        stdout=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def bytes_logged(fe: rnvm.FrontEnd, served: rnvm.Backend, change: Any) -> float:
    """Return the bytes that one of many changes adds to the logs."""
    fe.release()
    before = served.figures()["pool"]["collected"]
    for key in KEYS[::10]:
        change(key)
    fe.release()
    return (served.figures()["pool"]["collected"] - before) / len(KEYS[::10])


def fill(tree: Any) -> None:
    tree.bulk_load((key, b"%09d" % 0) for key in KEYS)


@EACH
def test_only_a_shared_structure_copies_the_nodes_above_a_change(kind: Any) -> None:
    with backend() as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        fill(tree)

        def change(key: bytes) -> None:
            tree[key] = b"changed"

        alone = bytes_logged(fe, served, change)
        with rnvm.connect(served.address) as other:
            theirs = kind(other, "t")
            shared = bytes_logged(fe, served, change)
        del theirs
        deadline = time.monotonic() + PATIENCE
        while bytes_logged(fe, served, change) > shared / 2:
            assert time.monotonic() < deadline, "the other session has ended, and still counts"
        assert alone < shared / 2
        with rnvm.connect(f"{served.address}?rtt=1us") as other:
            kind(other, "another one")
            assert bytes_logged(fe, served, change) < shared / 2
        tree.check()


@EACH
def test_a_session_that_closes_the_structure_leaves_the_other_one_alone(kind: Any) -> None:
    with (
        backend() as served,
        rnvm.connect(served.address) as fe,
        rnvm.connect(served.address) as other,
    ):
        tree = kind(fe, "t")
        fill(tree)

        def change(key: bytes) -> None:
            tree[key] = b"changed"

        bytes_logged(fe, served, change)
        alone = bytes_logged(fe, served, change)
        theirs = kind(other, "t")
        assert theirs[KEYS[0]] == b"changed"
        assert bytes_logged(fe, served, change) > 2 * alone
        del theirs
        assert bytes_logged(fe, served, change) < 2 * alone
        with rnvm.connect(f"{served.address}?rtt=1us") as far:
            theirs = kind(far, "t")
            before = theirs.snapshot()
            del theirs  # its snapshot reads it still
            assert bytes_logged(fe, served, change) > 2 * alone
            assert len(before) == len(KEYS)
            del before
            assert bytes_logged(fe, served, change) < 2 * alone
        tree.check()


@EACH
def test_a_session_that_frees_what_the_structure_lists_leaves_the_other_one_alone(
    kind: Any,
) -> None:
    with (
        backend("8MiB") as served,
        rnvm.connect(served.address) as fe,
        rnvm.connect(served.address) as other,
    ):
        tree = kind(fe, "t")
        fill(tree)

        def change(key: bytes) -> None:
            tree[key] = b"changed"

        bytes_logged(fe, served, change)
        alone = bytes_logged(fe, served, change)
        theirs = structures.BPlusTree(other, "other")
        with pytest.raises(OutOfMemory):
            for i in range(1 << 20):
                theirs[b"%07d" % i] = b"v" * 900
        assert bytes_logged(fe, served, change) < 2 * alone
        tree.check()


@EACH
def test_without_memory_for_its_openings_a_structure_counts_as_shared(kind: Any) -> None:
    with (
        backend() as served,
        rnvm.connect(served.address) as fe,
        rnvm.connect(served.address) as other,
    ):
        openings._plant_no_memory(True)
        try:
            tree = kind(fe, "t")
        finally:
            openings._plant_no_memory(False)
        fill(tree)
        theirs, apart = kind(other, "t"), kind(other, "apart")
        fill(apart)

        def change(mapping: Any) -> Any:
            return lambda key: mapping.__setitem__(key, b"changed")

        bytes_logged(other, served, change(apart))
        alone = bytes_logged(other, served, change(apart))
        for _ in range(2):
            assert bytes_logged(other, served, change(theirs)) > 2 * alone
        assert tree[KEYS[0]] == b"changed"
        fe.release()
        other.release()
        del tree, theirs
        fe.drop("t")
        again = kind(fe, "t")
        fill(again)
        bytes_logged(fe, served, change(again))
        assert bytes_logged(fe, served, change(again)) < 2 * alone


@EACH
def test_a_session_that_opens_many_structures_waits_for_a_transaction_once(kind: Any) -> None:
    with (
        backend(lease=0.3) as served,
        rnvm.connect(served.address, timeout=20) as fe,
        rnvm.connect(f"{served.address}?rtt=1us", timeout=20) as other,
    ):
        tree, lock = kind(fe, "t", partitions=16), structures.Stack(fe, "lock")
        theirs, theirs_lock = kind(other, "t", partitions=16), structures.Stack(other, "lock")

        def wait_once() -> None:
            tree[b"k"] = b"v"
            assert theirs[b"k"] == b"v"
            fe.release()
            theirs_lock.push(b"kept")
            lock.push(b"taken away")  # after a lease: the session of the other one ends
            with fe.transaction(tree):
                tree[b"k"] = b"w"
                epoch = other.figures["epoch"]
                began = time.monotonic()
                assert theirs[b"k"] == b"v"
                assert other.figures["epoch"] != epoch
                assert time.monotonic() < began + 2  # a wait for each structure takes longer

        in_some_try(wait_once)


@EACH
def test_snapshots_of_the_session_itself_keep_their_nodes(kind: Any) -> None:
    rng = random.Random(5)
    keys = KEYS[:150]
    with backend() as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        model: dict[bytes, bytes] = {}
        opened: list[tuple[Any, dict[bytes, bytes]]] = []

        def change(step: int) -> None:
            key = rng.choice(keys)
            if rng.random() < 0.6:
                model[key] = tree[key] = b"%d" % step * rng.choice((1, 10, 100))
            else:
                assert tree.pop(key, None) == model.pop(key, None)

        for step in range(1500):
            action = rng.random()
            if action < 0.6:
                change(step)
            elif action < 0.7:
                with fe.batch():
                    for _ in range(4):
                        change(step)
                    if action < 0.65:
                        opened.append((tree.snapshot(), dict(model)))
                        change(step)
            elif action < 0.75:
                with fe.transaction(tree):
                    if action < 0.73:
                        opened.append((tree.snapshot(), dict(model)))
                    for _ in range(4):
                        change(step)
                    if opened:
                        snapshot, then = rng.choice(opened)
                        assert dict(snapshot) == then
            elif action < 0.8:
                opened.append((tree.snapshot(), dict(model)))
            elif action < 0.9 and opened:
                opened.pop(rng.randrange(len(opened)))[0].close()
            elif opened:
                snapshot, then = rng.choice(opened)
                assert dict(snapshot) == then
        assert dict(tree) == model
        tree.check()
        for snapshot, then in opened:
            assert dict(snapshot) == then
            snapshot.close()


@EACH
@pytest.mark.parametrize("how", ["one by one", "batches"])
def test_readers_that_come_and_go_never_begin_again(kind: Any, how: str) -> None:
    with backend() as served:
        with rnvm.connect(served.address) as fe:
            fill(kind(fe, "t"))
        with writer(served.address, kind.__name__, how) as child:
            until = time.monotonic() + 2
            rounds = restarts = 0
            while time.monotonic() < until or rounds < 10:
                with rnvm.connect(served.address, timeout=30) as fe:
                    tree = kind(fe, "t")
                    with tree.snapshot() as before:
                        then = dict(before)
                        if how == "batches":
                            assert then[b"00000"] == then[b"01999"]
                        for _ in range(20):
                            later = tree[b"01999"]
                            assert then[b"01999"] <= later <= tree[b"00000"]
                        assert dict(before) == then
                        assert {*KEYS} <= {*tree}
                    restarts += fe.figures["restarts"]
                rounds += 1
                assert child.poll() is None
            if how == "one by one":
                assert restarts == 0
            assert restarts <= rounds
        with rnvm.connect(served.address, timeout=30) as fe:
            kind(fe, "t").check()


@EACH
def test_a_pool_that_was_filled_alone_can_be_emptied_by_several(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        stored = 0
        with pytest.raises(OutOfMemory):
            for i in range(1 << 20):
                tree[b"%07d" % i] = b"v" * 60
                stored += 1
        with rnvm.connect(served.address) as other:
            theirs = kind(other, "t")
            for i in range(stored):
                del (tree if i % 3 else theirs)[b"%07d" % i]
                if i % 50 == 0:
                    assert theirs.first()[0] == b"%07d" % (i + 1)
            assert len(tree) == 0
            tree.check()


@EACH
def test_a_pool_that_was_filled_alone_can_be_emptied_while_a_snapshot_is_open(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address) as fe:
        tree = kind(fe, "t")
        stored = 0
        with pytest.raises(OutOfMemory):
            for i in range(1 << 20):
                tree[b"%07d" % i] = b"v" * 60
                stored += 1
        with tree.snapshot() as before:
            assert len(before) == stored
            for i in range(stored):
                del tree[b"%07d" % i]
            with pytest.raises(SnapshotTooOld):  # there was no memory for it
                dict(before)
        assert len(tree) == 0
        tree.check()


@ON_MEMORY
def test_nodes_of_an_earlier_version_are_changed_in_place_only_alone(kind: Any) -> None:
    fe = Memory()
    tree = kind(fe, "t")
    for key in KEYS:
        tree[key] = b"v"

    def made(value: bytes) -> int:
        before: int = fe.counts[2]
        for key in KEYS[:100]:
            tree[key] = value
        return fe.counts[2] - before

    copies = made(b"w")
    fe.alone()
    assert made(b"x") <= 100 < 200 <= copies
    fe.retain(0)
    assert made(b"y") >= copies
    tree.check()


@ON_MEMORY
def test_a_tree_that_is_alone_by_turns_is_as_the_model(kind: Any) -> None:
    rng = random.Random(3)
    fe = Memory()
    tree = kind(fe, "t")
    model: dict[bytes, bytes] = {}
    kept = None
    for step in range(4000):
        if step % 40 == 0:
            fe.alone(rng.random() < 0.6)
        if step % 200 == 0:
            if kept is not None:
                snapshot, then = kept
                assert dict(snapshot) == then
                snapshot.close()
                fe.retain(None)
            kept = None
            if rng.random() < 0.5:
                kept = tree.snapshot(), dict(model)
                fe.retain(kept[0].version)
        key = b"%03d" % rng.randrange(300)
        if rng.random() < 0.55:
            model[key] = tree[key] = b"%d" % step * rng.choice((1, 5, 100))
        else:
            assert tree.pop(key, None) == model.pop(key, None)
    assert dict(tree) == model
    tree.check()


def test_structures_has_the_kinds_of_this_file() -> None:
    assert (
        {kind.__name__ for kind in VERSIONED} == {"MVBPlusTree", "MVBST"} <= {*structures.__all__}
    )
