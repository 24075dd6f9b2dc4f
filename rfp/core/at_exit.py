"""Closes open handles when the interpreter ends.

A program's own functions for its end (of atexit, logging.shutdown, weakref.finalize) may use its
handles, even functions that were registered before this package was imported, which atexit calls
after all others.  So no function of atexit closes anything; the end of an object does, to which
only
atexit refers: atexit drops all functions and their arguments when the last one has returned, and at
that moment all of the interpreter still works.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable

from rfp.core.forks import notice
from rfp.core.log import log

_closers: list[Callable[[], None]] = []
_leaving = False


def at_exit(close: Callable[[], None]) -> None:
    """Register a function to call when the interpreter ends, in reverse order of registration."""
    _closers.append(close)


def is_leaving() -> bool:
    """Return whether the interpreter has begun to end."""
    return _leaving


class _End:
    def __del__(self) -> None:
        # If atexit is emptied for another reason, as in children of multiprocessing, do nothing.
        if not _leaving:
            return
        notice()
        while _closers:
            try:
                _closers.pop()()
            except Exception:  # noqa: BLE001 - the other handles must be closed too
                log.exception("cannot close a handle while the interpreter ends")


def _begin(_end: _End) -> None:
    global _leaving
    _leaving = True


atexit.register(_begin, _End())
