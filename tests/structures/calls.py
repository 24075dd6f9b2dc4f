"""Calls in threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

MOMENT = 0.05  # seconds in which a call that need not wait has answered


class Call:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.over = threading.Event()

        def run() -> None:
            try:
                self.result = function()
            except BaseException as error:
                self.error = error
            finally:
                self.over.set()

        self.thread = threading.Thread(target=run)
        self.thread.start()

    @property
    def waits(self) -> bool:
        return not self.over.wait(MOMENT)

    def answer(self) -> Any:
        assert self.over.wait(20)
        self.thread.join()
        if self.error is not None:
            raise self.error
        return self.result


def promptly(call: Callable[[], Any]) -> Any:
    """Return the answer of a call that waits for nothing that the test must do."""
    return Call(call).answer()
