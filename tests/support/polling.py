"""Polls for a fact, where a test waits for another thread or process, or for a quiet moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SECONDS = 30  # time-out of every wait


def until(fact: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Poll until the fact is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, f"the fact did not become true within {seconds} s"
        time.sleep(0.002)
    return found
