"""A store with arbitrary responses.

Whatever they contain, a client's call returns or raises one of our errors before its deadline,
reads only memory that the server shares, and writes only into the caller's buffer.
"""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import rfp
from rfp import address as addresses
from rfp.errors import DeadlineExceeded, InvalidArgument, RfpError
from rfp.fabric.fabric import REMOTE_READ, Region
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.server.server import Host
from rfp.protocol.wire import DIRECT_READS, NAMED_PLACES
from rfp.testing import ring_harness as steps
from rfp.testing.partition_harness import key_hash
from tests.interop.checksum import crc32c

ARENA = 1 << 20
INLINE, REFERENCE = 0, 1
DEFERRED, PLACED = 10, 13
VALUE_MAX = 4096  # bytes of the longest value that is read at its place


class Hostile(NamedTuple):
    service: steps.Fixed
    kv: rfp.Client
    arena: bytes  # the memory that the server shares
    region: Region  # the same


# One server serves all examples of a test.
same_server = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    yield from served(addresses.unique(), ShmFabric())


@pytest.fixture
def placing() -> Iterator[Hostile]:
    """Yield one over a network, which names places."""
    place = replace(addresses.unique(), options=addresses.parse("shm:///x?rtt=1us").options)
    yield from served(place, ShmFabric(rtt_ns=1000), features=DIRECT_READS | NAMED_PLACES)


