"""Back-ends on each medium, and front-ends over each kind of connection."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from connecting import use_fabric

import rnvm
from rfp import address as addresses
from rfp.testing.reordering_fabric import ReorderFabric

# name -> folder of the pool, options of the address
MEDIA = {
    "direct": (os.environ["TESTS_MEMORY"], ""),
    "image": (None, ""),
    "emulated": (os.environ["TESTS_MEMORY"], "?rtt=2us"),
    "reorder": (os.environ["TESTS_MEMORY"], ""),  # as bad as the fabric's contract allows
}


@contextlib.contextmanager
def new_path(medium: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=MEDIA[medium][0]) as folder:
        yield os.path.join(folder, "pool")


def open_backend(path: str, medium: str = "direct", **options: Any) -> rnvm.Backend:
    address = str(addresses.unique()) + MEDIA[medium][1]
    # Over a network an idle front-end keeps its locks for a lease; a device in an emulated machine
    # is slow.  Elsewhere only a front-end that is held up inside loses them.  Not longer: the
    # session of a front-end that gives up connecting lasts for 5/4 of it, and others wait for 20 s.
    lease = (
        0.5 if address.startswith("rdma:") else 0.05 if medium in ("emulated", "reorder") else 10.0
    )
    return rnvm.Backend(
        path,
        assume_persistent=True,
        **{"size": "8MiB", "address": address, "lease": lease, **options},
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test on all media if it names none.

    Over a device on one of them: the network of a device need not be emulated.
    """
    named = any(
        "medium" in str(mark.args[0]) for mark in metafunc.definition.iter_markers("parametrize")
    )
    if "medium" in metafunc.fixturenames and not named:
        over = metafunc.config.getoption("over")
        metafunc.parametrize("medium", ["direct"] if over == "verbs" else list(MEDIA))


@pytest.fixture
def backend(medium: str) -> Iterator[rnvm.Backend]:
    with new_path(medium) as path, open_backend(path, medium) as served:
        yield served


@pytest.fixture
def direct() -> Iterator[rnvm.Backend]:
    """Yield a back-end on one medium, for tests that do not depend on the medium."""
    with new_path("direct") as path, open_backend(path) as served:
        yield served


Connect = Callable[..., Any]


@pytest.fixture
def connect(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, seed: int
) -> Iterator[Connect]:
    """Yield a function that opens front-ends, which are closed at the end.

    Their calls have ample time.
    """
    if "medium" in request.fixturenames and request.getfixturevalue("medium") == "reorder":
        use_fabric(monkeypatch, ReorderFabric(seed=seed))
    with contextlib.ExitStack() as stack:
        yield lambda backend, **options: stack.enter_context(
            rnvm.connect(backend.address, **{"timeout": 20, **options})
        )
