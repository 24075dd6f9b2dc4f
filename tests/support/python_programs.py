"""Python programs that import the same `rfp` as the tests."""

import os
import subprocess
import sys


def environment() -> dict[str, str]:
    """The environment of the tests, with unbuffered output; tests/conftest.py sets where rfp is."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def start(*arguments: object, **options) -> subprocess.Popen:
    """Start Python with these arguments."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, **{"env": environment(), **options})


def run(*arguments: object, seconds: float = 20, **options) -> subprocess.CompletedProcess:
    """Run Python with these arguments to its end, and capture stdout and stderr as bytes."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, **{"env": environment(), "capture_output": True, "timeout": seconds, **options}
    )
