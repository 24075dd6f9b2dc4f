"""Back-ends in a process of their own that are started one after another on one pool.

They are forked from a process that has imported all modules and has no threads, so each starts
within milliseconds. This file is also the program of that process:

    python restarting_backend.py POOL ADDRESS LEASE

Each input line is the persist point at which the next back-end is killed, or 0. The output is its
process ID, and later its exit status.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import rnvm
from rnvm import pools
from rnvm.pool.pool import Pool
from rnvm.testing.failpoint_medium import FailpointMedium


class ForkServer:
    """Forks back-ends one after the other, at the same address."""

    def __init__(self, path: Path, address: str, lease: float = 0.3) -> None:
        self.path, self.address = path, address
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(path), address, str(lease)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = 0

    def begin(self, points: int) -> int:
        """Start a back-end, which dies at its persist point of this number (0: never).

        Returns: its pid.
        """
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{points}\n")
        self.process.stdin.flush()
        self.pid = int(self.process.stdout.readline())
        return self.pid

    def wait(self) -> int:
        """Wait for the end of the back-end and return its exit status."""
        assert self.process.stdout
        status = int(self.process.stdout.readline())
        self.pid = 0
        return status

    def close(self) -> None:
        """End the process, and kill the back-end if it runs."""
        assert self.process.stdin and self.process.stdout
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


# The program


def live(path: Path, address: str, points: int, lease: float) -> None:
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    with rnvm.Backend(
        Pool(FailpointMedium(pools.open_medium(path), points)), address=address, lease=lease
    ):
        while not ended:
            signal.sigtimedwait([], 0.05)


def main(path: Path, address: str, lease: float) -> None:
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                live(path, address, int(line), lease)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
