"""docs/groups.md with two hosts: machines joined by a cable, one of which loses its power."""

from __future__ import annotations

import asyncio

import pytest
from vm.errors import MachineError
from vm.link import cable

from .hosts import Output, machine, secret_file

pytestmark = [pytest.mark.vm, pytest.mark.timeout(400)]

PROGRAM = "group_host.py"


def play(folder, of_a, of_b, errors, number, hosts):
    """Run both hosts until b has ended; `hosts` gets a's machine."""
    secret = secret_file(folder)

    async def story():
        links = cable(folder)
        a = machine(links[0], of_a, errors.extend, PROGRAM, "a", secret)
        b = machine(links[1], of_b, errors.extend, PROGRAM, "b", secret, number)
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
