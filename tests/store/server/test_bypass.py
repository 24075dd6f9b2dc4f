"""Bypass GETs that walk the server's index: found by the walk or by a request, never wrong."""

from __future__ import annotations

import threading
import zlib

import pytest
from slower import rounds

import rfp
from rfp.errors import Unsupported

pytestmark = pytest.mark.anywhere


@pytest.fixture
def server():
    with rfp.Server(memory="32MiB", workers=2) as server:
        yield server


@pytest.fixture
def kv(server):
    with rfp.connect(server.address) as kv:
        yield kv


@pytest.fixture
def walker(server):
    with rfp.connect(server.address, mode="bypass") as walker:
        yield walker


def walks(walker):
    return walker.stats()["client"]["bypass"]


def test_a_walk_takes_about_two_reads_and_no_request(kv, walker):
    kv.put_many((b"key%d" % i, b"value%d" % i) for i in range(10_000))
    gets = kv.stats()["gets"]
    assert all(walker.get(b"key%d" % i) == b"value%d" % i for i in range(10_000))
    counted = walks(walker)
    assert counted["found"] >= 9_990 and counted["reads"] < 2.2 * 10_000
    assert kv.stats()["gets"] - gets == 10_000 - counted["found"]


def test_a_walk_returns_the_version_that_put_returned(kv, walker):
    version = kv.put(b"k", b"v")
    assert walker.item(b"k") == (b"v", version)
    buffer = bytearray(4)
    assert walker.get_into(b"k", buffer) == 1 and buffer[:1] == b"v"
    assert walks(walker)["found"] == 2


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000, 2000, 3000, 1 << 20])
def test_values_of_every_length_are_returned_whole_by_a_walk_or_a_request(kv, walker, length):
    value = bytes(i * 37 % 256 for i in range(length))
    kv.put(b"k" * 9, value)
    assert walker.get(b"k" * 9) == value


def test_a_value_with_a_time_to_live_is_requested(kv, walker):
    kv.put(b"k", b"v", ttl=100)
    assert walker.get(b"k") == b"v" and walks(walker)["found"] == 0


def test_a_key_missing_in_the_walk_is_requested(kv, walker):
    misses = kv.stats()["misses"]
    assert walker.get(b"nobody") is None
    assert kv.stats()["misses"] == misses + 1


def test_a_walk_finds_records_that_moved_when_the_index_grew(kv, walker):
    kv.put(b"k", b"v")
    assert walker.get(b"k") == b"v"
    kv.put_many((b"key%d" % i, b"x") for i in range(50_000))
    assert walker.get(b"k") == b"v"
    assert all(walker.get(b"key%d" % i) == b"x" for i in range(0, 50_000, 97))


def test_a_server_that_does_not_allow_bypass_refuses_it():
    with (
        rfp.Server(memory="4MiB", direct_reads=False) as server,
        rfp.connect(server.address, mode="bypass") as walker,
    ):
        with pytest.raises(Unsupported, match="does not allow mode"):
            walker.get(b"k")


def test_a_walk_during_writes_never_returns_a_torn_or_foreign_value(kv, walker):
    keys = [b"key%d" % i for i in range(64)]

    def sealed(key, n):
        body = key + b"/%d/" % n + bytes([n % 256]) * (n * 7 % 900)
        return body + zlib.crc32(body).to_bytes(4, "little")

    kv.put_many((key, sealed(key, 0)) for key in keys)
    stop = threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            kv.put_many([(key, sealed(key, n)) for key in keys])
            kv.put(b"filler%d" % n, bytes(500))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        newest = dict.fromkeys(keys, 0)
        for i in range(rounds(20_000, 8_000)):
            key = keys[i % 64]
            value = walker.get(key)
            assert zlib.crc32(value[:-4]).to_bytes(4, "little") == value[-4:]
            name, n, _ = value.split(b"/", 2)
            assert name == key and int(n) >= newest[key]
            newest[key] = int(n)
    finally:
        stop.set()
        writer.join()
    assert walks(walker)["found"] > 1000
