"""The identity of a process of this host, which no later process has: its number and start time."""

from __future__ import annotations

import os

_NUMBER_BITS = 22  # the kernel's limit of process numbers
_START_BITS = 41


def identity(number: int) -> int:
    """Return number | start time << 22.

    Raises:
        OSError: no such process, or it cannot be read.
        ValueError, IndexError: the system's file is not as expected.
    """
    with open(f"/proc/{number}/stat", "rb") as file:
        started = int(file.read().rsplit(b")", 1)[1].split()[19])
    return number_of(number) | (started & (1 << _START_BITS) - 1) << _NUMBER_BITS


def number_of(identity: int) -> int:
    """Return the number of the process with this identity."""
    return identity & (1 << _NUMBER_BITS) - 1


def gone(process: int) -> bool:
    """Return whether the process with this identity has ended; False if that cannot be read."""
    try:
        return identity(number_of(process)) != process
    except (FileNotFoundError, ProcessLookupError):
        return True
    except (OSError, ValueError, IndexError):
        return False


def time_namespace() -> int:
    """Return the number of this process's time namespace, 0 if the kernel has none.

    Processes of one host with the same number have the same monotonic clock.
    """
    try:
        return os.stat("/proc/self/ns/time").st_ino
    except OSError:
        return 0
