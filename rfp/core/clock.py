"""The clock of all deadlines, the same as rfp_now() in core/clock.h, and the system's clock.

A deadline is an absolute time of now_ns(), everywhere.

Not time.monotonic(): test libraries (freezegun) replace that function and others of `time` in all
modules, and a frozen deadline never passes, or has passed at once.
"""

from __future__ import annotations

import time

_read, _MONOTONIC, _REALTIME = time.clock_gettime, time.CLOCK_MONOTONIC, time.CLOCK_REALTIME
_read_ns = time.clock_gettime_ns


def now() -> float:
    """Return the time in seconds."""
    return _read(_MONOTONIC)


def now_ns() -> int:
    """Return the time in nanoseconds."""
    return _read_ns(_MONOTONIC)


def deadline_in(seconds: float) -> int:
    """Return the deadline so many seconds from now."""
    return now_ns() + int(seconds * 1e9)


def real_ns() -> int:
    """Return nanoseconds since 1970 by the system's clock.

    That clock may be set: use it only for numbers that must grow over restarts.
    """
    return _read_ns(_REALTIME)
