"""Inserts of new keys into a hash table and a B+tree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import rnvm
import structures
from bench.experiments import durable_peers, pool
from bench.experiments.keys import all_keys, in_random_order
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.peers.process import PeerMissing
from bench.placement import pinned

QUESTION = (
    "How fast are durable inserts of new keys into a hash table and a B+tree in memory, "
    "compared with RocksDB with a synced log?"
)
KEYS_PER_TURN = 150_000


def inserts(setting: Setting, target: Any, *, ascending: bool) -> Side:
    """Return a side: `target[key] = value` of 16 + 64 B, of keys that no turn before used: {"rate",
    "keys": those in the target afterwards}."""
    turns = setting.rounds + 1
    keys = all_keys(turns * setting.count(KEYS_PER_TURN, 1000))
    if not ascending:
        keys = in_random_order(keys)
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
def mapping(setting: Setting, kind: Any) -> Iterator[Any]:
    """Yield an empty mapping of this kind in a pool of its own."""
    with pool.served(setting, size="1GiB") as backend, rnvm.connect(backend.address) as fe:
        yield kind(fe, "mapping")


def measure(setting: Setting) -> list[Row]:
    """Measure all sides by turns; RocksDB may be missing."""
    sides: dict[str, Side] = {}
    why = ""
    with ExitStack() as stack:
        for name, kind, ascending in (
            ("hash", structures.HashTable, False),
            ("tree", structures.BPlusTree, False),
            ("tree, ascending", structures.BPlusTree, True),
        ):
            target = stack.enter_context(mapping(setting, kind))
            sides[name] = inserts(setting, target, ascending=ascending)
        try:
            for name, ascending in (("rocksdb", False), ("rocksdb, ascending", True)):
                table, _ = stack.enter_context(durable_peers.rocksdb())
                sides[name] = inserts(setting, table, ascending=ascending)
        except PeerMissing as error:
            why = str(error)
        found = take_turns(sides, setting.rounds)
    rows = []
    for what, name, order in (
        ("HashTable", "hash", ""),
        ("BPlusTree", "tree", ""),
        ("BPlusTree", "tree, ascending", ", ascending"),
    ):
        rows.append(
            Row(
                f"{what}[new key] = v{order}",
                found[name]["rate"],
                "op/s",
                found.get("rocksdb" + order, {}).get("rate"),
                "RocksDB put, synced" + order,
                2,
                note=f"{found[name]['keys']:,.0f} keys after the median turn",
                why=why,
            )
        )
    return rows
