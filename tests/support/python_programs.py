"""Python programs beside the tests', which import the same `rfp` that the tests do."""

import os
import subprocess
import sys


def environment() -> dict[str, str]:
    """The tests' own (tests/conftest.py says where rfp is), without a buffer between what is printed and who reads it."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def start(*arguments: object, **options) -> subprocess.Popen:
    """Starts Python with these arguments."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, **{"env": environment(), **options})


def run(*arguments: object, seconds: float = 20, **options) -> subprocess.CompletedProcess:
    """Runs Python with these arguments to its end; stdout and stderr are kept as bytes."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, **{"env": environment(), "capture_output": True, "timeout": seconds, **options}
    )
