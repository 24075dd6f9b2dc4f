"""A huge put beside small gets."""

from __future__ import annotations

import textwrap

from bench.experiments import baselines, store, timing
from bench.experiments.keys import drawn
from bench.experiments.other_process import OtherProcess
from bench.experiments.rows import Figures, Row, Setting, take_turns
from bench.placement import pinned

QUESTION = "By how much does a 256 MiB put delay another client's small gets, at the median?"
LARGE_PUT_BYTES = 256 << 20

# A line on its input starts a put, a line on its output ends it.
PUTTER = textwrap.dedent("""
    import sys
    import rfp
    value = bytes(int(sys.argv[2]))
    with rfp.connect(sys.argv[1], timeout=60) as kv:
        print("ready", flush=True)
        for line in sys.stdin:
            kv.put(b"huge", value)
            print("done", flush=True)
""")


def measure(setting: Setting) -> list[Row]:
    """Measure gets alone and gets beside puts by turns."""
    keys = drawn(setting.records, setting.records)
    size = setting.count(LARGE_PUT_BYTES, 1 << 20)
    with store.served(setting, memory=max(4 * size, 64 << 20)) as (server, kv):
        for at in range(0, len(keys), 64):
            kv.put_many(dict.fromkeys(keys[at : at + 64], baselines.BASELINE_VALUE))
        with OtherProcess(PUTTER, server.address, str(size), cpus=setting.client) as putter:
            putter.hear()

            def alone() -> Figures:
                with pinned(setting.client):
                    return {"p50": timing.median_of(kv.get, keys, setting.seconds)}

            def beside() -> Figures:
                times = []
                at = 0
                with pinned(setting.client):
                    putter.send("put")
                    done = None
                    while done is None:
                        for _ in range(50):
                            began = timing.clock()
                            kv.get(keys[at % len(keys)])
                            times.append(timing.clock() - began)
                            at += 1
                        done = putter.said()
                times.sort()
                return {
                    "p50": times[len(times) // 2] / 1e9,
                    "p99": times[len(times) * 99 // 100] / 1e9,
                }

            found = take_turns({"alone": alone, "beside": beside}, setting.rounds)
    quiet, busy, tail = (
        1e6 * seconds
        for seconds in (found["alone"]["p50"], found["beside"]["p50"], found["beside"]["p99"])
    )
    note = f"p50 {quiet:.2f} us alone, {busy:.2f} us beside; p99 beside {tail:.0f} us"
    return [
        Row(
            "delay of a small get by a 256 MiB put, p50",
            max(busy - quiet, 0.0) / 1e6,
            "s",
            bar=1e-3,
            at_least=False,
            note=note,
        )
    ]
