"""What a member's state machine takes (events) and gives (actions).

Actions of one step are executed in their order, and each is complete before the next begins, except
those that are answered by an event: `Read`, `Change`, `Unfollow`, `Slots`, `Open`, `Stop`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rnvm.group.state import GroupState, Listed


@dataclass(frozen=True)
class Copy:
    """What a pool says durably about itself.

    Attributes:
        group: the group's id, or "".
        member: the member's name.
        identity: drawn when the copy was complete; "" while it is not.
        epoch: the highest that it has seen.
    """

    group: str
    member: str
    identity: str
    epoch: int

    @property
    def listed(self) -> Listed:
        """The entry of in_sync that means this copy."""
        return Listed(self.member, self.identity)


@dataclass(frozen=True)
class Seen:
    """A state that was read, or set.

    Attributes:
        token: the coordinator's own object, given back with a change; the machine never reads it.
        number: of the state: one more with each change.
    """

    token: Any
    number: int
    state: GroupState


# Events


@dataclass(frozen=True)
class Tick:
    """Time has passed; at least ten times in a second."""


@dataclass(frozen=True)
class Hint:
    """The state or the members may have changed."""


@dataclass(frozen=True)
class StateRead:
    """The answer of a `Read`, with the copies of the members that are registered."""

    serial: int
    seen: Seen
    registered: frozenset[Listed]


@dataclass(frozen=True)
class ReadFailed:
    """A `Read` had no answer; damaged: there is no state, or another program's."""

    serial: int
    reason: str
    damaged: bool = False


@dataclass(frozen=True)
class ChangeMade:
    """The change is the state, or was: another one may have followed it."""

    serial: int
    seen: Seen


@dataclass(frozen=True)
class ChangeRefused:
    """The change was not made, and never will be."""

    serial: int


@dataclass(frozen=True)
class ChangeUnknown:
    """The change was perhaps made, or will be."""

    serial: int
    reason: str


@dataclass(frozen=True)
class Unfollowed:
    """No acknowledgement leaves this member from now on.

    Attributes:
        promised: ns of CLOCK_BOOTTIME before which this member must not open its pool; 0: none.
    """

    promised: int


@dataclass(frozen=True)
class Heard:
    """Frames, perhaps empty ones, come from the primary that is followed."""


@dataclass(frozen=True)
class FollowEnded:
    """The stream was lost, or cannot be resumed.  The copy was not changed since."""

    reason: str


@dataclass(frozen=True)
class CopyChanged:
    """The copy was marked as incomplete (identity ""), or is complete under a new identity."""

    identity: str


@dataclass(frozen=True)
class KeepFailed:
    """An epoch could not be kept, and the actions behind `Keep` were not executed.

    Attributes:
        gone: the copy is not there any more.
    """

    reason: str
    gone: bool


@dataclass(frozen=True)
class Opened:
    """The pool is open as primary and recovered, and answers nothing yet."""


@dataclass(frozen=True)
class Served:
    """The pool is served; something may have been answered from it."""


@dataclass(frozen=True)
class OpenFailed:
    """The pool cannot be opened, or not be served.  Nothing was answered from it."""

    reason: str


@dataclass(frozen=True)
class Stopped:
    """No session is answered any more, and the memory that front-ends mapped was given up."""


@dataclass(frozen=True)
class MirrorLevel:
    """The mirror in this slot has a complete copy under this identity, and asks to join."""

    slot: int
    mirror: Listed


@dataclass(frozen=True)
class MirrorLost:
    """The mirror in this slot is gone, lied, or did not acknowledge for the mirror patience."""

    slot: int


@dataclass(frozen=True)
class Acked:
    """The mirror in this slot has all frames up to this number, durably."""

    slot: int
    frame: int


@dataclass(frozen=True)
class InForce:
    """The service thread requires the slots of `Slots(serial)`.

    Attributes:
        frame: the number of a frame, perhaps an empty one, that it published after that.
    """

    serial: int
    frame: int


@dataclass(frozen=True)
class MediumFailed:
    """A write to the own medium failed."""

    reason: str


Event = (
    Tick
    | Hint
    | StateRead
    | ReadFailed
    | ChangeMade
    | ChangeRefused
    | ChangeUnknown
    | Unfollowed
    | Heard
    | FollowEnded
    | CopyChanged
    | KeepFailed
    | Opened
    | Served
    | OpenFailed
    | Stopped
    | MirrorLevel
    | MirrorLost
    | Acked
    | InForce
    | MediumFailed
)


# Actions


@dataclass(frozen=True)
class Register:
    """Register under this copy, instead of an earlier one; others may campaign while none is."""

    copy: Listed


@dataclass(frozen=True)
class Unregister:
    """End the registration: others need not wait for its lease."""


@dataclass(frozen=True)
class Read:
    """Read the state, and then the members.  Answer: `StateRead` or `ReadFailed`."""

    serial: int


@dataclass(frozen=True)
class Change:
    """Compare-and-set.  The same serial is the same change: it takes effect at most once.

    Answer: `ChangeMade`, `ChangeRefused` or `ChangeUnknown`.
    """

    serial: int
    old: Seen
    new: GroupState


@dataclass(frozen=True)
class Keep:
    """Write this epoch into the pool, durably.  `KeepFailed` follows if that is not possible."""

    epoch: int


@dataclass(frozen=True)
class Follow:
    """Follow this primary.

    Attributes:
        resume: go on behind the last frame, and never change the copy in another way: it is listed.
            False: the copy may be marked as incomplete and compared.
    """

    primary: Listed
    epoch: int
    resume: bool


@dataclass(frozen=True)
class Unfollow:
    """Stop following, whatever arrives.  Answer: `Unfollowed`."""


@dataclass(frozen=True)
class Open:
    """Open the pool as primary of this epoch; answer nothing yet.  Event: `Opened` or `OpenFailed`.

    Attributes:
        alone: no other copy may be opened instead.
    """

    epoch: int
    min_mirrors: int
    alone: bool


@dataclass(frozen=True)
class Serve:
    """Answer from the open pool from now on.  Answer: `Served` or `OpenFailed`."""


@dataclass(frozen=True)
class Slots:
    """Wait for these slots before anything is acknowledged as replicated.  Answer: `InForce`.

    Attributes:
        required: acknowledged means acknowledged by all of these.
        in_sync: those of them that the state lists and that are not lost; min_mirrors counts them.
    """

    serial: int
    required: frozenset[int]
    in_sync: frozenset[int]


@dataclass(frozen=True)
class Drop:
    """End the stream of this slot."""

    slot: int


@dataclass(frozen=True)
class Stop:
    """Stop serving: end all sessions, give their memory up.  Answer: `Stopped`."""

    reason: str


Action = (
    Register
    | Unregister
    | Read
    | Change
    | Keep
    | Follow
    | Unfollow
    | Open
    | Serve
    | Slots
    | Drop
    | Stop
)
