"""Python programs beside the tests', which import the same `rfp` that the tests do."""

import os
import subprocess
import sys
from pathlib import Path

import rfp


def environment() -> dict[str, str]:
    """An installed rfp is found by itself; one beside its sources only if its folder is named."""
    root = str(Path(rfp.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": root if root in sys.path else "", "PYTHONUNBUFFERED": "1"}


def start(*arguments: object, **options) -> subprocess.Popen:
    """Starts Python with these arguments, not in the sources' folder, where they would hide what is installed."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, **{"env": environment(), "cwd": "/", **options})


def run(*arguments: object, seconds: float = 20, **options) -> subprocess.CompletedProcess:
    """Runs Python with these arguments to its end; stdout and stderr are kept as bytes."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, **{"env": environment(), "cwd": "/", "capture_output": True, "timeout": seconds, **options})
