"""Real groups: members in processes of their own, on real coordinators; one of them dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal

import pytest
from click.testing import CliRunner
from polling import until

import rnvm
import rnvm.aio
from rfp.errors import ConnectionFailed, DeadlineExceeded, NotReplicated
from rnvm.cli import main
from rnvm.frontend import promise
from rnvm.group import admin
from rnvm.testing.sample_structure import Sample

from .groups import (
    SOON,
    check_ledger,
    in_sync,
    member,
    primary_of,
    until_in_sync,
    until_primary,
    writer,
)


def test_a_member_alone_becomes_the_primary(group, folder):
    with rnvm.GroupMember(folder / "a.pool", group=group, member="a") as alone:
        alone.wait("primary", SOON)
        with rnvm.connect(group, timeout=SOON) as fe:
            assert fe.durability == "replicated"
            assert Sample(fe, "s").add(1) == 1
        assert alone.epoch == 2
        assert in_sync(group) == ["a"]
    assert primary_of(group) == "a"


def test_a_front_end_of_an_event_loop_has_the_promise_and_the_patience_of_a_group(group, folder):
    async def use():
        async with rnvm.aio.connect(group) as fe:
            sample = await fe.run(Sample, fe._sync, "s")
            assert await fe.run(sample.add, 1) == 1
            assert (fe._sync.durability, fe._sync.timeout) == ("replicated", 15.0)
        with rnvm.connect(group) as near:
            assert (near.durability, near.timeout) == ("replicated", 15.0)

    with rnvm.GroupMember(folder / "a.pool", group=group, member="a") as alone:
        alone.wait("primary", SOON)
        asyncio.run(use())


def test_the_status_of_a_group_is_that_of_its_primary(group, folder):
    with rnvm.GroupMember(folder / "a.pool", group=group, member="a") as alone:
        alone.wait("primary", SOON)
        done = CliRunner().invoke(main, ["status", group, "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["pool"]["replication"]["epoch"] == alone.epoch
    done = CliRunner().invoke(main, ["status", group])
    assert done.exit_code == 3 and "is not registered" in done.output


def test_a_mirror_joins_and_takes_over_when_the_primary_leaves(group, folder):
    first = rnvm.GroupMember(folder / "a.pool", group=group, member="a")
    with contextlib.closing(first):
        first.wait("primary", SOON)
        with (
            rnvm.connect(group, timeout=SOON) as fe,
            rnvm.GroupMember(folder / "b.pool", group=group, member="b") as second,
        ):
            sample = Sample(fe, "s")
            assert sample.add(1) == 1
            second.wait("in sync", SOON)
            assert in_sync(group) == ["a", "b"]
            assert sample.add(1) == 2
            first.close()
            second.wait("primary", SOON)
            assert sample.numbers()[0] == 2
            assert sample.add(1) == 3
            assert primary_of(group) == "b"
            assert in_sync(group) == ["b"]
            with rnvm.GroupMember(folder / "a.pool", group=group, member="a") as again:
                again.wait("in sync", SOON)
                assert sample.add(1) == 4
                assert in_sync(group) == ["a", "b"]


@pytest.mark.every_case
def test_a_mirror_takes_over_when_the_primary_is_killed(group, folder):
    kill_the_primary(group, folder)


def test_a_mirror_takes_over_over_a_network_as_bad_as_the_contract_allows(group, folder, seed):
    kill_the_primary(group, folder, seed)


def kill_the_primary(group, folder, network=None):
    with (
        member(folder, group, "a", network) as a,
        member(folder, group, "b", network) as b,
        writer(group) as writing,
    ):
        until_in_sync(group, "a", "b")
        writing.wait_for(10)
        a.kill()
        until_primary(group, "b")
        writing.wait_for(10)
        assert b.printed().split()[-1] == b"primary"
        with member(folder, group, "a", network):
            until_in_sync(group, "a", "b")
            check_ledger(group, writing)


def test_a_primary_that_was_stopped_longer_than_every_lease_becomes_a_mirror(group, folder):
    with (
        member(folder, group, "a") as a,
        member(folder, group, "b"),
        writer(group) as writing,
    ):
        until_in_sync(group, "a", "b")
        writing.wait_for(10)
        a.signal(signal.SIGSTOP)
        until_primary(group, "b")
        a.signal(signal.SIGCONT)
        until_in_sync(group, "a", "b")
        assert primary_of(group) == "b"
        check_ledger(group, writing)


@pytest.mark.parametrize("planted", [False, True])
def test_a_front_end_of_a_stopped_primary_reads_what_the_next_one_has(group, folder, planted):
    with member(folder, group, "a") as a, member(folder, group, "b"):
        with rnvm.connect(group, timeout=SOON) as near:
            sample = Sample(near, "s")
            assert sample.add(1) == 1
            until_in_sync(group, "a", "b")
            a.signal(signal.SIGSTOP)
            until_primary(group, "b")
            with rnvm.connect(group, timeout=SOON) as other:
                assert Sample(other, "s").add(1) == 2
            # Its pool is mapped, and its process is alive: only the serving word says no.
            promise._skip_steps(promise.PROMISE_SERVES if planted else 0)
            try:
                assert sample.numbers()[0] == (1 if planted else 2)
            finally:
                promise._skip_steps(0)
        a.signal(signal.SIGCONT)


def test_a_mirror_that_is_killed_is_removed_and_work_goes_on(group, folder):
    with (
        member(folder, group, "a"),
        member(folder, group, "b") as b,
        writer(group) as writing,
    ):
        until_in_sync(group, "a", "b")
        b.kill()
        until_in_sync(group, "a")
        writing.wait_for(10)
        with member(folder, group, "b"):
            until_in_sync(group, "a", "b")
            check_ledger(group, writing)


@pytest.mark.parametrize("first", ["a", "b"])
def test_both_die_and_come_back_in_either_order(group, folder, first):
    second = "b" if first == "a" else "a"
    with (
        member(folder, group, "a") as a,
        member(folder, group, "b") as b,
        writer(group) as writing,
    ):
        until_in_sync(group, "a", "b")
        writing.wait_for(10)
        a.kill()
        b.kill()
        with member(folder, group, first):
            until_primary(group, first)
            writing.wait_for(10)
            with member(folder, group, second):
                until_in_sync(group, "a", "b")
                check_ledger(group, writing)


def test_work_goes_on_without_the_coordinator(own_service, pool, folder):
    group = own_service.address("orders")
    admin.create_group(group, pool("a"), member="a", min_mirrors=0)
    with member(folder, group, "a"), member(folder, group, "b"), writer(group) as writing:
        until_in_sync(group, "a", "b")
        writing.wait_for(10)
        with own_service.frozen(0):
            for _ in range(10):
                writing.wait_for(20)
        check_ledger(group, writing)
        until_in_sync(group, "a", "b")


def test_with_too_few_mirrors_nothing_is_written(address, pool, folder):
    admin.create_group(address, pool("a"), member="a", min_mirrors=1)
    with member(folder, address, "a") as a:
        until(lambda: b"primary" in a.printed(), SOON)

        def refused() -> bool:
            try:
                with rnvm.connect(address, timeout=2):
                    raise AssertionError("too few mirrors")
            except NotReplicated:
                return True
            except (ConnectionFailed, DeadlineExceeded):  # it did not get so far in that time
                return False

        until(refused, SOON)
        with member(folder, address, "b"):
            until_in_sync(address, "a", "b")
            with rnvm.connect(address, timeout=SOON) as fe:
                assert Sample(fe, "s").add(1) == 1
