"""What an operator does with a group: create it, read its state, force it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rfp.core.log import Log
from rfp.errors import AlreadyExists, GroupNotFound, OutcomeUnknown, PoolRefused
from rnvm import pools
from rnvm.coordinator.address import CoordinatorAddress, parse
from rnvm.coordinator.contract import Coordinator
from rnvm.coordinator.opening import open_coordinator
from rnvm.coordinator.state import State
from rnvm.group import registered, state
from rnvm.group.member_lock import MemberLock
from rnvm.group.registered import Registered
from rnvm.group.state import EPOCH_MAX, GroupState, Listed
from rnvm.media import identity
from rnvm.pool.pool import Pool

log = Log("rnvm")

NO_ID = bytes(16)
EPOCHS_SKIPPED = (
    1024  # by force if the coordinator has lost changes: other copies may have seen more
)


def address_of(group: str, coordinator: str | None) -> CoordinatorAddress:
    """Return the address of a group, given as a whole or as name and coordinator.

    Raises:
        InvalidAddress, InvalidArgument: It is not valid.
    """
    return parse(group) if coordinator is None else parse(coordinator).of(group)


@contextlib.contextmanager
def _held(path: str | os.PathLike[str]) -> Iterator[Pool]:
    """Yield a pool that no process has open; its logs are applied."""
    if not os.path.exists(path):
        raise pools.missing(path)  # else the lock of the member would leave its file
    # A running member does not have its pool open between two roles.
    with MemberLock(path), contextlib.closing(pools.open_pool(path, in_group=True)) as pool:
        yield pool


def create_group(
    address: str | CoordinatorAddress,
    path: str | os.PathLike[str],
    *,
    member: str,
    min_mirrors: int,
    timeout: float = 5.0,
) -> GroupState:
    """Create a group whose first copy is a pool that no process has open, and return its state.

    Safe to repeat with the same pool if it was interrupted.

    Args:
        address: `etcd://HOST:PORT[,...]/GROUP` or `zk://HOST:PORT[,...]/GROUP`.
        path: The pool.
        member: The name of the member that has it.
        min_mirrors: Mirrors in sync without which nothing is acknowledged as replicated.

    Raises:
        AlreadyExists: The group exists with another pool.
        PoolRefused: The pool belongs to another group already.
        CoordinatorUnavailable, CoordinatorRefused: The coordinator cannot be used.
        NotAPool, PoolInUse, PoolDamaged: The pool cannot be used.
        InvalidArgument: A name or number is not valid.
    """
    first = GroupState("0" * 32, 1, None, (Listed(member, "0" * 32),), min_mirrors)  # checks
    with open_coordinator(address, timeout=timeout) as coordinator, _held(path) as pool:
        medium = pool.medium
        found = identity.read(medium)
        if found is None or found["group"] == NO_ID:
            # A pool whose group cannot be created is left as it is.
            with contextlib.suppress(GroupNotFound):
                raise coordinator.already_exists(read_state(coordinator)[0])
            # Before anybody is told: a copy that is listed must say so itself.  Not below the epoch
            # of the pool without a group: its mirrors have followed that, and become members.
            found = {"identity": identity.new(), "group": identity.new(), "member": member,
                     "epoch": min(pool.opened, EPOCH_MAX)}  # fmt: skip
            identity.write(medium, state="whole", **found)
        elif found["member"] != member or found["state"] != "whole":
            raise _of_another(path, found["member"])
        listed = Listed(member, bytes(found["identity"]).hex())
        first = GroupState(
            bytes(found["group"]).hex(), int(found["epoch"]), None, (listed,), min_mirrors
        )
        try:
            begun = State.first(first.encode())
            _until_known(lambda: coordinator.create(begun))
        except AlreadyExists:
            _, present = read_state(coordinator)
            if present.group != first.group:
                raise
            return present
        return first


def _until_known(act: Callable[[], object]) -> None:
    """Repeat a change once if its outcome is unknown: it takes effect at most once."""
    try:
        act()
    except OutcomeUnknown:
        act()


def _of_another(path: str | os.PathLike[str], member: object) -> PoolRefused:
    return PoolRefused(
        f"{os.fspath(path)} belongs to a group already, as member {member}",
        hint="use another pool, or make it leave: rnvm serve --leave-group",
    )


def read_state(coordinator: Coordinator) -> tuple[State, GroupState]:
    """Return the present state, as the coordinator keeps it and as a group's.

    Raises:
        GroupNotFound, GroupDamaged, CoordinatorUnavailable, CoordinatorRefused.
    """
    found = coordinator.read()
    return found, state.decode(found.value, f"group {coordinator.address.group}")


@dataclass(frozen=True)
class Status:
    """A group as its coordinator shows it.

    Attributes:
        state: What decides.
        number: Of the state; one more with each change.
        members: The registered members: hints, since a lease may have ended, or not yet.
    """

    state: GroupState
    number: int
    members: tuple[Registered, ...]


def group_status(address: str | CoordinatorAddress, *, timeout: float = 5.0) -> Status:
    """Return the state of a group and its registered members.

    Raises:
        GroupNotFound, GroupDamaged, CoordinatorUnavailable, CoordinatorRefused.
    """
    with open_coordinator(address, timeout=timeout) as coordinator:
        kept, found = read_state(coordinator)
        members = [registered.decode(each) for each in coordinator.members()]
        return Status(found, kept.number, tuple(each for each in members if each is not None))


def force_group(
    address: str | CoordinatorAddress,
    path: str | os.PathLike[str],
    *,
    min_mirrors: int | None = None,
    timeout: float = 5.0,
) -> GroupState:
    """Make one copy the only one in sync, whatever the state says, and return the new state.

    What other copies have and this one lacks is lost, also if it was acknowledged.  The old primary
    must have been stopped before: it may go on serving until it reads the state.

    Args:
        path: The pool that no process has open, and that is a whole copy of the group's pool.
        min_mirrors: Needed if the coordinator has no state any more.

    Raises:
        PoolRefused: The copy is not whole, or belongs to no group or another one.
        GroupNotFound: There is no state, and min_mirrors is not given.
        VersionMismatch: The state changed meanwhile.
    """
    with open_coordinator(address, timeout=timeout) as coordinator, _held(path) as pool:
        medium = pool.medium
        found = identity.read(medium)
        if found is None or found["group"] == NO_ID:
            raise PoolRefused(
                f"{os.fspath(path)} belongs to no group",
                hint="use the pool of a member, or begin a new group: rnvm group create",
            )
        if found["state"] != "whole":
            raise PoolRefused(
                f"{os.fspath(path)} is no whole copy", hint="use the copy of another member"
            )
        group, epoch = bytes(found["group"]).hex(), int(found["epoch"])
        listed = Listed(str(found["member"]), bytes(found["identity"]).hex())
        kept: State | None = None
        old: GroupState | None = None
        try:
            kept, old = read_state(coordinator)
        except GroupNotFound:
            if min_mirrors is None:
                raise
        if old is not None and old.group != group:
            raise PoolRefused(
                f"{os.fspath(path)} belongs to another group of this name",
                hint="use the pool of a member of this one",
            )
        if old is not None and old.epoch >= epoch:
            epoch = old.epoch + 1
        else:
            epoch += EPOCHS_SKIPPED
        if min_mirrors is None:
            min_mirrors = 0 if old is None else old.min_mirrors
        new = GroupState(group, min(epoch, EPOCH_MAX), None, (listed,), min_mirrors)
        identity.write(
            medium,
            state="whole",
            identity=bytes(found["identity"]),
            group=bytes(found["group"]),
            member=listed.member,
            epoch=new.epoch,
        )
        if kept is None:
            begun = State.first(new.encode())
            _until_known(lambda: coordinator.create(begun))
        else:
            before, after = kept, kept.next(new.encode())
            _until_known(lambda: coordinator.compare_and_set(before, after))
        log.warning("group %s was forced to the copy of member %s, epoch %d",
                    coordinator.address.group, listed.member, new.epoch)  # fmt: skip
        return new


def leave_group(path: str | os.PathLike[str]) -> None:
    """Erase the identity of a pool that no process has open: it is a pool without a group then.

    Raises:
        NotAPool, PoolInUse, PoolRefused: The pool cannot be used.
    """
    with _held(path) as pool:
        identity.erase(pool.medium)


__all__ = ["Status", "address_of", "create_group", "force_group", "group_status", "leave_group"]
