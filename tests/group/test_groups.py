"""Real groups: members in processes of their own, on real coordinators; one of them dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

import rnvm
from rnvm.group import admin
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import Process

SOON = 40

MEMBER = """
import signal, sys, rnvm
path, group, name = sys.argv[1:4]
with rnvm.GroupMember(path, group=group, member=name, on_change=lambda r: print(r, flush=True)):
    print("begun", flush=True)
    signal.pause()
"""


@contextlib.contextmanager
def member(path: str, group: str, name: str) -> Iterator[Process]:
    with Process(MEMBER, path, group, name) as process:
        yield process


def primary_of(group: str) -> str | None:
    return admin.group_status(group).state.primary


def in_sync(group: str) -> list[str]:
    return sorted(each.member for each in admin.group_status(group).state.in_sync)


@pytest.fixture
def group(address: str, pool) -> str:
    admin.create_group(address, pool("a"), member="a", min_mirrors=0)
    return address


def test_a_member_alone_becomes_the_primary(group, folder):
    with rnvm.GroupMember(folder / "a.pool", group=group, member="a") as alone:
        alone.wait("primary", SOON)
        with rnvm.connect(group, timeout=SOON) as fe:
            assert fe.durability == "replicated"
            assert Sample(fe, "s").add(1) == 1
        assert alone.epoch == 2
        assert in_sync(group) == ["a"]
    assert primary_of(group) == "a"


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
