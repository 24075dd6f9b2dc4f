"""A watch: a descriptor that becomes readable if the state or the members may have changed."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from rfp import errors
from rfp.core import forks
from rfp.errors import Closed, Forked

WATCH_S = 5.0  # without a change, after which a hint comes by itself, and the watch is renewed
RETRY_S = 0.2  # between attempts to reach the service


class Watch:
    """Reports that a group may have changed.  It never reports how: read after each hint."""

    def __init__(self, follow: Callable[[Watch], None], all: set[Watch]) -> None:
        self._follow, self._all = follow, all
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._waiting = 0  # threads that use the descriptor
        self._pid = os.getpid()
        self.closing = threading.Event()
        self.noted = threading.Event()  # for drivers: the service reported a change
        self.interrupt: Callable[[], None] | None = None  # ends _follow() in the watch's thread
        self._thread = threading.Thread(target=self._run, name="rnvm-watch", daemon=True)
        forks.live.add(self)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        while not self.closing.is_set():
            try:
                self._follow(self)
            except Exception:  # noqa: BLE001 - whatever it is, the next attempt may do better
                self.closing.wait(RETRY_S)

    def note(self, _event: object) -> None:
        """Set `noted`; for drivers, as the function that a client calls."""
        self.noted.set()

    def hint(self) -> None:
        """Report that something may have changed."""
        with self._lock:
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """Return a descriptor that is readable while a hint is waiting, for a selector.

        Raises:
            Closed, Forked: the watch is closed, or belongs to the parent process.
        """
        if self._pid != os.getpid():
            raise Forked(
                "the watch belongs to the parent process", hint="open a coordinator in the child"
            )
        if self.closing.is_set():
            raise Closed("the watch is closed")
        return self._fd

    def wait(self, timeout: float) -> bool:
        """Wait for a hint, take it, and return whether there was one.

        Args:
            timeout: seconds; 0 does not wait.

        Raises:
            Closed, Forked: the watch was closed, or belongs to the parent process.
        """
        if not timeout >= 0:
            raise errors.InvalidArgument(f"timeout must be at least 0, got {timeout}")
        with self._lock:
            fd = self.fileno()
            self._waiting += 1
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(min(timeout, 3600.0) * 1000)
            self.fileno()
            try:
                return os.eventfd_read(fd) > 0
            except BlockingIOError:
                return False
        finally:
            with self._lock:
                self._waiting -= 1
                self._free()

    def close(self) -> None:
        """End the watch; a thread in wait() gets Closed."""
        if self.closing.is_set():
            return
        self._all.discard(self)
        forks.live.discard(self)
        self.closing.set()
        if self._pid != os.getpid():
            return
        self.hint()  # after closing.set(): it ends the wait of another thread
        if self.interrupt is not None:
            self.interrupt()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(WATCH_S)
        with self._lock:
            self._free()

    def _free(self) -> None:
        """Close the descriptor when no thread uses it any more.  The lock is held."""
        if self.closing.is_set() and not self._waiting and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _forget(self) -> None:
        # New ones: a thread of the parent may have held the locks of these.
        self._lock, self.closing = threading.Lock(), threading.Event()
        self.closing.set()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
