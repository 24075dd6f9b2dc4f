"""Members of a group, and the leases that they are registered under."""

from __future__ import annotations

import os
import re
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from rfp import errors
from rfp.errors import InvalidArgument
from rnvm.coordinator.address import NAME_MAX
from rnvm.coordinator.attempt import Attempt

MEMBER_DATA_MAX = 4 << 10  # bytes that a member publishes
MEMBER_LEASE_S_MIN, MEMBER_LEASE_S_MAX = 1.0, 300.0
CLOSING_S = 1.0  # close() waits no longer for the service

_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Member:
    """A registered member of a group.

    Attributes:
        name: The name that it registered with.
        instance: Of this registration; a restarted process has another one, and until the lease of
            its former one has ended, both are listed.
        data: The bytes that it published, such as its address.
    """

    name: str
    instance: str
    data: bytes


def checked_member(name: str) -> str:
    """Return the name of a member.

    Raises:
        InvalidArgument: it is not valid.
    """
    if not isinstance(name, str) or len(name) > NAME_MAX or not _MEMBER.fullmatch(name):
        raise InvalidArgument(
            f"invalid member {errors.shown(name)} (expected letters, digits, '.', '_', ':' and "
            f"'-', {NAME_MAX} at most)"
        )
    return name


def member_of(key: str, data: bytes) -> Member | None:
    """Return the member of a key NAME@INSTANCE; None if the key is another program's."""
    name, _, instance = key.rpartition("@")
    if _MEMBER.fullmatch(name) and _ID.fullmatch(instance):
        return Member(name, instance, data)
    return None


def boot_time() -> float:
    """Return seconds of the clock of leases, which also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Registration(ABC):
    """A member's registration, which a thread of its own renews until it is closed.

    If the lease ended (the process was stopped, or no node could be reached), the thread registers
    the member again.

    Attributes:
        member: The name and the instance, as others read them.
        lapses: How often the lease was found to have ended.
    """

    def __init__(self, siblings: set[Registration], member: Member, lease: float) -> None:
        self.member = member
        self.lease = lease
        self.lapses = 0
        self.causes: dict[str, str] = {}  # why nodes did not answer
        self._siblings = siblings
        self._closing = threading.Event()
        self._registered = threading.Event()
        self._pid = os.getpid()
        self._cause: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rnvm-lease", daemon=True)

    @property
    def registered(self) -> bool:
        """Whether others were able to see this member when its thread last heard of the service.

        A hint, as every lease is.
        """
        return self._registered.is_set() and not self._closing.is_set()

    @abstractmethod
    def _run(self) -> None:
        """Register and renew until `_closing` is set; keep `_registered` and `lapses`."""

    @abstractmethod
    def _withdraw(self) -> None:
        """End the lease, if the service can be reached within CLOSING_S."""

    def _begin(self, attempt: Attempt) -> None:
        """Start the thread, and return when the member is registered."""
        self._thread.start()
        while not self._registered.wait(0.02):
            if self._cause is not None:
                raise self._cause
            attempt.left()

    def close(self) -> None:
        """End the registration: others see at once that the member has left, not after its lease.

        If the service cannot be reached, the lease ends by itself.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        self._siblings.discard(self)
        if self._pid != os.getpid():
            return
        self._withdraw()
        if self._thread.ident is not None:
            self._thread.join(CLOSING_S)

    def _forget(self) -> None:
        self._closing = threading.Event()  # a thread of the parent may have held the lock of this
        self._closing.set()

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
