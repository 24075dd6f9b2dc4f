"""What a member does with single actions and decisions: without threads, coordinator or pool."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import Any

import pytest

from rfp.errors import PoolInUse, StorageFailed
from rnvm import GroupMember
from rnvm.coordinator.state import State
from rnvm.group import driver
from rnvm.group import events as ev
from rnvm.group.events import Seen
from rnvm.group.member import Times
from rnvm.group.state import GroupState, Listed

STATE = GroupState("f" * 32, 3, "a", (Listed("a", "1" * 32),), 0)
SEEN = Seen(State.first(STATE.encode()), 1, STATE)


def member(**fields: Any) -> GroupMember:
    """Return a member that has only these fields."""
    bare = object.__new__(GroupMember)
    vars(bare).update(fields, _events=queue.SimpleQueue())
    return bare


def told(bare: GroupMember) -> list[Any]:
    events = []
    while not bare._events.empty():
        events.append(bare._events.get_nowait())
    return events


@pytest.mark.parametrize("fails", ["cannot be kept", "medium"])
def test_what_follows_a_step_that_failed_is_known_to_be_not_done(fails: str) -> None:
    def keep(_: ev.Keep) -> bool:
        if fails == "medium":
            raise StorageFailed("planted")
        return False

    ended: list[ev.Action] = []
    never = {f"_do_{name}": pytest.fail for name in ("read", "change", "follow")}
    bare = member(_do_keep=keep, _do_unregister=ended.append, **never)
    follow = ev.Follow(STATE.in_sync[0], 3, False)
    bare._do_all([ev.Keep(3), follow, ev.Read(7), ev.Change(5, SEEN, STATE), ev.Unregister()])
    events = told(bare)
    if fails == "medium":
        assert events.pop(0) == ev.MediumFailed("planted")
    # Else the state machine would wait for these outcomes for ever.
    assert [(type(each), each.serial) for each in events] == [
        (ev.ReadFailed, 7),
        (ev.ChangeUnknown, 5),
    ]
    assert len(ended) == 1, "a member that has failed must not stay registered"


def test_members_are_read_after_the_state_so_that_one_that_is_missing_was_missing_then() -> None:
    read: list[str] = []

    class Ordered:
        address = SimpleNamespace(group="orders")

        def read(self) -> State:
            read.append("state")
            return SEEN.token

        def members(self) -> list[Any]:
            read.append("members")
            return []

    bare = member(_coordinator=Ordered())
    bare._read(4)
    assert read == ["state", "members"]
    assert [(type(each), each.serial) for each in told(bare)] == [(ev.StateRead, 4)]


def test_a_change_that_is_sent_again_is_the_same_proposal() -> None:
    sent: list[State] = []
    worker = SimpleNamespace(submit=lambda call: call())
    bare = member(
        _proposals={},
        _workers={"change": worker},
        _change=lambda _, proposal: sent.append(proposal),
    )
    change = ev.Change(5, SEEN, STATE)
    bare._do_change(change)
    bare._do_change(change)
    assert sent[0].id == sent[1].id, "it could take effect twice"


def test_a_decision_is_in_force_when_the_service_has_taken_it_over_and_not_before() -> None:
    service = SimpleNamespace(group_done=(0, 5), decided=[])
    service.group_slots = list
    service.group_decide = lambda serial, wanted: service.decided.append((serial, wanted))
    backend: Any = SimpleNamespace(_service=service)
    in_force: list[ev.Event] = []
    bare = member(
        _backend=backend,
        _leveled={},
        _decisions=[(8, {1: "required"}), (9, {1: "in sync"})],
        _decided=0,
        _deciding=None,
        _take=in_force.append,
    )
    for _ in range(2):
        bare._look_at_mirrors(backend)
        assert service.decided == [(1, {1: "required"})], "one decision at a time"
    # A frame of before would let a mirror join without what was acknowledged meanwhile.
    assert not in_force
    service.group_done = (1, 9)
    bare._look_at_mirrors(backend)
    assert in_force == [ev.InForce(8, 9)]
    assert service.decided[1:] == [(2, {1: "in sync"})]


def test_a_promise_counts_from_the_last_acknowledgement_that_left() -> None:
    class Ending:
        _stream, _last = 0, {"promised_at": 1}

        def close(self) -> None:
            self._stream, self._last = 7, {"promised_at": 5}

    times = Times()
    bare = member(_mirror=Ending(), _promised=0, _stream=0, _machine=SimpleNamespace(times=times))
    bare._end_mirror()
    assert bare._promised == 5 + times.promise
    assert bare._stream == 7


def test_a_pool_that_stays_in_use_is_left_to_another_member(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_use(path: str, **_: Any) -> None:
        raise PoolInUse(f"{path} is open in another process")

    now = 1000
    monkeypatch.setattr(driver, "boot_now", lambda: now)
    monkeypatch.setattr(driver, "Backend", in_use)
    machine = SimpleNamespace(copy=SimpleNamespace(group="f" * 32))
    bare = member(
        path="a.pool", address="", name="a", _options={}, _machine=machine, _reopening=None
    )
    action = ev.Open(3, 0, alone=False)
    bare._do_open(action)
    now += driver.OPEN_NS - 1
    bare._do_open(action)
    assert not told(bare), "it is waited for"
    now += 1
    bare._do_open(action)
    assert told(bare) == [ev.OpenFailed("a.pool is open in another process")]
    assert bare._reopening is None
