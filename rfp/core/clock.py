"""The clock of all deadlines: what rfp_now() in core/clock.h reads; and the system's clock.

Not time.monotonic(): libraries for tests (freezegun) replace that function and others of `time` in all modules, and a frozen
deadline never passes, or has passed at once.
"""

from __future__ import annotations

import time

_read, _MONOTONIC, _REALTIME = time.clock_gettime, time.CLOCK_MONOTONIC, time.CLOCK_REALTIME
_read_ns = time.clock_gettime_ns


def now() -> float:
    """Seconds."""
    return _read(_MONOTONIC)


def now_ns() -> int:
    """Nanoseconds."""
    return _read_ns(_MONOTONIC)


def real_ns() -> int:
    """Nanoseconds since 1970, by the system's clock, which may be set: for numbers that are to grow over restarts."""
    return _read_ns(_REALTIME)
