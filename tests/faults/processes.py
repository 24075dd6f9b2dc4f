"""Other processes that run servers and clients, and that the tests stop and kill.

As a program, the file reads lines of Python (as JSON strings), executes each, and answers with one
line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polling import SECONDS
from stopping import stop

import rfp


class Failed(Exception):
    """Code that another process executed raised this there."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Process:
    """A Python interpreter that executes the code that it is sent, a line at a time."""

    def __init__(self, prelude: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.pid = self.process.pid
        self._data = b""
        self.do(
            "import os, random, signal, threading, time, zlib, rfp\nfrom rfp import errors\n"
            + prelude
        )

    def send(self, code: str) -> None:
        """Send code to execute; `answer` waits for its value."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, seconds: float = SECONDS) -> Any:
        """Return the value of the oldest code sent.

        Raises:
            Failed: the code raised an exception.
            TimeoutError: there is no answer yet.
            EOFError: the process has ended.
        """
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while b"\n" not in self._data:
            if not select.select(
                [self.process.stdout], [], [], max(0.0, deadline - time.monotonic())
            )[0]:
                raise TimeoutError(f"process {self.pid} did not answer within {seconds} s")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                raise EOFError(f"process {self.pid} has ended")
            self._data += more
        line, self._data = self._data.split(b"\n", 1)
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"], answer["text"])
        return answer["value"]

    def do(self, code: str, seconds: float = SECONDS) -> Any:
        self.send(code)
        return self.answer(seconds)

    def stop(self) -> None:
        """Send SIGSTOP, and wait until it has taken effect on all threads."""
        stop(self.pid)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self._reap()

    def _reap(self) -> None:
        self.process.wait(SECONDS)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def close(self) -> None:
        """Let the process end by itself; its exit status must be 0."""
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                self.resume()
            try:
                assert self.process.wait(SECONDS) == 0, (
                    f"process {self.pid} ended with {self.process.returncode}"
                )
            finally:
                self.process.kill()
                self._reap()

    def descriptors(self) -> dict[str, int]:
        """Return the number of open file descriptors of each kind."""
        kinds: dict[str, int] = {}
        for fd in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                kind = os.readlink(fd).partition(":[")[0]
                kinds[kind] = kinds.get(kind, 0) + 1
        return kinds

    def processor_time(self) -> float:
        """Return the processor time that it has used, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ServerProcess(Process):
    """A process with a server in it, under the name `server`."""

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__()
        self.address = address
        self.options = {"memory": "64MiB", **options}
        self.do(f"server = rfp.Server(address={address!r}, **{self.options!r})")

    def figures(self) -> dict[str, Any]:
        return self.do("server.figures()")

    def close(self) -> None:
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.resume()
            self.do("server.close()")
        super().close()


class ClientProcess(Process):
    """A process with a client in it, under the name `kv`."""

    def __init__(self, address: str, prelude: str = "", **options: Any) -> None:
        super().__init__(prelude)
        self.do(f"kv = rfp.connect({address!r}, **{options!r})\nkv.ping()")


@contextlib.contextmanager
def ended(*processes: Process) -> Iterator[None]:
    """Kill these processes at the end, if they still run."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def in_call(kv: rfp.Client) -> bool:
    """Whether a thread is inside a call of this handle, and its request is sent or about to be."""
    return any(channel.busy for channel in kv.connection.channels)


def main() -> None:
    names: dict[str, Any] = {}
    for line in sys.stdin:
        code = json.loads(line)
        try:
            try:
                compiled = compile(code, "<received>", "eval")
            except SyntaxError:
                exec(compile(code, "<received>", "exec"), names)
                value = None
            else:
                value = eval(compiled, names)
            text = json.dumps({"value": value}, default=repr)
        except Exception as error:
            if not hasattr(error, "hint"):
                traceback.print_exc()
            text = json.dumps({"error": type(error).__name__, "text": str(error)})
        print(text, flush=True)
    handle = names.get("kv")
    if handle is not None:
        handle.close()


if __name__ == "__main__":
    main()
