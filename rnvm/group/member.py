"""A member of a group as a state machine: events in, actions out.  No thread, clock or socket.

Roles
-----
    STARTING    reads the state, and chooses
    FOLLOWING   a mirror of the primary that the state names and that is registered
    UNFOLLOWING waits until no acknowledgement leaves it, then STARTING
    CANDIDATE   its change {epoch + 1, primary: it} is under way
    ELECTED     keeps its epoch, and waits until its own promise is over
    OPENING     opens the pool, and answers nothing
    CLAIMING    its pool is open; its change {in_sync: it} is under way
    BEGINNING   begins to serve
    PRIMARY     serves; adds mirrors to in_sync and removes them
    STOPPING    lost: ends its sessions, gives its memory up, then STARTING
    FAILING     its medium failed, or it cannot open: leaves in_sync if others are listed
    FAILED      does nothing any more
    REFUSED     the state is missing, damaged, older than the copy, or another group's; reads again

Rules
-----
1.  Only a listed copy campaigns: (name, identity) in in_sync, and the pool itself says so.
2.  It campaigns after it has stopped acknowledging, so its promise does not grow any more.
3.  It opens the pool after its promise is over, and answers after a second change was made that
    lists it alone.  Until that one is sent nothing was answered in its epoch, and the copies listed
    before still are: another one of them may be elected if it dies, also while it recovers the
    pool.  Then its second change is refused.
4.  A change whose outcome is unknown is sent again, and nothing else is sent until it is known.
5.  A mirror joins when the service thread requires its acknowledgements, and it has one that was
    published after that: all that was acknowledged before is in it, and all after waits for it.
6.  A mirror stays required until its removal is known to be made.
7.  A listed copy is not overwritten: it waits until a state that does not list it was read.
    (A join that is under way may list it afterwards: that copy cannot be opened, and is removed.)
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

from rnvm.group.events import (
    Acked,
    Action,
    Change,
    ChangeMade,
    ChangeRefused,
    ChangeUnknown,
    Copy,
    CopyChanged,
    Drop,
    Event,
    Follow,
    FollowEnded,
    Heard,
    Hint,
    InForce,
    Keep,
    KeepFailed,
    MediumFailed,
    MirrorLevel,
    MirrorLost,
    Open,
    Opened,
    OpenFailed,
    Read,
    ReadFailed,
    Register,
    Seen,
    Serve,
    Served,
    Slots,
    StateRead,
    Stop,
    Stopped,
    Tick,
    Unfollow,
    Unfollowed,
    Unregister,
)
from rnvm.group.state import GroupState, Listed

SECOND_NS = 1_000_000_000
KEPT_NS = 10 * SECOND_NS  # for which a winner tries to keep its epoch
NO_COPY = "0" * 32  # the identity of no copy


class Role(enum.Enum):
    """What a member does now."""

    STARTING = "starting"
    FOLLOWING = "mirror"
    UNFOLLOWING = "mirror, stopping"
    CANDIDATE = "candidate"
    ELECTED = "elected"
    OPENING = "opening"
    CLAIMING = "open, not serving"
    BEGINNING = "beginning to serve"
    PRIMARY = "primary"
    STOPPING = "primary, stopping"
    FAILING = "failing"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Times:
    """Nanoseconds.

    Attributes:
        promise: for which a mirror promises not to open its pool.
        patience: without a frame, after which a mirror doubts that its primary is alive.
        absence: for which the primary must be missing among the registered members.
        retry: between two attempts of one change, of one read, or to follow.
        retry_most: between two attempts to follow, after several that failed.
        poll: between two reads without a hint.
    """

    promise: int = SECOND_NS
    patience: int = SECOND_NS
    absence: int = SECOND_NS // 2
    retry: int = SECOND_NS // 4
    retry_most: int = SECOND_NS
    poll: int = 5 * SECOND_NS


class Stage(enum.Enum):
    """Of a mirror, as its primary sees it.  All but WAITING are required."""

    WAITING = "level"  # its name is still listed
    JOINING = "joining"
    ADDING = "being added"
    IN_SYNC = "in sync"
    LEAVING = "leaving"
    REMOVING = "being removed"


@dataclass
class _Mirror:
    listed: Listed
    stage: Stage = Stage.WAITING
    serial: int = 0  # of the Slots that required it first
    frame: int | None = None  # published when they were in force
    acked: int = 0
    lost: bool = False

    @property
    def ready(self) -> bool:
        return self.stage is Stage.JOINING and self.frame is not None and self.acked >= self.frame


@dataclass
class _Change:
    action: Change
    sent: int  # when it was sent last
    waiting: bool = True  # for its outcome; False: unknown, and it is sent again


class Member:
    """One member.

    Args:
        copy: what its pool says.
        now: ns of CLOCK_BOOTTIME at which it got the pool's lock.  The process that had the pool
            before may have promised until then.

    Attributes:
        role: what it does now.
        copy: what its pool says now.
        trouble: why something that it wants to do waits; "": nothing does.
        promised: ns before which it must not open its pool.
    """

    def __init__(self, copy: Copy, now: int, times: Times | None = None) -> None:
        self.copy = copy
        self.times = times or Times()
        self.role = Role.STARTING
        self.trouble = ""
        self.promised = now + self.times.promise
        self.seen: Seen | None = None
        self.followed: Follow | None = None
        self.mirrors: dict[int, _Mirror] = {}
        self.epoch = 0  # that it was elected in
        self.reason = ""  # why it gives the group up
        self._out: list[Action] = []
        self._change: _Change | None = None
        self._changes = 0
        self._reads = 0
        self._reading = False
        self._read_at = now  # when the next read is due
        self._floor = 0  # of the numbers of states that were read before the present read began
        self._number = 0  # the highest one
        self._slots = 0
        self._required: tuple[set[int], set[int]] | None = None  # of the last Slots
        self._kept = copy.epoch  # by the copy, if the last Keep fails
        self._keep_at: int | None = None  # when an epoch that could not be kept is kept again
        self._keep_until = now  # a winner gives up then, if other copies may be opened
        self._heard = now - self.times.patience
        self._absent: int | None = None  # since when the primary is not registered
        self._before: GroupState | None = None  # the state before the change that lists it alone
        self._stopped = False
        self._unresumable: Seen | None = None
        self._follow_at = now  # not before
        self._follow_pause = 0  # after the next attempt that fails
        self._followed_at = now
        self._lost = ""  # why the last stream ended

    # Steps

    def begin(self, now: int) -> list[Action]:
        """Return the first actions."""
        self._register()
        self._read(now)
        return self._take_out()

    def take(self, event: Event, now: int) -> list[Action]:
        """Return the actions that follow an event."""
        handle: Callable[..., None] = _HANDLERS[type(event)]
        handle(self, event, now)
        return self._take_out()

    @property
    def listed(self) -> bool:
        """Whether the last state lists this copy."""
        return (
            self.seen is not None
            and self.copy.identity != ""
            and self.copy.listed in self.seen.state.in_sync
        )

    def _take_out(self) -> list[Action]:
        out, self._out = self._out, []
        return out

    def _do(self, action: Action) -> None:
        self._out.append(action)

    def _register(self) -> None:
        self._do(Register(self.copy.listed))

    # Reading

    def _read(self, now: int) -> None:
        if self._reading:
            return
        self._reading = True
        self._reads += 1
        self._floor = self._number
        self._read_at = now + self.times.poll
        self._do(Read(self._reads))

    def _tick(self, _event: Tick, now: int) -> None:
        if self.role is Role.FAILED:
            return
        change = self._change
        if change is not None and not change.waiting and now - change.sent >= self.times.retry:
            change.sent, change.waiting = now, True
            self._do(change.action)
        if self.role is Role.ELECTED:
            self._open(now)
        if now >= self._read_at:
            self._read(now)

    def _hint(self, _event: Hint, now: int) -> None:
        if self.role is not Role.FAILED:
            self._read_at = now
            self._read(now)

    def _read_failed(self, event: ReadFailed, now: int) -> None:
        if event.serial != self._reads or not self._reading:
            return
        self._reading = False
        self._read_at = now + self.times.retry
        self.trouble = event.reason
        if event.damaged and self.role is Role.STARTING:
            self.role = Role.REFUSED

    def _state_read(self, event: StateRead, now: int) -> None:
        if event.serial != self._reads or not self._reading:
            return
        self._reading = False
        if self.role is Role.FAILED:
            return
        seen = event.seen
        if not self.copy.group and not self.copy.identity:
            self.copy = replace(self.copy, group=seen.state.group)  # it has no copy yet
        if seen.number < self._number and self._floor < self._number:
            self._read_at = now  # it began before a change whose outcome is known by now
            return
        if wrong := self._wrong(seen):
            self.trouble = wrong
            self._read_at = now + self.times.retry
            if self.role in (Role.STARTING, Role.REFUSED):
                self.role = Role.REFUSED
            return
        self.trouble = ""
        self._number = seen.number
        self._note_absence(event, now)
        if self.role is Role.REFUSED:
            self.role = Role.STARTING
        if self._change is not None:
            self._check_superseded(seen, now)
            return
        self.seen = seen
        if self.role is Role.STARTING:
            self._choose(seen, now)
        elif self.role is Role.FOLLOWING:
            self._check_followed(seen, now)
        elif self.role is Role.ELECTED:
            if not self._elected_in(seen.state):
                self.role = Role.STARTING
                self._read_at = now
        elif self.role is Role.CLAIMING:
            self._claim(now)
        elif self.role is Role.PRIMARY:
            self._check_primary(seen, now)
        elif self.role is Role.FAILING:
            self._leave(now)

    def _wrong(self, seen: Seen) -> str:
        """Return why this state cannot be the group's present one; "": it can."""
        if seen.state.group != self.copy.group:
            return f"the state is of another group of the same name ({seen.state.group})"
        if seen.state.epoch < self.copy.epoch:
            return (
                f"the state is of epoch {seen.state.epoch}, but this copy has seen epoch "
                f"{self.copy.epoch}: the coordinator has lost changes"
            )
        if seen.number < self._number:
            return (
                f"the state is number {seen.number}, but was {self._number} before: the "
                "coordinator has lost changes"
            )
        return ""

    def _note_absence(self, event: StateRead, now: int) -> None:
        state = event.seen.state
        primary = state.primary
        identity = None if primary is None else state.identity_of(primary)
        there = (
            primary is not None
            and identity is not None
            and Listed(primary, identity) in event.registered
        )
        if there:
            self._absent = None
        elif self._absent is None:
            self._absent = now

    # Changes

    def _send(self, new: GroupState, now: int) -> None:
        assert self._change is None, "one change at a time"
        assert self.seen is not None
        self._changes += 1
        action = Change(self._changes, self.seen, new)
        self._change = _Change(action, now)
        self._do(action)

    def _change_unknown(self, event: ChangeUnknown, now: int) -> None:
        if self._change is not None and self._change.action.serial == event.serial:
            self._change.waiting = False
            self._change.sent = now
            self.trouble = event.reason
            self._read(now)

    def _change_refused(self, event: ChangeRefused, now: int) -> None:
        if self._change is not None and self._change.action.serial == event.serial:
            self._end_change(now)

    def _end_change(self, now: int) -> None:
        """The change was not made, or another one followed: decide again on the present state."""
        self._change = None
        self.seen = None
        if self.role is Role.CANDIDATE:
            self.role = Role.STARTING
        self._reading = False  # the read under way may have begun before
        self._read(now)

    def _check_superseded(self, seen: Seen, now: int) -> None:
        """End a change that can never count any more, whether it was made or not.

        A later epoch is there; or the state that it would replace is gone, and the epoch, which
        never falls, is still a smaller one: it was not made, and never will be.
        """
        assert self._change is not None
        old, new = self._change.action.old, self._change.action.new
        if (
            seen.state.epoch > new.epoch
            or (seen.state.epoch == new.epoch and seen.state.primary not in (new.primary, None))
            or (seen.state.epoch < new.epoch and seen.number > old.number)
        ):
            if self.role is Role.PRIMARY:
                self._change = None
                self.seen = seen
                self._not_primary_in(seen.state)
            else:
                self._end_change(now)

    def _change_made(self, event: ChangeMade, now: int) -> None:
        if self._change is None or self._change.action.serial != event.serial:
            return
        old, new = self._change.action.old, self._change.action.new
        self._change = None
        self.seen = event.seen
        if new.epoch > old.state.epoch:  # an election
            self._before = None
            self.epoch = new.epoch
        self._number = max(self._number, event.seen.number)
        self.trouble = ""
        if self.role is Role.CANDIDATE:
            self.role = Role.ELECTED
            self._keep_until = now + KEPT_NS
            self._keep(self.epoch)
        elif self.role is Role.CLAIMING:
            self.role = Role.BEGINNING
            self._do(Serve())
        elif self.role is Role.PRIMARY:
            self._set_changed(now)
        elif self.role is Role.FAILING:
            self._leave(now)

    def _keep(self, epoch: int) -> None:
        self._keep_at = None
        if epoch > self.copy.epoch:
            self._kept = self.copy.epoch
            self.copy = replace(self.copy, epoch=epoch)
            self._do(Keep(epoch))

    def _keep_failed(self, event: KeepFailed, now: int) -> None:
        """The actions behind `Keep` were not executed."""
        self.trouble = event.reason
        self.copy = replace(self.copy, epoch=self._kept)
        if event.gone:
            self.copy = replace(self.copy, identity="")
            self._register()
        if self.role is Role.FOLLOWING:
            self.followed = None
            self.role = Role.STARTING
            self._lost = event.reason
            self._wait_to_follow(now)
        elif self.role is Role.ELECTED:
            alone = self.seen is not None and len(self.seen.state.in_sync) == 1
            if event.gone or (now >= self._keep_until and not alone):
                self._cannot_open(now)
            else:
                self._keep_at = now + self.times.retry

    # Choosing a role

    def _choose(self, seen: Seen, now: int) -> None:
        state = seen.state
        if self.listed and self._may_campaign(state, now):
            self.role = Role.CANDIDATE
            self._send(state.opened_by(self.copy.listed), now)
            return
        primary = state.primary
        if primary is None or primary == self.copy.member or self._absent is not None:
            self._wait_for_primary(state, now)
            return
        if self.listed and self._unresumable is not None:
            self.trouble = f"waiting until {primary} does not list this copy: {self._lost}"
            self._read_at = now + self.times.retry
            return
        if now < self._follow_at:
            self._complain(primary)
            self._read_at = min(self._read_at, self._follow_at)
            return
        identity = state.identity_of(primary)
        assert identity is not None
        self._keep(state.epoch)
        self._unresumable = None
        self._heard = self._followed_at = now
        self.followed = Follow(Listed(primary, identity), state.epoch, self.listed)
        self.role = Role.FOLLOWING
        self._do(self.followed)

    def _wait_for_primary(self, state: GroupState, now: int) -> None:
        self._read_at = now + self.times.retry
        if self.listed:
            return
        if state.primary == self.copy.member:
            self.trouble = "the state lists another copy of this member as primary"
        else:
            listed = ", ".join(each.member for each in state.in_sync)
            self.trouble = f"waiting for a primary: only {listed} may be opened"

    def _may_campaign(self, state: GroupState, now: int) -> bool:
        if state.primary is None or state.primary == self.copy.member:
            return True
        return (
            self._absent is not None
            and now - self._absent >= self.times.absence
            and now - self._heard >= self.times.patience
        )

    # Following

    def _check_followed(self, seen: Seen, now: int) -> None:
        assert self.followed is not None
        state, followed = seen.state, self.followed
        same = state.epoch == followed.epoch and state.primary == followed.primary.member
        if same and self._absent is not None:
            self._read_at = min(self._read_at, now + self.times.retry)
        if not same or (self.listed and self._may_campaign(state, now)):
            self._unfollow()

    def _unfollow(self) -> None:
        self.role = Role.UNFOLLOWING
        self._do(Unfollow())

    def _unfollowed(self, event: Unfollowed, now: int) -> None:
        self.promised = max(self.promised, event.promised)
        self.followed = None
        if self.role is Role.UNFOLLOWING:
            self.role = Role.STARTING
            if now >= self._follow_at:
                self._reading = False
                self._read(now)
            else:
                self._read_at = min(self._read_at, self._follow_at)

    def _heard_frame(self, _event: Heard, now: int) -> None:
        self._heard = now

    def _follow_ended(self, event: FollowEnded, now: int) -> None:
        if self.role is Role.FOLLOWING:
            assert self.followed is not None
            self._unresumable = self.seen
            if self.followed.resume:
                self._lost = self._lost or event.reason
            else:
                self._lost = event.reason
                self._wait_to_follow(now)
                self._complain(self.followed.primary.member)
            self._unfollow()

    def _complain(self, primary: str) -> None:
        self.trouble = f"waiting for the primary {primary}: {self._lost}"

    def _wait_to_follow(self, now: int) -> None:
        """Wait longer after each failure: an attempt costs the coordinator a read by a majority."""
        if now - self._followed_at >= self.times.retry_most:
            self._follow_pause = 0
        self._follow_pause = min(
            max(2 * self._follow_pause, self.times.retry), self.times.retry_most
        )
        self._follow_at = now + self._follow_pause
        self._read_at = min(self._read_at, self._follow_at)

    def _copy_changed(self, event: CopyChanged, _now: int) -> None:
        if event.identity:
            self._lost = ""  # of an earlier stream
        self.copy = replace(self.copy, identity=event.identity)
        self._register()

    # Being elected

    def _elected_in(self, state: GroupState) -> bool:
        """Return whether this state says so; else another one was, or the group was forced."""
        return state.epoch == self.epoch and state.primary == self.copy.member and self.listed

    def _open(self, now: int) -> None:
        """Open the pool, if the epoch is kept and the promise is over."""
        if self._keep_at is not None:
            if now >= self._keep_at:
                self._keep(self.epoch)  # nothing behind it in this step: it may fail again
        elif now >= self.promised:
            assert self.seen is not None
            state = self.seen.state
            self.role = Role.OPENING
            self._do(Open(self.epoch, state.min_mirrors, alone=len(state.in_sync) == 1))

    def _opened(self, _event: Opened, now: int) -> None:
        if self.role is Role.FAILING:  # its medium failed meanwhile
            self._do(Stop(self.trouble))
        elif self.role is Role.OPENING:
            self.role = Role.CLAIMING
            self._claim(now)

    def _claim(self, now: int) -> None:
        """Send the second change of the election."""
        if self.seen is None:
            self._read(now)
        elif not self._elected_in(self.seen.state):
            self._not_primary_in(self.seen.state)
        else:
            self._before = self.seen.state
            self._send(self.seen.state.alone(self.copy.listed), now)

    def _served(self, _event: Served, now: int) -> None:
        if self.role is Role.BEGINNING:
            self.role = Role.PRIMARY
            self._before = None
            self.mirrors = {}
            self._required = None
            self._require()
            self._read(now)

    def _open_failed(self, event: OpenFailed, now: int) -> None:
        if self.role in (Role.OPENING, Role.BEGINNING):
            self.trouble = event.reason
            self._cannot_open(now)
        elif self.role is Role.FAILING:
            self._stopped = True
            self._leave(now)

    def _cannot_open(self, now: int) -> None:
        self.reason = self.trouble
        self.role = Role.FAILING
        self._stopped = True  # nothing was answered
        self._leave(now)

    # Being primary

    def _check_primary(self, seen: Seen, now: int) -> None:
        state = seen.state
        if not self._elected_in(state):
            self._not_primary_in(state)
            return
        for slot, mirror in list(self.mirrors.items()):
            there = mirror.listed in state.in_sync
            if mirror.stage is Stage.ADDING:
                mirror.stage = Stage.IN_SYNC if there else Stage.JOINING
            elif mirror.stage is Stage.REMOVING or mirror.stage is Stage.LEAVING:
                mirror.stage = Stage.LEAVING
                if not there:
                    self._drop(slot)
            elif mirror.stage is Stage.IN_SYNC and not there:
                self._drop(slot)
        self._after_outcome(now)

    def _set_changed(self, now: int) -> None:
        assert self.seen is not None
        self._check_primary(self.seen, now)

    def _after_outcome(self, now: int) -> None:
        for slot, mirror in list(self.mirrors.items()):
            if mirror.lost and mirror.stage is Stage.IN_SYNC:
                mirror.stage = Stage.LEAVING
            elif mirror.lost and mirror.stage in (Stage.JOINING, Stage.WAITING):
                self._drop(slot)
        self._require()
        self._advance(now)

    def _drop(self, slot: int) -> None:
        del self.mirrors[slot]
        self._do(Drop(slot))

    def _require(self) -> None:
        required = {s for s, m in self.mirrors.items() if m.stage is not Stage.WAITING}
        # Not those that are lost: one whose join was under way may have begun to copy again.
        in_sync = {s for s, m in self.mirrors.items() if m.stage is Stage.IN_SYNC and not m.lost}
        if (required, in_sync) != self._required:
            self._required = (required, in_sync)
            self._slots += 1
            self._do(Slots(self._slots, frozenset(required), frozenset(in_sync)))

    def _advance(self, now: int) -> None:
        """Send the next change of in_sync, if one is due."""
        if self.role is not Role.PRIMARY or self._change is not None or self.seen is None:
            return
        self._start_joins()
        state = self.seen.state
        held = {m.listed for m in self.mirrors.values() if m.stage is Stage.IN_SYNC}
        gone = [
            each.member
            for each in state.in_sync
            if each.member != self.copy.member and each not in held
        ]
        if gone:
            for mirror in self.mirrors.values():
                if mirror.stage is Stage.LEAVING:
                    mirror.stage = Stage.REMOVING
            self._send(state.without(*gone), now)
            return
        for mirror in self.mirrors.values():
            if mirror.ready:
                mirror.stage = Stage.ADDING
                self._send(state.with_mirror(mirror.listed), now)
                return

    def _start_joins(self) -> None:
        assert self.seen is not None
        begun = []
        for mirror in self.mirrors.values():
            if mirror.stage is Stage.WAITING:
                name = mirror.listed.member
                others = [
                    other
                    for other in self.mirrors.values()
                    if other is not mirror and other.listed.member == name
                ]
                for other in others:  # it has connected again
                    if other.stage is Stage.IN_SYNC:
                        other.stage = Stage.LEAVING
                if self.seen.state.identity_of(name) is None and all(
                    other.stage is Stage.WAITING for other in others
                ):
                    mirror.stage = Stage.JOINING
                    begun.append(mirror)
        if begun:
            self._require()
            for mirror in begun:
                mirror.serial = self._slots

    def _mirror_level(self, event: MirrorLevel, now: int) -> None:
        if self.role is not Role.PRIMARY or self._impossible(event.mirror):
            self._do(Drop(event.slot))
            return
        self.mirrors[event.slot] = _Mirror(event.mirror)
        self._advance(now)

    def _impossible(self, mirror: Listed) -> bool:
        """Return whether no mirror can have this name and identity.  A peer has sent both."""
        taken = {m.listed.identity for m in self.mirrors.values()} | {self.copy.identity, NO_COPY}
        if self.seen is not None:
            taken |= {each.identity for each in self.seen.state.in_sync}
        return mirror.member == self.copy.member or mirror.identity in taken

    def _mirror_lost(self, event: MirrorLost, now: int) -> None:
        mirror = self.mirrors.get(event.slot)
        if mirror is None:
            return
        mirror.lost = True
        if self._change is None:
            self._after_outcome(now)
        elif mirror.stage in (Stage.WAITING, Stage.JOINING):
            self._drop(event.slot)
            self._require()

    def _acked(self, event: Acked, now: int) -> None:
        mirror = self.mirrors.get(event.slot)
        if mirror is not None:
            mirror.acked = max(mirror.acked, event.frame)
            if mirror.ready:
                self._advance(now)

    def _in_force(self, event: InForce, now: int) -> None:
        for mirror in self.mirrors.values():
            if (
                mirror.stage is Stage.JOINING
                and mirror.frame is None
                and mirror.serial <= event.serial
            ):
                mirror.frame = event.frame
        self._advance(now)

    # Losing it

    def _not_primary_in(self, state: GroupState) -> None:
        named = "no member" if state.primary is None else state.primary
        self._step_down(f"{named} is the primary of epoch {state.epoch}")

    def _step_down(self, reason: str) -> None:
        self.trouble = reason
        self.role = Role.STOPPING
        self.mirrors = {}
        self._do(Stop(reason))

    def _has_stopped(self, _event: Stopped, now: int) -> None:
        if self.role is Role.STOPPING:
            self.role = Role.STARTING
            # Until when it may have answered: it may win again before the next one has served.
            self.promised = max(self.promised, now + self.times.promise)
            self._heard = now - self.times.patience
            self._reading = False
            self._read(now)
        elif self.role is Role.FAILING:
            self._stopped = True
            self._leave(now)

    def _medium_failed(self, event: MediumFailed, now: int) -> None:
        self.trouble = self.reason = event.reason
        if self.role in (Role.BEGINNING, Role.PRIMARY):
            self.role = Role.FAILING
            self._stopped = False
            self._before = None
            self._do(Stop(event.reason))
            return
        if self.role in (Role.FOLLOWING, Role.STARTING, Role.REFUSED, Role.UNFOLLOWING):
            if self.role is Role.FOLLOWING:
                self._do(Unfollow())
            self._fail()
        elif self.role in (Role.CANDIDATE, Role.ELECTED):
            self._cannot_open(now)
        elif self.role in (Role.OPENING, Role.CLAIMING):
            if self.role is Role.CLAIMING:
                self._do(Stop(event.reason))
            self.role = Role.FAILING
            self._stopped = False  # until it is known whether it was opened

    def _leave(self, now: int) -> None:
        """Give the group up: without this copy, and without a primary, if another one is listed."""
        if not self._stopped or self._change is not None:
            return
        if self.seen is None:
            self._read(now)
            return
        state = self.seen.state
        if state.epoch != self.epoch or state.primary != self.copy.member:
            self._fail()
            return
        before = state
        if self._before is not None and state.in_sync == (self.copy.listed,):
            # It has answered nothing, so those that were listed before are as good.
            before = self._before
        # Lost while its join was under way: it may have begun to copy again since.
        gone = {m.listed for m in self.mirrors.values() if m.stage is Stage.ADDING and m.lost}
        others = tuple(
            each for each in before.in_sync if each.member != self.copy.member and each not in gone
        )
        if not others:
            self._fail()
            return
        self._send(replace(state, primary=None, in_sync=others), now)

    def _fail(self) -> None:
        self.role = Role.FAILED
        self.trouble = self.reason
        self._do(Unregister())


_HANDLERS: dict[type, Callable[..., None]] = {
    Tick: Member._tick,
    Hint: Member._hint,
    StateRead: Member._state_read,
    ReadFailed: Member._read_failed,
    ChangeMade: Member._change_made,
    ChangeRefused: Member._change_refused,
    ChangeUnknown: Member._change_unknown,
    Unfollowed: Member._unfollowed,
    Heard: Member._heard_frame,
    FollowEnded: Member._follow_ended,
    KeepFailed: Member._keep_failed,
    CopyChanged: Member._copy_changed,
    Opened: Member._opened,
    Served: Member._served,
    OpenFailed: Member._open_failed,
    Stopped: Member._has_stopped,
    MirrorLevel: Member._mirror_level,
    MirrorLost: Member._mirror_lost,
    Acked: Member._acked,
    InForce: Member._in_force,
    MediumFailed: Member._medium_failed,
}

__all__ = ["Member", "Role", "Stage", "Times"]
