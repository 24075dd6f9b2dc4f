"""Eviction when memory is used up: the records that are evicted, and those that are kept."""

from __future__ import annotations

import pytest

from rfp.testing.partition_harness import buckets

from .requests import (
    DEFERRED,
    MS,
    NOT_FOUND,
    OK,
    OUT_OF_MEMORY,
    SECOND,
    Client,
    partition,
    reference,
)

MIB = 1 << 20


def fill(client: Client, n: int, length: int = 32, prefix: bytes = b"k") -> None:
    for i in range(n):
        assert client.put(prefix + b"%d" % i, bytes(length)).status == OK


def test_clock_evicts_nothing_while_memory_lasts():
    store = partition(MIB)
    client = Client(store)
    n = 0
    # Up to the point where one more record and its room in the index may not fit.
    while store.stats()["bytes_total"] - store.stats()["bytes_used"] > 8192:
        client.put(b"k%d" % n, bytes(32))
        n += 1
    assert store.stats()["evictions"] == 0
    assert all(client.exists(b"k%d" % i).status == OK for i in range(n))
    store.check()
    fill(client, 1000, prefix=b"more")
    assert store.stats()["evictions"] > 0
    store.check()


def test_a_put_over_the_limit_evicts_unused_records():
    store = partition(MIB)
    client = Client(store)
    fill(client, 30000)
    for _ in range(10):
        hot = [b"more%d" % i for i in range(500)]
        client.put_many([(key, b"hot") for key in hot[:100]])
        for key in hot:
            client.put(key, b"hot")
            client.get(key)
        for i in range(1000):
            client.put(b"cold%d" % i, bytes(40))
        missing = sum(client.exists(key).status != OK for key in hot)
        assert missing < 10
    store.check()