def served(place: addresses.Address, fabric: ShmFabric, **options: Any) -> Iterator[Hostile]:
    service = steps.Fixed()
    content = bytes(range(251)) * (ARENA // 251 + 1)
    with fabric.register(ARENA, REMOTE_READ) as arena:
        arena.write(0, content[:ARENA])
        host = Host(
            place,
            fabric,
            [service],
            service="kv",
            arenas=[arena],
            staging_size=1 << 19,
            lease_ns=20 * 10**9,
            max_value=1 << 20,
            **options,
        )
        try:
            with rfp.connect(str(host.address), timeout=20) as kv:
                kv.ping()
                yield Hostile(service, kv, content[:ARENA], arena)
        finally:
            host.close()


CALLS: dict[str, Callable[[rfp.Client, float], Any]] = {
    "get": lambda kv, t: kv.get(b"k", timeout=t),
    "item": lambda kv, t: kv.item(b"k", timeout=t),
    "contains": lambda kv, t: b"k" in kv,
    "put": lambda kv, t: kv.put(b"k", b"v", timeout=t),
    "large put": lambda kv, t: kv.put(b"k", bytes(300_000), timeout=t),
    "delete": lambda kv, t: kv.delete(b"k", timeout=t),
    "incr": lambda kv, t: kv.incr(b"k", 1, timeout=t),
    "touch": lambda kv, t: kv.touch(b"k", ttl=5, timeout=t),
    "get_many": lambda kv, t: kv.get_many([b"%d" % i for i in range(40)], timeout=t),
    "get_range": lambda kv, t: kv.get_range(b"k", 5, 20, timeout=t),
    "get_ranges": lambda kv, t: kv.get_ranges([(b"k", i, 5) for i in range(40)], timeout=t),
    "get_into_many": lambda kv, t: kv.get_into_many(
        [b"%d" % i for i in range(40)], [bytearray(50) for _ in range(40)], timeout=t
    ),
    "large put_many": lambda kv, t: kv.put_many(
        [(b"%d" % i, bytes(9000)) for i in range(40)], timeout=t
    ),
    "scan": lambda kv, t: kv.scan(b"k", timeout=t),
    "scan_iter": lambda kv, t: list(kv.scan_iter(b"k", timeout=t)),
    "clear": lambda kv, t: kv.clear(b"k", timeout=t),
    "exists_many": lambda kv, t: kv.exists_many([b"%d" % i for i in range(40)], timeout=t),
    "put_many": lambda kv, t: kv.put_many([(b"%d" % i, b"v") for i in range(40)], timeout=t),
    "delete_many": lambda kv, t: kv.delete_many([b"%d" % i for i in range(40)], timeout=t),
}

numbers = st.one_of(
    st.integers(0, 64),
    st.integers(0, 2**64 - 1),
    st.sampled_from([2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]),
)
references = st.builds(
    lambda *words: struct.pack("<QQQQ", *words), numbers, numbers, numbers, numbers
)
items = st.lists(
    st.tuples(
        st.integers(0, 12), st.one_of(st.integers(0, 3000), st.integers(0, 2**32 - 1)), numbers
    ),
    max_size=40,
).map(
    lambda each: b"".join(
        struct.pack("<B3xIQ", status, length, version) for status, length, version in each
    )
)
payloads = st.one_of(
    st.binary(max_size=2088), references, st.tuples(items, st.binary(max_size=1400)).map(b"".join)
)
kinds = st.one_of(st.sampled_from([INLINE, REFERENCE]), st.integers(0, 255))


@pytest.mark.parametrize("name", CALLS)
@same_server
@given(
    payload=payloads, status=st.one_of(st.just(0), st.integers(0, 255)), kind=kinds, result=numbers
)
@example(payload=struct.pack("<QQQQ", ARENA - 8, 16, 1, 10**9), status=0, kind=REFERENCE, result=1)
@example(payload=struct.pack("<QQQQ", 2**64 - 8, 16, 1, 10**9), status=0, kind=REFERENCE, result=1)
@example(payload=struct.pack("<QQQQ", 0, 2**64 - 1, 1, 10**9), status=0, kind=REFERENCE, result=1)
@example(payload=struct.pack("<B3xIQ", 0, 2**32 - 1, 1) * 16, status=0, kind=INLINE, result=0)
def test_a_call_returns_or_raises_whatever_the_response_contains(
    hostile, name, payload, status, kind, result
):
    hostile.service.say(payload, status=status, kind=kind, result=result)
    began = time.monotonic()
    try:
        CALLS[name](hostile.kv, 0.02)
    except RfpError as error:
        assert str(error)
    assert time.monotonic() - began < 10


@same_server
@given(payload=payloads, kind=kinds, length=st.integers(0, 300))
@example(payload=b"x" * 300, kind=INLINE, length=299)
def test_get_into_writes_only_into_its_buffer(hostile, payload, kind, length):
    hostile.service.say(payload, kind=kind, result=1)
    whole = bytearray(b"\xa5" * (length + 128))
    try:
        got = hostile.kv.get_into(b"k", memoryview(whole)[64 : 64 + length], timeout=0.02)
        assert got <= length
    except RfpError:
        pass
    assert whole[:64] == whole[64 + length :] == b"\xa5" * 64


@same_server
@given(offset=st.integers(0, ARENA), length=st.integers(0, ARENA))
@example(offset=ARENA, length=0)  # begins behind the last byte
def test_only_references_within_the_arena_are_read(hostile, offset, length):
    hostile.service.say(
        struct.pack("<QQQQ", offset, length, 1, 20 * 10**9), kind=REFERENCE, result=7
    )
    if offset < ARENA and offset + length <= ARENA:
        assert hostile.kv.get(b"k") == hostile.arena[offset : offset + length]
    else:
        with pytest.raises(RfpError, match="damaged|malformed|invalid response"):
            hostile.kv.get(b"k")


def test_a_reference_to_more_than_the_buffer_holds_is_an_error_of_the_caller(hostile):
    hostile.service.say(struct.pack("<QQQQ", 0, 1000, 1, 20 * 10**9), kind=REFERENCE, result=7)
    with pytest.raises(InvalidArgument, match="1000"):
        hostile.kv.get_into(b"k", bytearray(999))


def test_more_than_the_range_requested_is_an_invalid_response(hostile):
    for payload, kind in (
        (b"x" * 9, INLINE),
        (struct.pack("<QQQQ", 0, 9, 1, 20 * 10**9), REFERENCE),
    ):
        hostile.service.say(payload, kind=kind, result=7)
        with pytest.raises(RfpError, match="invalid response"):
            hostile.kv.get_range(b"k", 0, 8)
        assert len(hostile.kv.get_range(b"k", 0, 9)) == 9
    hostile.service.say(struct.pack("<B3xIQ", 0, 9, 1) + b"x" * 9)
    with pytest.raises(RfpError, match="invalid response"):
        hostile.kv.get_ranges([(b"k", 0, 8)])
    assert hostile.kv.get_ranges([(b"k", 0, 9)]) == [b"x" * 9]


def test_a_get_ends_at_its_deadline_if_leases_end_at_once(hostile):
    hostile.service.say(struct.pack("<QQQQ", 0, 1000, 1, 0), kind=REFERENCE, result=7)
    with pytest.raises(DeadlineExceeded):
        hostile.kv.get(b"k", timeout=0.05)


def test_an_upload_that_is_always_deferred_ends_at_the_deadline(hostile):
    hostile.service.say(b"", status=DEFERRED)
    with pytest.raises(DeadlineExceeded):
        hostile.kv.put(b"k", bytes(300_000), timeout=0.05)


def test_an_upload_whose_pieces_are_refused_or_never_end_fails_without_harm_to_others(hostile):
    for status in range(1, 13):
        hostile.service.say(b"", status=status)
        with pytest.raises(RfpError):
            hostile.kv.put(b"k", bytes(300_000), timeout=0.05)
    hostile.service.say(b"", result=5)
    assert hostile.kv.put(b"k", b"small") == 5


def test_a_value_that_changes_while_it_is_read_stays_within_the_buffer(hostile):
    """The server may write into its arena at any time: the client gets bytes that were there."""
    other = hostile.kv
    hostile.service.say(struct.pack("<QQQQ", 0, 1000, 1, 20 * 10**9), kind=REFERENCE, result=7)
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.extend(other.get(b"k") for _ in range(50)))
    thread.start()
    for length in range(0, 2000, 20):
        hostile.service.say(
            struct.pack("<QQQQ", 0, length, 1, 20 * 10**9), kind=REFERENCE, result=7
        )
    thread.join()
    assert all(hostile.arena.startswith(result) for result in results)


