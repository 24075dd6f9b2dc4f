"""Front-ends near and far change structures of a group whose members die and stop.

One order explains all answers, also across failovers.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace

import coordination_services
import pytest
from coordination_services import Service

from tests.histories.group_runs import Caller, GroupPlay, History, Situation, play

READER, PUTTER, SETTER, FAR_READER = 2, 3, 4, 5
# Each of the others uses one structure alone, so that one fault makes no other answer wrong.
CALLERS = (
    Caller(),
    Caller(far=True),
    Caller(names=("table",), turns={"one": 1}, mapping={"get": 1}),
    Caller(names=("queue",), turns={"one": 1}),
    Caller(names=("tree",), turns={"one": 1}),
    Caller(names=("table",), turns={"one": 1}, mapping={"get": 1}, far=True),
)
FAULTY = (
    replace(CALLERS[0], turns={"one": 1}),
    replace(CALLERS[1], turns={"one": 1}),
    replace(CALLERS[READER], fault="unchecked"),
    replace(CALLERS[PUTTER], fault="twice"),
    replace(CALLERS[SETTER], durability="persistent"),
    replace(CALLERS[FAR_READER], fault="unchecked"),
)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with contextlib.closing(coordination_services.Etcd(tmp_path_factory.mktemp("etcd"))) as running:
        yield running


def through_two_failovers(callers: tuple[Caller, ...], service: Service, seed: int) -> History:
    """The primary is stopped; the next one is killed while its mirror acknowledges nothing."""
    with play(Situation(callers), service, seed) as playing:
        playing.until_answered()
        playing.stop_the_primary(0, READER, FAR_READER)
        playing.until_in_sync()
        stop_the_mirror_and_kill_the_primary(playing)
        playing.finish()
        return playing.history()


def stop_the_mirror_and_kill_the_primary(playing: GroupPlay) -> None:
    mirror, primary = playing.mirror(), playing.primary
    playing.stop(mirror)
    playing.running.wait(0.5)  # less than a primary waits for a mirror
    playing.running.kill(playing.members[primary])
    playing.go_on(mirror)
    playing.until_answered()
    playing.start(primary)


@pytest.mark.timeout(120)
def test_all_answers_agree_with_one_order_across_failovers(etcd, seed):
    verdict = through_two_failovers(CALLERS, etcd, seed).check()
    assert verdict.legal, verdict.reason
    assert verdict.decided


DISTURBANCES = (
    "kill_the_primary",
    "stop_the_primary",
    "pause_the_primary",
    "kill_a_mirror",
    "stop_a_mirror",
    "kill_a_mirror_then_the_primary",
    "kill_all_members",
    "kill_a_client",
    "stop_a_client",
)
LOCKS = (Caller(), Caller(far=True), Caller(lock="cas"), Caller(lock="each", far=True))


@pytest.mark.long(90)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("members", ["ab", "abc"])
@pytest.mark.parametrize("number", range(10))
def test_all_answers_agree_with_one_order_in_long_runs(etcd, members, number, seed):
    rng = random.Random(f"{seed} {number} {members}")
    with play(Situation(LOCKS, members=members), etcd, rng.randrange(2**32)) as playing:
        for disturbance in rng.choices(DISTURBANCES, k=12):
            getattr(playing, disturbance)()
        playing.finish()
        history = playing.history()
    verdict = history.check()
    assert verdict.legal, verdict.reason
    assert verdict.decided, verdict.reason


@pytest.mark.planted
@pytest.mark.timeout(300)
def test_the_checker_finds_each_of_three_faults(etcd, rng: random.Random):
    """A stale answer, an operation that is done twice, and one that is acknowledged and lost."""
    missed = {"table", "queue", "tree"}
    for _ in range(3):  # perhaps nothing was under way at the moment of a failover
        history = through_two_failovers(FAULTY, etcd, rng.randrange(2**32))
        missed -= {name for name in missed if not history.check(name).legal}
        if not missed:
            return
    raise AssertionError(f"the checker did not find the faults of {missed}")
