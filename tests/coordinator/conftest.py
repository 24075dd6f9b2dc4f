"""The services of the tests: one node for each kind, kept for the session, and others as needed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator

import coordination_services
import pytest
from coordination_services import Service
from slower import SANITIZED

from rnvm.coordinator import etcd, zookeeper
from rnvm.coordinator.contract import Coordinator
from rnvm.coordinator.opening import open_coordinator

groups = itertools.count(1)


# Which one it is changes no compiled code; `make test` has both.
KINDS = list(coordination_services.SERVICES)[: 1 if SANITIZED else None]


@pytest.fixture(scope="session", params=KINDS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service of one node, which the tests share: none kills it."""
    kind = coordination_services.SERVICES[request.param]
    with contextlib.closing(kind(tmp_path_factory.mktemp(request.param))) as running:
        yield running


@pytest.fixture
def own_service(request: pytest.FixtureRequest, service: Service, tmp_path) -> Iterator[Service]:
    """A service of one node that the test may kill."""
    with contextlib.closing(type(service)(tmp_path)) as running:
        yield running


@pytest.fixture
def cluster(service: Service, tmp_path) -> Iterator[Service]:
    """A service of three nodes that the test may kill."""
    with contextlib.closing(type(service)(tmp_path, nodes=3)) as running:
        yield running


@pytest.fixture
def address(service: Service) -> str:
    """The address of a group that no other test uses."""
    return service.address(f"group-{next(groups)}")


@pytest.fixture
def opened() -> Iterator[Callable[..., Coordinator]]:
    """Open coordinators that are closed when the test ends; a busy machine may hold up a call."""
    with contextlib.ExitStack() as stack:
        yield lambda address, **options: stack.enter_context(
            open_coordinator(address, **{"timeout": 20, **options})
        )


@pytest.fixture
def patient_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let close() wait for a busy service: else a registration may end with its lease only."""
    for module in (etcd, zookeeper):
        monkeypatch.setattr(module, "CLOSING_S", 20.0)
