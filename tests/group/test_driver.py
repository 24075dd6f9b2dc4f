"""A member's threads, its pool's file, and what ends them; the coordinator is in this process."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from polling import until

import rnvm
from rfp.errors import FabricError, InvalidArgument, PoolInUse, PoolRefused
from rnvm import connecting, pools
from rnvm.coordinator.registration import Member
from rnvm.coordinator.state import State, new_id
from rnvm.group import admin, driver, registered
from rnvm.group import events as ev
from rnvm.group.events import Copy
from rnvm.group.member import SECOND_NS, Times
from rnvm.group.member_lock import MemberLock
from rnvm.group.registered import Registered
from rnvm.group.state import GroupState, Listed, decode
from rnvm.media import identity
from rnvm.mirror.copy_file import CopyFile
from rnvm.testing.sample_structure import Sample

from . import in_memory
from .in_memory import ADDRESS, Service

SOON = 40
QUICK = Times(
    patience=SECOND_NS // 5,
    absence=SECOND_NS // 20,
    retry=SECOND_NS // 20,
    retry_most=SECOND_NS // 5,
)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    running = Service()
    for module in (admin, connecting, driver):
        monkeypatch.setattr(module, "open_coordinator", running.open)
    return running


@pytest.fixture
def join(service: Service, folder: Path) -> Iterator[Callable[..., rnvm.GroupMember]]:
    """Start a member; all are closed when the test ends."""
    with contextlib.ExitStack() as stack:

        def begin(name: str, **options: Any) -> rnvm.GroupMember:
            # A busy machine may hold a mirror up: its primary must not give it up for that.
            options = {"times": QUICK, "mirror_patience": 20, **options}
            member = rnvm.GroupMember(
                folder / f"{name}.pool", group=ADDRESS, member=name, **options
            )
            stack.callback(member.close)
            return member

        yield begin


@pytest.fixture
def group(service: Service, pool) -> str:
    admin.create_group(ADDRESS, pool("a"), member="a", min_mirrors=0)
    return ADDRESS


def state_of(service: Service) -> GroupState:
    assert service.state is not None
    return decode(service.state.value, "test")


def in_sync(service: Service) -> list[str]:
    return sorted(each.member for each in state_of(service).in_sync)


def roles_of(service: Service) -> dict[str, str]:
    with service.changed:
        found = [registered.decode(each) for each in service.members.values()]
    return {each.listed.member: each.role for each in found if each is not None}


def registered_as(name: str, data: bytes) -> Member:
    return Member(name, new_id(), data)


def kept_by(path: Path) -> dict[str, Any]:
    with pools.view(path) as (view, _):
        found = identity.read(view)
        assert found is not None
        return found


def until_in_sync(service: Service, *names: str) -> None:
    until(lambda: in_sync(service) == sorted(names), SOON)


# What ends a member, and what does not


def test_a_member_whose_thread_fails_leaves_and_another_one_takes_over(group, service, join):
    a, b = join("a"), join("b")
    b.wait("in sync", SOON)

    def fail() -> None:
        raise RuntimeError("planted")

    ends = ends_of(a)
    a._look = fail
    b.wait("primary", SOON)
    assert a.failed
    assert isinstance(a.error, RuntimeError)
    assert a._backend is None
    until(lambda: len(ends) == 2, SOON)
    assert ends == ENDS[:2]
    with rnvm.connect(group, timeout=SOON) as fe:
        assert Sample(fe, "s").add(1) == 1


# Others may take over when it is not registered, and its next process when the lock is free: its
# promise must cover what this one has acknowledged.
ENDS = ["role", "registration", "lock"]


def ends_of(member: rnvm.GroupMember) -> list[str]:
    """Note in a list when what it serves or follows, its registration and its lock have ended."""
    ends: list[str] = []

    def note(what: str, holder: Any, name: str) -> None:
        end = getattr(holder, name)

        def noted() -> None:
            end()
            ends.append(what)

        setattr(holder, name, noted)

    note("role", member._backend or member._mirror, "close")
    note("registration", member, "_end_registration")
    note("lock", member._lock, "close")
    return ends


def test_a_callback_that_raises_does_not_end_the_member(group, join):
    def on_change(_role: str) -> None:
        raise BrokenPipeError("planted")

    a = join("a", on_change=on_change)
    a.wait("primary", SOON)
    with rnvm.connect(group, timeout=SOON) as fe:
        assert Sample(fe, "s").add(1) == 1
    assert not a.failed


def test_a_call_of_the_coordinator_that_fails_in_any_way_is_made_again(
    group, service, join, monkeypatch
):
    left = {"_read": 1, "_set": 1, "_registration": 2}
    coordinator = in_memory._Coordinator

    def failing(call: str) -> Callable[..., Any]:
        made = getattr(coordinator, call)

        def fails(*arguments: Any) -> Any:
            if left[call]:
                left[call] -= 1
                raise RuntimeError("can't start new thread")
            return made(*arguments)

        return fails

    for call in left:
        monkeypatch.setattr(coordinator, call, failing(call))
    present: list[int] = []
    note = service.note

    def noted() -> None:
        present.append(len(service.members))
        note()

    service.note = noted
    join("a").wait("primary", SOON)
    with rnvm.connect(group, timeout=SOON) as fe:
        assert Sample(fe, "s").add(1) == 1
    assert not any(left.values())
    until(lambda: service.registered == 2, SOON)
    until(lambda: len(service.members) == 1, SOON)
    assert 0 not in present[present.index(1) :], "the former one ended before the new one"


@pytest.mark.parametrize(
    ("module", "opens"), [(pools, "open_medium"), (driver, "Backend")], ids=["keep", "open"]
)
def test_a_member_waits_for_a_tool_that_has_its_pool_open(group, join, monkeypatch, module, opens):
    left = [1, 2, 3]
    opener = getattr(module, opens)

    def in_use(path: str, **options: Any) -> Any:
        if left:
            left.pop()
            raise PoolInUse(f"{path} is open in another process")
        return opener(path, **options)

    monkeypatch.setattr(module, opens, in_use)
    monkeypatch.setattr(driver, "OPEN_NS", 0)  # for which it waits if another copy may be opened
    a = join("a")
    a.wait("primary", SOON)
    assert not left
    assert not a.failed
    assert a.epoch == 2


@pytest.mark.parametrize("lost", ["file", "address"])
def test_a_winner_that_cannot_serve_leaves_the_group_to_another_copy(
    group, service, join, monkeypatch, lost
):
    a, b = join("a"), join("b")
    b.wait("in sync", SOON)
    opener = driver.Backend

    def opens(path: str, **options: Any) -> rnvm.Backend:
        if lost == "address":
            options["address"] = "shm:///proc/nowhere"
        backend = opener(path, **options)
        if lost == "file":
            os.unlink(path)
        return backend

    monkeypatch.setattr(driver, "Backend", opens)
    a.close()
    until(lambda: b.failed, SOON)
    assert (state_of(service).primary, in_sync(service)) == (None, ["a"])


@pytest.mark.parametrize("kept", ["whole", "none"])
def test_a_copy_that_was_replaced_under_a_member_is_not_opened(
    group, join, folder, monkeypatch, kept
):
    read_copy = rnvm.GroupMember._read_copy

    def replaced(self: rnvm.GroupMember) -> Copy:
        copy = read_copy(self)
        with contextlib.closing(pools.open_medium(self.path)) as medium:
            found = identity.read(medium)
            identity.write(medium, **{**found, "identity": b"o" * 16, "state": kept})
        return copy

    monkeypatch.setattr(rnvm.GroupMember, "_read_copy", replaced)
    a = join("a")
    reason = "was replaced by another copy" if kept == "whole" else "no whole copy any more"
    until(lambda: reason in a.trouble, SOON)
    assert a._backend is None
    assert kept_by(folder / "a.pool")["epoch"] == 1


def test_a_mirror_without_its_file_or_without_room_tries_again(group, join, folder, monkeypatch):
    join("a").wait("primary", SOON)
    left = [1, 2]
    fill = pools._fill

    def no_room(fd: int, size: int, kind: Any) -> None:
        if left and size:
            left.pop()
            error = FabricError("cannot allocate 4 MiB for the pool: planted")
            error.errno = errno.ENOSPC
            raise error
        fill(fd, size, kind)

    with contextlib.closing(CopyFile(folder / "b.pool")):
        b = join("b")
        until(lambda: "open in another process" in b.trouble, SOON)
        monkeypatch.setattr(pools, "_fill", no_room)
    b.wait("in sync", SOON)
    assert not left


# Elections


def test_a_winner_that_cannot_open_its_pool_leaves_it_to_another_one(
    group, service, join, monkeypatch
):
    a, b, c = join("a"), join("b"), join("c")
    with rnvm.connect(group, timeout=SOON) as fe:
        sample = Sample(fe, "s")
        until_in_sync(service, "a", "b", "c")
        assert sample.add(1) == 1
        backend, tried = driver.Backend, []

        def broken(path: str, **options: Any) -> Any:
            tried.append(path)
            if len(tried) == 1:
                raise OSError("planted")
            return backend(path, **options)

        monkeypatch.setattr(driver, "Backend", broken)
        a.close()
        second = {b.path: c, c.path: b}
        until(lambda: bool(tried), SOON)
        other = second[tried[0]]
        other.wait("primary", SOON)
        assert sample.add(1) == 2
        assert in_sync(service) == [other.name]


def test_a_winner_that_dies_before_it_may_open_its_pool_is_succeeded(group, service, join):
    a, b, c = join("a"), join("b"), join("c")
    with rnvm.connect(group, timeout=SOON) as fe:
        sample = Sample(fe, "s")
        until_in_sync(service, "a", "b", "c")
        assert sample.add(1) == 1
        for each in (b, c):
            each._machine._claim = lambda now: None  # it does not get so far
        a.close()
        until(lambda: state_of(service).primary != "a", SOON)
        assert in_sync(service) == ["a", "b", "c"]
        dead, other = (b, c) if state_of(service).primary == "b" else (c, b)
        del other._machine._claim
        dead.close()
        other.wait("primary", SOON)
        assert sample.add(1) == 2


def test_a_copy_is_left_alone_until_an_open_primary_answers(group, service, join, folder):
    a, b = join("a"), join("b")
    b.wait("in sync", SOON)
    b.close()
    a.close()
    before = os.stat(folder / "b.pool").st_ino, kept_by(folder / "b.pool")
    # A state in which a was elected, and is registered, but does not listen yet.
    old = service.state
    assert old is not None
    (alone,) = [each for each in state_of(service).in_sync if each.member == "a"]
    service.state = old.next(
        GroupState(state_of(service).group, state_of(service).epoch, "a", (alone,), 0).encode()
    )
    nowhere = Registered(alone, f"shm://{folder}/nowhere", "primary").encode()
    service.members[999] = registered_as("a", nowhere)
    reads = service.reads
    again = join("b")
    until(lambda: "nowhere" in again.trouble, SOON)
    until(lambda: service.reads >= reads + 5, SOON)
    assert os.stat(folder / "b.pool").st_ino == before[0]
    assert again._machine.copy.identity == before[1]["identity"].hex()
    again.close()
    assert kept_by(folder / "b.pool")["identity"] == before[1]["identity"]


def test_a_mirror_that_comes_back_needs_no_room_for_a_second_file(group, service, join, folder):
    join("a").wait("primary", SOON)
    with join("b") as b:
        b.wait("in sync", SOON)
        ends = ends_of(b)
    assert ends == ENDS
    file = os.stat(folder / "b.pool").st_ino
    until_in_sync(service, "a")
    join("b").wait("in sync", SOON)
    assert os.stat(folder / "b.pool").st_ino == file
    assert not os.path.exists(folder / "b.pool.former")


def test_a_mirror_that_cannot_connect_costs_the_coordinator_little(group, service, join, folder):
    first = service.state
    assert first is not None
    now = state_of(service)
    listed = now.in_sync[0]
    service.state = first.next(GroupState(now.group, 2, "a", (listed,), 0).encode())
    nowhere = Registered(listed, f"shm://{folder}/nowhere", "primary").encode()
    service.members[999] = registered_as("a", nowhere)
    b = join("b")
    until(lambda: "nowhere" in b.trouble, SOON)
    until(lambda: roles_of(service) == {"a": "primary", "b": "mirror"}, SOON)
    reads, registrations = service.reads, service.registered
    attempts = 0
    follow = b._do_follow

    def counted(action: Any) -> None:
        nonlocal attempts
        attempts += 1
        follow(action)

    b._do_follow = counted
    until(lambda: attempts >= 5, SOON)
    assert service.reads - reads <= 3 * attempts
    assert service.registered == registrations, "its role has not changed in between"


def test_a_copy_is_left_alone_by_a_primary_of_another_epoch(pool, folder):
    told: list[ev.Event] = []
    with (
        rnvm.Backend(pool("a"), _group=b"g" * 16, _epoch=2) as a,
        contextlib.closing(
            driver._GroupMirror(
                str(folder / "b.pool"), of=a.address, name="b", epoch=3, stream=0, tell=told.append
            )
        ),
    ):
        until(lambda: told, SOON)
    (ended,) = told
    assert isinstance(ended, ev.FollowEnded)
    assert "is open in epoch 2, not 3" in ended.reason


# One process for each member


def test_a_second_process_of_a_member_is_refused(group, join, folder):
    a = join("a")
    a.wait("primary", SOON)
    for act in (lambda: join("a"), lambda: admin.leave_group(folder / "a.pool")):
        with pytest.raises(PoolInUse, match="already the member"):
            act()
    ends = ends_of(a)
    a.close()
    assert ends == ENDS
    join("a").wait("primary", SOON)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"leese": 1.0}, TypeError), ({"lease": 0}, InvalidArgument),
        ({"idle": "now"}, InvalidArgument),
        ({"mirror_patience": -1}, InvalidArgument),
        ({"secret": "s", "secret_file": "f"}, InvalidArgument),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_a_back_end_would_refuse_months_later_are_refused_now(
    service, folder, options, error
):
    with pytest.raises(error):
        rnvm.GroupMember(folder / "a.pool", group=ADDRESS, member="a", **options)
    assert not os.listdir(folder)


def test_a_wait_for_a_role_that_does_not_exist_is_refused_now(group, join):
    a = join("a")
    with pytest.raises(InvalidArgument, match="invalid role 'follower' .expected in sync, "):
        a.wait("follower", SOON)
    for timeout in (-1, float("nan"), float("inf")):
        with pytest.raises(InvalidArgument, match="timeout must be between 0 and 1e"):
            a.wait("primary", timeout)


@pytest.mark.parametrize("fails", ["pool", "watch"])
def test_a_member_that_cannot_begin_leaves_nothing_open(group, join, folder, monkeypatch, fails):
    def refuse(self: Any) -> None:
        begun.append(self)
        raise OSError("planted")

    begun: list[Any] = []
    if fails == "watch":
        monkeypatch.setattr(in_memory._Coordinator, "watch", refuse)
    else:
        monkeypatch.setattr(rnvm.GroupMember, "_read_copy", refuse)
    with pytest.raises(OSError, match="planted"):
        join("a")
    assert fails == "pool" or begun[0].closed
    MemberLock(folder / "a.pool").close()


def test_a_promise_shorter_than_what_the_primary_counts_on_is_refused(group, join):
    with pytest.raises(InvalidArgument, match=r"times\.promise"):
        join("a", times=Times(promise=10**8))


# Mirrors that are no members


def test_mirrors_of_a_groups_primary_that_can_be_no_members_are_refused_and_never_in_sync(
    group, service, join, folder
):
    a = join("a")
    a.wait("primary", SOON)
    before = state_of(service)
    with rnvm.Mirror(folder / "copy.pool", of=a.address) as mirror:
        with pytest.raises(PoolRefused, match="the primary of a group"):
            mirror.wait_level(SOON)
    assert not os.path.exists(folder / "copy.pool")
    told: list[ev.Event] = []
    with contextlib.closing(
        driver._GroupMirror(
            str(folder / "b.pool"), of=a.address, name="b/c", epoch=2, stream=0, tell=told.append
        )
    ):
        until(lambda: any(isinstance(each, ev.FollowEnded) for each in told), SOON)
    assert a.role == "primary"
    assert state_of(service) == before


def test_a_backup_of_a_groups_primary_belongs_to_no_group(group, service, join, folder):
    a = join("a")
    a.wait("primary", SOON)
    with rnvm.connect(group, timeout=SOON) as fe:
        assert Sample(fe, "s").add(1) == 1
        rnvm.backup(folder / "backup.pool", of=a.address)
        assert in_sync(service) == ["a"]
    with (
        rnvm.Backend(folder / "backup.pool") as restored,
        rnvm.connect(restored.address, timeout=SOON) as fe,
    ):
        assert Sample(fe, "s").numbers()[0] == 1


@pytest.mark.parametrize("copy", [rnvm.Mirror, rnvm.backup], ids=["mirror", "backup"])
def test_a_file_of_a_member_is_not_overwritten_by_other_mirrors(group, join, folder, pool, copy):
    a = join("a")
    a.wait("primary", SOON)
    b = join("b")
    b.wait("in sync", SOON)
    b.close()
    before = kept_by(folder / "b.pool")
    with pytest.raises(PoolRefused, match="belongs to a group, as member b"):
        copy(folder / "b.pool", of=a.address)
    assert kept_by(folder / "b.pool") == before


# Sessions of another host


def test_a_session_that_a_copy_contains_ends_although_its_process_lives(pool, folder):
    # The primary's host is lost within a batch: the numbers of its processes mean nothing here.
    told: list[ev.Event] = []
    here = {"_group": b"g" * 16}
    with (
        rnvm.Backend(pool("a"), **here, _epoch=2) as a,
        rnvm.connect(a.address, durability="persistent", timeout=SOON) as old,
    ):
        sample = Sample(old, "s")
        with old.batch():
            assert sample.add(1) == 1
            with driver._GroupMirror(
                str(folder / "b.pool"), of=a.address, name="b", epoch=2, stream=0, tell=told.append
            ):
                until(lambda: any(getattr(each, "identity", "") for each in told), SOON)
            with (
                rnvm.Backend(folder / "b.pool", **here, _epoch=3) as b,
                rnvm.connect(b.address, durability="persistent", timeout=SOON) as fe,
            ):
                assert b._service.counters["ending"] == 1
                assert Sample(fe, "s").numbers()[0] == 1
                assert fe.figures["executed_again"] == 1
                until(lambda: b._service.counters["ending"] == 0, SOON)


def test_a_served_copy_says_that_front_ends_may_have_mapped_it(group, service, join, folder):
    a, b = join("a"), join("b")
    b.wait("in sync", SOON)
    b.close()
    assert any(kept_by(folder / "b.pool")["opening"])
    until_in_sync(service, "a")
    b = join("b")
    b.wait("in sync", SOON)
    a.close()
    b.wait("primary", SOON)
    b.close()
    assert not any(kept_by(folder / "b.pool")["opening"])
    assert isinstance(service.state, State)
    assert state_of(service).in_sync == (Listed("b", kept_by(folder / "b.pool")["identity"].hex()),)


# What an operator does


def test_a_group_whose_members_are_all_closed_grows(group, service, join, folder):
    with join("a") as a, join("b") as b:
        a.wait("primary", SOON)
        b.wait("in sync", SOON)
        with rnvm.connect(group, timeout=SOON) as fe:
            assert Sample(fe, "s").add(1) == 1
    for name in "ab":
        pools.grow(folder / f"{name}.pool", "8MiB")
    with join("a") as a, join("b") as b, rnvm.connect(group, timeout=SOON) as fe:
        until_in_sync(service, "a", "b")
        assert Sample(fe, "s").add(1) == 2
    assert {os.path.getsize(folder / f"{name}.pool") for name in "ab"} == {8 << 20}


def test_a_group_begins_again_with_a_backup(group, service, join, folder):
    with join("a") as a:
        a.wait("primary", SOON)
        with rnvm.connect(group, timeout=SOON) as fe:
            assert Sample(fe, "s").add(1) == 1
            rnvm.backup(folder / "monday.pool", of=a.address)
            assert Sample(fe, "s").add(1) == 2
    service.state = None  # a new name
    admin.create_group(ADDRESS, folder / "monday.pool", member="monday", min_mirrors=0)
    join("monday").wait("primary", SOON)
    join("b").wait("in sync", SOON)
    with rnvm.connect(ADDRESS, timeout=SOON) as fe:
        assert Sample(fe, "s").add(1) == 2
    refused = join("a")  # it is the other group's
    until(lambda: "another group" in refused.trouble, SOON)
