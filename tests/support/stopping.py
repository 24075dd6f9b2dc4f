"""Stopped processes."""

from __future__ import annotations

import os
import signal


def stop(pid: int) -> None:
    """Send SIGSTOP to a child, and wait until all its threads have stopped, or it has ended.

    The signal alone takes effect later: on another processor the child goes on for a moment.
    """
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
