"""Reads of a B+tree whose nodes are in the front-end's cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack

import rnvm
import structures
from bench.experiments import baselines, pool
from bench.experiments.keys import drawn
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import rate_of
from bench.peers.process import PeerMissing
from bench.placement import pinned

QUESTION = "How fast is a cached read of a B+tree, compared with LMDB in this process?"


@contextlib.contextmanager
def tree_get(setting: Setting) -> Iterator[Side]:
    """Yield `tree[key]` of 16 + 64 B by a front-end that does not write: {"rate"}."""
    keys = drawn(setting.count(400_000), setting.records)
    with pool.served(setting) as backend:
        with rnvm.connect(backend.address) as fe:
            pool.fill(fe, structures.BPlusTree(fe, "tree"), setting.records)
        with rnvm.connect(backend.address) as fe:
            get = structures.BPlusTree(fe, "tree").__getitem__

            def side() -> Figures:
                with pinned(setting.client):
                    return {"rate": rate_of(get, keys, setting.seconds)}

            yield side


def measure(setting: Setting) -> list[Row]:
    """Measure both sides by turns; LMDB may be missing."""
    why = ""
    with ExitStack() as stack:
        sides = {"tree": stack.enter_context(tree_get(setting))}
        try:
            sides["lmdb"] = stack.enter_context(baselines.lmdb_get(setting, pool.VALUE))
        except PeerMissing as error:
            why = str(error)
        found = take_turns(sides, setting.rounds)
    peer = found.get("lmdb", {}).get("rate")
    return [
        Row(
            "BPlusTree[k], cached",
            found["tree"]["rate"],
            "op/s",
            peer,
            "LMDB, a transaction per get",
            0.5,
            why=why,
        )
    ]
