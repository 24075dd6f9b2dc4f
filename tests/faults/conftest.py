from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import server_addresses

import rfp

from .processes import ClientProcess, Process, ServerProcess, ended

# A spawned process finds here the functions that a test passes to it. The folder is last, since the
# sources in it are not compiled.
sys.path.append(str(Path(__file__).parents[2]))


@pytest.fixture
def server() -> Iterator[rfp.Server]:
    with rfp.Server(memory="32MiB") as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """An address of this test's own, whose folder may contain no files of servers at the end."""
    tmp_path.chmod(0o700)
    yield server_addresses.own(tmp_path)
    left = [path.name for path in tmp_path.iterdir()]
    # A killed server leaves its socket and its lock, which the next server takes over.
    assert left in ([], ["s.lock", "s"], ["s", "s.lock"]), left


@pytest.fixture
def start(place: str) -> Iterator[Callable[..., Process]]:
    """start("server", ...), start("client", ...): processes that end with the test."""
    started: list[Process] = []

    def begin(role: str, address: str = place, **options: Any) -> Process:
        process = {"server": ServerProcess, "client": ClientProcess}[role](address, **options)
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
