"""The fences are necessary, and the litmus test shows it: a build without them loses wake-ups."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = (
    "fabric/fabric",
    "fabric/shm/datapath",
    "fabric/shm/netem",
    "fabric/shm/region",
    "testing/litmus",
)
PYTHON = ("errors.py", "core/forks.py", "fabric/memory_limits.py")

SCRIPT = """
from connected_pairs import at_once, connected
from rfp.testing import litmus
from rfp.fabric.shm.region import ShmFabric

with connected(ShmFabric(), ShmFabric()) as (a, b):
    lost, _ = at_once(lambda: litmus.sleeper(b.channel, b.memory, 128, 100_000, step=0.2),
                      lambda: litmus.waker(a.pair, a.memory, a.theirs, 128, 100_000))
print(lost)
"""


# The tools of the environment that runs the tests, even if that environment is not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def run(*command: str | Path) -> str:
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ).stdout


def build(folder: Path, *options: str) -> Path:
    """Return a package `rfp` with the fabric alone, compiled with these options."""
    made = folder / "build"
    run("meson", "setup", made, ROOT, "--buildtype=release", *options)
    targets = [
        line.split(":")[0] for line in run("ninja", "-C", made, "-t", "targets", "all").splitlines()
    ]
    libraries = [
        each
        for each in targets
        if each.endswith(".so") and each.split(".")[0].removeprefix("rfp/") in MODULES
    ]
    run("ninja", "-C", made, "-j", "2", *libraries)
    for origin, file in [
        *((ROOT, f"rfp/{each}") for each in PYTHON),
        *((made, each) for each in libraries),
    ]:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin / file, folder / file)
    for each in ("", "core", "fabric", "fabric/shm", "testing"):
        (folder / "rfp" / each / "__init__.py").touch()
    return folder


def lost_wakeups(folder: Path) -> int:
    # In that folder and without site-packages (-S): neither the source tree nor the installed
    # package is imported.
    out = subprocess.run(
        [sys.executable, "-S", "-c", SCRIPT],
        check=True,
        stdout=subprocess.PIPE,
        timeout=60,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parent)},
    )
    return int(out.stdout)


@pytest.mark.long(60)
@pytest.mark.timeout(300)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two threads must run at once")
@pytest.mark.skipif(
    not all(map(shutil.which, ("meson", "ninja", "cython"))),
    reason="meson, ninja and cython are not on PATH",
)
def test_wake_ups_are_lost_without_the_fences_and_none_with_them(tmp_path):
    with_fences, without = build(tmp_path / "with"), build(tmp_path / "without", "-Dfences=false")
    assert lost_wakeups(with_fences) == 0
    assert lost_wakeups(without) > 0
