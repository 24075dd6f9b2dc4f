"""The parts that the processes of both kinds of runs share: draw, serve, connect."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from .gate import SECONDS
from .recorder import Recorder

T = TypeVar("T")


def draw(rng: random.Random, weights: dict[str, float]) -> str:
    """Draw one of the names by its weight."""
    return rng.choices(list(weights), list(weights.values()))[0]


def serve(record: str, open_service: Callable[[], AbstractContextManager[Any]]) -> None:
    """Serve until SIGTERM, and record the moment at which the service is ready."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    recorder = Recorder(record)
    with open_service():
        recorder.note("r")
        while not ended:
            signal.sigtimedwait([], 0.02)


def retry(attempt: Callable[[], T], *errors: type[Exception]) -> T:
    """Repeat a connection attempt while a server or back-end restarts."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return attempt()
        except errors:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
