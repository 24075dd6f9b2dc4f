"""Several front-ends change structures at once, some are killed or stopped: one order explains all.

All structures are one state, so a transaction over them is one step.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from structure_kinds import NAMES

from .structure_runs import Situation, play

STICKY: dict[str, Any] = {}
CAS, EACH = {"lock": "cas"}, {"lock": "each"}
LOCKS = (STICKY, CAS, EACH)
NO_CACHE, SMALL_CACHE = {"cache": 0}, {"cache": "64KiB"}
FAR = "?rtt=2us"
PAIR = ("table", "tree")
ORDERED = ("tree", "skips", "bst", "versions", "mvbst")
EVERY = tuple(NAMES)
CROWD = {"put": 1, "get": 0.7, "reserve": 4, "ack": 0.3, "nack": 4, "peek": 6}
MOVES = {"read both": 2, "move": 3, "transaction": 0.5, "one": 0.5, "moment": 2}
MOMENTS = {"moment": 4, "move": 2, "transaction": 2, "one": 1}
BATCHES = {"batch": 3, "one": 3}

SNAPSHOTS = {"snapshot": 4, "move": 2, "transaction": 2, "one": 2}
KEPT = ("versions", "mvbst")
ONE = {"one": 1}
POPS = {"one": 5, "transaction": 1, "batch": 1}
# With a codec, a call that finds nothing is only a query, which in a batch may be outside of it.
DECODED = {"one": 5, "transaction": 1}
DEAD: dict[str, Any] = {
    "names": ("queue", "queue2"),
    "dead": (("queue", "queue2"),),
    "turns": {"one": 6, "transaction": 1, "moment": 0.5},
    "over": (2,),
    "queue": {"put": 3, "later": 1, "get": 1, "reserve": 4, "ack": 0.7, "nack": 4, "peek": 2},
}
DELAYS = {"put": 1.5, "later": 3, "get": 4, "reserve": 1, "ack": 0.5, "nack": 0.5, "peek": 2}

# Runs without kills and stops.
QUIET = {
    "sticky locks": Situation(),
    "locks by compare-and-swap": Situation(options=(CAS,)),
    "a lock for each operation": Situation(options=(EACH,)),
    "all locks": Situation(options=LOCKS),
    "no cache and small ones": Situation(options=(NO_CACHE, SMALL_CACHE, STICKY)),
    "volatile": Situation(options=({"durability": "volatile"},)),
    "without an operation log": Situation(options=({"oplog": False}, STICKY)),
    "remote": Situation(rtt=(FAR,)),
    "one remote": Situation(rtt=("", FAR)),
    "remote with all locks": Situation(rtt=(FAR, "", FAR), options=LOCKS),
    "on a disk": Situation(disk=True),
    "pages that split and join": Situation(churn=True, names=("table", *ORDERED)),
    "pages that split and join, remote": Situation(
        churn=True, names=("table", *ORDERED), rtt=(FAR, "")
    ),
    "every kind": Situation(names=EVERY, options=LOCKS),
    "every kind, remote": Situation(names=EVERY, rtt=(FAR, "")),
    "large values": Situation(sizes=(20, 9000, 40_000)),
    "readers without transactions": Situation(
        turns={"in order": 5, "transaction": 2, "batch": 0.5}, clients=4
    ),
    "many nacks": Situation(names=("queue",), turns={"one": 1}, queue=CROWD, options=LOCKS),
    "many nacks, locks by compare-and-swap": Situation(
        names=("queue",), turns={"one": 1}, queue=CROWD, options=(CAS,)
    ),
    "batches over several structures": Situation(
        turns=BATCHES, batch_over=(1, 2, 3), options=LOCKS
    ),
    "batches": Situation(names=PAIR, turns=BATCHES, options=LOCKS),
    "read transactions": Situation(names=PAIR, turns=MOMENTS, over=(2,), options=LOCKS, clients=4),
    "read transactions, remote": Situation(
        names=("queue", *PAIR), turns=MOMENTS, over=(2, 3), rtt=(FAR, ""), clients=4
    ),
    "read transactions, small caches": Situation(
        names=PAIR, turns=MOMENTS, over=(2,), options=(NO_CACHE, SMALL_CACHE), sizes=(20, 9000)
    ),
    "read transactions, pages that split and join": Situation(
        names=PAIR, turns=MOMENTS, over=(2,), churn=True
    ),
    "snapshots": Situation(names=KEPT, turns=SNAPSHOTS, over=(2,), options=LOCKS, clients=4),
    "snapshots of partitions": Situation(
        names=KEPT, turns=SNAPSHOTS, over=(1, 2), partitions=2, options=(EACH, STICKY)
    ),
    "snapshots, remote": Situation(names=KEPT, turns=SNAPSHOTS, over=(2,), rtt=(FAR, "")),
    "snapshots, nodes that are used again": Situation(
        names=KEPT, turns=SNAPSHOTS, over=(2,), churn=True, options=(NO_CACHE, STICKY)
    ),
    "partitions": Situation(names=("table", *ORDERED), partitions=3, options=LOCKS),
    "partitions, remote": Situation(names=PAIR, partitions=2, rtt=(FAR, "")),
    "threads": Situation(threads=2, clients=2, options=LOCKS),
    "threads, every kind": Situation(names=EVERY, threads=3, clients=2),
    "threads and partitions, with a codec": Situation(
        names=("queue", *PAIR, *KEPT),
        turns={**SNAPSHOTS, "moment": 1},
        threads=2,
        clients=2,
        partitions=2,
        codec=True,
    ),
    "ends of ordered mappings": Situation(names=ORDERED, turns=POPS, options=LOCKS),
    "ends of ordered mappings, with a codec": Situation(
        names=ORDERED, turns=DECODED, options=LOCKS, codec=True, sizes=(20, 400, 9000)
    ),
    "delays": Situation(names=("queue",), turns=POPS, queue=DELAYS, options=LOCKS),
    "dead letters": Situation(**DEAD, options=LOCKS),
    "dead letters, with a codec": Situation(**DEAD, codec=True, rtt=(FAR, "")),
}
DISTURBED = {
    "front-ends killed": Situation(actions={"kill": 1}),
    "front-ends killed, every kind": Situation(actions={"kill": 1}, names=EVERY),
    "back-end killed, every kind": Situation(actions={"kill backend": 1}, names=EVERY),
    "front-ends killed, locks by compare-and-swap": Situation(actions={"kill": 1}, options=(CAS,)),
    "remote front-ends killed": Situation(actions={"kill": 1}, rtt=(FAR, "")),
    "all front-ends killed": Situation(actions={"kill all": 1}, options=LOCKS),
    "front-ends stopped for longer than a lease": Situation(actions={"stop": 1}),
    "snapshots, killed": Situation(
        names=KEPT,
        turns=SNAPSHOTS,
        over=(2,),
        options=LOCKS,
        partitions=2,
        actions={"kill": 2, "kill backend": 1, "stop": 1},
    ),
    "threads killed": Situation(threads=2, clients=2, actions={"kill": 2, "kill backend": 1}),
    "partitions, killed": Situation(
        names=("table", *ORDERED), partitions=3, actions={"kill": 2, "kill backend": 1}
    ),
    "ends of ordered mappings, killed": Situation(
        names=ORDERED, turns=DECODED, codec=True, actions={"kill": 2, "kill backend": 1}
    ),
    "dead letters, killed": Situation(**DEAD, actions={"kill": 2, "kill backend": 1}),
    "back-end killed": Situation(actions={"kill backend": 1}),
    "back-end killed, all locks": Situation(actions={"kill backend": 1}, options=LOCKS),
    "back-end killed, on a disk": Situation(actions={"kill backend": 1, "kill": 1}, disk=True),
    "back-end stopped": Situation(actions={"stop backend": 1}, timeout=0.3),
}
# Processes that stop themselves in the middle of a batch or a transaction, for less or more than a
# lease, and are fenced.
SHORT: dict[str, Any] = {"lease": 0.05, "pause": 0.05}
STOPPED = {
    "read transactions, stopped": Situation(
        names=PAIR, over=(2,), hold=0.3, turns=MOMENTS, keys=1, options=LOCKS, **SHORT
    ),
    "read transactions, remote and stopped": Situation(
        names=PAIR, over=(2,), hold=0.3, turns=MOMENTS, keys=1, rtt=(FAR, ""), **SHORT
    ),
    "read transactions, killed": Situation(
        names=PAIR,
        over=(2,),
        turns=MOMENTS,
        options=LOCKS,
        rtt=("", FAR),
        actions={"kill": 2, "kill backend": 1},
    ),
    "stopped within transactions": Situation(
        names=PAIR, over=(2,), hold=0.3, reads=0.5, turns=MOVES, keys=1, **SHORT
    ),
    "stopped within transactions, all locks": Situation(
        names=PAIR, over=(2,), hold=0.3, reads=0.5, turns=MOVES, keys=1, options=LOCKS, **SHORT
    ),
    "stopped within transactions, remote": Situation(
        names=PAIR, over=(2,), hold=0.3, reads=0.5, turns=MOVES, keys=1, rtt=(FAR, ""), **SHORT
    ),
    "stopped within batches": Situation(
        names=PAIR, hold=0.3, reads=0.3, turns=BATCHES, keys=2, **SHORT
    ),
    "stopped within batches, all locks": Situation(
        names=PAIR, hold=0.3, reads=0.3, turns=BATCHES, keys=2, options=LOCKS, **SHORT
    ),
    "stopped within batches, remote": Situation(
        names=PAIR, hold=0.3, reads=0.3, turns=BATCHES, keys=2, rtt=(FAR, ""), **SHORT
    ),
    "stopped within anything": Situation(hold=0.3, reads=0.4, options=LOCKS, **SHORT),
    "stopped and killed": Situation(
        hold=0.1, actions={"kill": 1, "stop": 1}, options=LOCKS, **SHORT
    ),
    "stopped, back-end killed": Situation(
        hold=0.1, actions={"kill backend": 1, "stop": 1}, options=LOCKS, **SHORT
    ),
    "everything": Situation(
        hold=0.05,
        timeout=1,
        options=LOCKS,
        rtt=("", FAR, "", ""),
        clients=4,
        actions={"kill": 2, "stop": 2, "kill all": 0.5, "stop backend": 1, "kill backend": 1},
    ),
}
SITUATIONS = {**QUIET, **DISTURBED, **STOPPED}
FAST = (
    "all locks",
    "many nacks, locks by compare-and-swap",
    "front-ends killed",
    "back-end killed, all locks",
    "every kind",
    "front-ends killed, every kind",
    "stopped within transactions",
    "stopped within batches",
    "read transactions",
    "read transactions, killed",
    "snapshots of partitions",
    "threads and partitions, with a codec",
    "ends of ordered mappings, with a codec",
    "dead letters, killed",
)
# Faults of the recorded processes, which the checker must find.
PLANTED = {
    "a snapshot that reads later versions": Situation(
        names=KEPT, turns=SNAPSHOTS, over=(2,), keys=2, clients=4, newer=0.7
    ),
    "a put or set in a partition that is lost": Situation(
        names=PAIR, turns=ONE, partitions=2, lost=0.02
    ),
    "a put or set of a thread that is lost": Situation(threads=2, clients=2, lost=0.02),
    "a transaction that is torn by a kill": Situation(
        names=PAIR, over=(2,), turns=MOVES, keys=2, loose=0.5, actions={"kill": 1}
    ),
    "the wrong end": Situation(names=ORDERED, turns=DECODED, codec=True, ends=0.3),
    "a delayed value that is lost": Situation(
        names=("queue",), turns=ONE, queue={**DELAYS, "put": 0.0}, lost=0.05
    ),
    "a dead letter that is delivered again": Situation(**DEAD, undead=1),
}


def run(name: str, seed: int, turns: int, actions: int) -> None:
    situation = SITUATIONS[name]
    verdict = play(
        situation,
        seed,
        turns=turns // 4 if situation.hold else turns,
        actions=actions if situation.actions else 0,
    ).check()
    assert verdict.legal, verdict.reason
    assert verdict.steps


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FAST)
def test_all_answers_agree_with_one_order(name: str, seed: int) -> None:
    run(name, seed, turns=200, actions=4)


@pytest.mark.long(25)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("name", SITUATIONS)
def test_all_answers_agree_with_one_order_in_long_runs(name: str, number: int, seed: int) -> None:
    run(name, seed, turns=1500, actions=25)


@pytest.mark.planted
@pytest.mark.timeout(300)
def test_the_checker_finds_a_front_end_that_sometimes_repeats_an_earlier_answer(
    rng: random.Random,
) -> None:
    for _ in range(5):  # perhaps no value changed in between
        if not play(Situation(plant=0.05), rng.randrange(2**32), turns=200).check():
            return
    raise AssertionError("the checker did not find the stale answers")


@pytest.mark.planted
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_finds(name: str, rng: random.Random) -> None:
    situation = PLANTED[name]
    actions = 4 if situation.actions else 0
    for _ in range(5):  # perhaps no call shows the fault
        seed = rng.randrange(2**32)
        if not play(situation, seed, turns=150, actions=actions).check():
            return
    raise AssertionError(f"the checker did not find {name}")


@pytest.mark.planted
@pytest.mark.timeout(300)
def test_the_checker_finds_read_transactions_that_mix_moments(rng: random.Random) -> None:
    situation = Situation(names=PAIR, turns=MOMENTS, over=(2,), clients=4, keys=2, torn=0.7)
    for _ in range(5):  # perhaps nothing was changed in between
        if not play(situation, rng.randrange(2**32), turns=200).check():
            return
    raise AssertionError("the checker did not find the mixed moments")
