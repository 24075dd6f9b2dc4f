"""Two bytes that all processes of a run share: one starts the calls, the other ends them."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

SECONDS = 60  # time-out of every wait, long enough for a machine under load


class Gate:
    def __init__(self, path: str | Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(fd, 4096)
        self.map = mmap.mmap(fd, 4096)
        os.close(fd)

    def open(self) -> None:
        self.map[0] = 1

    def end(self) -> None:
        self.map[1] = 1

    @property
    def ended(self) -> bool:
        return self.map[1] == 1

    def wait(self) -> None:
        """Wait until the gate opens, so that all processes begin together."""
        deadline = time.monotonic() + SECONDS
        while not self.map[0]:
            if time.monotonic() > deadline:
                raise TimeoutError("the run did not begin")
            os.sched_yield()

    def close(self) -> None:
        self.map.close()
