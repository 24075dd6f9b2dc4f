"""The contract of a coordinator: one value of a group, changed by compare-and-set, and its members.

The value (the *state*) decides which member may be primary.  A lease decides nothing: it reports
that a member has died, perhaps, or that it is only slow.

A change whose outcome is unknown
---------------------------------
A connection can break after a change has been sent, and the change may take effect later still: it
waits in the queue of a node that was cut off.  So a read that still shows the old state proves
nothing.  Each state has an id that no other one has, and contains the ids of the states before it.

- The same change is sent again until the service answers.  Both copies of it require the old state,
  which the first of them replaces for ever, so at most one of them takes effect.
- A refusal is followed by a read.  If the change's id is that of the present state, or of one
  before it, the change was made, and a copy of it was refused.  If the ids before the present state
  contain the old state's and not the change's, it was not made and never will be: another change
  replaced the old state.  If they contain neither (PAST_MAX changes later), `OutcomeUnknown`.
- If the deadline passes first, `OutcomeUnknown`.  The caller calls again with the *same* new state.

The version that a service counts would not do: etcd's revision is smaller after a restored backup,
and ZooKeeper's starts at 0 again if an operator deletes the node and creates it again.  etcd
compares the whole old value, which contains the id.  ZooKeeper compares its version, and in the
same transaction checks a node that is named after the first state of this life of the group.

Reads are linearizable: one that begins after a change was acknowledged returns it or a later one.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn, TypeVar

from rfp import errors
from rfp.core import clock, forks
from rfp.errors import (
    AlreadyExists,
    Closed,
    CoordinatorRefused,
    CoordinatorUnavailable,
    Forked,
    GroupDamaged,
    GroupNotFound,
    InvalidArgument,
    OutcomeUnknown,
    VersionMismatch,
)
from rfp.units import checked_seconds
from rnvm.coordinator.address import CoordinatorAddress, shown_node
from rnvm.coordinator.arguments import checked_bytes
from rnvm.coordinator.attempt import TIMEOUT_S, TIMEOUT_S_MAX, Attempt, Unanswered
from rnvm.coordinator.registration import (
    MEMBER_DATA_MAX,
    MEMBER_LEASE_S_MAX,
    MEMBER_LEASE_S_MIN,
    Member,
    Registration,
    checked_member,
)
from rnvm.coordinator.state import State, new_id
from rnvm.coordinator.watch import Watch

PAUSE_S = 0.05  # between two attempts, if no node answered
GROUPS_FOLDER = "/rnvm/groups"

_SERVICE = {"etcd": "etcd", "zk": "ZooKeeper"}

T = TypeVar("T")


class Coordinator(ABC):
    """The coordinator of one group.

    Threads may share it.  After a fork the child must open its own.  No call outlasts its time-out.

    Attributes:
        address: The address that it was opened with.

    Every call may raise `CoordinatorUnavailable` (no node answered in time, or the nodes that
    answered have no majority; nothing was changed), `CoordinatorRefused` (no permission, a wrong
    password, no space), `Closed`, and `Forked`.
    """

    def __init__(self, address: CoordinatorAddress, *, timeout: float = TIMEOUT_S) -> None:
        self.address = address
        self.timeout = checked_seconds("timeout", timeout, 0.001, TIMEOUT_S_MAX)
        self._folder = f"{GROUPS_FOLDER}/{address.group}"
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._registrations: set[Registration] = set()
        self._watches: set[Watch] = set()
        self._undecided: set[str] = set()  # ids of changes that raised OutcomeUnknown

    # What a driver implements.  Each may raise Unanswered, after which the call is repeated.

    @abstractmethod
    def _read(self, attempt: Attempt) -> State | None:
        """Return the present state, by a linearizable read; None if there is none."""

    @abstractmethod
    def _create(self, state: State, attempt: Attempt) -> bool:
        """Create the state; False if there is one."""

    @abstractmethod
    def _set(self, old: State, new: State, attempt: Attempt) -> bool:
        """Replace `old` by `new`; False if another state was found."""

    @abstractmethod
    def _members(self, attempt: Attempt) -> list[Member]:
        """Return the registered members, by a linearizable read."""

    @abstractmethod
    def _registration(self, member: Member, lease: float) -> Registration:
        """Return a registration that has not begun."""

    @abstractmethod
    def _follow(self, watch: Watch) -> None:
        """Wait once for a change, at most WATCH_S, and call watch.hint(); may raise Unanswered."""

    @abstractmethod
    def _shut(self) -> None:
        """Free the connections; calls of other threads end."""

    def _forget(self) -> None:
        """In a forked child: close the copies of the parent's descriptors, and send nothing."""
        self._closing = threading.Event()  # a thread of the parent may have held the lock of this
        for registration in self._registrations:
            registration._forget()

    # The contract.

    def read(self, *, timeout: float | None = None) -> State:
        """Return the present state.

        Raises:
            GroupNotFound: there is none.  This is never a reason to create one.
            GroupDamaged: the service contains something else under the group's name.
        """

        def read(attempt: Attempt) -> State:
            state = self._read(attempt)
            if state is None:
                raise self._not_found()
            return state

        return self._until_answered(f"read the state of group {self.address.group}", read, timeout)

    def create(self, state: State, *, timeout: float | None = None) -> State:
        """Create the group with its first state, and return it.

        Args:
            state: made by `State.first`.  After `OutcomeUnknown`, call again with the same one.

        Raises:
            AlreadyExists: the group has a state, which was not changed.
            OutcomeUnknown: the deadline passed before an answer; it may still be created.
        """

        def create(attempt: Attempt) -> State:
            if self._create(state, attempt):
                return state
            found = self._read(attempt)
            if found is None:  # deleted since
                raise Unanswered
            if found.origin == state.id:
                return state
            raise self.already_exists(found)

        return self._until_answered(f"create group {self.address.group}", create, timeout)

    def already_exists(self, found: State) -> AlreadyExists:
        """Return the error of a creation that found this state."""
        return AlreadyExists(
            f"group {self.address.group} exists", version=found.number, hint="choose another name"
        )

    def compare_and_set(self, old: State, new: State, *, timeout: float | None = None) -> State:
        """Replace the state `old` by `new`, if it is still the present one, and return `new`.

        Args:
            new: made by `old.next()`.  After `OutcomeUnknown`, call again with the same one.

        Raises:
            VersionMismatch: another change replaced `old`; `new` is not a state and will not be.
            OutcomeUnknown: the deadline passed before an answer, and `new` may still become the
                state; or more than PAST_MAX states followed `old`.
            GroupNotFound: the group has no state any more.
        """
        if new.past[:1] != (old.id,):
            raise InvalidArgument("the new state must be made by next() of the old one")

        def change(attempt: Attempt) -> State:
            nonlocal old, new
            if self._set(old, new, attempt):
                return new
            found = self._read(attempt)
            if found is None:
                raise self._not_found()
            if found.id == new.id or new.id in found.past:
                return new
            if found.id == old.id:  # written again by an operator, with another version
                old, new = found, replace(new, stamp=found.stamp + 1)
                raise Unanswered
            unknown = attempt.unknown or new.id in self._undecided
            if unknown and old.id not in found.past:
                raise OutcomeUnknown(
                    f"cannot determine whether the state {new.number} of group "
                    f"{self.address.group} was set: the present one is {found.number}",
                    hint="read the state",
                )
            raise VersionMismatch(
                f"the state of group {self.address.group} is {found.number}, "
                f"not {old.number} as expected",
                version=found.number,
                hint="read it and decide again",
            )

        what = f"change the state of group {self.address.group}"
        try:
            set_ = self._until_answered(what, change, timeout)
        except OutcomeUnknown:
            self._undecided.add(new.id)
            raise
        self._undecided.discard(new.id)
        return set_

    def members(self, *, timeout: float | None = None) -> list[Member]:
        """Return the members whose leases have not ended, sorted by name and instance."""
        return self._until_answered(
            f"list the members of group {self.address.group}",
            lambda attempt: sorted(
                self._members(attempt), key=lambda each: (each.name, each.instance)
            ),
            timeout,
        )

    def register(
        self, name: str, data: bytes = b"", *, lease: float, timeout: float | None = None
    ) -> Registration:
        """Register a member, which others see until it is closed or its process has died.

        Args:
            name: of letters, digits, '.', '_', ':' and '-'.
            lease: seconds without a renewal after which the service removes the member.  A service
                may use a longer one (etcd: at least 1.5 elections and whole seconds; ZooKeeper: at
                least two ticks).

        Cost:
            One request each third of the lease.
        """
        name = checked_member(name)
        data = checked_bytes("data", data, MEMBER_DATA_MAX)
        lease = checked_seconds("lease", lease, MEMBER_LEASE_S_MIN, MEMBER_LEASE_S_MAX)
        attempt = self._attempt(timeout)
        registration = self._registration(Member(name, new_id(), data), lease)
        self._registrations.add(registration)
        try:
            registration._begin(attempt)
        except BaseException as error:
            attempt.causes.update(registration.causes)
            registration.close()
            if isinstance(error, Unanswered):
                self._check()
                self._unavailable(f"register {name} in group {self.address.group}", attempt)
            raise
        return registration

    def watch(self) -> Watch:
        """Return a watch of the group's state and members.

        A hint follows each change, but a service may lose one: a hint also comes by itself after at
        most WATCH_S seconds.  Read after each hint; it also comes when the watch begins.
        """
        self._check()
        watch = Watch(self._follow, self._watches)
        self._watches.add(watch)
        watch.begin()
        return watch

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closing.is_set()

    def close(self) -> None:
        """Close the registrations, the watches and the connections.  The state stays."""
        if self._closing.is_set():
            return
        self._closing.set()
        forks.live.discard(self)
        for watch in list(self._watches):
            watch.close()
        for registration in list(self._registrations):
            registration.close()
        if self._pid == os.getpid():
            self._shut()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise errors.not_copied(self, "open one in each process, by the address")

    # For drivers.

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise Forked(
                "the coordinator belongs to the parent process",
                hint="open one in the child, by the address",
            )
        if self._closing.is_set():
            raise Closed("the coordinator is closed")

    def _attempt(self, timeout: float | None) -> Attempt:
        self._check()
        seconds = self.timeout
        if timeout is not None:
            seconds = checked_seconds("timeout", timeout, 0.001, TIMEOUT_S_MAX)
        return Attempt(clock.deadline_in(seconds), self._closing)

    def _until_answered(self, what: str, act: Callable[[Attempt], T], timeout: float | None) -> T:
        attempt = self._attempt(timeout)
        while True:
            try:
                attempt.left()
                return act(attempt)
            except Unanswered:
                self._check_outcome(what, attempt)
                if attempt.deadline - clock.now_ns() <= 0:
                    self._unavailable(what, attempt)
                self._closing.wait(PAUSE_S)
            except (CoordinatorRefused, GroupDamaged) as error:
                if attempt.unknown:  # an attempt before this one may have changed something
                    raise OutcomeUnknown(
                        f"cannot {what}: {error}; it may have been done before",
                        hint="read the state",
                    ) from error
                raise

    def _check_outcome(self, what: str, attempt: Attempt) -> None:
        """Raise if this coordinator was closed, or belongs to the parent."""
        try:
            self._check()
        except Closed as error:
            if attempt.unknown:
                raise OutcomeUnknown(
                    f"cannot {what}: the coordinator was closed before an answer",
                    hint="read the state",
                ) from error
            raise

    def _unavailable(self, what: str, attempt: Attempt) -> NoReturn:
        causes = "; ".join(f"{node}: {cause}" for node, cause in sorted(attempt.causes.items()))
        nodes = [shown_node(*node) for node in self.address.nodes]
        reason = causes or f"no answer from {errors.either(nodes)}"
        if attempt.unknown:
            raise OutcomeUnknown(
                f"cannot {what} in time: {reason}; it may still be done",
                hint="read the state, or repeat the call with the same new state",
            )
        raise CoordinatorUnavailable(
            f"cannot {what} in time: {reason}",
            hint=f"check that a majority of the {_SERVICE[self.address.kind]} nodes is running "
            f"and reachable at {self.address.hosts}",
        )

    def _not_found(self) -> GroupNotFound:
        return GroupNotFound(
            f"group {self.address.group} has no state at {self.address.hosts}",
            hint="check the address; `rnvm group create` begins a new group",
        )
