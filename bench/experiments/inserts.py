"""Inserts of new keys into each mapping."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import rnvm
from bench.experiments import durable_peers, pmdk_maps, pool
from bench.experiments.keys import all_keys, in_random_order
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.kinds import STRUCTURES, Kind
from bench.peers.process import PeerMissing
from bench.placement import pinned

QUESTION = (
    "How fast are durable inserts of new keys into each mapping in memory, compared with RocksDB "
    "with a synced log, and beside the example maps of PMDK in C?"
)
KEYS_PER_TURN = 150_000
# Of the ratio to RocksDB's synced put; 1 for other kinds.
INSERT_BARS = {"HashTable": 2, "BPlusTree": 2}
ASCENDING = ", ascending"


def inserts(setting: Setting, target: Any, keys: list[bytes]) -> Side:
    """Return a side: `target[key] = value` of 16 + 64 B, of keys that no turn before used: {"rate",
    "keys": those in the target afterwards}."""
    turns = setting.rounds + 1
    used = 0

    def side() -> Figures:
        nonlocal used
        some = keys[used : used + len(keys) // turns]
        with pinned(setting.client):
            rate, stored = pool.stores(target, some, setting.seconds)
        used += stored
        return {"rate": rate, "keys": used}

    return side


@contextlib.contextmanager
def mapping(setting: Setting, kind: Kind) -> Iterator[Any]:
    """Yield an empty mapping of this kind in a pool of its own."""
    with pool.served(setting, size=480 << 20) as backend, rnvm.connect(backend.address) as fe:
        yield kind.structure(fe, "mapping")


def measure(setting: Setting) -> list[Row]:
    """Measure all sides by turns; RocksDB and PMDK may be missing."""
    sides: dict[str, Side] = {}
    why = pmdk_why = ""
    per_turn = setting.count(KEYS_PER_TURN, 1000)
    ascending = all_keys((setting.rounds + 1) * per_turn)
    orders = {"": in_random_order(ascending), ASCENDING: ascending}
    measured = [
        (kind, order)
        for kind in STRUCTURES
        if kind.mapping
        for order in orders
        if kind.ordered or not order
    ]
    with ExitStack() as stack:
        for kind, order in measured:
            target = stack.enter_context(mapping(setting, kind))
            sides[kind.name + order] = inserts(setting, target, orders[order])
        try:
            for order, keys in orders.items():
                table, _ = stack.enter_context(durable_peers.rocksdb())
                sides["rocksdb" + order] = inserts(setting, table, keys)
        except PeerMissing as error:
            why = str(error)
        try:
            sides.update(stack.enter_context(pmdk_maps.inserts(setting, per_turn)))
        except PeerMissing as error:
            pmdk_why = str(error)
        found = take_turns(sides, setting.rounds)
    rocksdb = {order: found.get("rocksdb" + order, {}).get("rate") for order in orders}

    def row(what: str, name: str, order: str, bar: float | None) -> Row:
        figures = found[name]
        return Row(f"{what}{order}", figures["rate"], "op/s", rocksdb[order],
                   f"RocksDB put, synced{order}", bar, why=why,
                   note=f"{figures['keys']:,.0f} keys after the median turn")  # fmt: skip

    rows = [
        row(f"{kind.name}[new key] = v", kind.name + order, order, INSERT_BARS.get(kind.name, 1))
        for kind, order in measured
    ]
    if pmdk_why:
        rows.append(Row("example maps of PMDK", None, "op/s", why=pmdk_why))
    else:
        rows += [row(f"PMDK's {name}, in C", name, "", None) for name in pmdk_maps.MAPS]
    return rows
