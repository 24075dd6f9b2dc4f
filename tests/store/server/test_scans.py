"""Scans and clearing: every key that exists during the whole scan is found, in bounded steps."""

from __future__ import annotations

import random
import struct

import pytest

from rfp.testing.partition_harness import buckets, key_hash

from .requests import (
    BAD_REQUEST,
    CLEAR,
    MS,
    OK,
    SCAN,
    SECOND,
    TOO_LARGE,
    UNSUPPORTED,
    Client,
    partition,
    reference,
)
from .test_index import same_bucket

SEED = 7  # of partition()


@pytest.fixture(params=["clock", "bucket", "none"])
def store(request):
    return partition(16 << 20, eviction=request.param)


def put(client: Client, keys: list[bytes]) -> None:
    for i in range(0, len(keys), 100):
        client.put_many([(key, b"v") for key in keys[i : i + 100]], capacity=1600)


def fill(client: Client, n: int, name: bytes = b"k%d") -> list[bytes]:
    keys = [name % i for i in range(n)]
    put(client, keys)
    return keys


@pytest.mark.parametrize("n", [0, 1, 5, 300, 20_000])
def test_a_scan_of_a_store_at_rest_returns_each_key_once(store, n):
    client = Client(store, capacity=2000)
    keys = fill(client, n)
    there = sorted(key for key in keys if client.exists(key).status == OK)
    assert len(there) >= n * 0.9  # strict LRU evicts a few
    assert sorted(client.scan_all()) == there
    assert sorted(client.scan_all(limit=3)) == there
    assert sorted(client.scan_all(capacity=16 + 2 + 6)) == there
    assert sorted(client.scan_all(b"k1")) == [key for key in there if key.startswith(b"k1")]
    assert client.scan_all(b"k0x") == client.scan_all(b"k" * 1024) == []
    store.check()


def test_the_prefix_of_a_key_may_be_the_key():
    client = Client(partition())
    for key in (b"a", b"ab", b"abc", b"b", bytes(1024), b"a" * 1024):
        client.put(key, b"")
    assert sorted(client.scan_all(b"ab")) == [b"ab", b"abc"]
    assert client.scan_all(b"abc") == [b"abc"]
    assert client.scan_all(b"a" * 1024) == [b"a" * 1024]
    assert client.scan_all(bytes(1023)) == [bytes(1024)]
    assert len(client.scan_all()) == 6


def test_a_scan_neither_counts_nor_refers():
    store = partition()
    client = Client(store)
    fill(client, 100)
    before = store.stats()
    client.scan_all()
    assert store.stats() == before


@pytest.mark.parametrize("prefix", [b"", b"none"])
@pytest.mark.parametrize("step", ["scan", "clear"])
def test_a_step_visits_few_records_even_if_no_key_matches(step, prefix):
    store = partition(64 << 20)
    client = Client(store, capacity=1 << 20)
    n = 50_000
    fill(client, n)
    longest = max(len(bucket) for bucket in buckets(store))
    steps, found, place = 0, 0, (0, 0)
    while True:
        place, more = getattr(client, step)(prefix, place)
        more = more if isinstance(more, int) else len(more)
        assert more < 128 + longest
        assert client.session.yield_after
        steps += 1
        found += more
        if place == (0, 0):
            break
    assert found == (0 if prefix else n)
    assert n / (128 + longest) <= steps <= n / 100


def test_a_step_visits_few_buckets_of_an_empty_store():
    """An index never shrinks, so many buckets may be empty."""
    store = partition(64 << 20)
    client = Client(store)
    fill(client, 50_000)
    n_buckets = len(buckets(store))
    assert client.clear_all() == 50_000
    place, steps = (0, 0), 0
    while steps == 0 or place != (0, 0):
        place, keys = client.scan(b"", place)
        assert keys == []
        steps += 1
    assert n_buckets / 64 <= steps <= n_buckets / 64 + 1


