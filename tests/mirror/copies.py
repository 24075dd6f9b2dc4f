"""Primaries and mirrors of tests: in this process, and in processes of their own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from polling import until

import rnvm
from rnvm.media import identity
from rnvm.mirror.follower import Follower
from rnvm.testing.sample_structure import Sample
from tests.frontend.processes import Process

MEMORY = os.environ["TESTS_MEMORY"]
# Folders of a primary's pool and of its copy; None: a disk.
PLACES = {
    "memory to memory": (MEMORY, MEMORY),
    "memory to disk": (MEMORY, None),
    "disk to memory": (None, MEMORY),
    "disk to disk": (None, None),
}

MIRROR = """
import signal, sys, rnvm
from rfp.testing.reordering_fabric import ReorderFabric
path, address, seed = sys.argv[1:]
fabric = ReorderFabric(seed=int(seed)) if seed else None
with rnvm.Mirror(path, of=address, in_place=True, fabric=fabric) as mirror:
    mirror.wait_level(60)
    print("level", flush=True)
    signal.pause()
"""


@contextlib.contextmanager
def two_paths(places: str = "memory to memory") -> Iterator[tuple[str, str]]:
    """Yield the paths of a primary's pool and of its copy."""
    pool, copy = PLACES[places]
    with tempfile.TemporaryDirectory(dir=pool) as here, tempfile.TemporaryDirectory(dir=copy) as to:
        yield os.path.join(here, "pool"), os.path.join(to, "copy")


class Watching(Follower):
    """Calls copied(end, identity) with the identity in the copy after each portion."""

    def begin(self, copy: Any, *rest: Any, **options: Any) -> None:
        self.on = copy
        super().begin(copy, *rest, **options)

    def copy(self, at: int, n: int, deadline: int) -> None:
        super().copy(at, n, deadline)
        self.copied(at + n, identity.read(self.on))

    def copied(self, end: int, found: Any) -> None:
        raise NotImplementedError


def open_primary(path: str, **options: Any) -> rnvm.Backend:
    # A busy machine may hold a mirror up for seconds.
    given = {"size": "8MiB", "assume_persistent": True, "mirror_patience": 60.0, **options}
    return rnvm.Backend(path, **given)


def mirror_of(backend: rnvm.Backend | str, copy: str, **options: Any) -> rnvm.Mirror:
    address = backend if isinstance(backend, str) else backend.address
    return rnvm.Mirror(copy, of=address, **{"in_place": True, **options})


@contextlib.contextmanager
def mirror_process(copy: str, address: str, reordering: int | None = None) -> Iterator[Process]:
    """Yield a mirror's process, once it is level.

    Args:
        reordering: The seed of a network as bad as the contract allows.
    """
    with Process(MIRROR, copy, address, "" if reordering is None else reordering) as mirror:
        mirror.wait_for(1)
        yield mirror


def replication(backend: rnvm.Backend) -> dict[str, Any]:
    found = backend.figures()["pool"]["replication"]
    assert isinstance(found, dict)
    return found


def mirrors(backend: rnvm.Backend) -> dict[str, str]:
    """Return the state of each mirror."""
    return {each["member"]: each["state"] for each in backend.figures()["mirrors"]}


def replicated(backend: rnvm.Backend) -> None:
    """Wait until all mirrors in sync have everything that was written until now.

    A front-end that maps a pool in memory makes its records durable itself; the back-end collects
    them, and publishes a frame, a little later.
    """
    published = replication(backend)["published"]
    until(lambda: replication(backend)["acked"] >= published + 2)


def numbers(path: str, name: str = "s") -> tuple[int, int]:
    """Return the content of the sample structure in a pool that no process has open."""
    with (
        rnvm.Backend(path, assume_persistent=True) as backend,
        rnvm.connect(backend.address, timeout=20) as fe,
    ):
        sample = Sample(fe, name)
        sample.check()
        return sample.numbers()
