"""From mirrors to a group and back; a backup of a group."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from polling import until

import rnvm
import rnvm.mirror.mirror
from rfp.core import clock
from rfp.errors import InvalidAddress, PoolRefused
from rfp.protocol.client.opener import Opener
from rnvm import pools
from rnvm.group import admin, driver
from rnvm.group import events as ev
from rnvm.media import identity
from rnvm.media.medium import VolatileMemory
from rnvm.mirror.follower import Follower
from rnvm.testing.sample_structure import Sample
from tests.mirror.copies import Watching, mirror_of, numbers, open_primary, replicated

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


def test_a_copy_in_catch_up_names_its_group_and_the_highest_epoch(pool, folder, monkeypatch):
    marks: list[Any] = []

    class Marking(Watching):
        def copied(self, end: int, found: Any) -> None:
            marks.append(found)

    monkeypatch.setattr(rnvm.mirror.mirror, "Follower", Marking)
    path, copy, told = pool("a"), str(folder / "b.pool"), []
    for epoch in (5, 6):  # a new copy, and one that was whole
        with (
            rnvm.Backend(path, _group=b"g" * 16, _epoch=epoch) as a,
            rnvm.connect(a.address, durability="persistent", timeout=SOON) as fe,
        ):
            Sample(fe, "s").add(1)
            told.clear()
            with contextlib.closing(
                driver._GroupMirror(
                    copy, of=a.address, name="b", epoch=epoch, stream=0, tell=told.append
                )
            ):
                until(lambda: ev.CopyChanged in map(type, told[1:]))
        mark = marks[-1]
        assert (mark["state"], mark["group"]) == ("catching up", b"g" * 16)
        assert (mark["member"], mark["epoch"]) == ("b", epoch)


def test_the_primary_of_a_group_joins_no_mirror_that_is_no_member(pool):
    soon = clock.deadline_in(SOON)
    with (
        rnvm.Backend(pool("a"), _group=b"g" * 16, _epoch=2) as a,
        contextlib.closing(Opener(a.address, "rnvm")) as opener,
        contextlib.closing(Follower(opener, soon, member="b")) as stranger,
        contextlib.closing(VolatileMemory(stranger.size)) as medium,
    ):
        stranger.begin(medium, soon)
        for at in range(0, stranger.size, 1 << 18):
            stranger.copy(at, min(1 << 18, stranger.size - at), soon)
        stranger.finish(soon)
        with pytest.raises(PoolRefused):
            stranger.join(soon)
        assert not any(each["level"] for each in a._service.group_slots())
