from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def softroce(tmp_path: Path) -> Run:
    """Return a function that runs scripts/softroce with these arguments.

    HOME is that of the tester, in which the unpacked kernel is kept.
    """

    def run(
        *arguments: object, seconds: float = 250, **variables: str
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("XDG_")
        }
        command = [sys.executable, ROOT / "scripts" / "softroce", *map(str, arguments)]
        return subprocess.run(
            command,
            env={**environment, **variables},
            capture_output=True,
            cwd=tmp_path,
            timeout=seconds,
        )

    return run
