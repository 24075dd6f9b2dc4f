"""Large values are read in place: the memory that a pin keeps, its end, and its cost."""

from __future__ import annotations

import pytest

from .requests import (
    INLINE,
    MS,
    NOT_FOUND,
    OK,
    QUOTA,
    SECOND,
    TOO_LARGE,
    Client,
    partition,
    reference,
)

VALUE = bytes(range(250)) * 4
LEASE = 100 * MS


@pytest.fixture
def store():
    return partition(lease=LEASE)


@pytest.fixture
def client(store):
    client = Client(store, capacity=100)
    client.tick(SECOND)
    return client


def used(store) -> int:
    """Return the memory in use without the index, which never frees memory."""
    return store.stats()["bytes_used"] - store.stats()["index_bytes"]


def test_a_value_that_does_not_fit_is_answered_by_a_reference(store, client):
    version = client.put(b"a", VALUE).result
    assert client.get(b"a", capacity=len(VALUE)) == (OK, INLINE, version, VALUE)
    answer = client.get(b"a", capacity=len(VALUE) - 1)
    ref = reference(answer)
    assert answer.result == version
    assert store.region.read(ref.offset, ref.length) == VALUE
    assert ref.lease == LEASE
    assert ref.pin != 0
    store.check()


def test_a_response_too_small_for_a_reference_is_refused(client):
    client.put(b"a", VALUE)
    assert client.get(b"a", capacity=31).status == TOO_LARGE
    assert client.get(b"a", capacity=32).status == OK


def test_a_long_range_is_answered_by_a_reference_into_the_value(store, client):
    value = bytes(range(250)) * 40
    client.put(b"k", value)
    ref = reference(client.get_range(b"k", 77, 5000))
    assert store.region.read(ref.offset, ref.length) == value[77:5077]
    last = reference(client.get_range(b"k", 77, (1 << 64) - 1))
    assert (last.offset, last.length) == (ref.offset, len(value) - 77)
    client.delete(b"k")
    assert store.region.read(ref.offset, ref.length) == value[77:5077]
    assert store.stats()["pins"] == 2
    client.release(ref.pin)
    client.release(last.pin)
    store.check()
    assert store.stats()["pins"] == 0


@pytest.mark.parametrize("how", ["delete", "replace", "expire", "evict"])
def test_a_pinned_value_outlives_its_key(store, client, how):
    client.put(b"a", VALUE, ttl=50)
    ref = reference(client.get(b"a"))
    before = used(store)
    if how == "delete":
        client.delete(b"a")
    elif how == "replace":
        client.put(b"a", b"")
        client.delete(b"a")
    elif how == "expire":
        client.tick(SECOND + 60 * MS)
    else:
        for i in range(30_000):
            client.put(b"%d" % i, bytes(40))
        # The clock hand passes it.
        assert client.exists(b"a").status == OK
        client.delete(b"a")
        for i in range(30_000):
            client.delete(b"%d" % i)
    assert client.get(b"a").status == NOT_FOUND
    store.check()
    for i in range(500):
        client.put(b"other%d" % i, bytes(900))
    assert store.region.read(ref.offset, ref.length) == VALUE
    for i in range(500):
        client.delete(b"other%d" % i)
    client.release(ref.pin)
    store.check()
    assert used(store) <= before - len(VALUE)
    assert store.stats()["pins"] == 0


def test_each_pin_holds_the_value_alone(store, client):
    client.put(b"a", VALUE)
    refs = [reference(client.get(b"a")) for _ in range(3)]
    assert len({ref.pin for ref in refs}) == 3
    assert len({ref.offset for ref in refs}) == 1
    client.delete(b"a")
    before = used(store)
    client.release(refs[1].pin)
    client.release(refs[0].pin)
    assert used(store) == before
    client.release(refs[2].pin)
    assert used(store) < before
    store.check()


def test_a_request_releases_a_pin_before_it_is_executed(store, client):
    client.put(b"a", VALUE)
    ref = reference(client.get(b"a"))
    client.put(b"b", b"1")
    assert client.get(b"b", release=ref.pin).payload == b"1"
    assert store.stats()["pins"] == 0
    store.check()


def test_a_lease_ends_a_quarter_later_than_the_client_assumes(store, client):
    client.put(b"a", VALUE)
    client.get(b"a")
    # It began with the first reading of the clock after it was granted, however late that was.
    client.tick(SECOND + 7 * SECOND)
    assert store.stats()["pins"] == 1
    client.tick(8 * SECOND + LEASE + LEASE // 4 - 1)
    assert store.stats()["pins"] == 1
    client.tick(8 * SECOND + LEASE + LEASE // 4)
    assert store.stats()["pins"] == 0
    store.check()


def test_releases_of_foreign_or_ended_pins_are_ignored_and_counted(store, client):
    other = Client(store, capacity=100)
    client.put(b"a", VALUE)
    ref = reference(client.get(b"a"))
    assert ref.pin == 256
    for pin in [257, 512, 768, 1, 255, (1 << 64) - 1]:
        assert client.release(pin).status == OK
    assert other.release(ref.pin).status == OK
    assert store.stats()["unknown_pins"] == 7
    assert store.stats()["pins"] == 1
    client.release(ref.pin)
    client.release(ref.pin)
    assert store.stats()["unknown_pins"] == 8
    store.check()


def test_a_session_pins_no_more_than_its_quota():
    store = partition(quota=3 * 1100)
    client = Client(store, capacity=100)
    other = Client(store, capacity=100)
    client.put(b"a", VALUE)
    pins = [reference(client.get(b"a")).pin for _ in range(3)]
    assert client.get(b"a").status == QUOTA
    assert other.get(b"a").status == OK
    assert client.get(b"a", release=pins[0]).status == OK
    assert client.get(b"a").status == QUOTA
    assert client.get(b"a", capacity=1000).payload == VALUE
    store.check()


def test_a_session_has_at_most_256_pins(store, client):
    client.put(b"a", VALUE)
    pins = [reference(client.get(b"a")).pin for _ in range(256)]
    assert client.get(b"a").status == QUOTA
    for pin in pins:
        client.release(pin)
    assert store.stats()["pins"] == store.stats()["unknown_pins"] == 0
    assert client.get(b"a").status == OK
    store.check()


def test_a_record_has_at_most_4095_pins(store):
    clients = [Client(store, capacity=100) for _ in range(17)]
    clients[0].put(b"a", VALUE)
    answers = [client.get(b"a") for client in clients[:16] for _ in range(256)]
    assert [answer.status for answer in answers] == [OK] * 4095 + [QUOTA]
    assert clients[16].get(b"a").status == QUOTA
    store.check()
    for client in clients:
        client.close()
    assert store.stats()["pins"] == 0
    store.check()


def test_the_end_of_a_session_frees_its_pins(store):
    client = Client(store, capacity=100)
    other = Client(store, capacity=100)
    before = used(store)
    client.put(b"a", VALUE)
    client.get(b"a")
    client.get(b"a")
    kept = reference(other.get(b"a"))
    client.delete(b"a")
    client.close()
    assert store.stats()["pins"] == 1
    assert store.region.read(kept.offset, kept.length) == VALUE
    store.check()
    other.close()
    assert used(store) == before
    store.check()
