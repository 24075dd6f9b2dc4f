"""How calls are timed: a rate in an otherwise empty loop, and the median of calls timed one by
one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench.experiments.keys import drawn
from bench.experiments.rows import Figures, Setting, Side
from bench.placement import pinned

clock = time.perf_counter_ns
CHUNK = 500  # calls between two reads of the clock


def rate_of(get: Any, keys: list[Any], seconds: float) -> float:
    """Return the calls per second of get(key), in the simplest loop, until the keys or the seconds
    are used up."""
    began = now = clock()
    until = began + int(seconds * 1e9)
    done = 0
    while done < len(keys) and now < until:
        for key in keys[done : done + CHUNK]:
            get(key)
        done += CHUNK
        now = clock()
    return min(done, len(keys)) * 1e9 / (now - began)


def median_of(get: Any, keys: list[Any], seconds: float) -> float:
    """Return the median time of get(key) in seconds, each call timed, until the keys or the seconds
    are used up."""
    times = []
    until = clock() + int(seconds * 1e9)
    for key in keys:
        began = clock()
        get(key)
        ended = clock()
        times.append(ended - began)
        if ended > until:
            break
    times.sort()
    return times[len(times) // 2] / 1e9


def one_at_a_time(setting: Setting, get: Callable[[bytes], Any], most: int, timed: int) -> Side:
    """Return a side: get of at most `most` drawn keys, and of `timed` keys timed one by one:
    {"rate", "p50"}."""
    keys, singly = (
        drawn(setting.count(most), setting.records),
        drawn(setting.count(timed), setting.records),
    )

    def side() -> Figures:
        with pinned(setting.client):
            return {
                "rate": rate_of(get, keys, setting.seconds),
                "p50": median_of(get, singly, setting.seconds),
            }

    return side


def many_at_a_time(
    setting: Setting, get_many: Callable[[list[bytes]], Any], most: int, size: int
) -> Side:
    """Return a side: get_many of `size` keys, at most `most` in all: {"rate": keys per second}."""
    keys = drawn(setting.count(most, size), setting.records)
    batches = [keys[at : at + size] for at in range(0, len(keys) - size + 1, size)]

    def side() -> Figures:
        with pinned(setting.client):
            return {"rate": rate_of(get_many, batches, setting.seconds) * size}

    return side