def test_each_key_is_returned_once_while_the_index_grows(rng: random.Random):
    """Splits never return a key twice, and never hide one."""
    for begin in (0, 300, 3000):
        store = partition(64 << 20)
        client = Client(store, capacity=rng.choice([100, 2000]))
        old = fill(client, begin, b"old%d")
        before = len(buckets(store))
        found: list[bytes] = []
        place, added = (0, 0), 0
        while not found or place != (0, 0):
            place, keys = client.scan(b"old", place, limit=rng.choice([1, 2, 100]))
            found += keys
            for _ in range(rng.choice([10, 100])):
                client.put(b"new%d" % added, b"")
                added += 1
            if not old:
                break
        assert sorted(found) == sorted(old)
        assert not old or len(buckets(store)) > before
        store.check()


@pytest.mark.parametrize("eviction", ["clock", "none"])
def test_no_key_is_missed_while_others_change_and_records_move(eviction, rng: random.Random):
    store = partition(256 << 10, eviction=eviction)
    client = Client(store, capacity=200)
    keys = fill(client, 500)
    for _ in range(20):
        stay = set(rng.sample(keys, 250))
        assert all(client.exists(key).status == OK for key in stay)
        evictions = store.stats()["evictions"]
        found: set[bytes] = set()
        place = (0, 0)
        while True:
            place, some = client.scan(b"k", place, limit=rng.choice([1, 7, 100]))
            found |= set(some)
            if place == (0, 0):
                break
            for _ in range(rng.choice([0, 3, 20])):
                key = rng.choice(keys)
                if key not in stay and rng.random() < 0.4:
                    client.delete(key)
                else:  # a new record elsewhere, of another size
                    client.put(key, bytes(rng.choice([0, 10, 200, 300])))
                client.put(b"other%d" % rng.randrange(200), bytes(rng.choice([5, 50])))
        if store.stats()["evictions"] == evictions:
            assert stay <= found
        store.check()
        put(client, keys)


def test_records_that_the_index_moves_out_of_its_way_are_not_missed():
    store = partition(1 << 20)
    client = Client(store, capacity=200)
    keys = fill(client, 4000, b"k%04d")
    place, found = client.scan()
    moved = 0
    while place != (0, 0):
        # The index takes room at the end of the arena, where records are.
        for _ in range(3):
            client.put(b"new%d" % moved, b"")
            moved += 1
        place, some = client.scan(b"", place)
        found += some
    assert store.stats()["evictions"] == 0
    assert set(keys) <= set(found)


def test_a_bucket_may_have_more_keys_than_a_response():
    keys = same_bucket(64)
    store = partition(1 << 20, eviction="none")
    client = Client(store)
    client.put_many([(key, key) for key in keys])
    assert len(max(buckets(store), key=len)) == 64
    for options in ({"capacity": 16 + 8}, {"limit": 1}, {"limit": 63}, {"limit": 64}):
        assert sorted(client.scan_all(**options)) == sorted(keys)
    assert client.clear_all(limit=5) == 64
    store.check()


MASK = (1 << 64) - 1


def colliding_keys() -> tuple[bytes, bytes]:
    """Return two keys, of 8 and 7 bytes, that have the same hash (XXH3 of 4 to 8 bytes)."""

    def rotl(x: int, n: int) -> int:
        return (x << n | x >> (64 - n)) & MASK

    mx2 = 0x9FB21C651E98DF25
    seed = SEED ^ int.from_bytes(struct.pack("<I", SEED), "big") << 32
    secret = [bytes.fromhex(text) for text in ("7c01812cf721ad1c", "ded46de9839097db")]
    low, high = (int.from_bytes(part, "little") for part in secret)
    flip = ((low ^ high) - seed) & MASK
    for i in range(1 << 20):
        first = struct.pack("<Q", i * 0xD1342543DE82EF95 & MASK)
        head, tail = struct.unpack("<II", first)
        x = (tail | head << 32) ^ flip
        x = (x ^ rotl(x, 49) ^ rotl(x, 24)) * mx2 & MASK
        x ^= (x >> 35) + 8
        # The steps back, for a length of 7.
        x ^= (x >> 35) + 7
        x = x * pow(mx2, -1, 1 << 64) & MASK
        for _ in range(63):
            x ^= rotl(x, 49) ^ rotl(x, 24)
        x ^= flip
        head, tail = struct.pack("<I", x >> 32), struct.pack("<I", x & 0xFFFFFFFF)
        if head[3] == tail[0]:
            return first, head + tail[1:]
    raise AssertionError


