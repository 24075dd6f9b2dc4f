"""A server and a client in two machines joined by a cable, one of which loses its power."""

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
ACROSS = Path(__file__).with_name("across.py")
# The promise is a second, by default.  Two machines on this machine's processors are too slow
# for that: they get more.
PATIENCE = 6
ADDRESS = f"rdma://10.2.0.1:7001?patience={PATIENCE}s"
SOON = 3 * PATIENCE


def machine(command, link, out, err):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
    }
    return Machine(
        Job(shlex.split(command), environment=environment, limit=250, link=link),
        kernel.find(Path("/boot")),
        CACHE,
        out,
        err,
        cpus=1,
    )


def test_two_machines_reach_each_other_over_rdma(softroce):
    server = "ibv_rc_pingpong -g 1 -n 20"
    client = "until ibv_rc_pingpong -g 1 -n 20 10.2.0.1; do sleep 0.5; done; hostname; exit 3"
    run = softroce("--two-hosts", server, "--", "bash", "-c", client)
    assert run.returncode == 3
    assert b"20 iters in" in run.stdout
    assert run.stdout.endswith(b"client\n")
    assert b"server: 20 iters in" in run.stderr


def test_a_power_failure_of_the_servers_host_soon_becomes_an_error_of_the_client(tmp_path):
    output, errors = bytearray(), bytearray()

    async def story():
        servers, clients = cable(tmp_path)
        serve = f"python -m rfp.cli serve --address {shlex.quote(ADDRESS)} --no-auth --memory 16MiB"
        server = machine(serve, servers, errors.extend, errors.extend)

        def on_output(data):
            output.extend(data)
            if output.count(b"answered\n") >= 5:
                server.kill()

        client = machine(
            f"python {shlex.quote(str(ACROSS))} {shlex.quote(ADDRESS)}",
            clients,
            on_output,
            errors.extend,
        )
        serving = asyncio.ensure_future(server.run())
        try:
            return await client.run()
        finally:
            server.kill()
            await asyncio.wait({serving})
            assert isinstance(serving.exception(), MachineError)

    status = asyncio.run(story())
    lines = output.decode().splitlines()
    assert status == 0, errors.decode()
    assert lines[0] == "exchanged"
    word, seconds, kind, *_ = lines[-1].split()
    assert word == "lost", lines[-1]
    assert kind in ("ConnectionFailed", "OutcomeUnknown")
    assert float(seconds) < SOON
