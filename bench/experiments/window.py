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


def measure(setting: Setting) -> list[Row]:
    """Measure windows, peer and ring by turns; the better of the windows counts."""
    sides: dict[str, Side] = {}
    why = ""
    with ExitStack() as stack:
        for window in WINDOWS:
            sides[f"window {window}"] = stack.enter_context(store.driver(setting, window=window))
        sides["ring"] = stack.enter_context(baselines.bare_ring(setting, window=32))
        try:
            sides["tcp"] = stack.enter_context(baselines.redis_benchmark(setting))
            sides["unix"] = stack.enter_context(baselines.redis_benchmark(setting, tcp=False))
        except PeerMissing as error:
            why = str(error)
        found = take_turns(sides, setting.rounds)
    best = max(WINDOWS, key=lambda window: found[f"window {window}"]["rate"])
    rate = found[f"window {best}"]["rate"]
    tcp, unix = (found.get(side, {}).get("rate") for side in ("tcp", "unix"))
    name = f"driver in C, window {best}, 32 B, 95/5 zipfian"
    return [
        Row(name, rate, "op/s", tcp, "redis-benchmark -P64 GET", 10, why=why),
        Row(name, rate, "op/s", unix, "the same, Unix socket", why=why),
        Row(name, rate, "op/s", found["ring"]["rate"], "bare ring in C, window 32"),
    ]
