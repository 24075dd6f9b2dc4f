"""`make demo` works as documented, even if its question cannot be answered."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import needed
import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo"


@pytest.mark.long(60)
@pytest.mark.timeout(180)
def test_the_demo_measures_draws_reads_its_value_back_and_survives_its_kills(tmp_path):
    needed.module("matplotlib")
    (tmp_path / "scripts").mkdir()
    demo = shutil.copy(DEMO, tmp_path / "scripts")  # its results are written beside it
    command = [sys.executable, demo, "--rounds=1", "--seconds=0.02", "-precordcount=100"]
    run = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=170
    )
    assert run.returncode == 0, run.stderr
    numbers = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert {row["workload"] for row in numbers} == {f"workload{letter}" for letter in "abcdf"}
    assert {"rfp", "rfp-python"} <= {row["database"] for row in numbers}
    assert not any(row["failed"] for row in numbers)
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert "got b'demo.png'" in run.stdout
    assert run.stdout.count("killed with -9 at work") == 6
    assert "no parcel was lost or processed twice" in run.stdout
    assert not (tmp_path / "out" / "demo.pool").exists()
    missing = {"redis", "memcached"} - {row["database"] for row in numbers}
    assert all(f"left out {name}" in run.stderr and "install" in run.stderr for name in missing)
