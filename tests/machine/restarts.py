"""A back-end in its own process, on a real file, which is killed and restarted under front-ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from typing import Any

from restarting_backend import ForkServer

import rnvm
from rfp.errors import ConnectionFailed, DeadlineExceeded
from rnvm import pools
from rnvm.check import check

START_SECONDS_MAX = 20.0


class RestartedBackend:
    """A new pool for one example, served by one back-end after another. size: of the pool."""

    moment = 0  # not used here: no stored byte is lost

    def __init__(self, fork_server: ForkServer, size: str = "8MiB") -> None:
        self.fork_server = fork_server
        self.path, self.address = fork_server.path, fork_server.address
        self.backup = self.path.with_name("backup")
        for path in (self.path, self.backup):
            path.unlink(missing_ok=True)
        self.make(size)
        self.pid = self.failing = 0
        self.restarter: threading.Thread | None = None
        self.begin()

    def make(self, size: str) -> None:
        log = "256KiB"
        pools.create(
            self.path,
            size,
            block=1024,
            front_ends=6,
            names=128,
            operation_log=log,
            memory_log=log,
            assume_persistent=True,
        )

    # Start and end of back-ends

    def begin(self) -> None:
        """Start a back-end that serves until it is killed."""
        assert not self.pid
        self.pid = self.fork_server.begin(0)
        self.reachable()

    def reachable(self) -> None:
        self.connect(False, timeout=START_SECONDS_MAX).close()

    def connect(self, remote: bool, **options: Any) -> rnvm.FrontEnd:
        """Connect as soon as a back-end serves."""
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
                return rnvm.connect(self.address + "?rtt=2us" * remote, **options)
            assert time.monotonic() < end
            time.sleep(0.002)

    def begin_and_restart(self, points: int) -> None:
        """Start a back-end that dies at its persist point of this number, and then another one.

        The second one serves until it is killed.
        """
        assert not self.pid
        self.pid = self.failing = self.fork_server.begin(points)

        def restart() -> None:
            if self.fork_server.wait() == -signal.SIGKILL:
                self.pid = self.fork_server.begin(0)
            else:
                self.pid = 0

        self.restarter = threading.Thread(target=restart)
        self.restarter.start()

    def end_of(self, number: int) -> None:
        """End the back-end with a signal."""
        if self.restarter:
            if self.restarter.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.failing, signal.SIGKILL)
            self.restarter.join()
            self.restarter = None
            if self.pid:
                self.reachable()  # only then has it installed its signal handlers
        if self.pid:
            pid, self.pid = self.pid, 0
            os.kill(pid, number)
            status = self.fork_server.wait()
            assert status == (0 if number == signal.SIGTERM else -number), (
                f"a back-end ended with {status}"
            )

    def kill(self) -> None:
        self.end_of(signal.SIGKILL)

    def stop(self) -> None:
        self.end_of(signal.SIGTERM)

    # Actions of an operator while no back-end runs

    def back_up(self) -> None:
        shutil.copy(self.path, self.backup)

    def restore(self) -> None:
        """Restore the backup by a rename, so that the file is complete at each moment."""
        copy = self.backup.with_suffix(".copy")
        shutil.copy(self.backup, copy)
        os.replace(copy, self.path)

    def replace(self) -> None:
        """Replace the pool by a new one."""
        self.path.unlink()
        self.make("8MiB")

    # For the machine

    def end(self) -> check.Checked:
        """Stop the back-end, and return the findings of `rnvm check`."""
        self.stop()
        return check.check(self.path)

    def close(self) -> None:
        self.kill()
