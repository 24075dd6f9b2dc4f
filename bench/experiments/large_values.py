"""Values of 1 MiB, in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.experiments import baselines, store, timing
from bench.experiments.rows import Figures, Row, Setting, Side, take_turns
from bench.placement import pinned
from rfp.errors import RfpError

QUESTION = (
    "How many bytes a second do get_into and put of 1 MiB move, compared with memcpy of 1 MiB?"
)
VALUE_BYTES_LARGE, SPREAD_KEYS = 1 << 20, 16


@contextlib.contextmanager
def moved(setting: Setting) -> Iterator[tuple[Side, Side]]:
    """Yield get_into one buffer, and put, both of SPREAD_KEYS values by turns: {"rate": bytes per
    second of the median call}."""
    keys = [b"large-%d" % at for at in range(SPREAD_KEYS)]
    values = {key: bytes([at + 1]) * VALUE_BYTES_LARGE for at, key in enumerate(keys)}
    turns = keys * setting.count(2000 // SPREAD_KEYS)
    buffer = bytearray(VALUE_BYTES_LARGE)
    with store.served(setting, memory="256MiB") as (_, kv):

        def put() -> Figures:
            with pinned(setting.client):
                return {
                    "rate": VALUE_BYTES_LARGE
                    / timing.median_of(lambda key: kv.put(key, values[key]), turns, setting.seconds)
                }

        def get() -> Figures:
            with pinned(setting.client):
                seconds = timing.median_of(
                    lambda key: kv.get_into(key, buffer), turns, setting.seconds
                )
            if buffer not in values.values():
                raise RfpError("get_into returned other bytes than were put")
            return {"rate": VALUE_BYTES_LARGE / seconds}

        put()
        yield get, put


def measure(setting: Setting) -> list[Row]:
    """Measure all three sides by turns."""
    with (
        moved(setting) as (get, put),
        baselines.memcpy(setting, VALUE_BYTES_LARGE, SPREAD_KEYS) as copy,
    ):
        found = take_turns({"put": put, "get": get, "memcpy": copy}, setting.rounds)
    memcpy = found["memcpy"]["rate"]
    return [
        Row("get_into of 1 MiB", found["get"]["rate"], "B/s", memcpy, "memcpy of 1 MiB", 0.8),
        Row(
            "put of 1 MiB",
            found["put"]["rate"],
            "B/s",
            memcpy,
            "memcpy of 1 MiB",
            0.4,
            note="it is copied twice",
        ),
    ]
