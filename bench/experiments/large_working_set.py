"""Uniform reads and updates of mappings whose working set is ten times the front-end's cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import rnvm
import structures
from bench.experiments import baselines, durable_peers, pool
from bench.experiments.keys import all_keys, drawn
from bench.experiments.pool import VALUE
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import rate_of
from bench.peers.process import PeerMissing
from bench.placement import pinned

QUESTION = (
    "How fast are uniform reads and updates of a hash table and a B+tree with a working set of "
    "ten times the cache, compared with LMDB and RocksDB?"
)
CACHE_SHARE = 10  # of the records' bytes, the cache gets one part in so many


@contextlib.contextmanager
def mapping(setting: Setting, kind: Any, records: int, keys: list[bytes]) -> Iterator[Side]:
    """Yield updates by a front-end, and reads of another mapping by a front-end that does not
    write: {"update", "read"}."""
    cache = records * (16 + 64) // CACHE_SHARE
    with pool.served(setting, size=1 << 30) as backend:
        with rnvm.connect(backend.address) as fe:
            for name in ("updated", "read"):
                pool.fill(fe, kind(fe, name), records)
        with (
            rnvm.connect(backend.address, cache=cache) as writer,
            rnvm.connect(backend.address, cache=cache) as reader,
        ):
            updated, get = kind(writer, "updated"), kind(reader, "read").__getitem__

            def side() -> Figures:
                with pinned(setting.client):
                    return {
                        "update": pool.rate_of_stores(updated, keys, setting.seconds),
                        "read": rate_of(get, keys, setting.seconds),
                    }

            yield side


@contextlib.contextmanager
def rocksdb_put(setting: Setting, records: int, keys: list[bytes]) -> Iterator[Side]:
    """Yield synced puts of the keys into a RocksDB with these records: {"update"}."""
    with durable_peers.rocksdb() as (table, _):
        for key in all_keys(records):
            table[key] = VALUE

        def side() -> Figures:
            with pinned(setting.client):
                return {"update": pool.rate_of_stores(table, keys, setting.seconds)}

        yield side


def measure(setting: Setting) -> list[Row]:
    """Measure all sides by turns; the peers may be missing."""
    records = setting.count(800_000, 2000)
    keys = drawn(setting.count(200_000, 500), records, "uniform")
    kinds = (structures.HashTable, structures.BPlusTree)
    sides: dict[str, Side] = {}
    why = {}
    with ExitStack() as stack:
        for kind in kinds:
            sides[kind.__name__] = stack.enter_context(mapping(setting, kind, records, keys))
        try:
            sides["rocksdb"] = stack.enter_context(rocksdb_put(setting, records, keys))
        except PeerMissing as error:
            why["rocksdb"] = str(error)
        try:
            sides["lmdb"] = stack.enter_context(
                baselines.lmdb_get(setting, VALUE, records=records, requests="uniform")
            )
        except PeerMissing as error:
            why["lmdb"] = str(error)
        found = take_turns(sides, setting.rounds)
    gets, puts = found.get("lmdb", {}).get("rate"), found.get("rocksdb", {}).get("update")
    note = f"of {records:,} records of 16 + 64 B; the cache has a tenth of their bytes"
    rows = []
    for kind in kinds:
        name = kind.__name__
        rows.append(
            Row(f"{name}[k], uniform", found[name]["read"], "op/s", gets,
                "LMDB, a transaction per get", 0.5, note=note, why=why.get("lmdb", ""))
        )  # fmt: skip
        rows.append(
            Row(f"{name}[k] = v, uniform", found[name]["update"], "op/s", puts,
                "RocksDB put, synced", note=note, why=why.get("rocksdb", ""))
        )  # fmt: skip
    return rows
