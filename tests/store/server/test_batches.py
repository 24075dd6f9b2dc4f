"""Batches: one result per key, and no effect of a malformed batch."""

from __future__ import annotations

import struct

import pytest

from .requests import (
    BAD_REQUEST,
    DEFERRED,
    DELETE_MANY,
    EXISTS_MANY,
    GET_MANY,
    GET_RANGES,
    MS,
    NOT_FOUND,
    OK,
    PUT_MANY,
    SECOND,
    TOO_LARGE,
    UNSUPPORTED,
    Client,
    partition,
)


@pytest.fixture
def store():
    return partition()


@pytest.fixture
def client(store):
    return Client(store, capacity=16384)


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 31, 32, 33, 250])
def test_each_key_has_its_result_in_order(store, client, n):
    items = [(b"k%d" % i, b"%d" % i * (i % 7)) for i in range(n)]
    puts = client.put_many(items)
    assert [result.version for result in puts] == list(range(1, n + 1))
    asked = [
        key
        for pair in zip([key for key, _ in items], [b"missing"] * n, strict=True)
        for key in pair
    ]
    results = client.get_many(asked)
    assert results[::2] == [(OK, i + 1, value) for i, (_, value) in enumerate(items)]
    assert results[1::2] == [(NOT_FOUND, 0, b"")] * n
    found = client.exists_many(asked)
    assert found[::2] == [(OK, i + 1, b"") for i in range(n)]
    assert found[1::2] == [(NOT_FOUND, 0, b"")] * n
    gone = client.delete_many(asked)
    assert gone[::2] == [(OK, i + 1, b"") for i in range(n)]
    assert gone[1::2] == [(NOT_FOUND, 0, b"")] * n
    store.check()


def test_a_key_may_be_in_a_batch_twice(store, client):
    puts = client.put_many([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert [result.version for result in puts] == [1, 2, 3]
    assert [result.value for result in client.get_many([b"a", b"b", b"a"])] == [b"3", b"2", b"3"]
    assert [result.status for result in client.delete_many([b"a", b"a"])] == [OK, NOT_FOUND]
    store.check()


def test_values_that_do_not_fit_are_deferred_and_later_ones_may(client):
    client.put_many([(b"a", bytes(10)), (b"b", bytes(100)), (b"c", bytes(20))])
    results = client.get_many([b"a", b"b", b"c"], capacity=48 + 40)
    assert results == [(OK, 1, bytes(10)), (DEFERRED, 2, b""), (OK, 3, bytes(20))]


def test_a_deferred_value_is_counted_when_it_is_delivered(store, client):
    client.put(b"a", bytes(100))
    client.get_many([b"a", b"b"], capacity=48)
    assert [store.stats()[name] for name in ("gets", "hits", "misses")] == [1, 0, 1]
    client.get(b"a")
    assert [store.stats()[name] for name in ("gets", "hits", "misses")] == [2, 1, 1]


def test_a_batch_of_puts_has_one_lifetime(client):
    client.tick(SECOND)
    client.put_many([(b"a", b"1"), (b"b", b"2")], ttl=5)
    client.tick(SECOND + 7 * MS)
    assert [result.status for result in client.get_many([b"a", b"b"])] == [NOT_FOUND, NOT_FOUND]


def test_keys_that_are_too_long_fail_alone(store):
    client = Client(partition(max_value=100), capacity=4096)
    long = bytes(1025)
    assert [
        r.status for r in client.put_many([(b"a", b"1"), (long, b"2"), (b"c", bytes(101))])
    ] == [OK, TOO_LARGE, TOO_LARGE]
    assert [r.status for r in client.get_many([b"a", long])] == [OK, TOO_LARGE]
    assert [r.status for r in client.exists_many([long, b"a"])] == [TOO_LARGE, OK]
    assert [r.status for r in client.delete_many([long, b"a"])] == [TOO_LARGE, OK]


def key(k: bytes) -> bytes:
    return struct.pack("<H", len(k)) + k


def pair(k: bytes, v: bytes) -> bytes:
    return struct.pack("<HHI", len(k), 0, len(v)) + k + v


@pytest.mark.parametrize(
    ("opcode", "count", "payload"),
    [
        (GET_MANY, 1, b""),
        (GET_MANY, 1, b"\1"),
        (GET_MANY, 1, key(b"a")[:-1]),
        (GET_MANY, 1, key(b"a") + b"x"),
        (GET_MANY, 0, key(b"a")),
        (GET_MANY, 2, key(b"a")),
        (GET_MANY, 1, key(b"")),
        (GET_MANY, 65535, key(b"a") * 300),
        (EXISTS_MANY, 2, key(b"a") + key(b"b")[:-1]),
        (EXISTS_MANY, 1, key(b"")),
        (GET_RANGES, 1, key(b"a")),
        (GET_RANGES, 1, key(b"a") + bytes(15)),
        (GET_RANGES, 1, key(b"a") + bytes(17)),
        (GET_RANGES, 2, key(b"a") + bytes(16) + key(b"b") + bytes(15)),
        (GET_RANGES, 1, key(b"") + bytes(16)),
        (DELETE_MANY, 2, key(b"a") + key(b"b")[:-1]),
        (DELETE_MANY, 1, b"\xff\xff" + b"a"),
        (PUT_MANY, 0, b""),
        (PUT_MANY, 0, bytes(7)),
        (PUT_MANY, 2, bytes(8) + pair(b"a", b"new") + pair(b"b", b"new")[:-1]),
        (PUT_MANY, 1, bytes(8) + pair(b"a", b"new") + b"x"),
        (PUT_MANY, 2, bytes(8) + pair(b"a", b"new") + pair(b"", b"new")),
        (PUT_MANY, 1, bytes(8) + struct.pack("<HHI", 1, 0, 0xFFFFFFFF) + b"a"),
        (
            PUT_MANY,
            2,
            bytes(8) + pair(b"a", b"new") + struct.pack("<HHI", 0xFFFF, 0, 0xFFFFFFFF) + b"a",
        ),
    ],
)
def test_a_malformed_batch_changes_nothing(store, client, opcode, count, payload):
    client.put(b"a", b"old")
    assert client.request(opcode, payload, count=count) == (BAD_REQUEST, 0, 0, b"")
    assert client.value(b"a") == b"old"
    assert store.stats()["records"] == 1
    store.check()


def test_a_batch_whose_results_have_no_room_changes_nothing(store, client):
    payload = bytes(8) + pair(b"a", b"") + pair(b"b", b"")
    assert client.request(PUT_MANY, payload, count=2, capacity=31).status == BAD_REQUEST
    assert client.request(PUT_MANY, payload, count=2, flags=1).status == UNSUPPORTED
    assert store.stats()["records"] == 0
    assert client.request(PUT_MANY, payload, count=2, capacity=32).status == OK
