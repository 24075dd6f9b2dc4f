"""Reports of uses: the server marks a record only by a slot word that its index contains."""

from __future__ import annotations

import struct

import pytest

from rfp.store.server.partition import Partition
from rfp.testing.direct_harness import DirectReader, SharedMemory
from rfp.testing.partition_harness import key_hash

from .requests import BAD_REQUEST, OK, REFER, SECOND, UNSUPPORTED, Client

SEED = 7


class Store:
    def __init__(self, eviction: str = "clock") -> None:
        self.memory = SharedMemory(80 << 10)
        self.partition = Partition(
            self.memory,
            seed=SEED,
            eviction=eviction,
            first_version=1 << 60,
            lease_ns=SECOND,
            session_quota=1 << 30,
            max_value=1 << 20,
        )
        self.client = Client(self.partition)
        self.reader = DirectReader(self.memory, seed=SEED)

    def use(self, key: bytes) -> bytes:
        """The report of a use of this key."""
        return struct.pack("<QQ", key_hash(key, SEED), self.reader.slot(key))

    def refer(self, *uses: bytes, **options: int) -> int:
        return self.client.request(REFER, b"".join(uses), **{"count": len(uses), **options}).status

    def fill(self, begin: int, count: int) -> None:
        for i in range(begin, begin + count):
            self.client.put(b"cold %d" % i, bytes(200))


@pytest.mark.parametrize("eviction", ["clock", "bucket"])
def test_reported_uses_keep_a_record(eviction: str) -> None:
    store = Store(eviction)
    store.client.put(b"used", b"v" * 200)
    store.client.put(b"unused", b"v" * 200)
    for i in range(200):
        store.fill(10 * i, 10)
        assert store.refer(store.use(b"used")) == OK
    assert store.reader.get(b"used")[2] == b"v" * 200
    assert store.reader.get(b"unused")[2] is None
    store.partition.check()


def test_a_word_that_the_index_does_not_contain_marks_nothing() -> None:
    store = Store()
    store.client.put(b"k", b"v")
    use = store.use(b"k")
    store.client.put(b"k", b"longer than before" * 3)  # another place
    hash = key_hash(b"k", SEED)
    for slot in (0, 1, 1 << 48, (1 << 64) - 1, struct.unpack("<QQ", use)[1]):
        assert store.refer(struct.pack("<QQ", hash, slot)) == OK
        assert store.refer(struct.pack("<QQ", hash ^ 1 << 20, slot)) == OK
    assert store.reader.get(b"k")[2] == b"longer than before" * 3
    store.partition.check()


def test_malformed_reports_are_refused() -> None:
    store = Store()
    assert store.refer() == BAD_REQUEST
    assert store.refer(bytes(16), count=2) == BAD_REQUEST
    assert store.refer(bytes(17), count=1) == BAD_REQUEST
    assert store.refer(*[bytes(16)] * 65) == BAD_REQUEST
    assert store.refer(*[bytes(16)] * 64) == OK
    assert store.refer(bytes(16), flags=1) == UNSUPPORTED
