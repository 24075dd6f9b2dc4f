"""Threads that call a handle while the test disturbs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from polling import until

import rfp


class Call:
    """One call in a thread of its own, which has a channel already.

    begin() returns when the request is sent or about to be. result() returns the call's result, or
    raises its exception.
    """

    def __init__(self, kv: rfp.Client, call: Callable[[rfp.Client], Any]) -> None:
        self._kv = kv
        self._call = call
        self._ready = threading.Event()
        self._go = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self) -> None:
        try:
            self._kv.ping()
            self._ready.set()
            self._go.wait(60)
            self._value = self._call(self._kv)
        except BaseException as error:
            self._error = error
            self._ready.set()

    def begin(self) -> Call:
        before = sum(channel.busy for channel in self._kv.connection.channels)
        self._go.set()
        until(
            lambda: (
                sum(channel.busy for channel in self._kv.connection.channels) > before
                or not self._thread.is_alive()
            )
        )
        return self

    def result(self, seconds: float = 30) -> Any:
        self._go.set()
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the call did not return"
        if self._error is not None:
            raise self._error
        return self._value
