"""A pool in memory or on a disk, served by a thread on its own CPU, and its front-ends."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import rfp
import rnvm
from bench.databases.rnvm import MEMORY
from bench.experiments.keys import all_keys
from bench.experiments.rows import Setting
from bench.experiments.timing import CHUNK, clock
from rfp import address as addresses
from rfp.address import Address
from rnvm import pools

VALUE = bytes(64)
BATCH = 100
SMALLEST = 64 << 20  # bytes of a pool: its logs, and a few records


@contextlib.contextmanager
def folder_on(medium: str | None) -> Iterator[Path]:
    """Yield a folder in `medium`, or in the folder of temporary files if that is on a disk; it is
    removed at the end.

    Raises:
        RfpError: there is no such folder.
    """
    path = Path(tempfile.mkdtemp(prefix="rfp-experiment-", dir=medium))
    try:
        if medium is None:
            with open(path / "probe", "wb") as probe:
                if pools.media(probe.fileno()).volatile:
                    raise rfp.RfpError(
                        f"{path.parent} is in memory", hint="set TMPDIR= to a folder on a disk"
                    )
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def emulated(rtt: str) -> Address:
    """Return a new address whose connections have an emulated network with this round trip."""
    return replace(addresses.unique(), options=addresses.parse(f"shm:///x?rtt={rtt}").options)


@contextlib.contextmanager
def served(
    setting: Setting,
    medium: str | None = MEMORY,
    *,
    size: int = 512 << 20,
    front_ends: int | None = None,
    **options: Any,
) -> Iterator[rnvm.Backend]:
    """Yield a back-end; a pool in memory emulates persistent memory, so it flushes cache lines in
    the same way.

    Args:
        size: of the pool, in bytes; scaled.
    """
    cpus = sorted(setting.server) if setting.server else None
    if medium:
        options = {"force_flush": True, **options}
    with folder_on(medium) as folder:
        path = folder / "pool"
        bytes_ = setting.count(size, SMALLEST)
        pools.create(path, bytes_, front_ends=front_ends, assume_persistent=medium is not None)
        with rnvm.Backend(path, cpus=cpus, **options) as backend:
            yield backend


def fill(fe: Any, mapping: Any, records: int) -> None:
    """Store all records, some in each batch."""

    def store(key: bytes) -> None:
        mapping[key] = VALUE

    add_all(fe, store, records)


def add_all(fe: Any, add: Callable[[bytes], None], records: int) -> None:
    """Call add(key) with the keys of all records, some in each batch."""
    keys = all_keys(records)
    for at in range(0, records, BATCH):
        with fe.batch():
            for key in keys[at : at + BATCH]:
                add(key)


def rate_of_stores(target: Any, keys: list[bytes], seconds: float) -> float:
    """Return the rate of `target[key] = VALUE` per second, until the keys or the seconds are used
    up."""
    return stores(target, keys, seconds)[0]


def stores(target: Any, keys: list[bytes], seconds: float) -> tuple[float, int]:
    """Return the same rate, and the number of keys that were stored."""
    began = now = clock()
    until = began + int(seconds * 1e9)
    done = 0
    value = VALUE
    while done < len(keys) and now < until:
        for key in keys[done : done + CHUNK]:
            target[key] = value
        done += CHUNK
        now = clock()
    done = min(done, len(keys))
    return done * 1e9 / (now - began), done
