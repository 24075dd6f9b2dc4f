"""Values of 1 MiB, in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.experiments import baselines, store
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.placement import pinned

QUESTION = "How many bytes a second do get_into and put of 1 MiB move, against memcpy of 1 MiB?"
SIZE, SPREAD = 1 << 20, 16


@contextlib.contextmanager
def moved(setting: Setting) -> Iterator[tuple[Side, Side]]:
    """get_into one buffer, and put, both of SPREAD values by turns: {"rate": bytes per second}."""
    keys = [b"large-%d" % at for at in range(SPREAD)]
    values = [bytes([at + 1]) * SIZE for at in range(SPREAD)]
    buffer, count = bytearray(SIZE), setting.count(2000, SPREAD)
    with store.served(setting, memory="256MiB") as (_, kv):

        def put() -> Figures:
            with pinned(setting.client):
                began = baselines.clock()
                for at in range(count):
                    kv.put(keys[at % SPREAD], values[at % SPREAD])
                return {"rate": count * SIZE * 1e9 / (baselines.clock() - began)}

        def get() -> Figures:
            with pinned(setting.client):
                began = baselines.clock()
                for at in range(count):
                    kv.get_into(keys[at % SPREAD], buffer)
                took = baselines.clock() - began
            if buffer != values[(count - 1) % SPREAD]:
                raise RuntimeError("get_into brought other bytes than were put")
            return {"rate": count * SIZE * 1e9 / took}

        put()
        yield get, put


def measure(setting: Setting) -> list[Row]:
    """All three by turns."""
    with moved(setting) as (get, put), baselines.memcpy(setting, SIZE, SPREAD) as copy:
        found = take_turns({"put": put, "get": get, "memcpy": copy}, setting.rounds)
    memcpy = found["memcpy"]["rate"]
    return [
        Row("get_into of 1 MiB", found["get"]["rate"], "B/s", memcpy, "memcpy of 1 MiB", 0.8),
        Row("put of 1 MiB", found["put"]["rate"], "B/s", memcpy, "memcpy of 1 MiB", 0.4, note="it is copied twice"),
    ]
