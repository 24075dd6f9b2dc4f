"""The driver in C with many operations in flight."""

from __future__ import annotations

from contextlib import ExitStack

from bench.experiments import baselines, store
from bench.experiments.rows import Row, Setting, Side, take_turns
from bench.peers.process import PeerMissing

QUESTION = (
    "How fast is one client thread with one worker and a full window, compared with "
    "redis-benchmark -P64 and a bare ring?"
)
WINDOWS = (32, 64)
PATHS = {"auto": "direct reads", "fetch": "requests"}


def measure(setting: Setting) -> list[Row]:
    """Measure windows, peer and ring by turns; the best of the windows counts."""
    sides: dict[str, Side] = {}
    why = ""
    with ExitStack() as stack:
        for mode in PATHS:
            for window in WINDOWS:
                sides[f"{mode} {window}"] = stack.enter_context(
                    store.driver(setting, window=window, mode=mode)
                )
        sides["ring"] = stack.enter_context(baselines.bare_ring(setting, window=32))
        try:
            sides["tcp"] = stack.enter_context(baselines.redis_benchmark(setting))
            sides["unix"] = stack.enter_context(baselines.redis_benchmark(setting, tcp=False))
        except PeerMissing as error:
            why = str(error)
        found = take_turns(sides, setting.rounds)
    tcp, unix = (found.get(side, {}).get("rate") for side in ("tcp", "unix"))
    rows = []
    for mode, path in PATHS.items():
        best = max(WINDOWS, key=lambda window: found[f"{mode} {window}"]["rate"])
        rate = found[f"{mode} {best}"]["rate"]
        name = f"driver in C, {path}, window {best}, 32 B, 95/5 zipfian"
        bar = 10 if mode == "auto" else None
        rows += [
            Row(name, rate, "op/s", tcp, "redis-benchmark -P64 GET", bar, why=why),
            Row(name, rate, "op/s", unix, "the same, Unix socket", why=why),
        ]
    # The last rate is that of requests, which a ring carries.
    rows.append(Row(name, rate, "op/s", found["ring"]["rate"], "bare ring in C, window 32"))
    return rows
