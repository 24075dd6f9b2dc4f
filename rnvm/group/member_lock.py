"""The lock that the process of a member holds as long as it lives.

The pool's own lock is released between two roles, and a process that is being replaced may still
acknowledge until it ends.  So the promise of the next process counts from this lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import weakref

from rfp import address as addresses
from rfp.core.forks import in_child
from rfp.errors import PoolInUse, PoolRefused

SUFFIX = ".member"


def _place(pool: str | os.PathLike[str]) -> str:
    """Return the lock file's path: beside the pool, or in the run directory for a device."""
    path = os.path.realpath(pool)
    if not os.path.exists(path) or stat.S_ISREG(os.stat(path).st_mode):
        return path + SUFFIX
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    place = addresses.own(f"member-{name}").path
    assert place is not None
    os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
    return place


class MemberLock:
    """Hold the lock of the member that has this pool, until close().  The file stays.

    Raises:
        PoolInUse: Another process is this member.
        PoolRefused: The lock file cannot be made.
    """

    def __init__(self, pool: str | os.PathLike[str]) -> None:
        self._fd = -1
        try:
            place = _place(pool)
            self._fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise PoolInUse(
                f"a process is already the member that has {os.fspath(pool)}",
                hint="stop that process: rnvm serve --group",
            ) from None
        except OSError as error:
            self.close()
            raise PoolRefused(
                f"cannot lock {os.fspath(pool)}{SUFFIX}: {error.strerror}",
                hint="check the permissions of its folder",
            ) from error
        _held.add(self)

    def close(self) -> None:
        """Release the lock.  Safe to call again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> MemberLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_held: weakref.WeakSet[MemberLock] = weakref.WeakSet()


def _forget_parents() -> None:
    """In the child of a fork: the lock is the parent's, and ends with it."""
    for lock in list(_held):
        lock.close()


in_child(_forget_parents)

__all__ = ["SUFFIX", "MemberLock"]
