"""Puts while one other process spins on each CPU."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from bench.experiments import baselines, store
from bench.experiments.baselines import BASELINE_VALUE
from bench.experiments.direct_reads import busy_cpus
from bench.experiments.keys import drawn
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.experiments.timing import CHUNK, clock
from bench.peers.process import PeerMissing
from bench.placement import pinned
from rfp.core.choices import IDLES

QUESTION = (
    "How fast is a put of 32 B while one other process spins on each CPU: pinned, not pinned, and "
    "to a server that never sleeps, compared with pylibmc?"
)


def puts(setting: Setting, put: Callable[[bytes, bytes], Any]) -> Side:
    """Return a side: put of 32 B, one at a time, each timed: {"rate", "p50", "p99"}."""
    keys = drawn(setting.count(400_000, CHUNK), setting.records)

    def side() -> Figures:
        with pinned(setting.client):
            times = []
            began = now = clock()
            until = began + int(setting.seconds * 1e9)
            for key in keys:
                put(key, BASELINE_VALUE)
                then, now = now, clock()
                times.append(now - then)
                if now > until:
                    break
            rate = len(times) * 1e9 / (now - began)
        times.sort()
        p50, p99 = (times[len(times) * percent // 100] / 1e9 for percent in (50, 99))
        return {"rate": rate, "p50": p50, "p99": p99}

    return side


def kv_put(setting: Setting, idle: str) -> Side:
    """Return a side: kv.put to a server that is idle in this way, and that lives for one turn: a
    spinning one would take time from the other sides."""

    def side() -> Figures:
        with store.served(setting, idle=idle) as (_, kv):
            store.fill(kv, setting)
            return puts(setting, kv.put)()

    return side


@contextlib.contextmanager
def pylibmc_set(setting: Setting) -> Iterator[Side]:
    """Yield set by pylibmc."""
    with baselines.pylibmc_client(setting) as client:
        yield puts(setting, client.set)


def measure(setting: Setting) -> list[Row]:
    """Measure all sides by turns; pylibmc may be missing."""
    sleeps, spins = IDLES
    anywhere = dataclasses.replace(setting, placement=None)
    # name -> our side, the peer's side, the bar
    pairs = {
        "not pinned": (kv_put(anywhere, sleeps), "pylibmc set", 3),
        "pinned": (kv_put(setting, sleeps), "pylibmc set, pinned", None),
        "pinned, idle=spin": (kv_put(setting, spins), "pylibmc set, pinned", None),
    }
    sides = {name: side for name, (side, _, _) in pairs.items()}
    why = ""
    with ExitStack() as stack:
        try:
            sides["pylibmc set"] = stack.enter_context(pylibmc_set(anywhere))
            sides["pylibmc set, pinned"] = stack.enter_context(pylibmc_set(setting))
        except PeerMissing as error:
            why = str(error)
        stack.enter_context(busy_cpus())
        found = take_turns(sides, setting.rounds)

    def tail(figures: Figures) -> str:
        return f"p50 {figures['p50'] * 1e6:.0f} us, p99 {figures['p99'] * 1e6:.0f} us"

    rows = []
    for name, (_, peer_name, bar) in pairs.items():
        peer = found.get(peer_name)
        rows.append(
            Row(
                f"put, 32 B, busy CPUs, {name}",
                found[name]["rate"],
                "op/s",
                peer["rate"] if peer else None,
                peer_name,
                bar,
                note=tail(found[name]) + (f"; the peer: {tail(peer)}" if peer else ""),
                why=why,
            )
        )
    return rows
