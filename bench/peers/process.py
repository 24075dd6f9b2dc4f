"""A peer's server process: pinned to its CPUs, ready when it accepts connections, and never left
running."""

from __future__ import annotations

import atexit
import ctypes
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rfp.errors import CallerError, ConnectionFailed

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class PeerMissing(CallerError):
    """A program or package that a peer needs is not installed."""


def program(name: str, package: str) -> str:
    """Return the path of a program.

    Raises:
        PeerMissing: it is not installed; names the package to install.
    """
    path = shutil.which(name)
    if path is None:
        raise PeerMissing(f"{name} is not installed", hint=f"sudo apt-get install {package}")
    return path


# Python packages whose name differs from their module's, or that need more than pip.
INSTALL = {
    "hdrh": "pip install hdrhistogram",
    "pylibmc": "pip install pylibmc"
    if sys.version_info < (3, 12)
    else "pylibmc has no wheel for this Python: sudo apt-get install libmemcached-dev zlib1g-dev "
    "gcc, then pip install pylibmc",
}


def install(module: str) -> str:
    """Return the command that installs a Python module."""
    return INSTALL.get(module, f"pip install {module}")


def package(*names: str) -> Any:
    """Return the first of these modules that is installed.

    Raises:
        PeerMissing: none is installed; names the one to install.
    """
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    wanted = list(dict.fromkeys(name.partition(".")[0] for name in names))
    # The last module has the fewest requirements.
    raise PeerMissing(
        f"the Python package {' or '.join(wanted)} is not installed", hint=install(wanted[-1])
    )


def free_port() -> int:
    """Return a TCP port of loopback that no process listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PeerProcess:
    """Runs a server until stop() or until this process ends, for any reason.

    Args:
        command: its words; {socket} is replaced by the path of its socket.
        cpus: CPUs that it may use (None: any).
        port: its TCP port, if it listens on one too.
        stdin: its standard input, such as a configuration with a secret, which every user could
            read in the command line.
        deadline: seconds until it must be ready.

    Raises:
        ConnectionFailed: it is not ready in time; contains its output.
    """

    def __init__(
        self, name: str, command: list[str], *, cpus: Collection[int] | None = None, port: int = 0,
        stdin: str = "", deadline: float = 10,
    ) -> None:  # fmt: skip
        self.name, self.port = name, port
        self.directory = Path(tempfile.mkdtemp(prefix=f"rfp-ycsb-{name}-"))
        self.socket = str(self.directory / "socket")
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.stop)
        parent = os.getpid()

        def set_up() -> None:
            # This process handles Ctrl-C; and the server must not outlive this process if that is
            # killed.
            os.setsid()
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            if cpus:
                os.sched_setaffinity(0, cpus)

        try:
            with self._log.open("wb") as log, tempfile.TemporaryFile(dir=self.directory) as given:
                given.write(stdin.encode())
                given.seek(0)
                arguments = [part.replace("{socket}", self.socket) for part in command]
                self._process = subprocess.Popen(
                    arguments,
                    stdin=given,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    preexec_fn=set_up,
                )
            self._wait_until_ready(time.monotonic() + deadline, deadline)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, until: float, deadline: float) -> None:
        assert self._process is not None
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(self.socket)
                    return
                except OSError:
                    pass
            if self._process.poll() is not None:
                raise ConnectionFailed(
                    f"{self.name} ended at once (code {self._process.returncode}): {self._said()}"
                )
            if time.monotonic() > until:
                raise ConnectionFailed(
                    f"{self.name} accepts no connections after {deadline:g} s: {self._said()}"
                )
            time.sleep(0.005)

    def _said(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "no output"

    @property
    def pid(self) -> int:
        """PID of the server."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """End the server and remove its directory; a second call does nothing."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
