"""A back-end in a process of its own, on a real file, that is killed and started again while front-ends live."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import rnvm
from rfp.errors import ConnectionFailed, DeadlineExceeded
from rnvm import pools
from rnvm.check import check

SCRIPT = Path(__file__).parents[1] / "structures" / "restarting_backend.py"
SOON, LEASE = 20.0, 0.05  # seconds


class Nursery:
    """Forks back-ends: one after the other, for one example after the other, at the same address."""

    def __init__(self, folder: Path) -> None:
        self.path, self.address = folder / "pool", f"shm://{folder}/socket"
        self.backup = folder / "backup"
        command = [sys.executable, str(SCRIPT), str(self.path), self.address, str(LEASE)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = 0

    def begin(self, points: int) -> int:
        """Its process."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{points}\n")
        self.process.stdin.flush()
        self.pid = int(self.process.stdout.readline())
        return self.pid

    def wait(self) -> int:
        """Its exit status."""
        assert self.process.stdout
        status = int(self.process.stdout.readline())
        self.pid = 0
        return status

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Lives:
    """What one example has: a new pool, served by one back-end after another.  size: of the pool."""

    moment = 0  # of no use here: nothing that was stored is lost

    def __init__(self, nursery: Nursery, size: str = "8MiB") -> None:
        self.nursery = nursery
        self.path, self.address = nursery.path, nursery.address
        for path in (self.path, nursery.backup):
            path.unlink(missing_ok=True)
        self.make(size)
        self.pid = self.mortal = 0
        self.reviver: threading.Thread | None = None
        self.begin()

    def make(self, size: str) -> None:
        log = "256KiB"
        pools.create(self.path, size, block=1024, front_ends=6, names=128, operation_log=log, memory_log=log,
                     assume_persistent=True)  # fmt: skip

    # Lives

    def begin(self) -> None:
        """A back-end that serves until it is killed."""
        assert not self.pid
        self.pid = self.nursery.begin(0)
        self.reachable()

    def reachable(self) -> None:
        self.connect(False, timeout=SOON).close()

    def connect(self, far: bool, **options: Any) -> rnvm.FrontEnd:
        """As soon as a back-end is there."""
        end = time.monotonic() + SOON
        while True:
            with contextlib.suppress(ConnectionFailed, DeadlineExceeded):
                return rnvm.connect(self.address + "?rtt=2us" * far, **options)
            assert time.monotonic() < end
            time.sleep(0.002)

    def begin_and_revive(self, points: int) -> None:
        """One that dies at its persist point of this number, and is followed by one that serves until it is killed."""
        assert not self.pid
        self.pid = self.mortal = self.nursery.begin(points)

        def revive() -> None:
            if self.nursery.wait() == -signal.SIGKILL:
                self.pid = self.nursery.begin(0)
            else:
                self.pid = 0

        self.reviver = threading.Thread(target=revive)
        self.reviver.start()

    def end_of(self, number: int) -> None:
        """Ends the back-end with a signal."""
        if self.reviver:
            if self.reviver.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.mortal, signal.SIGKILL)
            self.reviver.join()
            self.reviver = None
            if self.pid:
                self.reachable()  # it minds a signal only then
        if self.pid:
            pid, self.pid = self.pid, 0
            os.kill(pid, number)
            status = self.nursery.wait()
            assert status == (0 if number == signal.SIGTERM else -number), (
                f"a back-end ended with {status}"
            )

    def kill(self) -> None:
        self.end_of(signal.SIGKILL)

    def stop(self) -> None:
        self.end_of(signal.SIGTERM)

    # What an operator does while no back-end is there

    def back_up(self) -> None:
        shutil.copy(self.path, self.nursery.backup)

    def restore(self) -> None:
        """As an operator who is careful does it: the file is whole at each moment."""
        copy = self.nursery.backup.with_suffix(".copy")
        shutil.copy(self.nursery.backup, copy)
        os.replace(copy, self.path)

    def replace(self) -> None:
        """By a new pool."""
        self.path.unlink()
        self.make("8MiB")

    # For the machine

    def end(self) -> check.Checked:
        """What `rnvm check` finds in the end."""
        self.stop()
        return check.check(self.path)

    def close(self) -> None:
        self.kill()
