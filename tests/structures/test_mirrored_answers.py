"""What a session of promise "replicated" was told is in the copy, whenever the primary goes.

A real mirror follows the back-end; it is cut off at a random moment, and its copy is opened.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from connecting import connect_hasty
from structure_kinds import NAMES, VERSIONED

import rnvm
from rfp.errors import DeadlineExceeded, NotReplicated, OutcomeUnknown
from structures import HashTable

ENDS = (NotReplicated, OutcomeUnknown, DeadlineExceeded)
KEYS = (b"replicated", b"persistent")  # of the writers: their promises
MAPPING_NAMES = ["table", "tree", "skips", "bst", "versions", "mvbst"]


@contextlib.contextmanager
def mirrored(**options: Any) -> Iterator[tuple[rnvm.Backend, rnvm.Mirror, Path]]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as folder:
        primary, copy = Path(folder) / "primary", Path(folder) / "copy"
        with rnvm.Backend(
            primary, size="32MiB", assume_persistent=True, mirror_patience=30, **options
        ) as backend, rnvm.Mirror(copy, of=backend.address) as mirror:  # fmt: skip
            mirror.wait_level(30)
            yield backend, mirror, copy


class Told:
    """Numbers that rise in mappings, under a key of each writer; what sessions were told."""

    def __init__(self, backend: rnvm.Backend, rng: random.Random, names: list[str]) -> None:
        self.backend, self.rng, self.names = backend, rng, names
        # The greatest number that a replicated session knows, by mapping and writer's key.
        self.told: dict[tuple[str, bytes], int] = {}
        self.answers = 0
        self.over = threading.Event()
        self.errors: list[BaseException] = []

    def know(self, name: str, key: bytes, number: int) -> None:
        self.told[name, key] = max(self.told.get((name, key), 0), number)
        self.answers += 1

    def run(self, role: str, durability: str, seed: float) -> None:
        rng = random.Random(seed)
        try:
            with connect_hasty(
                self.backend.address, 2, durability=durability, cache=rng.choice([0, "64MiB"])
            ) as fe:
                mine = {name: NAMES[name](fe, name, timeout=20) for name in self.names}
                while not self.over.is_set():
                    some = rng.sample(self.names, rng.randint(1, len(self.names)))
                    with contextlib.suppress(*ENDS):  # a mirror may hold up all changes
                        if role == "writer":
                            self.write(fe, mine, some, rng, durability)
                        else:
                            for name in some:
                                for key in KEYS:
                                    self.know(name, key, int(mine[name].get(key, b"0")))
        except BaseException as error:
            self.errors.append(error)

    def write(
        self,
        fe: rnvm.FrontEnd,
        mine: dict[str, Any],
        some: list[str],
        rng: random.Random,
        durability: str,
    ) -> None:
        way = rng.choice(["one", "batch", "transaction"])
        if way == "one":
            some = some[:1]
        numbers = {}
        with (
            fe.transaction(*(mine[name] for name in some))
            if way == "transaction"
            else (fe.batch() if way == "batch" else contextlib.nullcontext())
        ):
            for name in some:
                numbers[name] = time.monotonic_ns()
                mine[name][durability.encode()] = b"%d" % numbers[name]
        if durability == "replicated":
            for name, number in numbers.items():
                self.know(name, durability.encode(), number)


@pytest.mark.parametrize("names", [["table"], MAPPING_NAMES], ids=["one", "all"])
def test_the_copy_has_all_that_replicated_sessions_were_told(
    rng: random.Random, names: list[str]
) -> None:
    # A lease beyond the calls' time-out: a writer that waits for a mirror is not fenced meanwhile.
    with mirrored(min_mirrors=1, lease=60) as (backend, mirror, copy):
        told = Told(backend, rng, names)
        roles = [("writer", "replicated"), ("writer", "persistent"), ("reader", "replicated")]
        threads = [threading.Thread(target=told.run, args=(*role, rng.random())) for role in roles]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 20
        while told.answers < rng.randint(30, 200) and time.monotonic() < until:
            time.sleep(0.01)
        mirror.close()
        told.over.set()
        for thread in threads:
            thread.join(30)
        assert not told.errors, told.errors
        assert told.answers
        with rnvm.Backend(copy) as second, rnvm.connect(second.address) as fe:
            for name in names:
                kept = NAMES[name](fe, name, create=False)
                kept.check()
                for key in KEYS:
                    assert int(kept.get(key, b"0")) >= told.told.get((name, key), 0), (name, key)


def test_a_mirror_that_ends_is_not_waited_for_unless_one_is_required(rng: random.Random) -> None:
    with mirrored() as (backend, mirror, copy):
        with rnvm.connect(backend.address, durability="replicated") as fe:
            table = HashTable(fe, "t")
            table[b"a"] = b"1"
            mirror.close()
            table[b"a"] = b"2"
            assert table[b"a"] == b"2"
        with rnvm.Backend(copy) as second, rnvm.connect(second.address) as fe:
            assert HashTable(fe, "t")[b"a"] in (b"1", b"2")


@pytest.mark.parametrize("kind", VERSIONED, ids=lambda kind: kind.__name__)
def test_a_snapshot_of_a_replicated_session_is_in_the_copy(kind: Any) -> None:
    with mirrored(min_mirrors=1) as (backend, mirror, copy):
        with (
            rnvm.connect(backend.address) as other,
            rnvm.connect(backend.address, durability="replicated") as fe,
        ):
            writer, reader = kind(other, "m"), kind(fe, "m")
            for i in range(50):
                writer[b"%d" % i] = b"v"
            with reader.snapshot() as snapshot:
                seen = dict(snapshot)
                mirror.close()
        with rnvm.Backend(copy) as second, rnvm.connect(second.address) as fe:
            assert seen.items() <= dict(kind(fe, "m")).items()
