"""The client's calls, in any order and with any arguments, have the effect of a dict's."""

from __future__ import annotations

import re

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

import rfp
from rfp.errors import AlreadyExists, InvalidArgument, NotANumber, VersionMismatch

from .sample_values import edges, pattern

INT64 = range(-(1 << 63), 1 << 63)
FOREVER = 1e6  # seconds: a time to live that outlasts every test

# Few, so that calls meet: of every class of lengths, and equal except at their ends.
KEYS = [b"\0", b"\xff", b"k", b"kk", b"a" * 8, b"a" * 7 + b"b", b"12345",
        pattern(63, 1), pattern(64, 2), pattern(65, 3), pattern(1023, 4), pattern(1024, 4),
        pattern(1023, 4) + b"!"]  # fmt: skip
keys = st.sampled_from(KEYS) | st.binary(min_size=1, max_size=1024)
prefixes = st.sampled_from([b"k", b"a" * 7, b"12345", KEYS[-2][:100], b"none"])
offsets = st.integers(0, 100) | st.integers(0, 300_000) | st.just((1 << 63) - 1)
ttls = st.sampled_from([None, FOREVER, 1000])
numbers = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-3, 3)


def as_number(text: bytes) -> int | None:
    """Return the number that incr reads, or None if it refuses the value."""
    if len(text) > 20 or not re.fullmatch(rb"-?[0-9]+", text) or int(text) not in INT64:
        return None
    return int(text)


