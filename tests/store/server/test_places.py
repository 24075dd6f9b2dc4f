"""A response names the place of a record: one READ of it later finds the value, or nothing."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from rfp.store.server.partition import Partition
from rfp.testing import location_harness
from rfp.testing.partition_harness import Memory, Session

from .requests import (
    DELETE,
    EXISTS,
    GET,
    GET_MANY,
    GET_RANGE,
    MS,
    OK,
    PUT,
    SECOND,
    UNSUPPORTED,
    Client,
)

NAME_PLACE, PLACED, EXPIRES = 8, 13, 1
SEED = 7
SIZE = 1 << 20
SEALED = 4096

Check = Callable[[bytes, bytes], "tuple[bytes, int, int] | None"]


def whole_record(copy: bytes, key: bytes) -> tuple[bytes, int, int] | None:
    return location_harness.whole_record(copy, SEED, key)


class Store(Client):
    def __init__(self, size: int = SIZE, eviction: str = "clock", seed: int = SEED) -> None:
        self.memory = Memory(size)
        self.store = Partition(
            self.memory,
            seed=seed,
            eviction=eviction,
            first_version=1 << 60,
            lease_ns=SECOND,
            session_quota=1 << 30,
            max_value=1 << 20,
        )
        self.session = Session(self.store, capacity=8192)

    def placed(self, key: bytes) -> tuple[bytes, int, int] | None:
        """Return (value, slot, flags) of a GET, or None."""
        answer = self.request(GET, key, flags=NAME_PLACE)
        if answer.status != PLACED:
            return None
        slot, flags, unused = struct.unpack("<QII", answer.payload[-16:])
        assert unused == 0
        return answer.payload[:-16], slot, flags

    def at(self, slot: int) -> bytes:
        """Return the bytes at the place of a slot."""
        return self.memory.read((slot & (1 << 36) - 1) * 16, (slot >> 36 & 0xFFF) * 16)


def test_a_get_names_the_place_of_the_whole_record() -> None:
    store = Store()
    for length in (0, 1, 7, 100, 2000, SEALED):
        key, value = b"key %d" % length, bytes(i % 251 for i in range(length))
        version = store.put(key, value).result
        found = store.placed(key)
        assert found is not None and found[0] == value and found[2] == 0
        assert whole_record(store.at(found[1]), key) == (value, version, 0)
        assert store.get(key).payload == value, "without the flag the response names no place"


def test_a_place_says_that_the_record_expires() -> None:
    store = Store()
    store.session.tick(5 * SECOND)
    store.put(b"k", b"v", ttl=1000)
    found = store.placed(b"k")
    assert found is not None and found[2] & EXPIRES
    record = whole_record(store.at(found[1]), b"k")
    assert record is not None and record[2] * MS >= 6 * SECOND


def test_no_place_is_named_for_values_without_a_checksum_or_without_room_in_the_response() -> None:
    store = Store()
    store.put(b"long", bytes(SEALED + 1))
    store.put(b"k", bytes(100))
    assert store.request(GET, b"long", flags=NAME_PLACE).status == OK
    for capacity, status in ((100, OK), (115, OK), (116, PLACED)):
        answer = store.request(GET, b"k", flags=NAME_PLACE, capacity=capacity)
        assert answer.status == status
        assert answer.payload[:100] == bytes(100)
        assert len(answer.payload) == (116 if status == PLACED else 100)
    assert store.request(GET, b"nobody", flags=NAME_PLACE).payload == b""


def test_a_batch_names_the_places_of_its_values() -> None:
    store = Store()
    values = {b"a": b"1", b"b": bytes(5000), b"c": b"", b"d": bytes(300)}
    for key, value in values.items():
        store.put(key, value)
    keys = [b"a", b"nobody", b"b", b"c", b"d"]
    payload = b"".join(struct.pack("<H", len(key)) + key for key in keys)
    answer = store.request(GET_MANY, payload, count=len(keys), flags=NAME_PLACE)
    rest = answer.payload[16 * len(keys) :]
    slots = iter(struct.unpack(f"<{'QQ' * 3}", rest[-48:])[::2])
    for i, key in enumerate(keys):
        status, length, _ = struct.unpack("<B3xIQ", answer.payload[16 * i : 16 * i + 16])
        if key not in values:
            assert status == 1
            continue
        assert rest[:length] == values[key]
        rest = rest[length:]
        assert status == (PLACED if length <= SEALED else OK)
        if status == PLACED:
            assert whole_record(store.at(next(slots)), key)[0] == values[key]  # type: ignore[index]
    assert len(rest) == 48


def test_a_batch_that_fills_its_response_names_all_places_after_some_repetitions() -> None:
    store = Store()
    keys = [b"key %d" % i for i in range(16)]
    for key in keys:
        store.put(key, bytes(113))  # 16 of them and the items fill 2080 bytes, but for 16
    known: set[bytes] = set()
    for _ in range(5):
        rest = [key for key in keys if key not in known]
        payload = b"".join(struct.pack("<H", len(key)) + key for key in rest)
        answer = store.request(GET_MANY, payload, count=len(rest), flags=NAME_PLACE, capacity=2080)
        assert len(answer.payload) <= 2080
        statuses = answer.payload[: 16 * len(rest) : 16]
        known |= {key for key, status in zip(rest, statuses, strict=True) if status == PLACED}
    assert known == set(keys)


def test_named_places_are_no_refusals() -> None:
    store = Store()
    store.put(b"k", b"v")
    before = store.store.stats()["refused"]
    store.placed(b"k")
    assert store.store.stats()["refused"] == before
    for opcode in (EXISTS, DELETE, GET_RANGE, PUT):
        assert store.request(opcode, b"k" * 30, flags=NAME_PLACE).status == UNSUPPORTED


# A reader that remembers places, beside a dict


def run(check: Check, seed: int, turns: int, eviction: str = "clock") -> int:
    """Read at remembered places while records come, go and move; return how many values were read.

    Raises:
        AssertionError: a value was read that the key does not have.
    """
    rng = random.Random(seed)
    store = Store(128 << 10, eviction)
    keys = [b"key %03d" % i for i in range(60)] + [b"k" * 200]
    places: dict[bytes, set[int]] = {key: set() for key in keys}
    found = 0
    for _ in range(turns):
        key = rng.choice(keys)
        action = rng.random()
        if action < 0.35:
            size = rng.choice([1, 30, 31, 32, 400, rng.randrange(4000)])
            store.put(key, bytes([rng.randrange(256)]) * size)
        elif action < 0.45:
            store.delete(key)
        else:
            named = store.placed(key)
            if named is not None:
                places[key].add(named[1])
        for each in rng.sample(keys, 5):
            now = store.get(each)
            current = now.payload if now.status == OK else None
            for slot in places[each]:
                read = check(store.at(slot), each)
                assert read is None or (read[0], read[1]) == (current, now.result), each
                found += read is not None
    return found


@pytest.mark.parametrize("eviction", ["clock", "bucket"])
def test_a_record_at_a_place_of_its_key_is_the_value_of_the_key(eviction: str, seed: int) -> None:
    assert run(whole_record, seed, 6000, eviction) > 500


def header(copy: bytes) -> tuple[int, int, int, int]:
    _, crc, length, version, state = struct.unpack("<QIIQQ", copy[:32])
    return crc, length, version, state & 0x7FF


def without_version(copy: bytes, key: bytes) -> tuple[bytes, int, int] | None:
    """A reader that ignores the version: whether the record is current."""
    _, length, version, key_length = header(copy)
    value = 32 + (key_length + 7) // 8 * 8
    if copy[32 : 32 + key_length] != key or value + length > len(copy):
        return None
    return copy[value : value + length], version, 0


def without_key(copy: bytes, key: bytes) -> tuple[bytes, int, int] | None:
    """A reader that believes any whole record at the place."""
    other = copy[32 : 32 + header(copy)[3]]
    return whole_record(copy, other) if other else None


def without_length(copy: bytes, key: bytes) -> tuple[bytes, int, int] | None:
    """A reader that takes the length of the value from the place, and not from the record."""
    read = whole_record(copy, key)
    value = 32 + (len(key) + 7) // 8 * 8
    return None if read is None else (copy[value : len(copy) - 15], *read[1:])


@pytest.mark.planted
@pytest.mark.parametrize("fault", [without_version, without_key, without_length])
def test_a_faulty_reader_is_caught(fault: Check, seed: int) -> None:
    with pytest.raises(AssertionError, match="key|kkk"):
        run(fault, seed, 6000)


def test_a_damaged_copy_is_no_record() -> None:
    store = Store()
    store.put(b"key", bytes(range(100)))
    slot = store.placed(b"key")[1]  # type: ignore[index]
    copy = store.at(slot)
    assert whole_record(copy, b"key")
    state = range(24, 32)  # expiry, pins and mark are not covered
    block = range(8)
    used = 32 + 8 + 100
    for at in range(len(copy)):
        damaged = bytearray(copy)
        damaged[at] ^= 1 << at % 8
        found = whole_record(bytes(damaged), b"key")
        if at not in (*state, *block) and not 35 <= at < 40 and at < used:
            assert found is None, at
    for length in range(len(copy)):
        assert whole_record(copy[:length], b"key") is None


@pytest.mark.parametrize("offset", [0, 16, 48])
def test_a_value_cannot_imitate_a_record_without_the_servers_seed(offset: int) -> None:
    def image(seed: int, size: int) -> bytes:
        """A record of b"key", as a server of this seed would store it, padded to a size."""
        store = Store(seed=seed)
        store.put(b"key", b"false")
        record = store.at(store.placed(b"key")[1])  # type: ignore[index]
        return record.ljust(size, b"\0")

    store = Store()
    for seed, found in ((SEED, True), (SEED + 1, False), (0, False)):
        # The stranger's value begins at a multiple of 16 behind a record's header and key.
        store.put(b"stranger's key 1", bytes(offset) + image(seed, 200))
        value, slot, _ = store.placed(b"stranger's key 1")  # type: ignore[misc]
        place = slot + (32 + 16 + offset) // 16
        assert (whole_record(store.at(place), b"key") is not None) is found, seed
        assert value[offset:] == image(seed, 200)
