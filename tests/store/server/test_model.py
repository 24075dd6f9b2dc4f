"""A partition against a dict: versions, conditions, expiry, numbers, batches, large values."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from .requests import (
    DEFERRED,
    EXISTS_ALREADY,
    IF_ABSENT,
    IF_VERSION,
    INLINE,
    MS,
    NOT_A_NUMBER,
    NOT_FOUND,
    OK,
    OUT_OF_MEMORY,
    OVERFLOW,
    QUOTA,
    SECOND,
    UNKNOWN_UPLOAD,
    VERSION_MISMATCH,
    Client,
    partition,
    reference,
)

CAPACITY = 256
LEASE = 100 * MS

keys = st.one_of(
    st.integers(0, 30).map(lambda i: b"k%d" % i),
    st.sampled_from([b"x" * 1024, b"y" * 30, b"\0", b"12345678"]),
)
small = st.one_of(
    st.binary(max_size=40), st.integers(-(1 << 63), (1 << 63) - 1).map(lambda n: b"%d" % n)
)
lengths = st.sampled_from([0, 8, 100, CAPACITY, CAPACITY + 1, 600, 3000])
offsets = st.one_of(
    st.integers(0, 50), st.sampled_from([CAPACITY, CAPACITY + 1, 3000, (1 << 63), (1 << 64) - 1])
)
prefixes = st.sampled_from([b"", b"k", b"k1", b"x", b"y" * 30, b"z"])
ttls = st.one_of(st.just(0), st.integers(1, 50), st.just(1 << 63))


@dataclass
class Scan:
    """A scan that has begun; `must` are the keys that have existed since."""

    prefix: bytes
    must: set[bytes]
    evictions: int
    place: tuple[int, int] = (0, 0)


class Values(dict):
    """The keys of the model; a key that is removed leaves the scans too."""

    def __init__(self) -> None:
        super().__init__()
        self.scans: list[Scan] = []

    def __delitem__(self, key: bytes) -> None:
        super().__delitem__(key)
        for scan in self.scans:
            scan.must.discard(key)


@dataclass
class Value:
    value: bytes
    version: int
    expiry: int  # ns, 0: never


class Machine(RuleBasedStateMachine):
    """A partition with ample memory: all values of the model are there."""

    size = 4 << 20
    eviction = "clock"

    def __init__(self) -> None:
        super().__init__()
        self.store = partition(self.size, eviction=self.eviction, lease=LEASE, quota=1 << 17)
        self.client = Client(self.store, capacity=CAPACITY, staging=64 << 10)
        self.model: Values = Values()
        self.version = 0
        self.now = 0
        self.serial = 0
        self.uploads: dict[int, tuple[bytes, bytes, int]] = {}  # id: key, value, received
        self.pins: dict[int, tuple[int, bytes, int]] = {}  # pin: offset, value, until

    uploads_begun = Bundle("uploads_begun")

    @initialize(now=st.integers(0, 10 * SECOND))
    def begin(self, now: int) -> None:
        self.now = now
        self.client.tick(now)

    def content(self, length: int) -> bytes:
        self.serial += 1
        return (self.serial.to_bytes(8, "little") * (length // 8 + 1))[:length]

    def there(self, key: bytes) -> Value | None:
        value = self.model.get(key)
        if value and value.expiry and value.expiry <= self.now // MS * MS:
            del self.model[key]
            return None
        return value

    def lost(self, key: bytes) -> None:
        """Fail: the server no longer has a value of the model."""
        raise AssertionError(f"{key!r} is lost")

    def refused(self) -> None:
        raise AssertionError("a request was refused although there is enough memory")

    def record_put(self, key: bytes, value: bytes, version: int, expiry: int) -> None:
        self.version += 1
        assert version == self.version
        self.there(key)  # an expired value ends before the new one begins
        self.model[key] = Value(value, version, expiry)

    def expiry(self, ttl: int) -> int:
        return min((self.now + 2 * MS - 1) // MS + ttl, (1 << 40) - 1) * MS if ttl else 0

    @rule(key=keys, value=st.one_of(small, lengths), ttl=ttls)
    def put(self, key: bytes, value: bytes | int, ttl: int) -> None:
        content = self.content(value) if isinstance(value, int) else value
        answer = self.client.put(key, content, ttl=ttl)
        if answer.status == OUT_OF_MEMORY:
            self.refused()
            return
        assert answer.status == OK
        self.record_put(key, content, answer.result, self.expiry(ttl))

    @rule(
        key=keys,
        value=small,
        condition=st.sampled_from([IF_ABSENT, IF_VERSION]),
        guess=st.booleans(),
    )
    def put_if(self, key: bytes, value: bytes, condition: int, guess: bool) -> None:
        answer = self.client.exists(key)
        there = self.there(key)
        if there and answer.status == NOT_FOUND:
            self.lost(key)
            there = None
        version = there.version if there and guess else self.version + 1
        answer = self.client.put(key, value, flags=condition, version=version)
        if answer.status == OUT_OF_MEMORY:
            self.refused()
        elif condition == IF_ABSENT and there:
            assert answer == (EXISTS_ALREADY, INLINE, there.version, b"")
        elif condition == IF_VERSION and (not there or not guess):
            assert answer == (VERSION_MISMATCH, INLINE, there.version if there else 0, b"")
        else:
            assert answer.status == OK
            self.record_put(key, value, answer.result, 0)

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        answer = self.client.get(key)
        there = self.there(key)
        if answer.status == QUOTA:
            assert there
            assert len(there.value) > CAPACITY
        elif answer.status == NOT_FOUND:
            if there:
                self.lost(key)
        else:
            assert there
            assert answer.status == OK
            assert answer.result == there.version
            if len(there.value) <= CAPACITY:
                assert answer.kind == INLINE
                assert answer.payload == there.value
            else:
                ref = reference(answer)
                assert ref.length == len(there.value)
                assert ref.lease == LEASE
                assert ref.pin not in self.pins
                # The lease begins with the first tick() after this.
                self.pins[ref.pin] = (ref.offset, there.value, 1 << 63)

    @rule(key=keys, offset=offsets, length=offsets)
    def get_range(self, key: bytes, offset: int, length: int) -> None:
        answer = self.client.get_range(key, offset, length)
        there = self.there(key)
        if answer.status == QUOTA:
            assert there
        elif answer.status == NOT_FOUND:
            if there:
                self.lost(key)
        else:
            assert there
            assert (answer.status, answer.result) == (OK, there.version)
            part = there.value[offset : offset + length]
            if len(part) <= CAPACITY:
                assert (answer.kind, answer.payload) == (INLINE, part)
            else:
                ref = reference(answer)
                assert ref.length == len(part)
                self.pins[ref.pin] = (ref.offset, part, 1 << 63)

    @rule(asked=st.lists(st.tuples(keys, offsets, offsets), max_size=5), capacity=lengths)
    def get_ranges(self, asked: list[tuple[bytes, int, int]], capacity: int) -> None:
        left = capacity
        results = self.client.get_ranges(asked, capacity=16 * len(asked) + capacity)
        for (key, offset, length), result in zip(asked, results, strict=True):
            there = self.there(key)
            if result.status == NOT_FOUND:
                if there:
                    self.lost(key)
                continue
            assert there
            part = there.value[offset : offset + length]
            if len(part) > left:
                assert result == (DEFERRED, there.version, b"")
            else:
                assert result == (OK, there.version, part)
                left -= len(part)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        answer = self.client.delete(key)
        there = self.there(key)
        if answer.status == NOT_FOUND:
            if there:
                self.lost(key)
        else:
            assert there
            assert answer == (OK, INLINE, there.version, b"")
            del self.model[key]

    @rule(key=keys, delta=st.one_of(st.integers(-5, 5), st.integers(-(1 << 63), (1 << 63) - 1)))
    def incr(self, key: bytes, delta: int) -> None:
        there = self.there(key)
        if there and self.client.exists(key).status == NOT_FOUND:
            self.lost(key)
            there = None
        answer = self.client.incr(key, delta)
        number = 0
        if there:
            try:
                number = (
                    int(there.value)
                    if there.value.lstrip(b"-").isdigit() and there.value.count(b"-") < 2
                    else None
                )
            except ValueError:
                number = None
            if number is None or len(there.value) > 20 or not -(1 << 63) <= number < 1 << 63:
                assert answer == (NOT_A_NUMBER, INLINE, there.version, b"")
                return
        if not -(1 << 63) <= number + delta < 1 << 63:
            assert answer.status == OVERFLOW
        elif answer.status == OUT_OF_MEMORY:
            self.refused()
        else:
            assert answer.status == OK
            assert struct.unpack("<q", answer.payload) == (number + delta,)
            self.record_put(
                key, b"%d" % (number + delta), answer.result, there.expiry if there else 0
            )

    @rule(key=keys, ttl=ttls)
    def touch(self, key: bytes, ttl: int) -> None:
        answer = self.client.touch(key, ttl)
        there = self.there(key)
        if answer.status == NOT_FOUND:
            if there:
                self.lost(key)
        else:
            assert there
            assert answer == (OK, INLINE, there.version, b"")
            there.expiry = self.expiry(ttl)

    @rule(items=st.lists(st.tuples(keys, small), max_size=20), ttl=ttls)
    def put_many(self, items: list[tuple[bytes, bytes]], ttl: int) -> None:
        for (key, value), result in zip(
            items, self.client.put_many(items, ttl=ttl, capacity=1024), strict=True
        ):
            if result.status == OUT_OF_MEMORY:
                self.refused()
            else:
                assert result.status == OK
                self.record_put(key, value, result.version, self.expiry(ttl))

    @rule(asked=st.lists(keys, max_size=20), capacity=st.integers(0, 500))
    def get_many(self, asked: list[bytes], capacity: int) -> None:
        left = capacity
        for key, result in zip(
            asked, self.client.get_many(asked, capacity=16 * len(asked) + capacity), strict=True
        ):
            there = self.there(key)
            if result.status == NOT_FOUND:
                if there:
                    self.lost(key)
                continue
            assert there
            assert result.version == there.version
            if len(there.value) > left:
                assert result.status == DEFERRED
                assert result.value == b""
            else:
                assert result.status == OK
                assert result.value == there.value
                left -= len(there.value)

    @rule(asked=st.lists(keys, max_size=8))
    def exists_many(self, asked: list[bytes]) -> None:
        for key, result in zip(asked, self.client.exists_many(asked), strict=True):
            there = self.there(key)
            if result.status == NOT_FOUND:
                if there:
                    self.lost(key)
            else:
                assert there
                assert result == (OK, there.version, b"")

    @rule(gone=st.lists(keys, max_size=5))
    def delete_many(self, gone: list[bytes]) -> None:
        for key, result in zip(gone, self.client.delete_many(gone), strict=True):
            there = self.there(key)
            if result.status == NOT_FOUND:
                if there:
                    self.lost(key)
            else:
                assert there
                assert result == (OK, there.version, b"")
                del self.model[key]

    @rule(prefix=prefixes)
    def scan_begin(self, prefix: bytes) -> None:
        must = {key for key in list(self.model) if self.there(key) and key.startswith(prefix)}
        self.model.scans.append(Scan(prefix, must, self.store.stats()["evictions"]))

    @precondition(lambda self: self.model.scans)
    @rule(data=st.data(), steps=st.integers(1, 30), limit=st.integers(1, 20))
    def scan_step(self, data: st.DataObject, steps: int, limit: int) -> None:
        scan = data.draw(st.sampled_from(self.model.scans))
        for _ in range(steps):
            scan.place, found = self.client.scan(
                scan.prefix, scan.place, limit=limit, capacity=2000
            )
            for key in found:
                assert self.there(key)
                assert key.startswith(scan.prefix)
                scan.must.discard(key)
            if scan.place == (0, 0):
                self.model.scans.remove(scan)
                # The model does not know which keys were evicted.
                assert not scan.must or self.store.stats()["evictions"] > scan.evictions
                break

    @rule(prefix=prefixes, limit=st.integers(1, 20))
    def clear(self, prefix: bytes, limit: int) -> None:
        cleared = [key for key in list(self.model) if key.startswith(prefix) and self.there(key)]
        deleted = self.client.clear_all(prefix, limit=limit)
        if deleted != len(cleared):
            assert deleted < len(cleared)
            assert self.store.stats()["evictions"] > 0
        for key in cleared:
            del self.model[key]

    @rule(key=keys, length=st.integers(0, 20000))
    def upload_begin(self, key: bytes, length: int) -> None:
        answer = self.client.put_begin(key, length)
        if answer.status == OUT_OF_MEMORY:
            self.refused()
        elif answer.status == QUOTA:
            assert len(self.uploads) == 8 or length > 1 << 15
        else:
            assert answer.status in (OK, DEFERRED)
            assert answer.result not in self.uploads
            if answer.status == OK:
                self.uploads[answer.result] = (key, self.content(length), 0)
            else:
                self.client.abort(answer.result)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), length=st.integers(1, 12000))
    def upload_piece(self, data: st.DataObject, length: int) -> None:
        upload = data.draw(st.sampled_from(sorted(self.uploads)))
        key, value, received = self.uploads[upload]
        self.there(key)
        answer = self.client.put_piece(
            upload, received, value[received : received + length], staging=100
        )
        received += len(value[received : received + length])
        if answer.status == OUT_OF_MEMORY:
            self.refused()
            del self.uploads[upload]
            return
        assert answer.status == OK
        if received < len(value):
            assert answer.result == 0
            self.uploads[upload] = (key, value, received)
        else:
            del self.uploads[upload]
            self.record_put(key, value, answer.result, 0)

    @precondition(lambda self: self.uploads)
    @rule(data=st.data())
    def upload_abort(self, data: st.DataObject) -> None:
        upload = data.draw(st.sampled_from(sorted(self.uploads)))
        assert self.client.abort(upload).status == OK
        assert self.client.abort(upload).status == UNKNOWN_UPLOAD
        del self.uploads[upload]

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pin = data.draw(st.sampled_from(sorted(self.pins)))
        assert self.client.release(pin).status == OK
        del self.pins[pin]

    @rule(step=st.one_of(st.integers(0, 3 * MS), st.integers(0, 200 * MS)))
    def time_passes(self, step: int) -> None:
        self.now += step
        self.client.tick(self.now)
        for pin, (offset, value, until) in list(self.pins.items()):
            if until == 1 << 63:
                self.pins[pin] = (offset, value, self.now + LEASE + LEASE // 4)
            elif until <= self.now:
                del self.pins[pin]

    @rule()
    def another_session_begins_and_ends(self) -> None:
        other = Client(self.store, capacity=CAPACITY)
        for key in list(self.model)[:3]:
            other.get(key)
        other.put_begin(b"never", 5000)
        other.close()

    @invariant()
    def pinned_values_do_not_change(self) -> None:
        for offset, value, _ in self.pins.values():
            assert self.store.region.read(offset, len(value)) == value

    @invariant()
    def the_partition_is_consistent(self) -> None:
        self.store.check()
        stats = self.store.stats()
        assert stats["pins"] == len(self.pins)
        assert stats["uploads"] == len(self.uploads)

    def teardown(self) -> None:
        self.client.close()
        self.store.check()
        client = Client(self.store, capacity=1 << 15)
        for key in list(self.model):
            there = self.there(key)
            if there:
                answer = client.get(key)
                if answer.status == NOT_FOUND:
                    self.lost(key)
                else:
                    assert answer == (OK, INLINE, there.version, there.value), (key, there)
        for key in list(self.model):
            client.delete(key)
        self.now += 1 << 62
        while client.tick(self.now):
            pass
        stats = self.store.stats()
        assert (
            stats["records"]
            == stats["value_bytes"]
            == stats["bytes_reserved"]
            == stats["pins"]
            == 0
        )
        client.close()


class CrowdedMachine(Machine):
    """A full partition: a value is the last that was put, and any value may be evicted."""

    size = 64 << 10

    def lost(self, key: bytes) -> None:
        assert self.store.stats()["evictions"] > 0
        del self.model[key]

    def refused(self) -> None:
        assert (
            self.store.stats()["evictions"]
            + self.store.stats()["bytes_reserved"]
            + self.store.stats()["pins"]
            > 0
        )


class BucketMachine(CrowdedMachine):
    """The fixed table evicts from a full bucket even while there is memory."""

    eviction = "bucket"


class NoEvictionMachine(CrowdedMachine):
    """Without eviction no value is lost; puts are refused and do not replace the old value."""

    eviction = "none"

    def lost(self, key: bytes) -> None:
        raise AssertionError(f"{key!r} is lost")

    def refused(self) -> None:
        stats = self.store.stats()
        assert stats["evictions"] == 0
        assert stats["bytes_used"] > self.size // 4


TestRoomy = Machine.TestCase
TestCrowded = CrowdedMachine.TestCase
TestBucket = BucketMachine.TestCase
TestNoEviction = NoEvictionMachine.TestCase


@pytest.mark.parametrize("eviction", ["clock", "bucket", "none"])
def test_the_machines_reach_every_outcome(eviction):
    """The machines above prove something only if 64 KiB of memory are used up."""
    store = partition(64 << 10, eviction=eviction)
    client = Client(store)
    statuses = {client.put(b"k%d" % i, bytes(3000)).status for i in range(31)}
    assert statuses == ({OK, OUT_OF_MEMORY} if eviction == "none" else {OK})
    assert (store.stats()["evictions"] > 0) == (eviction != "none")
