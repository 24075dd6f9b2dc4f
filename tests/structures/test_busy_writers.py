"""Queries beside a writer that changes the structure between any two of their reads.

A query restarts at most eight times because of a writer, and then takes the writer lock
(docs/structures.md). A query of a multi-version structure does not restart because of a writer.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from connecting import use_fabric
from structure_kinds import KINDS, MAPPINGS, ORDERED, VERSIONED, add, each_of

import rnvm
from rfp.testing.reordering_fabric import ReorderFabric
from structures import Queue

from .backends import backend
from .busy_writer import RESTARTS_MAX, SOON, BusyWriter, at_each_request, at_each_run

ITEMS = {b"%02d" % i: b"value %d" % i for i in range(30)}
VALUES = list(ITEMS.values())
SOME = [item for item in ITEMS.items() if b"05" <= item[0] < b"15"]

MAPPING: dict[str, Callable[[Any], bool]] = {
    "get": lambda mapping: mapping.get(b"07") == ITEMS[b"07"],
    "in": lambda mapping: b"70" not in mapping,
    "len": lambda mapping: len(mapping) >= len(ITEMS),
    "a step": lambda mapping: next(iter(mapping)) is not None,
}
ORDER: dict[str, Callable[[Any], bool]] = {
    "range": lambda mapping: next(mapping.range(b"05", b"15")) == SOME[0],
    "reversed": lambda mapping: next(mapping.range(b"05", b"15", reverse=True)) == SOME[-1],
    "first": lambda mapping: mapping.first() == (b"00", VALUES[0]),
    "last": lambda mapping: mapping.last()[0] >= b"29",
    "floor": lambda mapping: mapping.floor(b"07!") == (b"07", ITEMS[b"07"]),
    "ceiling": lambda mapping: mapping.ceiling(b"07!") == (b"08", ITEMS[b"08"]),
    "count": lambda mapping: mapping.count(b"05", b"15") == len(SOME),
}
SEQUENCE: dict[str, Callable[[Any], bool]] = {
    "peek": lambda values: values.peek() is not None,
    "len": lambda values: len(values) >= len(VALUES),
}


def queries_of(kind: Any) -> dict[str, Callable[[Any], bool]]:
    """Return single queries of a structure with ITEMS; each returns whether the answer is right."""
    if kind not in MAPPINGS:
        return SEQUENCE
    return MAPPING | ORDER if kind in ORDERED else MAPPING


def all_there(structure: Any) -> bool:
    """Iterate over ITEMS, which nobody changes; return whether all of them are there."""
    if type(structure) in MAPPINGS:
        return {key: value for key, value in structure.items() if key in ITEMS} == ITEMS
    if type(structure) is Queue:  # the writer adds values faster than the iteration passes them
        return list(itertools.islice(structure, len(VALUES))) == VALUES
    return list(structure)[-len(VALUES) :] == VALUES[::-1]


@contextlib.contextmanager
def beside_a_writer(
    kind: Any, lock: str, fabric: ReorderFabric | None = None
) -> Iterator[tuple[Any, BusyWriter]]:
    """Yield a structure of a reader without a cache, and its writer with this lock."""
    with (
        backend("8MiB", lease=SOON) as served,
        pytest.MonkeyPatch.context() as patch,
        rnvm.connect(served.address, lock=lock, timeout=SOON) as writing,
    ):
        if fabric is not None:
            use_fabric(patch, fabric)
        with rnvm.connect(served.address, lock="each", cache=0, timeout=SOON) as reading:
            writer = BusyWriter(kind(writing, "s"), reading)
            for key, value in ITEMS.items():
                add(writer.structure, key, value)
            yield kind(reading, "s"), writer


def allowed(kind: Any, lock: str) -> range:
    """Return the numbers of restarts of a query; a kept lock shows that its log is to be read."""
    if kind in VERSIONED:
        return range(1)
    return range(RESTARTS_MAX + 1) if lock == "sticky" else range(RESTARTS_MAX, RESTARTS_MAX + 1)


@each_of(KINDS)
@pytest.mark.parametrize("lock", ["each", "sticky"])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")  # in a callback
def test_a_query_of_mapped_memory_restarts_at_most_eight_times(kind: Any, lock: str) -> None:
    with beside_a_writer(kind, lock) as (structure, writer):
        for name, query in {**queries_of(kind), "iteration": all_there}.items():
            with at_each_run(structure, writer) as runs:
                assert query(structure), name
            assert {each - 1 for each in runs} <= set(allowed(kind, lock)), name
        assert writer.changes
        structure.check()


@each_of(KINDS)
@pytest.mark.parametrize("lock", ["each", "sticky"])
def test_a_query_over_a_network_restarts_at_most_eight_times(
    kind: Any, lock: str, seed: int
) -> None:
    fabric = ReorderFabric(seed=seed)
    with beside_a_writer(kind, lock, fabric) as (structure, writer):
        for name, query in queries_of(kind).items():
            assert at_each_request(fabric, functools.partial(query, structure), writer), name
            assert writer.restarts in allowed(kind, lock), name
        assert writer.changes
        structure.check()
