"""A machine with persistent memory loses its power: acknowledged operations are there, each once.

This proves recovery, the order of writes, and that a pool on a DAX device and on a DAX file system
is detected as such.  It cannot find a missing flush: the emulated processor has no cache to lose.
The crash model is for that.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import pytest
from vm import kernel
from vm.errors import MachineError
from vm.job import Job
from vm.machine import Machine
from vm.pmem import parse

pytestmark = [pytest.mark.vm, pytest.mark.timeout(500)]

CACHE = Path.home() / ".cache" / "softroce"
POWER = Path(__file__).with_name("power.py")
ROOT = POWER.parents[2]


class Story:
    """Machines one after another with the same memory, and their output."""

    def __init__(self, folder: Path) -> None:
        self.pmem = [f"{folder}/file.img:64MiB", f"{folder}/device.img:64MiB:devdax"]
        self.errors = bytearray()
        self.acknowledged: dict[str, list[int]] = {"devdax": [], "fsdax": []}
        self.boots = 0

    def boot(self, mode: str, until: int | None = None) -> None:
        """Run power.py in a machine, and check the contents that it found at its start.

        Args:
            until: Kill the machine after so many more acknowledged operations.
        """
        found: dict[str, tuple[int, list[int], list[int]]] = {}
        partial = b""
        left = until

        def on_output(data: bytes) -> None:
            nonlocal partial, left
            *lines, partial = (partial + data).split(b"\n")
            for line in lines:
                first, *rest = line.decode().split()
                if first == "found":
                    side, unfinished, *numbers = rest[0], *map(int, rest[1:])
                    found[side] = unfinished, numbers, self.acknowledged[side]
                    # Also numbers whose output was lost when the power failed.
                    self.acknowledged[side] = list(numbers)
                elif first in self.acknowledged:
                    self.acknowledged[first].append(int(rest[0]))
                    if left is not None:
                        left -= 1
                        if left <= 0:
                            machine.kill()

        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment |= {"FIRST": "yes"} if self.boots == 0 else {}
        self.boots += 1
        command = [sys.executable, str(POWER), mode]
        job = Job(
            command, environment=environment, limit=200, pmem=[parse(each) for each in self.pmem]
        )
        machine = Machine(
            job, kernel.find(Path("/boot")), CACHE, on_output, self.errors.extend, cpus=1
        )
        if until is None:
            assert asyncio.run(machine.run()) == 0, self.errors.decode()
        else:
            with pytest.raises(MachineError, match="exited before the command"):
                asyncio.run(machine.run())
            assert left <= 0, self.errors.decode()
        assert set(found) == set(self.acknowledged), self.errors.decode()
        for side, (unfinished, numbers, acknowledged) in found.items():
            # Each is there once, and none between them is missing.
            assert numbers == list(range(len(numbers))), side
            assert acknowledged == numbers[: len(acknowledged)], side
            assert unfinished in (0, 1), side  # in a batch some structures have it first


def test_operations_acknowledged_before_a_power_failure_are_there_once(
    tmp_path: Path, rng: random.Random
) -> None:
    story = Story(tmp_path)
    story.boot("load", until=rng.randrange(100, 800))
    story.boot("load", until=rng.randrange(100, 800))
    assert story.acknowledged["devdax"] and story.acknowledged["fsdax"]
    story.boot("inspect")
