"""The peers of durable operations: RocksDB with its log synced, and write() with fdatasync()."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from bench.databases.rnvm import MEMORY
from bench.experiments.keys import all_keys, drawn
from bench.experiments.pool import BATCH, VALUE, folder_on, rate_of_stores
from bench.experiments.rows import Figures, Setting, Side
from bench.experiments.timing import median_of, rate_of
from bench.peers.process import package
from bench.placement import pinned

LOGGED_BYTES = 512  # bytes that a put of 64 B adds to the logs, in whole sectors
FILE = 8 << 20


@contextlib.contextmanager
def rocksdb() -> Iterator[tuple[Any, Any]]:
    """Yield an empty RocksDB in memory whose puts sync its log, and the options that do that."""
    rocksdict = package("rocksdict")
    with folder_on(MEMORY) as folder:
        table = rocksdict.Rdict(str(folder / "rocksdb"), rocksdict.Options(raw_mode=True))
        options = rocksdict.WriteOptions()
        options.sync = True
        table.set_write_options(options)
        try:
            yield table, options
        finally:
            table.close()


@contextlib.contextmanager
def rocksdb_put(setting: Setting) -> Iterator[Side]:
    """Yield RocksDB in memory, 16 + 64 B, one synced put each, and a synced WriteBatch of 100:
    {"rate", "batch"} in keys/s."""
    rocksdict = package("rocksdict")
    keys = drawn(setting.count(200_000, BATCH), setting.records)
    with rocksdb() as (table, options):
        for key in all_keys(setting.records):
            table[key] = VALUE

        def write(some: list[bytes]) -> None:
            batch = rocksdict.WriteBatch(raw_mode=True)
            for key in some:
                batch.put(key, VALUE)
            table.write(batch, options)

        batches = [keys[at : at + BATCH] for at in range(0, len(keys) - BATCH + 1, BATCH)]

        def side() -> Figures:
            with pinned(setting.client):
                return {
                    "rate": rate_of_stores(table, keys, setting.seconds),
                    "batch": rate_of(write, batches, setting.seconds) * BATCH,
                }

        yield side


@contextlib.contextmanager
def write_and_sync(setting: Setting) -> Iterator[Side]:
    """Yield pwrite() of the bytes of one put into a preallocated file, and fdatasync(): {"p50"}."""
    with folder_on(None) as folder:
        file = os.open(folder / "file", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, bytes(FILE), 0)
            os.fsync(file)
            places = [at * LOGGED_BYTES % FILE for at in range(setting.count(2000, 20))]
            record = os.urandom(LOGGED_BYTES)

            def one(at: int) -> Any:
                os.pwrite(file, record, at)
                os.fdatasync(file)

            def side() -> Figures:
                # On the CPU where a back-end syncs: the disk interrupts one CPU, and a thread on
                # another one waits longer for it.
                with pinned(setting.server):
                    return {"p50": median_of(one, places, setting.seconds)}

            yield side
        finally:
            os.close(file)