class StoreMachine(RuleBasedStateMachine):
    """One client, beside a dict from key to (value, version)."""

    kv: rfp.Client
    used: set[bytes]  # keys that earlier, failed runs may have left

    def __init__(self) -> None:
        super().__init__()
        self.kv.delete_many(list(self.used))
        self.used.clear()
        self.stored: dict[bytes, tuple[bytes, int]] = {}
        self.versions: dict[bytes, int] = {}  # the last version that each key ever had
        self.salt = 0

    def teardown(self) -> None:
        assert self.kv.stats()["records"] == len(self.stored)
        assert all(self.kv.delete_many(list(self.stored)))
        assert self.kv.stats()["records"] == 0

    # --- Helpers of the rules

    def value(self, data: st.DataObject, key: bytes) -> bytes:
        kind = data.draw(st.sampled_from(["short", "short", "number", "edge", "bytes"]))
        if kind == "number":
            return str(data.draw(numbers)).encode()
        if kind == "bytes":
            return data.draw(st.binary(max_size=40))
        self.salt += 1
        size = data.draw(
            st.integers(0, 80) if kind == "short" else st.sampled_from(edges(self.kv, key))
        )
        return pattern(size, self.salt)

    def stored_now(self, key: bytes, value: bytes, version: int) -> None:
        self.used.add(key)
        assert version > self.versions.get(key, 0), "a version was used twice"
        self.stored[key] = value, version
        self.versions[key] = version

    # --- Single keys

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        value, version = self.stored.get(key, (None, None))
        assert self.kv.get(key) == value
        assert self.kv.item(key) == (None if value is None else (value, version))

    @rule(key=keys)
    def exists(self, key: bytes) -> None:
        assert self.kv.exists(key) is (key in self.stored)
        assert (key in self.kv) is (key in self.stored)

    @rule(key=keys, more=st.integers(-2, 3))
    def get_into(self, key: bytes, more: int) -> None:
        value, _ = self.stored.get(key, (None, None))
        buffer = bytearray(b"\x5a" * max(0, len(value or b"") + more))
        if value is not None and len(buffer) < len(value):
            with pytest.raises(InvalidArgument, match="buffer"):
                self.kv.get_into(key, buffer)
            return
        assert self.kv.get_into(key, buffer) == (None if value is None else len(value))
        assert buffer == (value or b"").ljust(len(buffer), b"\x5a"), (
            "bytes beyond the value were written"
        )

    @rule(key=keys, offset=offsets, length=offsets)
    def get_range(self, key: bytes, offset: int, length: int) -> None:
        value, _ = self.stored.get(key, (None, None))
        part = None if value is None else value[offset : offset + length]
        assert self.kv.get_range(key, offset, length) == part

    @rule(ranges=st.lists(st.tuples(keys, offsets, offsets), max_size=40))
    def get_ranges(self, ranges: list[tuple[bytes, int, int]]) -> None:
        assert self.kv.get_ranges(ranges) == [
            self.stored[key][0][offset : offset + length] if key in self.stored else None
            for key, offset, length in ranges
        ]

    @rule(data=st.data(), key=keys, ttl=ttls)
    def put(self, data: st.DataObject, key: bytes, ttl: float | None) -> None:
        value = self.value(data, key)
        self.stored_now(key, value, self.kv.put(key, value, ttl=ttl))

    @rule(data=st.data(), key=keys)
    def put_if_absent(self, data: st.DataObject, key: bytes) -> None:
        value = self.value(data, key)
        if key in self.stored:
            with pytest.raises(AlreadyExists) as caught:
                self.kv.put(key, value, if_absent=True)
            assert caught.value.version == self.stored[key][1]
        else:
            self.stored_now(key, value, self.kv.put(key, value, if_absent=True))

    @rule(data=st.data(), key=keys, off=st.sampled_from([0, 0, 0, -1, 1, 1 << 40]))
    def put_if_version(self, data: st.DataObject, key: bytes, off: int) -> None:
        value = self.value(data, key)
        expected = self.versions.get(key, 5) + off
        if key in self.stored and self.stored[key][1] == expected:
            self.stored_now(key, value, self.kv.put(key, value, if_version=expected))
        else:
            with pytest.raises(VersionMismatch) as caught:
                self.kv.put(key, value, if_version=expected)
            assert caught.value.version == self.stored.get(key, (None, None))[1]

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        assert self.kv.delete(key) is (self.stored.pop(key, None) is not None)

    @rule(key=keys, amount=numbers)
    def incr(self, key: bytes, amount: int) -> None:
        start = as_number(self.stored[key][0]) if key in self.stored else 0
        if start is None or start + amount not in INT64:
            with pytest.raises(NotANumber):
                self.kv.incr(key, amount)
            return
        assert self.kv.incr(key, amount) == start + amount
        item = self.kv.item(key)
        assert item.value == str(start + amount).encode()
        self.stored_now(key, item.value, item.version)

    @rule(key=keys, ttl=ttls)
    def touch(self, key: bytes, ttl: float | None) -> None:
        assert self.kv.touch(key, ttl) is (key in self.stored)

    # --- Many keys

    @rule(many=st.lists(keys, max_size=40))
    def get_many(self, many: list[bytes]) -> None:
        assert self.kv.get_many(many) == [self.stored.get(key, (None, None))[0] for key in many]

    @rule(data=st.data(), many=st.lists(keys, max_size=25), ttl=ttls)
    def put_many(self, data: st.DataObject, many: list[bytes], ttl: float | None) -> None:
        items = [(key, self.value(data, key)) for key in many]
        versions = self.kv.put_many(items, ttl=ttl)
        assert len(versions) == len(items)
        # For a key that is there twice, the later put counts.
        for (key, value), version in zip(items, versions):
            self.stored_now(key, value, version)

    @rule(many=st.lists(keys, max_size=25), short=st.sets(st.integers(0, 24)))
    def get_into_many(self, many: list[bytes], short: set[int]) -> None:
        values = [self.stored.get(key, (None, None))[0] for key in many]
        buffers = [
            bytearray(max(0, len(value or b"") - (i in short))) for i, value in enumerate(values)
        ]
        results = self.kv.get_into_many(many, buffers)
        for value, buffer, result in zip(values, buffers, results, strict=True):
            if value is None:
                assert result is None
            elif len(buffer) < len(value):
                assert isinstance(result, InvalidArgument)
            else:
                assert (result, buffer) == (len(value), value)

    @rule(many=st.lists(keys, max_size=40))
    def exists_many(self, many: list[bytes]) -> None:
        assert self.kv.exists_many(many) == [key in self.stored for key in many]

    @rule(prefix=prefixes, count=st.sampled_from([1, 10, 128, 1 << 40]))
    def scan(self, prefix: bytes, count: int) -> None:
        found = []
        cursor, first = self.kv.scan(prefix, count=count)
        found += first
        while cursor:
            cursor, some = self.kv.scan(prefix, cursor, count)
            found += some
        wanted = sorted(key for key in self.stored if key.startswith(prefix))
        assert sorted(found) == sorted(self.kv.scan_iter(prefix)) == wanted

    @rule(prefix=prefixes)
    def clear(self, prefix: bytes) -> None:
        gone = [key for key in self.stored if key.startswith(prefix)]
        assert self.kv.clear(prefix) == len(gone)
        for key in gone:
            del self.stored[key]

    @rule(many=st.lists(keys, max_size=40))
    def delete_many(self, many: list[bytes]) -> None:
        assert self.kv.delete_many(many) == [self.stored.pop(key, None) is not None for key in many]


def compare(kv: rfp.Client, examples: int, steps: int) -> None:
    machine = type("Machine", (StoreMachine,), {"kv": kv, "used": set()})
    slow = list(hypothesis.HealthCheck)
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=examples, stateful_step_count=steps, suppress_health_check=slow
        ),
    )


def test_a_client_behaves_like_a_dict(each_mode: rfp.Client) -> None:
    compare(each_mode, examples=20, steps=25)


@pytest.mark.long(60)
@pytest.mark.timeout(900)
def test_a_client_behaves_like_a_dict_for_a_long_time(each_mode: rfp.Client) -> None:
    compare(each_mode, examples=400, steps=60)
