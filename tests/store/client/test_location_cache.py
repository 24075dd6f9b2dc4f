"""The table of places and the bound of the server's clock, each against a plain model."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rfp
from rfp.errors import InvalidArgument
from rfp.store.client.location_cache import LocationCache
from rfp.testing.location_harness import ServerClock, drop, find, put

MS = 1_000_000
SECOND = 1000 * MS


def slot_of(hash_: int, place: int) -> int:
    """Return a slot with the tag of a hash, and length and offset by a number."""
    return hash_ >> 48 << 48 | (1 + place % 0xFFF) << 36 | place


hashes = st.integers(0, 7).map(lambda n: (n + 1) * 0x9E37_79B9_7F4A_0001 % 2**64)
actions = st.tuples(
    st.sampled_from(["put", "put", "drop"]), hashes, st.integers(1, 2**36 - 1), st.booleans()
)


@given(st.lists(actions, max_size=60))
def test_a_cache_that_is_not_full_has_the_entries_of_a_dict(actions) -> None:
    cache = LocationCache(1024)
    model: dict[int, tuple[int, bool]] = {}
    assert cache.bytes == 0
    for action, key, place, expires in actions:
        if action == "put":
            assert put(cache, key, slot_of(key, place), expires)
            model[key] = slot_of(key, place), expires
        else:
            drop(cache, key)
            model.pop(key, None)
        for each in {key, *model}:
            assert find(cache, each) == model.get(each)
        assert cache.used == len(model)


def test_a_place_of_no_length_is_not_remembered() -> None:
    cache = LocationCache(8)
    assert not put(cache, 1 << 60, 5)
    assert find(cache, 1 << 60) is None and cache.used == 0


@pytest.mark.parametrize("limit", [1, 8, 100, 1000])
def test_the_cache_is_bounded_and_keeps_what_is_used(limit: int, seed: int) -> None:
    rng = random.Random(seed)
    cache = LocationCache(limit)
    assert limit <= cache.limit < max(9, 2 * limit)
    hot = [rng.getrandbits(64) for _ in range(max(1, cache.limit // 16))]
    for key in hot:
        put(cache, key, slot_of(key, 3))
    kept = 0
    for i in range(40 * cache.limit):
        cold = rng.getrandbits(64)
        put(cache, cold, slot_of(cold, i))
        assert find(cache, cold) == (slot_of(cold, i), False)
        key = rng.choice(hot)
        kept += find(cache, key) is not None
        put(cache, key, slot_of(key, 3))
        assert cache.used <= cache.limit
    assert cache.bytes == 16 * cache.limit
    assert kept / (40 * cache.limit) > 0.6, "entries in use were replaced by others"


@pytest.mark.parametrize("limit", [0, -1, 1 << 40])
def test_an_impossible_limit_is_an_error(limit: int) -> None:
    with pytest.raises(InvalidArgument, match="location_cache"):
        LocationCache(limit)


@pytest.mark.parametrize("limit", [-1, 1 << 40, "many"])
def test_the_option_of_connect_is_checked(limit) -> None:
    with pytest.raises(InvalidArgument, match="location_cache"):
        rfp.connect("shm:///nowhere", location_cache=limit)


# The server's clock


def test_one_word_bounds_nothing() -> None:
    clock = ServerClock()
    assert not clock.is_before(2**63, now=0)
    clock.note(10 * SECOND, posted=5, now=10)
    clock.note(10 * SECOND, posted=15, now=20)
    assert not clock.is_before(2**63, now=20)
    clock.note(11 * SECOND, posted=25, now=30)
    assert clock.is_before(13 * SECOND, now=30)


def test_a_time_within_the_margin_is_not_before() -> None:
    clock = ServerClock()
    clock.note(1, posted=0, now=1)
    clock.note(10 * SECOND, posted=2, now=3)
    assert not clock.is_before(11 * SECOND, now=3)
    assert clock.is_before(11 * SECOND + MS, now=3)
    assert not clock.is_before(12 * SECOND, now=SECOND + 3)


delays = st.integers(0, 3 * SECOND)
reads = st.lists(st.tuples(delays, delays, delays, delays), min_size=1, max_size=30)


@given(
    reads=reads,
    begin=st.integers(1, 2**50),
    own=st.integers(0, 2**50),
    drift=st.integers(-900, 900),
)
def test_the_bound_is_never_below_the_servers_clock(reads, begin, own, drift) -> None:
    """The heartbeat is as late as it likes, and so is each READ; clocks drift by 0.09 %."""
    clock = ServerClock()
    now = 0  # true time since the beginning
    word = begin

    def server(at: int) -> int:
        return begin + at + at * drift // 1_000_000

    for before, travel, back, after in reads:
        now += before
        if before % 3:  # the heartbeat came
            word = server(now)
        posted = now
        now += travel
        if travel % 3:
            word = server(now)
        brought = word
        now += back
        clock.note(brought, posted=own + posted, now=own + now)
        now += after
        assert not clock.is_before(server(now) + SECOND, now=own + now)


def test_a_paused_client_takes_the_word_that_it_reads_next() -> None:
    clock = ServerClock()
    clock.note(1 * SECOND, posted=0, now=1)
    clock.note(2 * SECOND, posted=2, now=3)
    assert clock.is_before(100 * SECOND, now=4)
    clock.note(99 * SECOND, posted=5, now=6)  # its own clock stood still for 97 s
    assert not clock.is_before(100 * SECOND, now=6)
    assert clock.is_before(102 * SECOND, now=6)
