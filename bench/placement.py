"""The CPUs of the clients and of the server of a measurement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """Disjoint sets of CPUs, so that client and server neither share a CPU nor migrate."""

    client: frozenset[int]
    server: frozenset[int]

    @classmethod
    def choose(cls, servers: int = 1) -> Placement | None:
        """Return the last `servers` CPUs for the server, the others for the clients; None if there
        is only one CPU."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            return None
        split = max(len(allowed) - servers, 1)
        return cls(frozenset(allowed[:split]), frozenset(allowed[split:]))


@contextmanager
def pinned(cpus: frozenset[int] | None) -> Iterator[None]:
    """Run this thread, and threads that it starts meanwhile, on these CPUs only (None: no
    change)."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
