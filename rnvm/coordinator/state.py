"""A state of a group, and its bytes: one line in ASCII, and the value."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from rfp import errors
from rfp.errors import GroupDamaged
from rnvm.coordinator.arguments import checked_bytes

STATE_MAX = 64 << 10  # bytes of a state's value
PAST_MAX = 32  # ids of earlier states in a state

_HEADER = re.compile(
    rb"rnvm-state 1 (?P<number>[0-9]{1,18}) (?P<id>[0-9a-f]{16}) (?P<origin>[0-9a-f]{16})"
    rb" (?P<past>-|[0-9a-f]{16}(?:,[0-9a-f]{16})*)"
)


def new_id() -> str:
    """Return 16 hexadecimal digits that no other call returns."""
    return os.urandom(8).hex()


@dataclass(frozen=True)
class State:
    """One state of a group.

    Made by `first`, by `next`, or by a read.

    Attributes:
        value: the bytes that the group gave.
        number: 1 for the first state, one more with each change.
    """

    value: bytes
    number: int
    id: str
    origin: str  # the id of the first state of this group
    past: tuple[str, ...] = field(default=(), repr=False)  # earlier ids, the latest first
    stamp: int = field(default=0, compare=False, repr=False)  # ZooKeeper's version of it

    @staticmethod
    def first(value: bytes) -> State:
        """Return the state that `create` begins a group with.

        Raises:
            WrongType, InvalidArgument: the value is not bytes, or too long.
        """
        id = new_id()
        return State(checked_bytes("value", value, STATE_MAX), 1, id, id)

    def next(self, value: bytes) -> State:
        """Return the state that `compare_and_set` may replace this one by.  Each call's has its id.

        Raises:
            WrongType, InvalidArgument: the value is not bytes, or too long.
        """
        return State(
            checked_bytes("value", value, STATE_MAX),
            self.number + 1,
            new_id(),
            self.origin,
            (self.id, *self.past)[:PAST_MAX],
            self.stamp + 1,
        )

    def encode(self) -> bytes:
        """Return the bytes that the service keeps: one line in ASCII, and the value."""
        past = ",".join(self.past) or "-"
        return f"rnvm-state 1 {self.number} {self.id} {self.origin} {past}\n".encode() + self.value


def decode(raw: bytes, where: str, stamp: int = 0) -> State:
    """Return the state that these bytes of the service contain.

    Raises:
        GroupDamaged: they are none.
    """
    line, separator, value = raw.partition(b"\n")
    header = _HEADER.fullmatch(line)
    if not header or not separator or len(value) > STATE_MAX:
        raise GroupDamaged(
            f"{where} contains no state of a group: {errors.shown(raw)}",
            hint="another program has written there, or a later version of this package",
        )
    past = header["past"].decode()
    return State(
        value,
        int(header["number"]),
        header["id"].decode(),
        header["origin"].decode(),
        () if past == "-" else tuple(past.split(",")),
        stamp,
    )
