"""From mirrors to a group and back; a backup of a group."""

from __future__ import annotations

import contextlib

import pytest

import rnvm
from rfp.errors import InvalidAddress
from rnvm import pools
from rnvm.group import admin
from rnvm.media import identity
from rnvm.testing.sample_structure import Sample
from tests.mirror.copies import mirror_of, numbers, open_primary, replicated

SOON = 40


def test_a_pool_and_its_mirror_become_a_group(address, pool, folder):
    path, copy = pool("a"), str(folder / "b.pool")
    for _ in range(5):
        pools.open_pool(path).close()
    with open_primary(path) as backend, rnvm.connect(backend.address) as fe:
        Sample(fe, "s").add(1)
        with mirror_of(backend, copy) as mirror:
            mirror.wait_level(SOON)
            replicated(backend)
    state = admin.create_group(address, path, member="a", min_mirrors=0)
    with pools.view(copy) as (view, _):
        assert state.epoch >= identity.read(view)["epoch"] >= 6
    with (
        rnvm.GroupMember(path, group=address, member="a") as first,
        rnvm.GroupMember(copy, group=address, member="b") as second,
    ):
        first.wait("primary", SOON)
        second.wait("in sync", SOON)
        with rnvm.connect(address, timeout=SOON) as fe:
            assert Sample(fe, "s").add(1) == 2
        with pytest.raises(InvalidAddress, match="one of its members"):
            rnvm.Mirror(folder / "c.pool", of=address)
        rnvm.backup(folder / "c.pool", of=address, timeout=SOON)
    assert numbers(str(folder / "c.pool")) == (2, 2)


def test_the_members_of_a_group_follow_a_pool_that_has_left_it(pool, folder):
    path, copy = pool("a"), str(folder / "b.pool")
    with open_primary(path) as backend, mirror_of(backend, copy) as mirror:
        mirror.wait_level(SOON)
    for each in (path, copy):  # as a group that was forced leaves them
        with pools.claim(each) as claimed, contextlib.closing(claimed.raw()) as medium:
            identity.write(medium, state="whole", identity=b"i" * 16, group=b"g" * 16, epoch=5000)
        admin.leave_group(each)
    with open_primary(path) as backend, mirror_of(backend, copy) as mirror:
        mirror.wait_level(SOON)
        assert backend.figures()["pool"]["replication"]["epoch"] > 5000
