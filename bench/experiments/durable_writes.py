"""Durable operations of structures, one at a time and in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import rnvm
import structures
from bench.experiments import durable_peers, pool
from bench.experiments.keys import drawn
from bench.experiments.pool import BATCH, VALUE
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import rate_of
from bench.peers.process import PeerMissing
from bench.placement import pinned

QUESTION = (
    "How fast are durable operations of a queue, hash table and B+tree in memory, "
    "compared with RocksDB with a synced log?"
)


@contextlib.contextmanager
def queue_put(setting: Setting) -> Iterator[Side]:
    """Yield put of 64 B, one at a time, and in batches of 100: {"rate", "batch"} in values per
    second."""
    values = [VALUE] * setting.count(200_000, BATCH)
    batches = [values[:BATCH]] * (len(values) // BATCH)
    with pool.served(setting) as backend, rnvm.connect(backend.address) as fe:

        def puts(put: Any) -> Figures:
            def together(some: list[bytes]) -> None:
                with fe.batch():
                    for value in some:
                        put(value)

            with pinned(setting.client):
                return {
                    "rate": rate_of(put, values, setting.seconds),
                    "batch": rate_of(together, batches, setting.seconds) * BATCH,
                }

        def side() -> Figures:
            figures = puts(structures.Queue(fe, "queue").put)
            fe.drop("queue")
            return figures

        yield side


@contextlib.contextmanager
def mapping_set(setting: Setting, kind: Any) -> Iterator[Side]:
    """Yield `mapping[key] = value` of 16 + 64 B: {"rate"}."""
    keys = drawn(setting.count(200_000), setting.records)
    with pool.served(setting) as backend, rnvm.connect(backend.address) as fe:
        mapping = kind(fe, "mapping")
        pool.fill(fe, mapping, setting.records)

        def side() -> Figures:
            with pinned(setting.client):
                return {"rate": pool.rate_of_stores(mapping, keys, setting.seconds)}

        yield side


def measure(setting: Setting) -> list[Row]:
    """Measure all sides by turns; RocksDB may be missing."""
    sides: dict[str, Side] = {}
    why = ""
    with ExitStack() as stack:
        sides["queue"] = stack.enter_context(queue_put(setting))
        sides["hash"] = stack.enter_context(mapping_set(setting, structures.HashTable))
        sides["tree"] = stack.enter_context(mapping_set(setting, structures.BPlusTree))
        try:
            sides["rocksdb"] = stack.enter_context(durable_peers.rocksdb_put(setting))
        except PeerMissing as error:
            why = str(error)
        found = take_turns(sides, setting.rounds)
    one, many = (found.get("rocksdb", {}).get(name) for name in ("rate", "batch"))
    put = "RocksDB put, synced"
    return [
        Row("Queue.put, 64 B", found["queue"]["rate"], "op/s", one, put, 2, why=why),
        Row(
            f"Queue.put, batches of {BATCH}",
            found["queue"]["batch"],
            "op/s",
            many,
            "RocksDB WriteBatch, synced",
            2,
            why=why,
        ),
        Row("HashTable[k] = v, 16 + 64 B", found["hash"]["rate"], "op/s", one, put, 1.5, why=why),
        Row("BPlusTree[k] = v, 16 + 64 B", found["tree"]["rate"], "op/s", one, put, 1.2, why=why),
    ]
