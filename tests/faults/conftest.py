from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import server_addresses

import rfp

from .processes import ClientProcess, Process, ServerProcess, ended

# Where a spawned process finds the functions that a test hands to it; last, since the sources there are not compiled.
sys.path.append(str(Path(__file__).parents[2]))


@pytest.fixture
def server() -> Iterator[rfp.Server]:
    with rfp.Server(memory="32MiB") as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """An address of this test's own; at the end nothing may be left of the servers that were there."""
    tmp_path.chmod(0o700)
    yield server_addresses.own(tmp_path)
    left = [path.name for path in tmp_path.iterdir()]
    assert left in ([], ["s.lock", "s"], ["s", "s.lock"]), (
        left
    )  # a killed server's; its successor takes them over


@pytest.fixture
def start(place: str) -> Iterator[Callable[..., Process]]:
    """start("server", ...), start("client", ...): processes that are ended with the test."""
    started: list[Process] = []

    def begin(what: str, address: str = place, **options: Any) -> Process:
        process = {"server": ServerProcess, "client": ClientProcess}[what](address, **options)
        started.append(process)
        return process

    with ended():
        try:
            yield begin
        except BaseException:
            for process in started:
                process.kill()
            raise
        for process in reversed(started):
            process.close()
