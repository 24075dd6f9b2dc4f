"""Failovers, one after the other: nothing acknowledged is lost, and the time of each."""

from __future__ import annotations

import contextlib
import random
import signal
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from polling import until

import rnvm
from rnvm import pools
from rnvm.group import admin
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import Process

from .running import SOON, Client, Group, check_counter, clients, until_answered

KINDS = ("kill", "stop")
PROMISE_S = 1.0  # of a mirror
CLIENTS = (("add", "near"), ("add", "far"), ("read", "near"), ("read", "far"))


@dataclass
class Failover:
    """Seconds since the primary was killed or stopped."""

    how: str
    detected: float  # the coordinator had ended its registration
    primary: float  # the next one served
    answered: float  # all clients had a call answered that the next one served

    @property
    def after_detection(self) -> float:
        return self.answered - self.detected


def fail_over(group: Group, how: str, callers: list[Client]) -> Failover:
    """Kill the primary, or stop it for longer than every lease; the other one takes over."""
    group.until_in_sync("a", "b")
    until_answered(*callers, since=time.monotonic_ns())
    old = group.state().primary
    assert old is not None
    new = "b" if old == "a" else "a"
    earlier = len(group.roles(new))
    began = time.monotonic_ns()
    if how == "kill":
        group.kill(old)
    else:
        group.signal(old, signal.SIGSTOP)
    until(lambda: old not in group.registered(), SOON)
    detected = time.monotonic_ns()

    def served() -> int:
        return next((at for at, role in group.roles(new)[earlier:] if role == "primary"), 0)

    primary = until(served, SOON)
    assert group.state().primary == new
    until_answered(*callers, since=primary)
    first = [
        min(call.end for call in each.calls() if call.end >= primary and call.answer is not None)
        for each in callers
    ]
    if how == "kill":
        group.start(old)
    else:
        group.signal(old, signal.SIGCONT)
    seconds = ((at - began) / 1e9 for at in (detected, primary, max(first)))
    return Failover(how, *seconds)


def summary(kind: str, all_of_them: list[Failover]) -> str:
    lines = []
    for what in ("detected", "primary", "answered", "after_detection"):
        values = sorted(getattr(each, what) for each in all_of_them)
        p99 = values[min(len(values) - 1, int(0.99 * len(values)))]
        median = statistics.median(values)
        lines.append(f"{what} median {median:.2f} s, p99 {p99:.2f} s, max {values[-1]:.2f} s")
    return f"{len(all_of_them)} failovers by {kind}: " + "; ".join(lines)


def fail_over_often(
    address: str, folder: Path, count: int, rng: random.Random, kinds: tuple[str, ...]
) -> list[Failover]:
    group = Group(address, folder)
    with contextlib.closing(group), clients(address, *CLIENTS) as callers:
        for name in "ab":
            group.start(name)
        until_answered(*callers, since=0)
        found = [fail_over(group, rng.choice(kinds), callers) for _ in range(count)]
        end(address, callers)
    return found


def end(address: str, callers: list[Client]) -> None:
    """End the clients, and check that one order explains their answers."""
    for each in callers:
        each.kill()
    with rnvm.connect(address, timeout=SOON) as fe:
        check_counter(callers, Sample(fe, "s").numbers()[0])


def create(address: str, folder: Path) -> None:
    """Create a group; its first member, a, has not been started."""
    first = str(folder / "a.pool")
    pools.create(first, "16MiB", assume_persistent=True)
    admin.create_group(address, first, member="a", min_mirrors=0)


@pytest.fixture
def new_group(address: str, folder: Path) -> str:
    create(address, folder)
    return address


@pytest.mark.timeout(120)
def test_after_three_failovers_nothing_is_lost(new_group, folder, rng):
    fail_over_often(new_group, folder, 3, rng, KINDS)


@pytest.mark.timeout(120)
def test_the_primary_and_the_coordinators_leader_die_at_once(cluster, folder):
    address = cluster.address("orders")
    create(address, folder)
    group = Group(address, folder)
    with contextlib.closing(group), clients(address, *CLIENTS) as callers:
        for name in "ab":
            group.start(name)
        group.until_in_sync("a", "b")
        until_answered(*callers, since=time.monotonic_ns())
        cluster.kill(cluster.leader())
        group.kill("a")
        until_answered(*callers, since=time.monotonic_ns())
        assert group.state().primary == "b"
        end(address, callers)


@pytest.mark.long(900)
@pytest.mark.timeout(3000)
def test_100_failovers(new_group, folder, service, rng, capsys):
    found = fail_over_often(new_group, folder, 100, rng, KINDS)
    text = summary(service.kind, found)
    with capsys.disabled():
        print(f"\n{text}")
    # Other work of the machine makes some of them longer.
    quickest = sorted(each.after_detection for each in found)[: len(found) // 4]
    assert quickest[-1] <= PROMISE_S + 1, text


# After a signal, changes a key within a transaction that never ends.
HOLDER = """
import signal, sys, rnvm
from structures import HashTable
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
with rnvm.connect(sys.argv[1], timeout=SOON) as fe:
    table = HashTable(fe, "t")
    print("ready", flush=True)
    signal.sigwait({signal.SIGUSR1})
    with fe.transaction(table):
        table[b"k"] = b"of the holder"
        print("inside", flush=True)
        signal.pause()
""".replace("SOON", str(SOON))

# After a signal, waits for the holder's lock.
NEXT = """
import signal, sys, rnvm
from structures import HashTable
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
with rnvm.connect(sys.argv[1], timeout=SOON) as fe:
    table = HashTable(fe, "t")
    print("ready", flush=True)
    signal.sigwait({signal.SIGUSR1})
    print(table.setdefault(b"k", b"of the next"), flush=True)
""".replace("SOON", str(SOON))


def test_the_next_primary_takes_back_a_lock_whose_holder_died_with_the_former_one(
    new_group, folder
):
    with (
        contextlib.closing(Group(new_group, folder)) as group,
        Process(HOLDER, new_group) as holder,
        Process(NEXT, new_group) as following,
    ):
        for name in "ab":
            group.start(name)
        until(holder.printed, SOON)
        until(following.printed, SOON)
        group.until_in_sync("a", "b")
        # From here to the kill it takes less than the lock's lease.
        holder.signal(signal.SIGUSR1)
        until(lambda: b"inside" in holder.printed(), SOON)
        following.signal(signal.SIGUSR1)
        holder.signal(signal.SIGSTOP)
        group.kill("a")
        holder.kill()
        until(lambda: following.printed().count(b"\n") == 2, SOON)
        assert following.printed().splitlines()[1] == b"b'of the next'"
        group.until_primary("b")
