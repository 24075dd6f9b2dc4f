"""Single keys: the effect of each request, and the requests that are refused."""

from __future__ import annotations

import random
import struct

import pytest

from rfp.errors import InvalidArgument
from rfp.store.counters import COUNTERS
from rfp.store.server.partition import Partition
from rfp.testing.partition_harness import Memory

from .requests import (
    BAD_REQUEST,
    DELETE,
    EXISTS,
    EXISTS_ALREADY,
    GET,
    IF_ABSENT,
    IF_VERSION,
    INCR,
    INLINE,
    NOT_A_NUMBER,
    NOT_FOUND,
    OK,
    OUT_OF_MEMORY,
    OVERFLOW,
    PUT,
    RELEASE,
    STATS,
    TOO_LARGE,
    TOUCH,
    UNSUPPORTED,
    VERSION_MISMATCH,
    Client,
    partition,
)

SIZES = [0, 1, 7, 8, 9, 31, 32, 33, 511, 512, 513, 4000]
KEYS = [1, 2, 7, 8, 9, 15, 16, 17, 255, 1023, 1024]


@pytest.fixture
def store():
    return partition()


@pytest.fixture
def client(store):
    return Client(store)


def test_a_value_is_returned_as_it_was_put(store, client):
    for key_length in KEYS:
        for length in SIZES:
            key, value = random.randbytes(key_length), random.randbytes(length)
            version = client.put(key, value).result
            assert client.get(key) == (OK, 0, version, value)
            store.check()


@pytest.mark.parametrize("offset", [0, 1, 9, 10, 11, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, (1 << 64) - 10, (1 << 64) - 1])
def test_a_range_is_cut_at_the_end_of_the_value(client, offset, length):
    client.put(b"k", b"0123456789")
    part = b"0123456789"[offset : offset + length]
    assert client.get_range(b"k", offset, length) == (OK, INLINE, 1, part)
    assert client.get_ranges([(b"k", offset, length), (b"nobody", offset, length)]) == [
        (OK, 1, part),
        (NOT_FOUND, 0, b""),
    ]
    assert client.get_range(b"nobody", offset, length).status == NOT_FOUND


def test_keys_that_differ_in_one_byte_are_different(store, client):
    for length in KEYS:
        for i in {0, length // 2, length - 1}:
            key = bytearray(length)
            key[i] = 1
            client.put(bytes(key), b"%d %d" % (length, i))
    for length in KEYS:
        assert client.value(bytes(length)) is None
        for i in {0, length // 2, length - 1}:
            key = bytearray(length)
            key[i] = 1
            assert client.value(bytes(key)) == b"%d %d" % (length, i)
    store.check()


def test_each_change_has_the_next_version(client):
    assert client.put(b"a", b"1").result == 1
    assert client.put(b"b", b"1").result == 2
    assert client.put(b"a", b"2").result == 3
    assert client.incr(b"a", 1).result == 4
    assert client.touch(b"a", 5).result == 4
    assert client.exists(b"a").result == 4
    assert client.delete(b"a").result == 4
    assert client.put(b"a", b"3").result == 5


def test_versions_begin_at_the_given_number():
    assert Client(partition(first_version=1 << 60)).put(b"a", b"1").result == 1 << 60


def test_a_deleted_value_is_not_found(store, client):
    used = store.stats()["bytes_used"]
    version = client.put(b"a", b"1").result
    assert client.delete(b"a") == (OK, 0, version, b"")
    assert client.delete(b"a").status == NOT_FOUND
    assert client.exists(b"a").status == NOT_FOUND
    assert client.get(b"a") == (NOT_FOUND, 0, 0, b"")
    assert store.stats()["bytes_used"] == used
    store.check()


def test_a_put_if_absent_does_not_replace_a_value(client):
    version = client.put(b"a", b"1", flags=IF_ABSENT).result
    assert client.put(b"a", b"2", flags=IF_ABSENT) == (EXISTS_ALREADY, 0, version, b"")
    assert client.value(b"a") == b"1"


def test_a_put_if_version_applies_to_that_version_only(client):
    assert client.put(b"a", b"0", flags=IF_VERSION, version=1) == (VERSION_MISMATCH, 0, 0, b"")
    first = client.put(b"a", b"1").result
    second = client.put(b"a", b"2", flags=IF_VERSION, version=first).result
    assert client.put(b"a", b"3", flags=IF_VERSION, version=first) == (
        VERSION_MISMATCH,
        0,
        second,
        b"",
    )
    assert client.get(b"a") == (OK, 0, second, b"2")


def test_incr_counts_from_zero_and_in_both_directions(store, client):
    for delta, total in [(5, 5), (-7, -2), (2, 0), (1 << 62, 1 << 62), (-(1 << 63), -(1 << 62))]:
        answer = client.incr(b"n", delta)
        assert (answer.status, struct.unpack("<q", answer.payload)[0]) == (OK, total)
        assert client.value(b"n") == b"%d" % total
    store.check()


@pytest.mark.parametrize(
    "text", [b"0", b"-0", b"007", b"-1", b"9223372036854775807", b"-9223372036854775808"]
)
def test_incr_reads_every_decimal_number_of_64_bits(client, text):
    client.put(b"n", text)
    answer = client.incr(b"n", 0)
    assert (answer.status, struct.unpack("<q", answer.payload)[0]) == (OK, int(text))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"-",
        b"+1",
        b" 1",
        b"1 ",
        b"1.0",
        b"0x1",
        b"--1",
        b"1\0",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"0" * 21,
    ],
)
def test_incr_refuses_a_value_that_is_not_a_number(client, text):
    version = client.put(b"n", text).result
    assert client.incr(b"n", 1) == (NOT_A_NUMBER, 0, version, b"")
    assert client.get(b"n") == (OK, 0, version, text)


