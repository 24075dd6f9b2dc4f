"""Any request of a client: the partition answers, and stays within its bounds and consistent."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .requests import (
    BAD_REQUEST,
    CLEAR,
    DELETE_MANY,
    EXISTS_MANY,
    GET,
    GET_MANY,
    GET_RANGE,
    GET_RANGES,
    INCR,
    MS,
    OPCODES,
    PUT,
    PUT_ABORT,
    PUT_BEGIN,
    PUT_MANY,
    PUT_PIECE,
    SCAN,
    TOUCH,
    UNSUPPORTED,
    Client,
    partition,
)

numbers = st.one_of(
    st.integers(0, 70), st.sampled_from([255, 256, 1023, 1024, 1025, 65535, 1 << 20, (1 << 32) - 1])
)
wide = st.one_of(numbers, st.integers(0, (1 << 64) - 1))
keys = st.one_of(st.binary(max_size=30), st.sampled_from([b"a", b"b", bytes(1024), bytes(1025)]))


u16 = numbers.map(lambda n: n & 0xFFFF)
u32 = numbers.map(lambda n: n & 0xFFFFFFFF)
pairs = st.tuples(u16, u16, u32, keys, keys).map(
    lambda v: struct.pack("<HHI", *v[:3]) + v[3] + v[4]
)
good_pairs = st.tuples(keys, keys).map(
    lambda v: struct.pack("<HHI", len(v[0]), 0, len(v[1])) + v[0] + v[1]
)
listed = st.tuples(u16, keys).map(lambda v: struct.pack("<H", v[0]) + v[1])
good_listed = keys.map(lambda k: struct.pack("<H", len(k)) + k)


def many(items: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(items, max_size=12).map(b"".join)


@st.composite
def puts(draw: st.DrawFn) -> bytes:
    key, value = draw(keys), draw(keys)
    lengths = draw(st.one_of(st.just((len(key), len(value))), st.tuples(u32, u32)))
    return struct.pack("<IIQQ", *lengths, draw(wide), draw(wide)) + key + value


ranges = st.tuples(wide, wide).map(lambda v: struct.pack("<QQ", *v))

scans = st.tuples(wide, wide, wide, keys).map(lambda v: struct.pack("<QQQ", *v[:3]) + v[3])

payloads = {
    SCAN: scans,
    CLEAR: scans,
    GET_RANGE: st.tuples(ranges, keys).map(b"".join),
    GET_RANGES: many(st.tuples(good_listed, ranges).map(b"".join) | listed),
    PUT: puts(),
    PUT_BEGIN: puts(),
    INCR: st.tuples(wide, keys).map(lambda v: struct.pack("<Q", v[0]) + v[1]),
    TOUCH: st.tuples(wide, keys).map(lambda v: struct.pack("<Q", v[0]) + v[1]),
    GET_MANY: many(st.one_of(listed, good_listed)),
    EXISTS_MANY: many(st.one_of(listed, good_listed)),
    DELETE_MANY: many(st.one_of(listed, good_listed)),
    PUT_MANY: st.tuples(wide, many(st.one_of(pairs, good_pairs))).map(
        lambda v: struct.pack("<Q", v[0]) + v[1]
    ),
    PUT_PIECE: st.tuples(st.integers(0, 40), wide, u32, u32, wide).map(
        lambda v: struct.pack("<QQIIQ", *v)
    ),
    PUT_ABORT: st.integers(0, 40).map(lambda n: struct.pack("<Q", n)),
}


@st.composite
def requests(draw: st.DrawFn) -> tuple[int, bytes, dict[str, int]]:
    opcode = draw(st.one_of(st.sampled_from(OPCODES), st.integers(0, 255)))
    payload = draw(st.one_of(st.binary(max_size=200), payloads.get(opcode, keys)))
    options = {
        "count": draw(st.one_of(st.integers(0, 20), st.integers(0, 65535))),
        "flags": draw(st.one_of(st.just(0), st.integers(0, 7), st.integers(0, (1 << 32) - 1))),
        "release": draw(st.one_of(st.just(0), st.integers(0, 3000), wide)),
        "capacity": draw(st.sampled_from([0, 7, 8, 15, 16, 31, 32, 100, 1000])),
    }
    return opcode, payload, options


@pytest.mark.parametrize("eviction", ["clock", "bucket", "none"])
def test_no_request_harms_the_partition(eviction):
    """Each payload is in memory of exactly its length, with a guard after the response."""

    @given(st.lists(requests(), min_size=1, max_size=30))
    def run(sent: list[tuple[int, bytes, dict[str, int]]]) -> None:
        store = partition(64 << 10, eviction=eviction, quota=20_000, lease=MS)
        client = Client(store, staging=4096)
        for n, (opcode, payload, options) in enumerate(sent):
            answer = client.request(opcode, payload, **options)
            assert answer.status <= UNSUPPORTED
            if n % 7 == 0:
                client.tick(n * MS)
            store.check()
        client.close()
        store.check()

    run()


@pytest.mark.parametrize("opcode", OPCODES)
def test_random_bytes_are_a_valid_request_or_refused(opcode):
    store = partition(64 << 10)
    client = Client(store, staging=4096)

    @given(st.binary(max_size=300), st.integers(0, 65535), st.integers(0, 7))
    def run(payload: bytes, count: int, flags: int) -> None:
        client.request(opcode, payload, count=count, flags=flags, capacity=64)
        store.check()

    run()


def test_every_truncation_of_a_request_is_refused(rng):
    client = Client(partition())
    client.put(b"key", b"value")
    whole = {
        PUT: (struct.pack("<IIQQ", 3, 5, 0, 0) + b"keyvalue", 0),
        PUT_BEGIN: (struct.pack("<IIQQ", 3, 5, 0, 0) + b"key", 0),
        PUT_PIECE: (struct.pack("<QQIIQ", 1, 0, 1, 0, 0), 0),
        PUT_ABORT: (struct.pack("<Q", 1), 0),
        INCR: (struct.pack("<Q", 1) + b"k", 0),
        TOUCH: (struct.pack("<Q", 1) + b"k", 0),
        GET: (b"k", 0),
        GET_MANY: ((struct.pack("<H", 3) + b"key") * 3, 3),
        GET_RANGE: (bytes(16) + b"k", 0),
        GET_RANGES: ((struct.pack("<H", 3) + b"key" + bytes(16)) * 3, 3),
        SCAN: (struct.pack("<QQQ", 0, 0, 1), 0),
        EXISTS_MANY: ((struct.pack("<H", 3) + b"key") * 3, 3),
        DELETE_MANY: ((struct.pack("<H", 3) + b"key") * 3, 3),
        PUT_MANY: (bytes(8) + (struct.pack("<HHI", 3, 0, 5) + b"keyvalue") * 3, 3),
    }
    for opcode, (payload, count) in whole.items():
        for n in range(len(payload)):
            assert client.request(opcode, payload[:n], count=count).status == BAD_REQUEST, (
                opcode,
                n,
            )
        assert client.request(opcode, payload, count=count).status != BAD_REQUEST
    assert client.value(b"key") is not None