def test_keys_with_the_same_hash_are_not_missed():
    first, second = colliding_keys()
    assert key_hash(first, SEED) == key_hash(second, SEED)
    for keys in ((first, second), (second, first)):
        store = partition()
        client = Client(store)
        others = fill(client, 50)
        for key in keys:
            client.put(key, b"v")
        assert sorted(client.scan_all(limit=1)) == sorted([*others, *keys])
        place, found = client.scan(limit=1)
        while not set(found) & set(keys):
            place, some = client.scan(b"", place, limit=1)
            found += some
        # The scan is between the two.  Both get new versions, in either order.
        for key in keys:
            client.put(key, b"w")
        while place != (0, 0):
            place, some = client.scan(b"", place, limit=1)
            found += some
        assert set(found) == {*others, *keys}
        assert client.clear_all(b"", limit=1) == 52
        store.check()


def test_expired_keys_are_neither_returned_nor_counted():
    store = partition()
    client = Client(store)
    client.tick(SECOND)
    keys = fill(client, 20)
    client.put_many([(key, b"v") for key in keys[:10]], ttl=5)
    assert sorted(client.scan_all()) == sorted(keys)
    # No sweep: the time passes with the request itself.
    client.tick(SECOND + 100 * MS)
    assert sorted(client.scan_all()) == sorted(keys[10:])
    assert client.clear_all() == 10
    assert store.stats()["records"] == 0
    store.check()


def test_clear_deletes_by_prefix_and_counts(store):
    client = Client(store)
    keys = fill(client, 2000)
    there = [key for key in keys if client.exists(key).status == OK]
    gone = [key for key in there if key.startswith(b"k1")]
    stays = sorted(set(there) - set(gone))
    deletes = store.stats()["deletes"]
    assert client.clear_all(b"k1", limit=7) == len(gone)
    assert store.stats()["deletes"] == deletes + len(gone)
    store.check()
    assert sorted(client.scan_all()) == stays
    assert client.clear_all(b"k1") == 0
    assert client.clear_all() == len(stays)
    assert store.stats()["records"] == store.stats()["value_bytes"] == 0
    assert store.stats()["index_bytes"] >= 64 * 64
    store.check()


def test_cleared_values_stay_pinned():
    store = partition()
    client = Client(store, capacity=100)
    value = bytes(range(250)) * 4
    client.put(b"k", value)
    ref = reference(client.get(b"k"))
    assert client.clear_all() == 1
    assert store.region.read(ref.offset, ref.length) == value
    store.check()
    client.release(ref.pin)
    store.check()


def test_wrong_requests_are_refused():
    client = Client(partition())
    client.put(b"key", b"v")
    for opcode in (SCAN, CLEAR):
        assert client.request(opcode, struct.pack("<QQQ", 0, 0, 0)).status == BAD_REQUEST
        assert client.request(opcode, bytes(23)).status == BAD_REQUEST
        good = struct.pack("<QQQ", 0, 0, 5)
        assert client.request(opcode, good + bytes(1025)).status == TOO_LARGE
        assert client.request(opcode, good, capacity=15).status == BAD_REQUEST
        assert client.request(opcode, good, flags=1).status == UNSUPPORTED
    assert client.request(SCAN, good, capacity=20).status == TOO_LARGE
    assert client.scan_all() == [b"key"]


@pytest.mark.parametrize("place", [(5, 0), ((1 << 64) - 1, (1 << 64) - 1), (1 << 63, 77)])
def test_a_scan_may_begin_anywhere(place):
    store = partition()
    client = Client(store)
    keys = set(fill(client, 1000))
    found: list[bytes] = []
    while place != (0, 0):
        after, some = client.scan(b"", place)
        assert after > place or after == (0, 0)
        place = after
        found += some
    assert len(set(found)) == len(found)
    assert set(found) <= keys
