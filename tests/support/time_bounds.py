"""Upper bounds of times that hold on a busy machine too.

Another process can hold a test up for seconds. A bound therefore lies far below the time that the
faulty program would need, and that time is made long: a call that must end at once has a time-out
of LONG or none. Where the promise itself is short, the test has several tries.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rfp.errors import DeadlineExceeded, RfpError

SOON = 20.0  # seconds within which a block ends that waits for nothing
LONG = 60.0  # seconds, at least, that the block takes if it waits after all


@contextlib.contextmanager
def soon(least: float = 0.0) -> Iterator[None]:
    """Assert that the block ends after `least` seconds, and long before LONG."""
    began = time.monotonic()
    yield
    assert least <= time.monotonic() - began < SOON


def in_some_try(check: Callable[[], Any], seconds: float = SOON) -> Any:
    """Return check() of the first try that holds: for a bound that the product promises."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            return check()
        except AssertionError:
            continue
    return check()


def raises_in_some_try(
    call: Callable[[], Any],
    kind: type[RfpError],
    reason: str = "",
    *,
    late: type[RfpError] = DeadlineExceeded,
) -> None:
    """Check the error of a call with little time: its class, and that its text has the reason.

    If a try is held up, its time is over before that error; it then raises `late`, or the same
    class with another reason.
    """

    def check() -> None:
        with pytest.raises((kind, late)) as found:
            call()
        assert isinstance(found.value, kind), found.value
        assert re.search(reason, str(found.value)), found.value

    in_some_try(check)
