"""This package's sides: an embedded server on its own CPU, its Python client, the driver in C."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import rfp
from bench import phases
from bench.databases import Database, open_database
from bench.experiments.baselines import BASELINE_VALUE
from bench.experiments.keys import all_keys, properties
from bench.experiments.rows import Figures, Setting, Side
from bench.experiments.timing import many_at_a_time, one_at_a_time
from bench.placement import pinned
from bench.properties import Properties


@contextlib.contextmanager
def served(
    setting: Setting, memory: int | str = "256MiB", *, mode: str = "auto", **options: Any
) -> Iterator[tuple[rfp.Server, rfp.Client]]:
    """Yield a server with one worker on the server's CPU, and a handle."""
    cpus = sorted(setting.server) if setting.server else None
    with (
        rfp.Server(memory, cpus=cpus, **options) as server,
        rfp.connect(server.address, timeout=30, mode=mode) as kv,
    ):
        yield server, kv


@contextlib.contextmanager
def loaded(setting: Setting, *, mode: str = "auto") -> Iterator[rfp.Client]:
    """Yield a handle to a server that contains all records."""
    with served(setting, mode=mode) as (_, kv):
        fill(kv, setting)
        yield kv


def fill(kv: rfp.Client, setting: Setting) -> None:
    """Store all records."""
    keys = all_keys(setting.records)
    for at in range(0, len(keys), 64):
        kv.put_many(dict.fromkeys(keys[at : at + 64], BASELINE_VALUE))


@contextlib.contextmanager
def python_get(setting: Setting) -> Iterator[Side]:
    """Yield kv.get of 32 B by requests, one at a time: {"rate", "p50"}."""
    with loaded(setting, mode="fetch") as kv:
        yield one_at_a_time(setting, kv.get, 400_000, 100_000)


@contextlib.contextmanager
def python_get_many(setting: Setting, size: int = 64) -> Iterator[Side]:
    """Yield kv.get_many of `size` keys of 32 B values by requests: {"rate": keys per second}."""
    with loaded(setting, mode="fetch") as kv:
        yield many_at_a_time(setting, kv.get_many, 1_000_000, size)


@contextlib.contextmanager
def driver(setting: Setting, *, window: int, mode: str = "fetch") -> Iterator[Side]:
    """Yield the driver in C, one thread, one worker, 95/5 zipfian on 16 + 32 B, requests drawn
    ahead: {"rate", "p50"}.  With mode="auto" its GETs are direct reads."""
    p = properties(
        setting.records,
        rfp__window=window,
        rfp__mode=mode,
        rfp__predraw=setting.count(100_000, 1000),
        rfp__memory="256MiB",
    )
    with open_database("rfp", p, private=True, placement=setting.placement) as database:
        load(setting, database, p)
        yield lambda: drive(setting, database, p)


def load(setting: Setting, database: Database, p: Properties) -> None:
    """Insert the records, many at a time."""
    with pinned(setting.client):
        phases.load(database, p.with_(rfp__window=32))


def drive(setting: Setting, database: Database, p: Properties) -> Figures:
    """Run one turn of the driver in C."""
    with pinned(setting.client):
        result = phases.run(database, p, seconds=setting.seconds)
    if any(set(metric.returns) != {"OK"} for metric in result.metrics):
        raise rfp.RfpError(
            f"operations failed: { {metric.name: metric.returns for metric in result.metrics} }"
        )
    reads = result.metric("READ")
    return {
        "rate": result.throughput,
        "p50": reads.done.percentile(50) / 1e9 if reads else float("nan"),
    }
