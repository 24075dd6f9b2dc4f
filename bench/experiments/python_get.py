"""Python gets by requests, one at a time."""

from __future__ import annotations

from contextlib import ExitStack

from bench.experiments import baselines, store
from bench.experiments.rows import Row, Setting, Side, take_turns
from bench.peers.process import PeerMissing

QUESTION = (
    "How fast is a Python get of 32 B by a request, compared with LMDB without a server, "
    "memcached, the C driver, and a bare ring in C?"
)


def measure(setting: Setting) -> list[Row]:
    """Measure all sides by turns; the peers' packages may be missing."""
    sides: dict[str, Side] = {}
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        sides["python"] = stack.enter_context(store.python_get(setting))
        sides["driver"] = stack.enter_context(store.driver(setting, window=1))
        sides["ring"] = stack.enter_context(baselines.bare_ring(setting, window=1))
        for name, side in (("lmdb", baselines.lmdb_get), ("pylibmc", baselines.pylibmc_get)):
            try:
                sides[name] = stack.enter_context(side(setting))
            except PeerMissing as error:
                missing[name] = str(error)
        found = take_turns(sides, setting.rounds)
    lmdb, pylibmc = (found.get(name, {}).get("rate") for name in ("lmdb", "pylibmc"))
    python, driver, ring = found["python"], found["driver"], found["ring"]
    return [
        Row(
            "Python get by requests, 32 B",
            python["rate"],
            "op/s",
            lmdb,
            "LMDB, a transaction per get",
            1,
            why=missing.get("lmdb", ""),
        ),
        Row(
            "Python get by requests, 32 B",
            python["rate"],
            "op/s",
            pylibmc,
            "pylibmc get",
            why=missing.get("pylibmc", ""),
        ),
        Row(
            "Python get by requests p50",
            python["p50"],
            "s",
            driver["p50"],
            "driver in C, window 1",
            2,
            at_least=False,
        ),
        Row(
            "driver in C p50, window 1",
            driver["p50"],
            "s",
            ring["p50"],
            "bare ring in C",
            2,
            at_least=False,
        ),
    ]
