"""The clock of all deadlines: what rfp_now() in core/clock.h reads.

Not time.monotonic(): libraries for tests (freezegun) replace that function and others of `time` in all modules, and a frozen
deadline never passes, or has passed at once.
"""

from __future__ import annotations

import time

_read, _MONOTONIC = time.clock_gettime, time.CLOCK_MONOTONIC
_read_ns = time.clock_gettime_ns


def now() -> float:
    """Seconds."""
    return _read(_MONOTONIC)


def now_ns() -> int:
    """Nanoseconds."""
    return _read_ns(_MONOTONIC)