@pytest.mark.parametrize(
    ("text", "delta"),
    [(b"9223372036854775807", 1), (b"-9223372036854775808", -1), (b"-1", -(1 << 63))],
)
def test_incr_refuses_to_overflow(client, text, delta):
    version = client.put(b"n", text).result
    assert client.incr(b"n", delta).status == OVERFLOW
    assert client.get(b"n") == (OK, 0, version, text)


def test_malformed_payloads_are_refused_and_change_nothing(store, client):
    client.put(b"a", b"1")
    for opcode, payload in [
        (GET, b""),
        (EXISTS, b""),
        (DELETE, b""),
        (PUT, b""),
        (PUT, bytes(23)),
        (PUT, bytes(24)),
        (PUT, struct.pack("<IIQQ", 1, 1, 0, 0) + b"a"),
        (PUT, struct.pack("<IIQQ", 1, 1, 0, 0) + b"aaa"),
        (PUT, struct.pack("<IIQQ", 0xFFFFFFFF, 3, 0, 0) + b"aa"),
        (PUT, struct.pack("<IIQQ", 3, 0xFFFFFFFF, 0, 0) + b"aa"),
        (PUT, struct.pack("<IIQQ", 0, 2, 0, 0) + b"aa"),
        (INCR, bytes(8)),
        (TOUCH, bytes(7)),
        (RELEASE, b"x"),
        (STATS, b"x"),
    ]:
        before = store.stats()["refused"]
        assert client.request(opcode, payload) == (BAD_REQUEST, 0, 0, b""), (opcode, payload)
        assert store.stats()["refused"] == before + 1
    assert client.value(b"a") == b"1"
    store.check()


def test_unknown_flags_are_refused(client):
    assert client.put(b"a", b"1", flags=8).status == UNSUPPORTED
    assert client.put(b"a", b"1", flags=IF_ABSENT | IF_VERSION).status == BAD_REQUEST
    assert client.request(GET, b"a", flags=1).status == UNSUPPORTED
    assert client.value(b"a") is None


def test_unknown_opcodes_are_refused(client):
    for opcode in [0, 1, 15, 64, 255]:
        assert client.request(opcode, b"a").status == UNSUPPORTED


def test_keys_and_values_that_are_too_long_are_refused():
    client = Client(partition(max_value=100))
    assert client.put(bytes(1025), b"").status == TOO_LARGE
    assert client.get(bytes(1025)).status == TOO_LARGE
    assert client.put(b"a", bytes(100)).status == OK
    assert client.put(b"a", bytes(101)).status == TOO_LARGE
    assert client.value(b"a") == bytes(100)


def test_a_put_that_can_never_fit_is_refused_at_once(store):
    client = Client(store, staging=1 << 20)
    for i in range(100):
        client.put(b"%d" % i, bytes(100))
    assert client.put(b"a", bytes(1 << 20)).status == OUT_OF_MEMORY
    assert client.put_begin(b"a", 1 << 20).status == OUT_OF_MEMORY
    assert store.stats()["records"] == 100
    assert store.stats()["evictions"] == 0


def test_stats_are_the_counts_of_the_partition(store, client):
    client.put(b"a", b"12")
    client.get(b"a")
    client.get(b"b")
    client.incr(b"n", 1)
    client.touch(b"n", 0)
    client.delete(b"a")
    client.request(99)
    answer = client.request(STATS)
    stats = dict(zip(COUNTERS, struct.unpack(f"<{len(COUNTERS)}Q", answer.payload), strict=True))
    assert stats == store.stats()
    expected = {
        "gets": 2,
        "hits": 1,
        "misses": 1,
        "puts": 1,
        "incrs": 1,
        "touches": 1,
        "deletes": 1,
        "refused": 1,
        "records": 1,
    }
    assert {name: stats[name] for name in expected} == expected
    assert stats["value_bytes"] == 1
    assert stats["bytes_total"] == 1 << 20
    assert len(client.request(STATS, capacity=17).payload) == 16


def test_groups_of_requests_are_prepared_together(client):
    """As in a worker: the hash that prepare() stores is the one that execute() uses."""
    keys = [b"%d" % i for i in range(100)]
    assert client.session.time(PUT, 24, keys, 200, group=16, tail=b"value") > 0
    assert all(client.value(key) == b"value" for key in keys)
    assert client.session.time(GET, 0, keys, 100, group=7) > 0
    assert client.session.time(DELETE, 0, keys, 100, group=64) > 0
    assert not any(client.value(key) for key in keys)


@pytest.mark.parametrize(
    "wrong",
    [
        {"eviction": "lru"},
        {"max_value": (256 << 20) + 1},
        {"lease_ns": 0},
        {"first_version": 0},
        {"first_version": 1 << 63},
    ],
)
def test_a_partition_refuses_wrong_arguments(wrong):
    right = {"seed": 0, "first_version": 1, "lease_ns": 1, "session_quota": 1, "max_value": 1}
    Partition(Memory(1 << 16), **right).check()
    with pytest.raises(InvalidArgument):
        Partition(Memory(1 << 16), **{**right, **wrong})


def test_a_partition_refuses_too_small_a_region():
    with pytest.raises(InvalidArgument, match="65472"):
        Partition(
            Memory((1 << 16) - 64),
            seed=0,
            first_version=1,
            lease_ns=1,
            session_quota=1,
            max_value=1,
        )
