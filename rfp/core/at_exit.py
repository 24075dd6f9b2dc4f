"""What is closed when the interpreter ends.

A program's own functions for its end (of atexit, logging.shutdown, weakref.finalize) may use its handles, also those functions
that were registered before this package was imported, which atexit calls after all others.  So nothing is closed by a function
of atexit, but by the end of an object that only atexit refers to: it lets go of all functions and their arguments when the last
one has returned, and then all of the interpreter still works.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable

from rfp.core.forks import notice
from rfp.core.log import log

_closers: list[Callable[[], None]] = []
_leaving = False


def at_exit(close: Callable[[], None]) -> None:
    """Has a function called when the interpreter ends, the last one first."""
    _closers.append(close)


def is_leaving() -> bool:
    """Whether the interpreter has begun to end."""
    return _leaving


class _End:
    def __del__(self) -> None:
        # Where atexit is emptied for another reason, as in children of multiprocessing, nothing ends.
        if not _leaving:
            return
        notice()
        while _closers:
            try:
                _closers.pop()()
            except Exception:  # noqa: BLE001 - the others are to be closed all the same
                log.exception("cannot close a handle while the interpreter ends")


def _begin(_end: _End) -> None:
    global _leaving
    _leaving = True


atexit.register(_begin, _End())
