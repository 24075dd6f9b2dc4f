"""One call of a coordinator: its deadline, and what has happened to it so far."""

from __future__ import annotations

import threading

from rfp.core import clock

TIMEOUT_S = 5.0  # of a call, unless the caller sets another one
TIMEOUT_S_MAX = 3600.0


class Unanswered(Exception):
    """No node answered an attempt.  It never leaves this package."""


class Attempt:
    """A call's deadline, and what has happened to it so far."""

    def __init__(self, deadline: int, closing: threading.Event | None = None) -> None:
        self.deadline = deadline
        self.closing = closing  # also ends the call
        self.unknown = False  # a change was sent, and no node answered
        self.causes: dict[str, str] = {}  # the last failure of each node

    def left(self, most: float = TIMEOUT_S_MAX) -> float:
        """Return the seconds until the deadline.

        Raises:
            Unanswered: it has passed, or the call was ended.
        """
        if self.closing is not None and self.closing.is_set():
            raise Unanswered
        seconds = (self.deadline - clock.now_ns()) / 1e9
        if seconds <= 0:
            raise Unanswered
        return min(seconds, most)

    def failed(self, node: str, cause: str) -> None:
        """Note why a node did not answer."""
        self.causes[node] = cause


def cause_of(error: Exception) -> str:
    """Return why a request failed, for the error of its call."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
