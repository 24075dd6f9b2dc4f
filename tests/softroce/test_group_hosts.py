"""docs/groups.md with two hosts: machines joined by a cable, one of which loses its power."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from vm import kernel
from vm.errors import MachineError
from vm.job import Job
from vm.link import cable
from vm.machine import Machine

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

CACHE = Path.home() / ".cache" / "softroce"
HOST = Path(__file__).with_name("group_host.py")


def machine(link, out, err, *arguments):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    return Machine(
        Job(["python", str(HOST), *map(str, arguments)], environment=environment, limit=300,
            link=link),
        kernel.find(Path("/boot")), CACHE, out, err, cpus=1,
    )  # fmt: skip


class Output:
    """The lines of a host; `on_line` is called with the words of each."""

    def __init__(self, on_line=lambda *words: None):
        self.lines, self.partial, self.on_line = [], b"", on_line

    def __call__(self, data):
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            self.lines.append(line.decode(errors="replace").split())
            self.on_line(*self.lines[-1])

    def of(self, kind):
        return [line[1:] for line in self.lines if line and line[0] == kind]


def play(folder, of_a, of_b, errors, number, hosts):
    """Run both hosts until b has ended; `hosts` gets a's machine."""
    secret = folder / "secret"
    secret.write_text("of all hosts of the group")
    secret.chmod(0o600)

    async def story():
        links = cable(folder)
        a = machine(links[0], of_a, errors.extend, "a", secret)
        b = machine(links[1], of_b, errors.extend, "b", secret, number)
        hosts["a"] = a
        serving = asyncio.ensure_future(a.run())
        try:
            return await b.run()
        finally:
            a.kill()
            await asyncio.wait({serving})
            assert isinstance(serving.exception(), MachineError), errors.decode()

    status = asyncio.run(story())
    assert status == 0, f"{errors.decode()} {of_b.lines}"
    check_additions(of_b)


def check_additions(of_b):
    """Nothing that was acknowledged is lost, and nothing was done twice."""
    added = of_b.of("added")
    acked = [int(each) for each, *_ in added if each != "?"]
    count = int(of_b.of("ended")[0][0])
    assert acked == sorted(set(acked))
    assert acked[-1] <= count <= len(added)


def test_a_mirror_on_another_host_takes_over_when_the_primarys_host_loses_its_power(tmp_path):
    hosts, errors = {}, bytearray()

    def on_line(*words):
        # On a busy machine, b may be removed for a while.
        if len(of_b.of("added")) >= 5 and (words[:1], words[2:]) == (("added",), ("a", "2")):
            hosts["a"].kill()

    of_b = Output(on_line)
    play(tmp_path, Output(), of_b, errors, 1, hosts)
