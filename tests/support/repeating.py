"""Work that a thread repeats while a test does something else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def repeating(work: Callable[[], object], pause: float = 0.0) -> Iterator[None]:
    """Call work() again and again in a thread, so many seconds apart, and check that none failed.

    An error of the block itself comes first.
    """
    over = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            while not over.wait(pause):
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not errors, errors
