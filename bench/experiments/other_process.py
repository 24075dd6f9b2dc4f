"""Python code in a process of its own, so that it does not share this process's GIL."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from pathlib import Path

from bench.placement import pinned
from rfp.errors import ConnectionFailed, DeadlineExceeded


class OtherProcess:
    """Runs `code` with `arguments` on `cpus`; it reads lines and writes lines.  It ends when its
    input ends."""

    def __init__(self, code: str, *arguments: str, cpus: frozenset[int] | None = None) -> None:
        path = os.pathsep.join(
            filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
        )
        with pinned(cpus):
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path},
                cwd="/",  # Python searches the current folder first, which may be the source folder
            )
        assert self._process.stdin
        assert self._process.stdout
        self._input, self._output = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def send(self, line: str) -> None:
        """Write a line to its input."""
        self._input.write(line.encode() + b"\n")
        self._input.flush()

    def said(self, timeout: float = 0) -> str | None:
        """Return the next line of its output, or None after `timeout` seconds; raise
        ConnectionFailed if it has ended."""
        if not self._selector.select(timeout):
            return None
        line = self._output.readline()
        if not line:
            raise ConnectionFailed(f"the other process exited (code {self._process.wait(10)})")
        return line.decode().strip()

    def hear(self, timeout: float = 60) -> str:
        """Return the next line of its output; raise DeadlineExceeded after `timeout` seconds."""
        line = self.said(timeout)
        if line is None:
            raise DeadlineExceeded(f"timed out waiting {timeout:g} s for the other process")
        return line

    def __enter__(self) -> OtherProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self._selector.close()
        self._input.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
