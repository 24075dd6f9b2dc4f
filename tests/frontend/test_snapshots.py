"""Snapshots of multi-version structures over each medium and fabric."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from repeating import repeating
from structure_kinds import VERSIONED, each_of

import rnvm
import structures
from rfp.errors import SnapshotTooOld

from .conftest import Connect, new_path, open_backend

pytestmark = pytest.mark.anywhere

EACH = each_of(VERSIONED)
KEYS = [b"%03d" % i for i in range(60)]


@contextlib.contextmanager
def busy(work: Callable[[int], None]) -> Iterator[None]:
    """Call work(1), work(2), ... in a thread."""
    turns = itertools.count(1)
    with repeating(lambda: work(next(turns))):
        yield


@EACH
@pytest.mark.parametrize("partitions", [None, 3], ids=["whole", "partitions"])
def test_a_snapshot_stays_as_the_model_was(
    kind: Any, partitions: int | None, backend: rnvm.Backend, connect: Connect, seed: int
) -> None:
    rng = random.Random(seed)
    writer, reader = connect(backend, timeout=20), connect(backend, timeout=20)
    mine = kind(writer, "t", partitions=partitions)
    theirs = kind(reader, "t", partitions=partitions)
    model: dict[bytes, bytes] = {}
    opened: list[tuple[Any, dict[bytes, bytes]]] = []
    for step in range(250):
        act, key = rng.random(), rng.choice(KEYS)
        if act < 0.6:
            model[key] = mine[key] = b"%d" % step * rng.choice((1, 8, 200))
        elif act < 0.75:
            assert mine.pop(key, None) == model.pop(key, None)
        elif act < 0.85:
            opened.append((theirs.snapshot(), dict(model)))
        elif opened:
            snapshot, then = opened.pop(rng.randrange(len(opened)))
            assert dict(snapshot) == then
            assert list(snapshot) == sorted(then)
            assert snapshot.get(key) == then.get(key)
            assert len(snapshot) == len(then)
            snapshot.close()
    for snapshot, then in opened:
        assert dict(snapshot) == then
        snapshot.close()
    mine.check()


@EACH
def test_a_snapshot_is_right_or_too_old_while_its_memory_is_used_again(
    kind: Any, medium: str, connect: Connect
) -> None:
    with new_path(medium) as path, open_backend(path, medium, snapshot_lifetime=0.02) as backend:
        writer, reader = connect(backend, timeout=20), connect(backend, timeout=20, cache=0)
        mine, theirs = kind(writer, "t"), kind(reader, "t")
        mine.update(dict.fromkeys(KEYS, b"0"))
        writer.release()
        outcomes = {"right": 0, "too old": 0}

        def work(turn: int) -> None:
            with writer.batch():
                mine.update(dict.fromkeys(KEYS, b"%d" % turn * 30))
            mine.update(dict.fromkeys(KEYS, b"%d" % turn))

        with busy(work):
            for _ in range(400):
                with theirs.snapshot() as before:
                    try:
                        expected = before[KEYS[0]]
                        # Each batch sets all keys to one value, and so does each update, one key
                        # after the other: there are at most two values at a time.
                        found = list(before.values())
                        again = list(before.values())
                        assert found == again
                        assert found[0] == expected
                        assert len(set(found)) <= 2
                        outcomes["right"] += 1
                    except SnapshotTooOld:
                        outcomes["too old"] += 1
                if all(outcomes.values()) and sum(outcomes.values()) > 20:
                    break
        assert outcomes["right"]
        mine.check()


@EACH
def test_snapshots_of_partitions_and_structures_are_of_one_moment(
    kind: Any, backend: rnvm.Backend, connect: Connect
) -> None:
    writer, reader = connect(backend, timeout=20), connect(backend, timeout=20)
    tree, other = kind(writer, "t", partitions=4), kind(writer, "other")
    theirs = kind(reader, "t", partitions=4), kind(reader, "other")
    tree.update(dict.fromkeys(KEYS[:12], b"0"))
    other[b"n"] = b"0"
    writer.release()

    def work(turn: int) -> None:
        with writer.transaction(tree, other):
            other[b"n"] = b"%d" % turn
            tree.update(dict.fromkeys(KEYS[:12], b"%d" % turn))

    with busy(work):
        for _ in range(12):
            with theirs[0].snapshot() as before:
                assert len(set(before.values())) == 1
            first, second = structures.snapshots_of(theirs)
            with first, second:
                assert {*first.values()} == {second[b"n"]}
    assert reader.figures["restarts"] == 0
