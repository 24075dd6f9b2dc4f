"""Sleep until a structure changes, for all tasks of an event loop that wait for that.

Tasks wait in the order of their calls.  At any time

- the thread sleeps from the moment at which the last task began to wait, and no attempt of a task
  that waits could succeed at that moment; or
- a task was notified, and its attempt is not over.

A change notifies the task that has waited longest.  A notified task that waits again brings a later
moment; one that leaves, with a value, an error or by its cancellation, notifies the next one.  So
no change is missed, and each one costs an attempt that may succeed and one that finds nothing,
however many tasks wait.  The same holds for the end of a lease or a delay, and for the polls of
each SLEEP_SECONDS_MAX, which find what a dead back-end or a killed process has left.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import threading

from rnvm.frontend.watch import Watch

SLEEP_SECONDS_MAX = 0.5  # before a waiting task polls


class Place:
    """The place of a waiting call among the others."""

    __slots__ = ("future", "notified", "number", "watch")

    def __init__(self, number: int) -> None:
        self.number = number
        self.future: asyncio.Future[None] | None = None  # of the present sleep
        self.watch: Watch | None = None
        self.notified = False

    def __lt__(self, other: Place) -> bool:
        return self.number < other.number


class Sleeper:
    """The sleep of the tasks that wait for one structure.

    Its thread runs while tasks wait, and for SLEEP_SECONDS_MAX longer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._numbers = itertools.count()
        self._due: asyncio.TimerHandle | None = None
        self._lock = threading.Condition()  # of all that follows; notified when a task waits
        self._waiting: list[Place] = []  # in their order
        self._watch: Watch | None = None  # of the last moment, which no task was notified after
        self._moments = 0
        self._running = False

    def join(self) -> Place:
        """Return a place behind all others."""
        return Place(next(self._numbers))

    async def sleep(self, place: Place, watch: Watch, ahead: float, left: float) -> None:
        """Sleep until the task may succeed: the structure has changed, or the time is over.

        Args:
            place: of the call.
            watch: began before the attempt that found nothing.
            ahead: seconds after which an attempt may succeed without a change.
            left: seconds of the task's own time limit.
        """
        future = place.future = self._loop.create_future()
        place.watch, place.notified = watch, False
        if self._due is not None:
            self._due.cancel()
        self._due = None
        if ahead < SLEEP_SECONDS_MAX:  # else a poll comes first
            self._due = self._loop.call_later(ahead, self._notify_next)
        with self._lock:
            if not self._running:
                threading.Thread(target=self._run, name="rnvm-aio-sleeper", daemon=True).start()
                self._running = True
            bisect.insort(self._waiting, place)
            self._watch = watch
            self._moments += 1
            self._lock.notify()
        timer = self._loop.call_later(left, self._notify, future)
        try:
            await future
        finally:
            timer.cancel()
            with self._lock:
                place.watch = None  # it keeps the structure
                if place in self._waiting:
                    self._waiting.remove(place)

    def leave(self, place: Place) -> None:
        """End a call's wait."""
        if place.notified:
            self._notify_next()

    def _next(self) -> Place | None:
        """Take out the task to notify.  With the lock."""
        while self._waiting:
            place = self._waiting.pop(0)
            if place.future is not None and not place.future.done():
                place.notified = True
                return place
        return None

    def _notify_next(self) -> None:
        with self._lock:
            place = self._next()
        if place is not None and place.future is not None:
            self._notify(place.future)

    def _notify(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)

    # The thread

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Sleep once, and notify a task; return whether to continue.  It keeps no structure."""
        with self._lock:
            if self._watch is None or not self._waiting:
                self._watch = None
                self._lock.wait(SLEEP_SECONDS_MAX)
            watch, moment = self._watch, self._moments
            if not self._waiting:
                self._watch = None
                self._running = False
                return False
        woken = watch is not None and watch.wait(SLEEP_SECONDS_MAX)
        with self._lock:
            if self._moments != moment:  # a later attempt has found nothing
                return True
            self._watch = None
            place = self._next()
            if woken and place is not None and place.watch is not None:
                place.watch.take_over()
        if place is not None and place.future is not None:
            try:
                self._loop.call_soon_threadsafe(self._notify, place.future)
            except RuntimeError:  # the loop is closed
                with self._lock:
                    self._waiting.clear()
        elif woken and watch is not None:
            watch.leave()
        return True
