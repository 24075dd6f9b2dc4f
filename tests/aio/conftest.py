from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import server_addresses

import rfp
from tests.faults.processes import ServerProcess

try:
    import uvloop
except ImportError:  # no wheel of it for this Python
    uvloop = None
else:
    # Its first loop opens a pipe for the whole process: not a leak of the first test.
    uvloop.new_event_loop().close()

if sys.version_info < (3, 11):  # the tests use TaskGroup and timeout()
    collect_ignore_glob = ["test_*.py"]

Run = Callable[[Awaitable[Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine on a new event loop of each kind."""
    if request.param == "asyncio":
        return asyncio.run
    if uvloop is None:
        pytest.skip("uvloop is not installed")

    def with_uvloop(main: Any) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)

    return with_uvloop


@pytest.fixture(scope="module")
def server() -> Iterator[rfp.Server]:
    with rfp.Server(memory="64MiB", workers=2) as server:
        yield server


@pytest.fixture
def place(tmp_path: Path) -> str:
    tmp_path.chmod(0o700)
    return server_addresses.own(tmp_path)


@pytest.fixture
def stoppable(place: str) -> Iterator[ServerProcess]:
    """Yield a server with one worker and few slots, in a process that the test stops and kills."""
    process = ServerProcess(place, workers=1)
    try:
        yield process
    finally:
        process.kill()
