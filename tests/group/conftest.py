"""The coordination services of tests/coordinator, and pools."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rnvm import pools
from rnvm.group import admin
from tests.coordinator.conftest import address, cluster, opened, own_service, service

__all__ = ["address", "cluster", "opened", "own_service", "service"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=os.environ["TESTS_MEMORY"]) as path:
        yield Path(path)


@pytest.fixture
def pool(folder: Path) -> Callable[[str], str]:
    """Create a pool with this name; return its path."""

    def create(name: str) -> str:
        path = str(folder / f"{name}.pool")
        pools.create(path, "4MiB", assume_persistent=True)
        return path

    return create


@pytest.fixture
def group(address: str, pool) -> str:
    admin.create_group(address, pool("a"), member="a", min_mirrors=0)
    return address