def test_hot_keys_survive_while_all_others_are_replaced_many_times():
    store = partition(MIB)
    client = Client(store)
    hot = [b"hot%d" % i for i in range(200)]
    for key in hot:
        client.put(key, key)
    for i in range(100_000):
        client.put(b"%d" % i, bytes(32))
        if i % 20 == 0:
            for key in hot[i // 20 % 10 :: 10]:
                client.get(key)
    assert store.stats()["evictions"] > 80_000
    assert all(client.value(key) == key for key in hot)
    store.check()


def test_a_key_that_is_put_again_counts_as_used():
    store = partition(MIB)
    client = Client(store)
    for i in range(60_000):
        client.put(b"%d" % i, bytes(32))
        if i % 100 == 0:
            client.put(b"again", b"%d" % i)
    assert client.value(b"again") == b"59900"


def test_one_large_value_replaces_many_small_ones():
    store = partition(4 * MIB)
    fill(Client(store), 60_000)
    client = Client(store, capacity=MIB)
    assert store.stats()["evictions"] > 0
    before = store.stats()["records"]
    large = bytes(range(256)) * 4096
    assert client.put(b"large", large).status == OK
    assert client.value(b"large") == large
    store.check()
    # About as many bytes were evicted as were needed: the hole is pushed up in one piece, not
    # found by evicting at random.
    assert before - store.stats()["records"] < 1.2 * MIB / 80


def test_hot_records_are_moved_out_of_the_way_of_a_large_value():
    store = partition(4 * MIB)
    client = Client(store, staging=256 << 10)
    n = 40_000
    fill(client, n)
    hot = [b"k%d" % i for i in range(n - 20_000, n, 10)]
    client.put(b"filler", bytes(store.stats()["bytes_total"] - store.stats()["bytes_used"] - 8192))
    for key in hot:
        client.get(key)
    assert client.upload(b"large", bytes(MIB)).status == OK
    store.check()
    assert all(client.exists(key).status == OK for key in hot)


def test_room_for_a_large_value_is_made_in_steps():
    store = partition(8 * MIB, quota=8 * MIB)
    client = Client(store, staging=256 << 10)
    fill(client, 100_000, 16)
    answers = []
    while not answers or answers[-1].status == DEFERRED:
        before = store.stats()["evictions"]
        answers.append(client.put_begin(b"large", 4 * MIB))
        assert store.stats()["evictions"] - before <= 4096
        store.check()
        client.put(b"small%d" % len(answers), b"others are served meanwhile")
    assert len(answers) > 10
    assert answers[-1].status == OK
    assert {answer.result for answer in answers} == {answers[0].result}
    client.abort(answers[0].result)
    assert store.stats()["bytes_reserved"] == 0
    store.check()


def test_two_clients_that_need_most_of_the_memory_do_not_wait_for_ever():
    store = partition(MIB)
    clients = [Client(store, staging=256 << 10) for _ in range(2)]
    fill(clients[0], 10_000)
    done = set()
    for _ in range(10_000):
        for client in clients:
            answer = client.put_begin(b"large", 600 << 10)
            if answer.status != DEFERRED:
                done.add((client, answer.status))
        if len(done) == 2:
            break
    assert {status for _, status in done} <= {OK, OUT_OF_MEMORY}
    assert len(done) == 2
    store.check()
    for client in clients:
        client.close()
    store.check()


def test_a_value_that_cannot_be_stored_does_not_replace_the_old_one():
    for eviction in ("clock", "bucket", "none"):
        store = partition(MIB, eviction=eviction)
        client = Client(store, capacity=MIB, staging=256 << 10)
        old = bytes(range(256)) * 2400
        assert client.put(b"a", old).status == OK
        assert client.put(b"a", bytes(len(old))).status == OUT_OF_MEMORY
        assert client.value(b"a") == old
        assert client.upload(b"a", bytes(len(old))).status == OUT_OF_MEMORY
        assert client.value(b"a") == old
        store.check()
        client.close()
        store.check()


def test_a_full_partition_without_eviction_refuses_puts_and_keeps_all_records():
    store = partition(MIB, eviction="none")
    client = Client(store)
    n = 0
    while client.put(b"k%d" % n, bytes(32)).status == OK:
        n += 1
    assert n > 9000
    assert all(client.exists(b"k%d" % i).status == OK for i in range(n))
    assert store.stats()["evictions"] == 0
    assert client.delete(b"k0").status == OK
    assert client.put(b"k%d" % n, bytes(32)).status == OK
    store.check()


def test_a_fixed_table_evicts_the_least_recently_used_of_a_bucket():
    """Against a list per bucket, which is built from the evictions of the table itself."""
    store = partition(64 << 10, eviction="bucket")
    client = Client(store)
    # 64 buckets: with so many keys each of them overflows, long before memory is used up.
    order: list[bytes] = []
    for i in range(700):
        before = store.stats()["evictions"]
        client.put(b"%d" % i, b"")
        order.append(b"%d" % i)
        if store.stats()["evictions"] > before:
            (gone,) = set(order) - {key for bucket in buckets(store) for key in bucket}
            order.remove(gone)
        if i % 3 == 0:
            used = order[i // 2 % len(order)]
            client.get(used)
            order.remove(used)
            order.append(used)
    assert store.stats()["evictions"] > 100
    # In each bucket the order is that of use; so an evicted key was the last of a full bucket.
    for bucket in buckets(store):
        assert len(bucket) <= 8
        positions = [order.index(key) for key in bucket]
        assert positions == sorted(positions, reverse=True)
    store.check()


def test_a_fixed_table_makes_room_from_the_neighbouring_buckets():
    store = partition(MIB, eviction="bucket")
    client = Client(store)
    for i in range(5000):
        assert client.put(b"%d" % i, bytes(1000)).status == OK
        if i % 500 == 0:
            store.check()
    assert client.value(b"4999") == bytes(1000)
    assert store.stats()["bytes_used"] > 0.95 * MIB


def test_eviction_spares_pinned_values():
    store = partition(MIB, lease=SECOND)
    client = Client(store, capacity=32)
    client.tick(SECOND)
    value = bytes(range(250)) * 40
    client.put(b"pinned", value)
    ref = reference(client.get(b"pinned"))
    fill(client, 50_000)
    client.put(b"large", bytes(800 << 10))
    assert store.region.read(ref.offset, ref.length) == value
    assert client.exists(b"pinned").status == OK
    store.check()
    client.release(ref.pin)
    fill(client, 50_000)
    assert client.exists(b"pinned").status == NOT_FOUND
    store.check()


def test_expired_records_are_evicted_first():
    store = partition(MIB)
    client = Client(store)
    client.tick(SECOND)
    for i in range(4000):
        client.put(b"short%d" % i, bytes(32), ttl=10)
        client.put(b"long%d" % i, bytes(32))
        client.get(b"short%d" % i)
        client.get(b"long%d" % i)
    # The sweep of tick() covers only the first 128 blocks: eviction must find the others.
    client.tick(SECOND + 20 * MS)
    fill(client, 5000)
    assert store.stats()["expirations"] > 1000
    assert store.stats()["evictions"] < 100
    assert all(client.exists(b"long%d" % i).status == OK for i in range(4000))


@pytest.mark.parametrize("eviction", ["clock", "none"])
def test_the_index_grows_over_any_records_at_the_end_of_memory(eviction):
    """Memory is filled once with large values; then come small ones.

    The index then needs the room of large values.
    """
    store = partition(4 * MIB, eviction=eviction, quota=4 * MIB)
    client = Client(store, capacity=1000)
    n = 0
    while client.put(b"large%d" % n, bytes(50_000)).status == OK and n < 100:
        n += 1
    for i in range(0, n, 2 if eviction == "none" else 10):
        client.delete(b"large%d" % i)
    fill(client, 10_000)
    store.check()
    stats = store.stats()
    assert stats["index_bytes"] > 64 * stats["records"] / 8
    # The hand gives a bounded number of second chances per put: a few of the last keys may
    # be evicted.
    missing = sum(client.exists(b"k%d" % i).status != OK for i in range(10_000))
    assert missing <= (0 if eviction == "none" else 10)


def test_the_index_waits_for_a_pinned_value_at_the_end_of_memory():
    store = partition(MIB)
    client = Client(store, capacity=32)
    # Fill all of it, so that the last value ends where the index begins, and pin every one.
    pins = []
    for i in range(23):
        client.put(b"large%d" % i, bytes(40_000))
        pins.append(reference(client.get(b"large%d" % i)).pin)
    client.delete(b"large0")
    client.release(pins[0])
    for i in range(20_000):
        client.put(b"k%d" % i, b"")
    store.check()
    held = store.stats()["index_bytes"]
    for pin in pins[1:]:
        client.release(pin)
    for i in range(20_000):
        client.put(b"k%d" % i, b"")
    store.check()
    assert store.stats()["index_bytes"] > 2 * held
