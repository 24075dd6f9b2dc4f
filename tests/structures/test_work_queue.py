"""The work-queue example of docs/howto: workers are killed, and each job is done once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "docs" / "howto" / "work_queue.py"


def test_the_work_queue_does_each_job_once_although_its_workers_are_killed(tmp_path):
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE), "120", "3"],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert ran.returncode == 0, ran.stderr
    found = re.search(r"(\d+) jobs done once each; (\d+) workers were killed", ran.stdout)
    assert found and found.groups() == ("118", "3")
    assert "2 jobs that killed their workers are in the dead-letter queue" in ran.stdout
