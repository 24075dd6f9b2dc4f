"""The index while it grows, and with long chains."""

from __future__ import annotations

import needed
import pytest

from rfp.testing.partition_harness import buckets

from .requests import NOT_FOUND, OK, OUT_OF_MEMORY, Client, partition


def test_growth_from_empty_keeps_every_key():
    store = partition(16 << 20)
    client = Client(store)
    n = 100_000
    for i in range(n):
        assert client.put(b"k%d" % i, b"%d" % i).status == OK
        if i & (i - 1) == 0:
            store.check()
    store.check()
    assert all(client.value(b"k%d" % i) == b"%d" % i for i in range(n))
    stats = store.stats()
    assert stats["records"] == n
    assert stats["evictions"] == 0
    for i in range(0, n, 2):
        client.delete(b"k%d" % i)
    store.check()
    assert all(client.exists(b"k%d" % i).status == (OK if i % 2 else NOT_FOUND) for i in range(n))


def test_a_record_of_48_bytes_costs_at_most_100():
    store = partition(16 << 20)
    client = Client(store)
    begin = store.stats()["bytes_used"]
    n = 50_000
    while n < 100_000:
        for i in range(store.stats()["records"], n):
            client.put(b"key%013d" % i, bytes(32))
        assert (store.stats()["bytes_used"] - begin) / n <= 100
        n += 5_000


def same_bucket(n: int) -> list[bytes]:
    """Return keys that a table of 64 buckets puts into the same bucket."""
    store = partition(1 << 20, eviction="none")
    client = Client(store)
    found: list[bytes] = []
    i = 0
    while len(found) < n:
        batch = [b"%d" % j for j in range(i, i + 250)]
        client.put_many([(key, b"") for key in batch])
        found += buckets(store)[5]
        client.delete_many(batch)
        i += 250
    return found[:n]


@pytest.mark.parametrize("eviction", ["clock", "none"])
def test_a_chain_grows_shrinks_and_has_a_longest_length(eviction):
    keys = same_bucket(80)
    store = partition(1 << 20, eviction=eviction)
    client = Client(store)
    for n, key in enumerate(keys):
        answer = client.put(key, key)
        store.check()
        # 8 slots and 8 overflow lines of 8; each link takes the place of a slot.
        if n < 64:
            assert answer.status == OK
            assert store.stats()["records"] == n + 1
        else:
            assert answer.status == (OUT_OF_MEMORY if eviction == "none" else OK)
            assert store.stats()["records"] == 64
            assert client.value(key) == (None if eviction == "none" else key)
    there = [key for key in keys if client.value(key) == key]
    assert len(there) == 64
    for n, key in enumerate(there[::3] + there[1::3] + there[2::3]):
        assert client.delete(key).status == OK
        store.check()
        assert store.stats()["records"] == 63 - n
    assert store.stats()["index_bytes"] == 64 * 64


def test_no_two_records_have_one_version_not_even_a_refused_one():
    """A client may READ a part of a refused record, and the rest of the next one in its place."""
    keys = same_bucket(66)
    client = Client(partition(1 << 20, eviction="none"))
    versions = [client.put(key, key).result for key in keys[:64]]
    assert versions == [versions[0] + n for n in range(64)]
    assert [client.put(key, key).status for key in keys[64:]] == [OUT_OF_MEMORY] * 2
    client.delete(keys[0])
    assert client.put(keys[65], keys[65]).result == versions[-1] + 3


def test_a_chain_is_split_with_all_its_lines():
    keys = same_bucket(50)
    store = partition(1 << 20)
    client = Client(store)
    client.put_many([(key, key) for key in keys])
    before = store.stats()["index_bytes"]
    for i in range(3000):
        client.put(b"other%d" % i, b"")
        if i % 100 == 0:
            store.check()
    assert store.stats()["index_bytes"] > 4 * before
    assert all(client.value(key) == key for key in keys)
    store.check()


def test_the_index_does_not_use_the_hash_bits_that_choose_the_partition():
    """Keys of one of 64 partitions, chosen by the hash's low bits, still use all buckets."""
    xxhash = needed.module("xxhash")
    store = partition(1 << 20)
    client = Client(store)
    n = 0
    for i in range(130_000):
        key = b"%d" % i
        if xxhash.xxh3_64_intdigest(key, seed=7) % 64 == 3:
            client.put(key, b"")
            n += 1
    assert n > 1500
    longest = max(len(bucket) for bucket in buckets(store))
    assert longest < 20
