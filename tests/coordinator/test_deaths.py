"""Nodes of the service that are killed, restarted and stopped."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from polling import until

from rfp.errors import CoordinatorUnavailable, OutcomeUnknown
from rnvm.coordinator import etcd, zookeeper
from rnvm.coordinator.state import State
from tests.histories.history import UNKNOWN

from . import histories

pytestmark = [pytest.mark.every_case, pytest.mark.pure]


def test_a_server_that_is_killed_and_restarted_is_used_again(opened, own_service):
    address = own_service.address("g")
    one, other = opened(address), opened(address)
    first = one.create(State.first(b"one"))
    registration = one.register("a", lease=5)
    with other.watch() as watch:
        assert watch.wait(20)
        own_service.kill(0)
        with pytest.raises((CoordinatorUnavailable, OutcomeUnknown)):
            one.compare_and_set(first, first.next(b"lost"), timeout=0.3)
        own_service.start(0)
        assert one.read(timeout=30) == first
        second = one.compare_and_set(first, first.next(b"two"), timeout=30)
        until(lambda: watch.wait(10) and other.read(timeout=30) == second)
    until(lambda: [each.name for each in other.members(timeout=30)] == ["a"])
    registration.close()
    # Its session may not have found the server again; then the lease ends.
    until(lambda: other.members(timeout=30) == [])


def test_three_nodes_go_on_without_any_one_of_them(opened, cluster, seed, monkeypatch):
    for driver in (etcd, zookeeper):
        monkeypatch.setattr(driver, "WATCH_S", 1.0)  # a node that was stopped keeps its watches
    address = cluster.address("g")
    coordinator, other = opened(address, timeout=20), opened(address, timeout=20)
    state = first = coordinator.create(State.first(b"one"))
    registration = coordinator.register("a", lease=60)
    with other.watch() as watch:
        follower = (cluster.leader() + 1) % 3
        with cluster.frozen(follower):
            state = coordinator.compare_and_set(state, state.next(b"two"))
            until(lambda: watch.wait(10) and other.read() == state)
        until(lambda: cluster.is_ready(follower))

        def kill_the_leader() -> None:
            until(lambda: coordinator.read().number > state.number)
            cluster.kill(cluster.leader())

        steps, verdict = histories.record(
            address, state.id, processes=3, seconds=2.5, seed=seed % 1000, disturb=kill_the_leader
        )
        assert verdict, verdict.reason
        assert verdict.decided
        last = coordinator.read()
        assert last.number > state.number
        assert last.origin == first.id
        state = coordinator.compare_and_set(last, last.next(b"after"))
        until(lambda: watch.wait(10) and other.read() == state)
    assert coordinator.members() == [registration.member]
    a_leader_without_a_majority_answers_nothing(opened, cluster, state)
    assert coordinator.read(timeout=30).number in (state.number, state.number + 1)


def a_leader_without_a_majority_answers_nothing(opened, cluster, state):
    """Not even a read: the others may have elected another one."""
    leader = cluster.leader()
    alone = opened(cluster.address("g", [leader]))
    assert alone.read() == state
    followers = {node for node, each in enumerate(cluster.processes) if each} - {leader}
    with cluster.frozen(*followers):
        with pytest.raises(CoordinatorUnavailable):
            alone.read(timeout=0.5)
        with pytest.raises(CoordinatorUnavailable):  # and not that there is no such group
            opened(cluster.address("other", [leader])).read(timeout=0.5)
        with pytest.raises(CoordinatorUnavailable):
            alone.members(timeout=0.2)
        with pytest.raises((CoordinatorUnavailable, OutcomeUnknown)):
            alone.compare_and_set(state, state.next(b"alone"), timeout=0.3)


@pytest.mark.long(90)
@pytest.mark.timeout(300)
def test_no_disturbance_of_three_nodes_breaks_the_order_of_states(opened, cluster, rng, seed):
    address = cluster.address("g")
    coordinator = opened(address, timeout=60)
    first = coordinator.create(State.first(b"one"))
    done = Counter()

    def disturb() -> None:
        end = time.monotonic() + 45
        while time.monotonic() < end:
            nodes = rng.sample(range(3), rng.choice((1, 1, 1, 2)))
            kind = rng.choice(("kill", "freeze", "freeze", "leader"))
            if kind == "leader":
                nodes = [cluster.leader()]
            if kind == "freeze":
                with cluster.frozen(*nodes):
                    time.sleep(rng.uniform(0.1, 3))
            else:
                for node in nodes:
                    cluster.kill(node)
                time.sleep(rng.uniform(0, 1))
                for node in nodes:
                    cluster.start(node, wait=False)
            done[kind] += 1
            time.sleep(rng.uniform(0.1, 2))
            for node in range(3):
                cluster.await_ready(node)

    steps, verdict = histories.record(
        address, first.id, processes=4, seconds=45, seed=seed % 1000, disturb=disturb
    )
    assert verdict, verdict.reason
    assert verdict.decided
    calls = [step.calls[0] for step in steps if step.calls[0].name == "set"]
    won = sum(call.answer is True for call in calls)
    unknown = sum(call.answer == UNKNOWN for call in calls)
    print(f"{dict(done)}: {len(steps)} calls, {won} changes, {unknown} of unknown outcome")
    assert won + 1 <= coordinator.read().number <= won + unknown + 1
