"""Crashes at every moment of random histories: acknowledged operations are there, each once."""

from __future__ import annotations

import math
import random
import time

import pytest

from rfp.errors import RfpError
from rnvm.pool.pool import Pool, format_medium, grow_medium
from rnvm.testing import log_driver
from rnvm.testing.crash_model import Crashes, Model

from .history import LENGTH, PLACES, SIZES, History, Wrong

KINDS = ["words", "lines", "sectors"]
FAST = 1500  # crash points for each kind


def crash_many(
    kind: str, seed: int, points: int, steps: int = 80, run_ends: float = math.inf
) -> None:
    done = 0
    while done < points and time.monotonic() < run_ends:
        past = History(random.Random(seed), kind)
        past.run(steps)
        done += past.crashes(seed, again=1)
        seed += 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_at_any_moment_loses_no_acknowledged_operation(kind, seed):
    crash_many(kind, seed, FAST)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_none_of_very_many_crashes_loses_an_acknowledged_operation(kind, seed, run_ends):
    crash_many(kind, seed, 40_000, steps=150, run_ends=run_ends)


def test_a_history_repeats_from_its_seed(seed):
    def run() -> tuple[str, list[bytes]]:
        past = History(random.Random(seed), "words")
        past.run(40)
        cursor = Crashes(past.model)
        return past.model.kinds(), [cursor.at_point(point, seed) for point in range(0, past.now, 7)]

    assert run() == run()


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_while_a_pool_grows_leaves_it_as_it_was_or_larger(kind, seed):
    full = SIZES.groups_at + 2 * SIZES.group
    small = Model(full, kind)
    format_medium(small, SIZES, size=LENGTH)
    with Pool(small) as pool:
        pool.create(b"a", kind=1, root_blocks=20)
        before = log_driver.owners(pool)
    whole = Model(full, kind, small.crash(small.events_so_far, 0))
    assert grow_medium(whole, full) == full
    cursor, seen = Crashes(whole), set()
    for point in range(whole.events_so_far + 1):
        with Pool(Model(full, kind, cursor.at_point(point, seed))) as pool:
            owners = log_driver.owners(pool)
            assert owners[: len(before)] == before
            assert not any(owners[len(before) :])
            seen.add(len(owners))
            pool.create(b"b", kind=1, root_blocks=len(owners) // 3)
    assert seen == {48, 2 * 192}


RINGS = PLACES["rings"], PLACES["groups"]
NAMES = PLACES["names"], PLACES["sessions"]
SESSIONS = PLACES["sessions"], PLACES["rings"]
OWNERS = PLACES["groups"], PLACES["groups"] + PLACES["map"]
DATA = PLACES["groups"] + PLACES["map"], PLACES["end"]
SUPERBLOCKS = 8192, 16384
HEADERS = 0, 8192

# The planted bug, and the media on which it matters: a fence between two stores into one sector
# has no effect on a file.
BUGS = {
    "the log is acknowledged without a flush": ("skip-flush", RINGS, KINDS),
    "the log is applied before it is durable": ("skip-drain", RINGS, KINDS),
    "applied data is not flushed": ("skip-flush", DATA, KINDS),
    "the log is truncated before applied data is durable": ("skip-drain", DATA, KINDS),
    "an owner is not flushed": ("skip-flush", OWNERS, KINDS),
    "a grant is answered before it is durable": ("skip-drain", OWNERS, KINDS),
    "a naming entry is not flushed": ("skip-flush", NAMES, KINDS),
    "a structure lives before its parts are durable": ("skip-drain", NAMES, KINDS),
    "a ring's cursor is not flushed": ("skip-flush", SESSIONS, KINDS),
    "log space is reused before its cursor is durable": (
        "skip-drain",
        SESSIONS,
        ["words", "lines"],
    ),
    "the superblock is not flushed": ("skip-flush", SUPERBLOCKS, KINDS),
    "both copies of the superblock are under way at once": ("skip-drain", SUPERBLOCKS, ["words"]),
    "the magic number goes out with the rest of the header": ("skip-drain", HEADERS, KINDS),
    "a word of eight bytes is stored in two halves": ("torn-words", (), ["words"]),
}


# Rare bugs, with the seed of the first history that finds them: the histories before it take long.
FOUND_BY = {
    "log space is reused before its cursor is durable": 18,
    "an old lap's record that is taken for a new one": 4,
}


@pytest.mark.planted
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("bug", "kind"), [(bug, kind) for bug, (_, _, kinds) in BUGS.items() for kind in kinds]
)
def test_the_crash_model_catches(bug, kind):
    verb, places, _ = BUGS[bug]
    assert_caught(bug, kind, lambda model, _: model.plant(verb, *places))


CHECKS = {
    "a log record whose checksum is not checked": log_driver.CHECK_CRC,
    "an old lap's record that is taken for a new one": log_driver.CHECK_LSN,
    "a record of a session that is over": log_driver.CHECK_EPOCH,
}


@pytest.mark.planted
@pytest.mark.parametrize("bug", CHECKS)
def test_the_crash_model_catches_a_skipped_check(bug):
    log_driver.skip_checks(CHECKS[bug])
    try:
        assert_caught(bug, "words", None)
    finally:
        log_driver.skip_checks(0)


def assert_caught(bug, kind, plant):
    for seed in (FOUND_BY.get(bug, 0), *range(40)):
        try:
            past = History(random.Random(seed), kind, plant)
            past.run(120)
            past.crashes(seed, again=1)
        except (Wrong, RfpError, AssertionError):
            return
    pytest.fail("no check failed")
