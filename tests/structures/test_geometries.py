"""In a pool of any geometry each structure works to the last block, and can be emptied again."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structure_kinds import KINDS, SEQUENCES, add, each_of, take

import rnvm
from rfp.errors import InvalidArgument, OutOfMemory, TooLarge
from rnvm import pools, sizes
from rnvm.check import check
from rnvm.cli.inspect import figures
from structures import BPlusTree, Queue

KIB = 1 << 10


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        yield Path(folder) / "p.pool"


def short(chance: random.Random) -> Iterator[bytes]:
    while True:
        yield chance.randbytes(8)


def long(chance: random.Random) -> Iterator[bytes]:
    """Yield keys that differ only at their ends: inner pages have two or three children."""
    while True:
        yield b"k" * 1016 + chance.randbytes(8)


def falling(chance: random.Random) -> Iterator[bytes]:
    for i in range(1 << 30, 0, -1):
        yield b"k" * 1016 + i.to_bytes(8, "big")


def inwards(chance: random.Random) -> Iterator[bytes]:
    """Yield keys from both ends."""
    for i in range(1 << 30):
        yield b"k" * 1016 + (i if i & 1 else (1 << 60) - i).to_bytes(8, "big")


KEYS = [short, long, falling, inwards]


def fill(structure: Any, keys: Iterator[bytes], value: bytes) -> list[bytes]:
    """Insert until no block is left; return the keys, or the values of a queue."""
    done = []
    try:
        for key in keys:
            add(structure, key, key if isinstance(structure, tuple(SEQUENCES)) else value)
            done.append(key)
    except OutOfMemory:
        return done
    raise AssertionError("the keys ended before the pool was full")


def empty(structure: Any, keys: list[bytes], chance: random.Random) -> None:
    if isinstance(structure, tuple(SEQUENCES)):
        order = keys if isinstance(structure, Queue) else keys[::-1]
        assert [take(structure) for _ in keys] == order
        return
    if chance.random() < 0.3:
        structure.clear()
        return
    keys = list(structure) if chance.random() < 0.5 else chance.sample(keys, len(keys))
    for key in keys:
        del structure[key]


def geometry(chance: random.Random) -> dict[str, Any]:
    """Return the options of a small pool of any size, with parts of any size."""
    size = chance.randrange(1 << 20, 5 << 20)
    options: dict[str, Any] = {
        "size": size,
        "block": 512 << chance.randrange(6),
        "names": chance.choice([1, 7, None]),
    }
    if chance.random() < 0.7:
        options["front_ends"] = chance.choice([1, 2, 3])
    for log in ("operation_log", "memory_log"):
        if chance.random() < 0.4:
            options[log] = sizes.least_log(size) + 4096 * chance.randrange(10)
    return options


def try_out(
    path: Path,
    chance: random.Random,
    kind: Callable[..., Any],
    keys: Callable[[random.Random], Iterator[bytes]],
) -> int:
    """Fill one pool with one structure and empty it again.

    Returns:
        The number of keys, or 0 if the sizes are refused.
    """
    options = geometry(chance)
    try:
        pools.create(path, assume_persistent=True, **options)
    except InvalidArgument:
        return 0
    try:
        with rnvm.Backend(path) as backend, rnvm.connect(backend.address, timeout=60) as fe:
            structure = kind(fe, "s")
            done = fill(structure, keys(chance), chance.randbytes(chance.choice([0, 10, 300])))
            assert len(structure) == len(done)
            empty(structure, done, chance)
            assert len(structure) == 0
            structure.check()
        assert check.check(path).sound
        return len(done)
    except BaseException as error:
        error.add_note(f"{options}, {kind.__name__}, {keys.__name__}") if hasattr(
            error, "add_note"
        ) else print(options)
        raise
    finally:
        os.unlink(path)


@pytest.mark.parametrize("keys", KEYS)
@each_of(KINDS)
def test_a_structure_works_to_the_last_block_and_can_be_emptied(
    path: Path, kind: Any, keys: Any, rng: random.Random
) -> None:
    tried = 0
    while not tried:
        tried = try_out(path, rng, kind, keys)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_structures_work_to_the_last_block_in_pools_of_many_sizes(
    path: Path, rng: random.Random, run_ends: float
) -> None:
    for _ in range(100):
        if time.monotonic() > run_ends:
            break
        try_out(path, rng, rng.choice(KINDS), rng.choice(KEYS))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"memory_log": "352KiB", "operation_log": "1MiB", "front_ends": 2},
        {"operation_log": "352KiB"},
        {"block": 512, "front_ends": 2},
        {"block": "16KiB", "front_ends": 2},
    ],
)
@pytest.mark.parametrize("size", ["8MiB", "40MiB"])
def test_the_largest_value_fits_beside_any_key_of_any_structure(
    path: Path, size: str, options: dict[str, Any]
) -> None:
    pools.create(path, size, assume_persistent=True, **options)
    largest = figures(str(path))["largest_value"]
    assert largest > 1000
    with rnvm.Backend(path) as backend, rnvm.connect(backend.address, timeout=60) as fe:
        value = random.Random(1).randbytes(largest)
        for kind in KINDS:
            structure = kind(fe, kind.__name__)
            fits = value[: structure.largest_value]
            for key in (b"k", b"k" * 1024):
                add(structure, key, fits)
                assert take(structure) == fits


def test_logs_that_are_too_small_for_the_structures_are_refused(path: Path) -> None:
    for options in ({"memory_log": "16KiB"}, {"operation_log": "64KiB"}):
        with pytest.raises(InvalidArgument, match="as much as the structures need"):
            pools.create(path, "128MiB", assume_persistent=True, **options)
    with pytest.raises(InvalidArgument, match="too small for a pool with 256 front-ends"):
        pools.create(path, "64MiB", front_ends=256, assume_persistent=True)


def test_a_value_that_is_too_large_for_the_logs_is_refused_and_changes_nothing(path: Path) -> None:
    pools.create(path, "4MiB", assume_persistent=True)
    with rnvm.Backend(path) as backend, rnvm.connect(backend.address) as fe:
        tree = BPlusTree(fe, "t")
        with pytest.raises(TooLarge):
            tree[b"k"] = bytes(300 * KIB)
        assert len(tree) == 0
        tree[b"k"] = b"v"
