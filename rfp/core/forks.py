"""Fork handling: a child uses none of its parent's memory, rings, connections, sessions, pools."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

live: weakref.WeakSet[Any] = weakref.WeakSet()  # open objects
_pid = os.getpid()
_forgetters: list[Callable[[], None]] = []


def in_child(forget: Callable[[], None]) -> None:
    """Register a function to call in each child, in the order of registration.

    It runs after all live objects have dropped their memory.
    """
    _forgetters.append(forget)


def _forget_parent() -> None:
    global _pid
    _pid = os.getpid()
    kept = list(live)  # no object is freed before all have dropped theirs
    for each in kept:
        each._forget()
        live.discard(each)
    for forget in _forgetters:
        forget()


def notice() -> None:
    """Do the same in the child of a fork that Python did not see.

    For example daemon(3), or a server in C that forks after it has begun.

    Cost:
        One system call.
    """
    if os.getpid() != _pid:
        _forget_parent()


os.register_at_fork(after_in_child=_forget_parent)
