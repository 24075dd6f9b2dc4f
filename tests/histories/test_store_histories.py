"""Several processes use a store at once, some are killed or stopped: one order explains a key."""

from __future__ import annotations

import random

import pytest

from .store_runs import CALLS, COUNTERS, Situation, play

ALL = ("auto", "bypass", "fetch", "reply")
WALK = ("bypass", "auto")
TTLS = (None, 0.001, 0.003, 0.01, 0.03, 0.05)
SMALL = {"memory": "2MiB"}
FULL = {"memory": "256MiB", "eviction": "none"}

# Runs without kills and stops.
QUIET = {
    "every mode": Situation(modes=ALL, clients=4),
    "one mode": Situation(),
    "bypass GETs while the index grows": Situation(modes=WALK, server=FULL, beside=1_000_000),
    "bypass GETs while other keys come and go": Situation(
        modes=WALK, server=FULL, beside=4000, deletes=True
    ),
    "eviction by a sweep that moves other records": Situation(
        modes=WALK, server=SMALL, sizes=(1, 300, 9000, 40_000), beside=20_000
    ),
    "eviction of small values": Situation(modes=WALK, server=SMALL, beside=50_000),
    "eviction within a bucket": Situation(
        modes=ALL, server={**SMALL, "eviction": "bucket"}, beside=50_000
    ),
    "no room": Situation(
        modes=ALL,
        server={**SMALL, "eviction": "none"},
        sizes=(10, 9000, 100_000),
        beside=30_000,
        deletes=True,
    ),
    "large values": Situation(modes=WALK, server=FULL, sizes=(4000, 100_000, 1_000_000)),
    "large values that are evicted": Situation(
        modes=WALK, server={"memory": "4MiB"}, sizes=(4000, 100_000, 400_000), beside=2000
    ),
    "times to live": Situation(modes=ALL, ttl=TTLS, calls={**CALLS, "touch": 2}),
    "counters with times to live": Situation(
        modes=WALK, ttl=TTLS, calls={**COUNTERS, "touch": 1}, numbers=1
    ),
    "counters": Situation(modes=ALL, calls=COUNTERS, numbers=1),
    "batches": Situation(
        modes=ALL,
        calls={
            "get_many": 3,
            "put_many": 3,
            "delete_many": 1,
            "get": 1,
            "item": 1,
            "put_if_version": 1,
        },
    ),
    "threads and two workers": Situation(
        modes=WALK, server={"memory": "16MiB", "workers": 2}, clients=2, threads=3
    ),
    "an emulated network": Situation(
        modes=ALL, address="?rtt=2us", server={"memory": "16MiB", "workers": 2}, clients=4
    ),
    "located reads": Situation(address="?rtt=2us", clients=4, sizes=(10, 40, 1000, 4096, 5000)),
    "located reads of records that move": Situation(
        address="?rtt=2us", server=SMALL, sizes=(1, 300, 4000), beside=20_000
    ),
}
DISTURBED = {
    "clients killed": Situation(modes=ALL, actions={"kill": 1}),
    "clients killed, large values": Situation(
        modes=WALK, actions={"kill": 1}, server={**FULL, "lease": 0.05}, sizes=(10, 9000, 200_000)
    ),
    "clients stopped": Situation(modes=ALL, actions={"stop": 1}, pause=0.3),
    "clients stopped for longer than a lease": Situation(
        modes=WALK,
        actions={"stop": 1},
        server={"memory": "8MiB", "lease": 0.02},
        sizes=(10, 9000, 200_000),
        beside=3000,
    ),
    "server stopped": Situation(modes=ALL, actions={"stop server": 1}, timeout=0.1),
    "server killed": Situation(modes=ALL, actions={"kill server": 1}),
    "server killed, located reads": Situation(address="?rtt=2us", actions={"kill server": 1}),
    "server stopped, then killed": Situation(modes=ALL, actions={"stop, then kill server": 1}),
    "server killed, two workers, threads": Situation(
        modes=ALL,
        actions={"kill server": 1},
        clients=2,
        threads=2,
        server={"memory": "16MiB", "workers": 2},
    ),
    "everything": Situation(
        modes=ALL,
        actions={
            "kill": 2,
            "stop": 2,
            "stop server": 1,
            "kill server": 1,
            "stop, then kill server": 1,
        },
        clients=4,
        timeout=0.3,
    ),
}
SITUATIONS = {**QUIET, **DISTURBED}
FAST = (
    "every mode",
    "eviction by a sweep that moves other records",
    "times to live",
    "located reads of records that move",
    "clients killed",
    "everything",
)


def run(name: str, seed: int, turns: int, actions: int) -> None:
    # If many calls for a key were cut off at once, its orders are too many to try. In few histories
    # this holds for all keys.
    for trial in range(3):
        verdicts = play(
            SITUATIONS[name], seed + trial, turns=turns, actions=actions if name in DISTURBED else 0
        ).check()
        assert sum(verdict.steps for verdict in verdicts)
        for verdict in verdicts:
            assert verdict.legal, verdict.reason
        if any(verdict.decided for verdict in verdicts):
            return
    raise AssertionError(
        f"nothing was decided in three histories: {[verdict.reason for verdict in verdicts]}"
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FAST)
def test_the_answers_for_each_key_agree_with_one_order(name: str, seed: int) -> None:
    run(name, seed, turns=400, actions=6)


@pytest.mark.long(25)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(20))
@pytest.mark.parametrize("name", SITUATIONS)
def test_the_answers_for_each_key_agree_with_one_order_in_long_runs(
    name: str, number: int, seed: int
) -> None:
    # A killed server cuts off a call of each thread; with too many of them nothing can be decided.
    run(name, seed, turns=4000, actions=60 if SITUATIONS[name].threads == 1 else 6)


@pytest.mark.planted
@pytest.mark.timeout(300)
def test_the_checker_finds_a_client_that_sometimes_repeats_an_earlier_answer(
    rng: random.Random,
) -> None:
    for _ in range(5):  # perhaps no value changed in between
        verdicts = play(Situation(modes=ALL, plant=0.02), rng.randrange(2**32), turns=600).check()
        if not all(verdict.legal for verdict in verdicts):
            return
    raise AssertionError("the checker did not find the stale answers")
