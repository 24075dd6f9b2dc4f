"""Direct reads mark no record at the server: the uses that clients report must do as well."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest

import rfp

KEYS = 20_000
VALUE = bytes(180)


def zipf(rng: random.Random, n: int) -> list[int]:
    """Ranks of a Zipf distribution with exponent 0.99, scattered over the keys."""
    weights = list(itertools.accumulate(1 / (i + 1) ** 0.99 for i in range(KEYS)))
    scatter = list(range(KEYS))
    rng.shuffle(scatter)
    return [scatter[rank] for rank in rng.choices(range(KEYS), cum_weights=weights, k=n)]


def scan_polluted(rng: random.Random, n: int) -> list[int]:
    """The same, with runs of keys that are read once."""
    trace: list[int] = []
    cold = itertools.count(KEYS)
    hot = zipf(rng, n)
    for begin in range(0, n, 1000):
        trace += hot[begin : begin + 750]
        trace += itertools.islice(cold, 250)
    return trace


def hit_ratio(mode: str, trace: Iterable[int], *, every: int = 1) -> float:
    """Use a store as a cache: read each key, and put it if it is not there."""
    hits = total = 0
    with rfp.Server(memory="2MiB") as server, rfp.connect(server.address, mode=mode) as kv:
        for number in trace:
            key = b"key %d" % number
            total += 1
            if kv.get(key) is None:
                kv.put(key, VALUE)
            else:
                hits += 1
    return hits / total


@pytest.mark.parametrize("kind", [zipf, scan_polluted])
def test_the_hit_ratio_is_that_of_reads_by_the_server(kind, seed: int) -> None:
    trace = kind(random.Random(seed), 150_000)
    by_server, directly = hit_ratio("fetch", trace), hit_ratio("auto", trace)
    assert 0.2 < by_server < 0.95, "the trace must miss and hit"
    assert directly > by_server - 0.01, (directly, by_server)
