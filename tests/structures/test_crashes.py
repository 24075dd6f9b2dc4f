"""Structures, front-ends and a back-end on the crash model."""

from __future__ import annotations

import random
import time

import pytest

from .crashes import LENGTH, SIZES, History, Wrong

KINDS = ("words", "lines", "sectors")


@pytest.mark.parametrize("kind", KINDS)
def test_acknowledged_operations_survive_any_crash_and_the_last_one_is_all_or_nothing(kind, rng):
    assert History(rng, kind, steps=40).crash(25, again=1) == 50


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_acknowledged_operations_survive_thousands_of_crashes(kind, rng, run_ends):
    for _ in range(20):
        assert History(rng, kind, steps=rng.randrange(20, 120)).crash(50, again=1) == 100
        if time.monotonic() > run_ends:
            break


RINGS = SIZES.rings
RINGS_AT = SIZES.rings_at
OPERATIONS = [
    (RINGS_AT + i * RINGS, RINGS_AT + i * RINGS + SIZES.operation_ring)
    for i in range(SIZES.sessions)
]
CHANGES = [(end, end + SIZES.memory_ring) for _, end in OPERATIONS]
DATA = [(SIZES.groups_at, LENGTH)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("bug", "places"),
    [
        ("skip-flush", OPERATIONS),
        ("skip-drain", OPERATIONS),
        ("skip-flush", CHANGES),
        ("skip-drain", CHANGES),
        ("skip-flush", DATA),
    ],
    ids=[
        "operations-unflushed",
        "operations-undrained",
        "changes-unflushed",
        "changes-undrained",
        "data-unflushed",
    ],
)
def test_a_back_end_that_reports_durability_too_early_is_caught(kind, bug, places, rng):
    def plant(model):
        for begin, end in places:
            model.plant(bug, begin, end)

    with pytest.raises(Wrong):
        for _ in range(10):
            History(random.Random(rng.random()), kind, 40, plant).crash(20)
