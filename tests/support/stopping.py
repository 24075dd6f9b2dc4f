"""Stopped processes."""

from __future__ import annotations

import os
import signal


def await_stop(pid: int) -> None:
    """Wait until all threads of a child have stopped, or it has ended."""
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def stop(pid: int) -> None:
    """Send SIGSTOP to a child, and wait until all its threads have stopped, or it has ended.

    The signal alone takes effect later: on another processor the child goes on for a moment.
    """
    os.kill(pid, signal.SIGSTOP)
    await_stop(pid)
