"""Values with a time to live, on a clock that the test sets."""

from __future__ import annotations

from .requests import MS, NOT_FOUND, SECOND, Client, partition


def test_a_value_expires_at_its_time_and_not_much_later():
    store = partition()
    client = Client(store)
    for now in [SECOND, 2 * SECOND + 1, 3 * SECOND + MS - 1]:
        client.tick(now)
        client.put(b"a", b"1", ttl=5)
        client.tick(now + 5 * MS - 1)
        assert client.value(b"a") == b"1"
        client.tick(now + 7 * MS)
        assert client.get(b"a").status == NOT_FOUND
    store.check()


def test_no_request_finds_an_expired_value():
    store = partition()
    client = Client(store)
    client.tick(SECOND)
    keys = [b"%d" % i for i in range(8)]
    for i in range(200):
        client.put(b"where the sweep begins %d" % i, b"")
    for key in keys:
        client.put(key, b"5", ttl=1)
    client.tick(SECOND + 3 * MS)
    client.put(b"7", b"", flags=1)
    assert client.get(keys[0]).status == NOT_FOUND
    assert client.exists(keys[1]).status == NOT_FOUND
    assert client.delete(keys[2]).status == NOT_FOUND
    assert client.touch(keys[3], 9).status == NOT_FOUND
    assert client.incr(keys[4], 1).payload == (1).to_bytes(8, "little")
    assert client.get_many([keys[5]])[0].status == NOT_FOUND
    assert client.delete_many([keys[6]])[0].status == NOT_FOUND
    assert client.get(keys[7]).payload == b""
    assert store.stats()["expirations"] == 8
    store.check()


def test_incr_keeps_the_expiry_and_put_replaces_it():
    client = Client(partition())
    client.tick(SECOND)
    client.put(b"n", b"1", ttl=10)
    client.put(b"m", b"1", ttl=10)
    client.incr(b"n", 1)
    client.put(b"m", b"2")
    client.tick(SECOND + 12 * MS)
    assert client.value(b"n") is None
    assert client.value(b"m") == b"2"


def test_touch_sets_a_new_expiry_or_none():
    client = Client(partition())
    client.tick(SECOND)
    client.put(b"longer", b"1", ttl=10)
    client.put(b"for ever", b"1", ttl=10)
    client.put(b"shorter", b"1")
    client.touch(b"longer", 20)
    client.touch(b"for ever", 0)
    client.touch(b"shorter", 5)
    client.tick(SECOND + 12 * MS)
    assert client.value(b"longer") == b"1"
    assert client.value(b"for ever") == b"1"
    assert client.value(b"shorter") is None
    client.tick(SECOND + 22 * MS)
    assert client.value(b"longer") is None
    client.tick(SECOND * 10**9)
    assert client.value(b"for ever") == b"1"


def test_the_longest_time_does_not_wrap():
    client = Client(partition())
    client.tick(SECOND)
    for ttl in [(1 << 40) - 1, 1 << 40, (1 << 64) - 1]:
        client.put(b"a", b"1", ttl=ttl)
        client.tick(SECOND + 1000 * 86400 * SECOND)
        assert client.value(b"a") == b"1"


def test_memory_of_expired_values_is_freed_without_a_request():
    store = partition(4 << 20)
    client = Client(store)
    client.tick(SECOND)
    client.put(b"stays", b"1")
    client.put(b"stays longer", b"1", ttl=10**6)
    before = store.stats()
    for i in range(10_000):
        client.put(b"%d" % i, bytes(100), ttl=100 + i % 100)
    client.tick(SECOND + 99 * MS)
    assert store.stats()["expirations"] == 0
    calls = 0
    while client.tick(SECOND + 1000 * MS):
        calls += 1
        assert store.stats()["expirations"] <= 128 * calls
        if calls % 10 == 0:
            store.check()
    store.check()
    stats = store.stats()
    assert stats["expirations"] == 10_000
    assert stats["records"] == 2
    # The index keeps its buckets.
    assert (
        stats["bytes_used"] - stats["index_bytes"] == before["bytes_used"] - before["index_bytes"]
    )
    assert not client.tick(SECOND + 2000 * MS)


def test_the_sweep_rests_in_proportion_to_its_work():
    store = partition(4 << 20)
    client = Client(store)
    now = SECOND
    client.tick(now)
    for i in range(20_000):
        client.put(b"%d" % i, b"", ttl=1 + i)
    busy = 0
    for _ in range(10_000):
        now += 10_000
        busy += client.tick(now)
    # A value expires every millisecond; yet of 10 000 turns within 100 ms, few sweep: 20 000
    # blocks are 20 ms of rest.
    assert 100 < busy < 1200
    store.check()


def test_a_clock_that_goes_back_is_ignored():
    client = Client(partition())
    client.tick(SECOND)
    client.put(b"a", b"1", ttl=5)
    client.tick(SECOND + 10 * MS)
    client.tick(SECOND)
    assert client.value(b"a") is None
