"""What an operator does to a whole group: force a copy, restore a backup, grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from polling import until

import rnvm
from rfp.errors import PoolRefused
from rnvm import pools
from rnvm.group import admin
from rnvm.group.driver import GroupMember
from rnvm.testing.sample_structure import Sample

from .groups import SOON, in_sync, state_of, until_in_sync


def member_of(group: str, folder: Path, name: str, **options: Any) -> GroupMember:
    return GroupMember(folder / f"{name}.pool", group=group, member=name, **options)


def numbers(group: str) -> int:
    with rnvm.connect(group, timeout=SOON) as fe:
        return Sample(fe, "s").numbers()[0]


def add(group: str, times: int) -> None:
    with rnvm.connect(group, timeout=SOON) as fe:
        sample = Sample(fe, "s")
        for _ in range(times):
            sample.add(1)


def test_the_copy_that_was_forced_is_the_groups(group: str, folder: Path) -> None:
    with member_of(group, folder, "a") as a:
        with member_of(group, folder, "b") as b:
            add(group, 3)
            b.wait("in sync", SOON)
        until_in_sync(group, "a")
        a.wait("primary", SOON)
        add(group, 2)
    before = state_of(group)
    after = admin.force_group(group, folder / "b.pool")
    assert (after.epoch, after.primary) == (before.epoch + 1, None)
    with member_of(group, folder, "b") as b:
        b.wait("primary", SOON)
        assert numbers(group) == 3, "what only a had is lost"
        add(group, 1)
        with member_of(group, folder, "a") as a:
            a.wait("in sync", SOON)
            b.close()
            a.wait("primary", SOON)
            assert numbers(group) == 4


def test_an_old_primary_that_still_runs_stops_when_it_reads_that_another_copy_was_forced(
    group: str, folder: Path
) -> None:
    with member_of(group, folder, "a") as a:
        with member_of(group, folder, "b") as b:
            add(group, 3)
            b.wait("in sync", SOON)
        until_in_sync(group, "a")
        add(group, 2)
        assert a.role == "primary"
        admin.force_group(group, folder / "b.pool")
        assert in_sync(group) == ["b"]
        with member_of(group, folder, "b") as b:
            b.wait("primary", SOON)
            until(lambda: a.role == "mirror" and a.in_sync, SOON)
            assert numbers(group) == 3


def test_a_backup_is_restored_as_a_group_of_a_new_name(group: str, folder: Path) -> None:
    backup = folder / "monday.pool"
    with member_of(group, folder, "a") as a:
        add(group, 2)
        rnvm.backup(backup, of=a.address)
        add(group, 1)
    (folder / "a.pool").unlink()
    with pytest.raises(PoolRefused, match="belongs to no group"):
        admin.force_group(group, backup)
    restored = f"{group}-restored"
    admin.create_group(restored, backup, member="a", min_mirrors=0)
    with GroupMember(backup, group=restored, member="a") as a:
        a.wait("primary", SOON)
        with member_of(restored, folder, "b") as b:
            b.wait("in sync", SOON)
            assert numbers(restored) == 2
            a.close()
            b.wait("primary", SOON)
            assert numbers(restored) == 2


def test_a_group_grows_with_its_primarys_pool(group: str, folder: Path) -> None:
    one, other = folder / "a.pool", folder / "b.pool"
    with member_of(group, folder, "a"):
        with member_of(group, folder, "b") as b:
            b.wait("in sync", SOON)
            add(group, 1)
        until_in_sync(group, "a")
    pools.grow(one, "6MiB")
    with member_of(group, folder, "a") as a:
        a.wait("primary", SOON)
        with member_of(group, folder, "b") as b:
            b.wait("in sync", SOON)
            assert other.stat().st_size == one.stat().st_size
            a.close()
            b.wait("primary", SOON)
            assert numbers(group) == 1
