"""Memory is allocated in advance, in steps that end, whatever interrupts them."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest
import python_programs

SOURCE = pathlib.Path(__file__).with_name("old_kernel.c")
PROGRAM = """
import os, signal
from rfp.fabric.fabric import REMOTE_READ
from rfp.fabric.shm.region import ShmFabric
def tick(number, frame):
    raise TimeoutError
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.2 if os.environ["BETWEEN_TWO_TICKS"] == "0" else 0)
try:
    for length in (1 << 12, 100 << 10, 1 << 20, 40 << 20, (33 << 20) + 4096):
        with ShmFabric().register(length, REMOTE_READ) as region:
            assert os.fstat(region.fileno()).st_blocks * 512 >= length
            region.write(length - 1, b"x")
    print("there")
except TimeoutError:
    print("ended, and has", len([name for name in os.listdir("/proc/self/fd") if int(name) > 3]))
"""


def on_an_older_kernel(tmp_path: pathlib.Path, between_two_ticks: int) -> bytes:
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "the package was compiled without a compiler on the PATH: apt-get install gcc"
    kernel = tmp_path / "old_kernel.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", kernel, SOURCE], check=True, timeout=60
    )
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(kernel)]))
    environment = {
        **python_programs.environment(),
        "LD_PRELOAD": preload,
        "BETWEEN_TWO_TICKS": str(between_two_ticks),
    }
    done = python_programs.run("-c", PROGRAM, env=environment, seconds=60)
    assert done.stdout, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("between_two_ticks", [64 << 10, 100 << 10, 1 << 20, 1 << 30])
def test_a_timer_of_the_program_does_not_prevent_the_allocation(tmp_path, between_two_ticks):
    assert on_an_older_kernel(tmp_path, between_two_ticks) == b"there\n"


def test_a_signal_handler_may_end_an_allocation_that_makes_no_progress(tmp_path):
    assert on_an_older_kernel(tmp_path, 0) == b"ended, and has 0\n"
