"""The child of a fork has no part in what its parent has open: memory, rings, connections, sessions, pools."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

live: weakref.WeakSet[Any] = weakref.WeakSet()  # what is open and has memory, file descriptors or a device's objects
_pid = os.getpid()
_forgetters: list[Callable[[], None]] = []


def in_child(forget: Callable[[], None]) -> None:
    """Has a function called in each child, after all that is live has forgotten its memory, in the order of registration."""
    _forgetters.append(forget)


def _forget_parent() -> None:
    global _pid
    _pid = os.getpid()
    kept = list(live)  # none goes before all have forgotten
    for each in kept:
        each._forget()
        live.discard(each)
    for forget in _forgetters:
        forget()


def notice() -> None:
    """Does the same in the child of a fork that Python did not see: daemon(3), or a server in C that forks after it has begun.

    Cost: one system call.
    """
    if os.getpid() != _pid:
        _forget_parent()


os.register_at_fork(after_in_child=_forget_parent)
