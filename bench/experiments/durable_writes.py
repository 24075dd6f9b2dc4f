"""Durable operations of structures, one at a time and in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import rnvm
from bench.experiments import durable_peers, pool
from bench.experiments.keys import drawn
from bench.experiments.pool import BATCH, VALUE
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import rate_of
from bench.kinds import STRUCTURES, Kind
from bench.peers.process import PeerMissing
from bench.placement import pinned

QUESTION = (
    "How fast are durable operations of each structure in memory, compared with RocksDB with a "
    "synced log?"
)
# Of the ratio to RocksDB's synced put (of a batch: to its synced WriteBatch); 1 for other kinds.
WRITE_BARS = {"Queue": 2, "HashTable": 1.5, "BPlusTree": 1.2}
BATCH_BARS = {"Queue": 2}


@contextlib.contextmanager
def adds(setting: Setting, kind: Kind) -> Iterator[Side]:
    """Yield additions of 64 B to a structure without keys, one at a time, and in batches of 100:
    {"rate", "batch"} in values per second."""
    values = [VALUE] * setting.count(200_000, BATCH)
    batches = [values[:BATCH]] * (len(values) // BATCH)
    with pool.served(setting) as backend, rnvm.connect(backend.address) as fe:

        def measured(add: Callable[[bytes], None]) -> Figures:
            def together(some: list[bytes]) -> None:
                with fe.batch():
                    for value in some:
                        add(value)

            with pinned(setting.client):
                return {
                    "rate": rate_of(add, values, setting.seconds),
                    "batch": rate_of(together, batches, setting.seconds) * BATCH,
                }

        def side() -> Figures:
            figures = measured(getattr(kind.structure(fe, kind.name), kind.add))
            fe.drop(kind.name)
            return figures

        yield side


@contextlib.contextmanager
def mapping_set(setting: Setting, kind: Kind) -> Iterator[Side]:
    """Yield `mapping[key] = value` of 16 + 64 B: {"rate"}."""
    keys = drawn(setting.count(200_000), setting.records)
    with pool.served(setting) as backend, rnvm.connect(backend.address) as fe:
        mapping = kind.structure(fe, kind.name)
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
        for kind in STRUCTURES:
            side = mapping_set if kind.mapping else adds
            sides[kind.name] = stack.enter_context(side(setting, kind))
        try:
            sides["rocksdb"] = stack.enter_context(durable_peers.rocksdb_put(setting))
        except PeerMissing as error:
            why = str(error)
        found = take_turns(sides, setting.rounds)
    one, many = (found.get("rocksdb", {}).get(name) for name in ("rate", "batch"))
    rows = []
    for kind in STRUCTURES:
        figures = found[kind.name]
        size = "16 + 64 B" if kind.mapping else "64 B"
        rows.append(
            Row(f"{kind.adding}, {size}", figures["rate"], "op/s", one, "RocksDB put, synced",
                WRITE_BARS.get(kind.name, 1), why=why)
        )  # fmt: skip
        if "batch" in figures:
            rows.append(
                Row(f"{kind.adding}, batches of {BATCH}", figures["batch"], "op/s", many,
                    "RocksDB WriteBatch, synced", BATCH_BARS.get(kind.name, 1), why=why)
            )  # fmt: skip
    return rows