# Places

numbered = itertools.count(1)


def record(key: bytes, value: bytes, *, version: int = 7, claimed: int | None = None) -> bytes:
    """Return the image of a record; claimed: the length of the value that it names."""
    length = len(value) if claimed is None else claimed
    seal = struct.pack("<IIQ", len(key), length, version)
    crc = crc32c(key + value[:VALUE_MAX] + seal)
    head = struct.pack("<QIIQQ", 0, crc, length, version, len(key))
    return head + key + bytes(-len(key) % 8) + value


def place(key: bytes, offset: int, length: int) -> bytes:
    tag = key_hash(key, 0) >> 48 or 1
    units = (length + 15) // 16
    slot = tag << 48 | (units & 0xFFF) << 36 | offset // 16 & (1 << 36) - 1
    return struct.pack("<QII", slot, 0, 0)


@pytest.mark.parametrize("name", ["get", "item", "get_many", "get_into_many"])
@same_server
@given(
    payload=payloads,
    status=st.sampled_from([0, 1, PLACED, 200]),
    offset=st.one_of(st.integers(0, 2 * ARENA), st.integers(0, 2**40)),
    length=st.integers(0, 0xFFFF),
)
def test_any_place_may_be_named(placing, name, payload, status, offset, length):
    payload = payload[:2000] + place(b"k", offset, length)
    if name == "get_many":
        payload = struct.pack("<B3xIQ", PLACED, 0, 1) * 16 + payload[-16:] * 16
    placing.service.say(payload, status=status, result=7)
    for _ in range(3):
        try:
            CALLS[name](placing.kv, 0.02)
        except RfpError as error:
            assert str(error)


@same_server
@given(
    offset=st.one_of(
        st.integers(0, ARENA // 16 + 100).map(lambda n: 16 * n),
        st.sampled_from([0, 560, 576, ARENA - 64, ARENA - 48, ARENA - 32, ARENA - 16, ARENA]),
    ),
    size=st.integers(0, 400),
    beyond=st.integers(-64, 64),
    claimed=st.sampled_from([None, 0, 5, 10_000, 2**32 - 1]),
)
def test_only_whole_records_within_the_arena_are_taken(placing, offset, size, beyond, claimed):
    """A record may claim any length, and its place another one."""
    key = b"%d" % next(numbered)  # whose place no earlier example has named
    image = record(key, b"r" * size, claimed=claimed)
    room = max(0, ARENA - offset)
    if room:
        placing.region.write(offset, image[:room])
    placing.service.say(b"asked" + place(key, offset, max(0, len(image) + beyond)), status=PLACED)
    assert placing.kv.get(key) in (b"asked", b"r" * size)
    found = placing.kv.get(key)
    if found != b"asked":
        assert found == b"r" * size and offset + len(image) <= ARENA
        assert claimed is None or claimed == size


def test_a_record_that_changes_all_the_time_is_never_torn(placing):
    images = [record(b"k", bytes([i]) * 300, version=i) for i in range(1, 200)]
    placing.region.write(1 << 16, images[0])
    placing.service.say(b"asked" + place(b"k", 1 << 16, len(images[0])), status=PLACED)
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            for image in images:
                placing.region.write(1 << 16, image)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        values = {placing.kv.get(b"k") for _ in range(3000)}
    finally:
        done.set()
        thread.join()
    assert values - {b"asked"} <= {bytes([i]) * 300 for i in range(1, 200)}
    assert len(values) > 1
