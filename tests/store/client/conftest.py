from __future__ import annotations

from collections.abc import Iterator

import pytest

import rfp

MODES = ("auto", "fetch", "reply", "bypass")


@pytest.fixture(scope="module", params=(1, 3), ids=("1 worker", "3 workers"))
def server(request: pytest.FixtureRequest) -> Iterator[rfp.Server]:
    with rfp.Server(memory="96MiB", workers=request.param) as server:
        yield server


@pytest.fixture(params=MODES)
def each_mode(request: pytest.FixtureRequest, server: rfp.Server) -> Iterator[rfp.Client]:
    """Yield a client of every mode, in turn."""
    with rfp.connect(server.address, mode=request.param, timeout=20) as kv:
        yield kv


@pytest.fixture(scope="module")
def kv() -> Iterator[rfp.Client]:
    """Yield one client for a whole module, for tests that depend on neither workers nor modes."""
    with rfp.Server(memory="64MiB") as server, rfp.connect(server.address, timeout=20) as kv:
        kv.ping()  # attach here, not in the first test
        yield kv
