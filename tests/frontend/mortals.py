"""A process that forks a child for each order and reads what the child reports before its death.

`python -m tests.frontend.mortals` is small and has no threads: a fork of the process of the tests,
which is large under the sanitizers, takes a tenth of a second and more.
"""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Report = Callable[[object], None]


class Mortals:
    """The other end, in the process of the tests."""

    def __init__(self) -> None:
        path = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.frontend.mortals"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def die(self, life: str, *arguments: object) -> Any:
        """Return the report of a child that executed `life` and then killed itself."""
        assert self.process.stdin and self.process.stdout
        print(repr((life, arguments)), file=self.process.stdin, flush=True)
        status, report = ast.literal_eval(self.process.stdout.readline())
        assert status == -signal.SIGKILL, (status, report, arguments)
        return report

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


def fork(live: Callable[..., object], arguments: tuple[object, ...]) -> tuple[int, object]:
    """Execute live(*arguments) in a child, which reports the result and kills itself."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, repr(live(*arguments)).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as file:
        report = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), ast.literal_eval(report or "None")


def main() -> None:
    from . import test_states

    with contextlib.suppress(EOFError):
        while True:
            life, arguments = ast.literal_eval(input())
            print(repr(fork(test_states.LIVES[life], arguments)), flush=True)


if __name__ == "__main__":
    main()
