"""Structures, front-ends and a back-end on the crash model."""

from __future__ import annotations

import contextlib
import random
import time

import pytest

import rnvm
import structures
from rfp.errors import Empty, LeaseEnded
from rnvm.pool.pool import Pool, format_medium
from rnvm.testing.crash_model import Crashes, Model

from .crashes import LENGTH, SIZES, History, Wrong

KINDS = ("words", "lines", "sectors")


@pytest.mark.parametrize(
    ("kind", "sessions"), [("words", 2), ("lines", 1), ("sectors", 2)], ids=KINDS
)
def test_acknowledged_operations_survive_any_crash_and_the_last_one_is_all_or_nothing(
    kind, sessions, rng
):
    assert History(rng, kind, steps=40, sessions=sessions).crash(25, again=1) == 50


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
def test_acknowledged_operations_survive_thousands_of_crashes(kind, rng, run_ends):
    for _ in range(20):
        history = History(rng, kind, steps=rng.randrange(20, 120), sessions=rng.choice((1, 2)))
        assert history.crash(50, again=1) == 100
        if time.monotonic() > run_ends:
            break


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_is_in_its_queue_or_in_the_dead_letter_queue_after_any_crash(kind, rng):
    model = Model(LENGTH, kind, shared=True)
    format_medium(model, SIZES)
    put: list[tuple[int, bytes]] = []  # the event at which it was acknowledged, value

    def queues(fe):
        jobs = structures.Queue(fe, "jobs", dead_letter="dead", max_deliveries=2)
        return jobs, jobs.dead_letter

    with rnvm.Backend(Pool(model)) as backend, rnvm.connect(backend.address, timeout=30) as fe:
        jobs, dead = queues(fe)
        begun = model.events_so_far
        for i in range(8):
            value = b"%d " % i * rng.choice((1, 60, 300))
            jobs.put(value)
            put.append((model.events_so_far, value))
            with contextlib.suppress(Empty):
                while True:
                    token, _ = jobs.reserve(lease=1e-9 if rng.random() < 0.3 else 3600)
                    if rng.random() < 0.7:
                        with contextlib.suppress(LeaseEnded):
                            jobs.nack(token)
        assert len(dead) >= 1
        ended = model.events_so_far
    crashes = Crashes(model)
    for point in sorted(rng.choices(range(begun, ended), k=12)):
        left = Model(
            LENGTH, kind, content=crashes.at_point(point, rng.getrandbits(64)), shared=True
        )
        with rnvm.Backend(Pool(left)) as backend, rnvm.connect(backend.address, timeout=30) as fe:
            jobs, dead = queues(fe)
            found = [*jobs.salvage(), *dead]
            assert len(found) == len(set(found)), f"after event {point} a value is in both"
            assert {value for event, value in put if event <= point} <= set(found)
            jobs.check()
            dead.check()


RINGS = SIZES.rings
RINGS_AT = SIZES.rings_at
OPERATIONS = [
    (RINGS_AT + i * RINGS, RINGS_AT + i * RINGS + SIZES.operation_ring)
    for i in range(SIZES.sessions)
]
CHANGES = [(end, end + SIZES.memory_ring) for _, end in OPERATIONS]
DATA = [(SIZES.groups_at, LENGTH)]


@pytest.mark.planted
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
