"""docs/groups.md with two hosts: machines joined by a cable, one of which loses its power."""

from __future__ import annotations

import asyncio
import os
import shlex
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


def machine(name, link, out, err, secret):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    command = f"python {shlex.quote(str(HOST))} {name} {shlex.quote(str(secret))}"
    return Machine(
        Job(shlex.split(command), environment=environment, limit=300, link=link),
        kernel.find(Path("/boot")),
        CACHE,
        out,
        err,
        cpus=1,
    )


def test_a_mirror_on_another_host_takes_over_when_the_primarys_host_loses_its_power(tmp_path):
    output, errors = bytearray(), bytearray()
    secret = tmp_path / "secret"
    secret.write_text("of all hosts of the group")
    secret.chmod(0o600)

    async def story():
        a_link, b_link = cable(tmp_path)
        a = machine("a", a_link, errors.extend, errors.extend, secret)

        def on_output(data):
            output.extend(data)
            if b"in sync" in output and output.partition(b"in sync")[2].count(b"added") >= 5:
                a.kill()

        b = machine("b", b_link, on_output, errors.extend, secret)
        serving = asyncio.ensure_future(a.run())
        try:
            return await b.run()
        finally:
            a.kill()
            await asyncio.wait({serving})
            assert isinstance(serving.exception(), MachineError)

    status = asyncio.run(story())
    lines = output.decode().splitlines()
    assert status == 0, errors.decode() + output.decode()
    added = [line.split()[1] for line in lines if line.startswith("added")]
    acked = [int(each) for each in added if each != "?"]
    count = int(lines[-1].split()[1])
    assert acked == sorted(set(acked))
    assert acked[-1] <= count <= len(added)
