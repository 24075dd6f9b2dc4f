"""What a member publishes with its registration: where it is, and which copy it has."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rnvm.coordinator.registration import Member
from rnvm.group.state import Listed, checked_member

_ADDRESS_MAX = 1024  # characters


@dataclass(frozen=True)
class Registered:
    """A registered member, as others read it.

    Attributes:
        listed: its name and the identity of its copy; "": the copy is not complete.
        address: where it serves if it is the primary.
        role: what it did when it registered last; for people.
    """

    listed: Listed
    address: str
    role: str

    def encode(self) -> bytes:
        """Return the bytes that the member registers with."""
        return json.dumps(
            {"identity": self.listed.identity, "address": self.address, "role": self.role}
        ).encode()


def decode(member: Member) -> Registered | None:
    """Return what a member has published; None: it is not a member of this package's groups."""
    try:
        found = json.loads(member.data.decode("utf-8"))
        name = checked_member(member.name)
        texts = [found["identity"], found["address"], found["role"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(text, str) and len(text) <= _ADDRESS_MAX for text in texts):
        return None
    identity, address, role = texts
    return Registered(Listed(name, identity), address, role)
