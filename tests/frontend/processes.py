"""Back-ends and writers in processes of their own."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import server_addresses
from slower import SLOWER
from stopping import stop

import rnvm

SOON = 20 * SLOWER  # seconds; in the machine of scripts/softroce a process takes ten to start

BACKEND = """
import signal, sys, rnvm
backend = rnvm.Backend(sys.argv[1], size="8MiB", assume_persistent=True, address=sys.argv[2],
                       lease=float(sys.argv[3]))
print("serving", *backend.recovered, sep="; ", flush=True)
signal.pause()
"""

# Prints the numbers that were acknowledged, one at a time.
WRITER = """
import os, sys, rnvm
from rnvm.testing.sample_structure import Sample
fe = rnvm.connect(sys.argv[1], timeout=SOON, lock=(sys.argv[3:] or ["sticky"])[0])
sample = Sample(fe, "s")
batch = int(sys.argv[2])
while True:
    if batch:
        with fe.batch():
            for _ in range(batch):
                os.write(1, b"%d\\n" % sample.add(1))
    else:
        os.write(1, b"%d\\n" % sample.add(1))
""".replace("SOON", str(SOON))


class Process:
    """A Python process; its output goes to a file, so that it never waits for us to read it."""

    def __init__(self, code: str, *arguments: object) -> None:
        self.out = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self.awaited = False
        self.running = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], stdout=self.out
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.out.close()

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def signal(self, number: int, *, lines: int = 0) -> None:
        """Send a signal, and wait for so many lines after it."""
        wanted = len(self.printed().splitlines()) + lines
        self.running.send_signal(number)
        if lines:
            self._wait(wanted)

    def stop(self) -> None:
        """Send SIGSTOP, and wait until it has taken effect on all threads."""
        stop(self.running.pid)

    def printed(self) -> bytes:
        """Return all whole lines that it has printed."""
        text = os.pread(self.out.fileno(), 1 << 26, 0)
        return text[: text.rfind(b"\n") + 1]

    def wait_for(self, lines: int) -> None:
        """Wait until it has printed so many more lines than now; the first time, than at its start.

        It may print its first line before this call.
        """
        now = len(self.printed().splitlines()) if self.awaited else 0
        self.awaited = True
        self._wait(now + lines)

    def _wait(self, wanted: int) -> None:
        end = time.monotonic() + SOON
        while len(self.printed().splitlines()) < wanted:
            assert time.monotonic() < end
            assert self.running.poll() is None
            time.sleep(0.002)

    def numbers(self) -> list[int]:
        return [int(line) for line in self.printed().split()]


def fenced(backend: rnvm.Backend, number: int) -> None:
    """Wait until the back-end has fenced so many front-ends."""
    end = time.monotonic() + SOON
    while backend.figures()["pool"]["fenced"] < number:
        assert time.monotonic() < end
        time.sleep(0.001)


@contextlib.contextmanager
def served(path: str, lease: float = 2.0, address: str | None = None) -> Iterator[Process]:
    with Process(BACKEND, path, address or address_of(path), lease) as backend:
        backend.wait_for(1)
        yield backend


@functools.cache
def address_of(path: str) -> str:
    """Return the address of a pool, the same for each of its back-ends in turn."""
    return server_addresses.own(Path(path).parent)
