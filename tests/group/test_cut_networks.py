"""Members that are cut from the coordinator, but not from each other or from front-ends."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import coordination_services
import pytest
from polling import until

import rnvm
from rfp.errors import ConnectionFailed
from rnvm import pools
from rnvm.group import admin
from rnvm.testing.sample_structure import Sample

from .cables import CabledGroup, own_network
from .running import SOON, Client, answered, check_counter, clients, until_answered

LEASES_S = 4.0  # longer than the registration's lease, and than a mirror's promise
WRITERS = (("add", "near"), ("add", "far"))
BOTH = (*WRITERS, ("read", "near"), ("read", "far"))


@pytest.fixture(params=["etcd", pytest.param("zk", marks=pytest.mark.long(60))])
def group(request: pytest.FixtureRequest, tmp_path: Path, folder: Path) -> Iterator[CabledGroup]:
    """Two members in sync; a is the primary."""
    with own_network():
        kind = coordination_services.SERVICES[request.param]
        with contextlib.closing(kind(tmp_path, listen="0.0.0.0")) as service:
            address = service.address("cables")
            first = str(folder / "a.pool")
            pools.create(first, "16MiB", assume_persistent=True)
            admin.create_group(address, first, member="a", min_mirrors=0)
            with contextlib.closing(CabledGroup(address, folder)) as group:
                for name in "ab":
                    group.start(name)
                group.until_in_sync("a", "b")
                yield group


@contextlib.contextmanager
def counting(group: CabledGroup, *kinds: tuple[str, str]) -> Iterator[list[Client]]:
    """Clients call all the time; at the end all their answers agree with one order."""
    with clients(group.address, *kinds) as callers:
        until_answered(*callers, since=0)
        yield callers
        until_answered(*callers, since=time.monotonic_ns())
        for each in callers:
            each.kill()
        with rnvm.connect(group.address, timeout=SOON) as fe:
            check_counter(callers, Sample(fe, "s").numbers()[0])


def refusal(address: str) -> str:
    """Return why a new front-end cannot connect."""
    with pytest.raises(ConnectionFailed) as refused:
        rnvm.connect(address, timeout=SOON, reconnect=False)
    return str(refused.value)


def for_longer_than_all_leases(fact: Callable[[], bool]) -> None:
    end = time.monotonic() + LEASES_S
    while time.monotonic() < end:
        assert fact()
        time.sleep(0.05)


def test_a_primary_that_is_cut_from_the_coordinator_goes_on(group):
    with counting(group, *BOTH) as callers:
        epoch = group.state().epoch
        group.cut("a")
        group.until_registered("b")
        for_longer_than_all_leases(lambda: group.state().epoch == epoch)
        until_answered(*callers, since=time.monotonic_ns())
        until(lambda: "is not registered" in refusal(group.address), SOON)
        group.mend("a")
        group.until_registered("a", "b")
        group.until_in_sync("a", "b")
        assert group.state().epoch == epoch


def test_a_cut_primary_acknowledges_nothing_when_its_mirror_dies(group):
    with counting(group, *WRITERS) as callers:
        group.cut("a")
        group.until_registered("b")
        group.kill("b")
        died = time.monotonic_ns()
        in_progress = len(callers)
        for_longer_than_all_leases(
            lambda: sum(answered(each, died) for each in callers) <= in_progress
        )
        group.mend("a")
        group.until_in_sync("a")
        until_answered(*callers, since=time.monotonic_ns())
        group.start("b")
        group.until_in_sync("a", "b")


def test_a_mirror_that_is_cut_from_the_coordinator_takes_over_when_it_reaches_it_again(group):
    with counting(group, *WRITERS):
        group.cut("b")
        group.until_registered("a")
        group.kill("a")
        group.until_registered()
        for_longer_than_all_leases(lambda: group.state().primary == "a")
        group.mend("b")
        group.until_primary("b")
        group.start("a")
        group.until_in_sync("a", "b")


def test_a_cut_primary_that_was_stopped_answers_nothing_old(group):
    """It cannot read that another one was elected; front-ends that have mapped it call that one."""
    with counting(group, *BOTH) as callers:
        group.cut("a")
        group.signal("a", signal.SIGSTOP)
        until(lambda: group.state().primary == "b", SOON)
        with rnvm.connect(group.address, timeout=SOON) as fe:
            Sample(fe, "s").add(0)  # b serves
        group.signal("a", signal.SIGCONT)
        until_answered(*callers, since=time.monotonic_ns())
        assert group.roles("a")[-1][1] == "primary"
        group.mend("a")
        group.until_in_sync("a", "b")
        assert group.state().primary == "b"
