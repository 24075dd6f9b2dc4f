"""The state of a group, as its coordinator keeps it: JSON, checked at each reading.

>>> state = GroupState("0" * 32, 1, None, (Listed("a", "1" * 32),), 0)
>>> decode(state.encode(), "test") == state
True
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from rfp import errors
from rfp.errors import GroupDamaged, InvalidArgument

FORMAT = 1
EPOCH_MAX = (1 << 31) - 1  # sessions get epochs of at least `epoch << 32`
MIRRORS_MAX = 8  # of a group; as of the replicator
MEMBER_MAX = 31  # characters of a member's name, which the pool contains too

_HEX = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_KEYS = ("epoch", "format", "group", "in_sync", "min_mirrors", "primary")


@dataclass(frozen=True, order=True)
class Listed:
    """One copy that has everything that was acknowledged.

    Attributes:
        member: the name of the member that has it.
        identity: 32 hexadecimal digits that the copy's pool contains.
    """

    member: str
    identity: str


@dataclass(frozen=True)
class GroupState:
    """What the members of a group agree on.

    Attributes:
        group: 32 hexadecimal digits, drawn by `group create`; each member's pool contains them.
        epoch: one more with each opening.
        primary: the member that may have the pool open as primary; None: no member has.
        in_sync: the copies that may be opened; never empty.
        min_mirrors: mirrors in sync without which nothing is acknowledged as replicated.
    """

    group: str
    epoch: int
    primary: str | None
    in_sync: tuple[Listed, ...]
    min_mirrors: int

    def __post_init__(self) -> None:
        if not _is_id(self.group):
            raise InvalidArgument(f"invalid group id {errors.shown(self.group)}")
        if not _is_int(self.epoch) or not 1 <= self.epoch <= EPOCH_MAX:
            raise errors.out_of_bounds("epoch", self.epoch, 1, EPOCH_MAX)
        if not _is_int(self.min_mirrors) or not 0 <= self.min_mirrors <= MIRRORS_MAX:
            raise errors.out_of_bounds("min_mirrors", self.min_mirrors, 0, MIRRORS_MAX)
        if not 1 <= len(self.in_sync) <= MIRRORS_MAX + 1:
            raise errors.out_of_bounds("members in sync", len(self.in_sync), 1, MIRRORS_MAX + 1)
        for each in self.in_sync:
            checked_member(each.member)
            if not _is_id(each.identity):
                raise InvalidArgument(f"invalid copy identity {errors.shown(each.identity)}")
        if len({each.member for each in self.in_sync}) < len(self.in_sync):
            raise InvalidArgument("a member is listed twice")
        if len({each.identity for each in self.in_sync}) < len(self.in_sync):
            raise InvalidArgument("a copy identity is listed twice")
        if self.primary is not None and self.identity_of(self.primary) is None:
            raise InvalidArgument(f"the primary {errors.shown(self.primary)} is not in sync")

    def identity_of(self, member: str) -> str | None:
        """Return the identity of the copy that is listed for this member; None: none is."""
        return next((each.identity for each in self.in_sync if each.member == member), None)

    def opened_by(self, me: Listed) -> GroupState:
        """Return the state after an election that this copy wins, before it may open its pool."""
        return replace(self, epoch=self.epoch + 1, primary=me.member)

    def alone(self, me: Listed) -> GroupState:
        """Return the state in which this copy, and no other one, may be opened."""
        return replace(self, in_sync=(me,))

    def with_mirror(self, mirror: Listed) -> GroupState:
        """Return the state with one more copy in sync."""
        return replace(self, in_sync=(*self.in_sync, mirror))

    def without(self, *members: str) -> GroupState:
        """Return the state without the copies of these members, none of which is primary then."""
        left = tuple(each for each in self.in_sync if each.member not in members)
        return replace(
            self, in_sync=left, primary=None if self.primary in members else self.primary
        )

    def encode(self) -> bytes:
        """Return the bytes that the coordinator keeps."""
        return json.dumps(
            {
                "format": FORMAT,
                "group": self.group,
                "epoch": self.epoch,
                "primary": self.primary,
                "in_sync": [[each.member, each.identity] for each in self.in_sync],
                "min_mirrors": self.min_mirrors,
            },
            separators=(",", ":"),
        ).encode()


def checked_member(name: object) -> str:
    """Return the name of a member.

    Raises:
        InvalidArgument: it is not valid.
    """
    if not isinstance(name, str) or len(name) > MEMBER_MAX or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"invalid member {errors.shown(name)} (expected letters, digits, '.', '_', ':' and "
            f"'-', {MEMBER_MAX} at most)"
        )
    return name


def decode(raw: bytes, where: str) -> GroupState:
    """Return the state that the value of a coordinator's state contains.

    Raises:
        GroupDamaged: it contains something else.
    """
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("it is not of format 1")
        if sorted(found) != list(_KEYS):
            raise ValueError("it has other keys than a state")
        in_sync = found["in_sync"]
        if not isinstance(in_sync, list) or not all(
            isinstance(each, list) and len(each) == 2 for each in in_sync
        ):
            raise ValueError("in_sync is no list of pairs")
        return GroupState(
            found["group"],
            found["epoch"],
            found["primary"],
            tuple(Listed(*each) for each in in_sync),
            found["min_mirrors"],
        )
    except (ValueError, RecursionError) as error:  # InvalidArgument is a ValueError
        raise GroupDamaged(
            f"{where} contains no state of a group: {error}: {errors.shown(raw)}",
            hint="another program has written there, or a later version of this package",
        ) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid")


def _is_int(value: object) -> bool:
    return type(value) is int


def _is_id(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None
