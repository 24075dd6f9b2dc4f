"""Large values of a batch: several under way at a time, into new bytes or the caller's buffers."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest

import rfp
from rfp.errors import InvalidArgument, OutOfMemory, WrongBuffer, WrongType

from .sample_values import edges, pattern

pytestmark = pytest.mark.anywhere


def test_values_of_every_size_get_into_their_buffers(each_mode: rfp.Client) -> None:
    kv = each_mode
    sizes = edges(kv, b"key 0") * 3
    values = {b"key %d" % i: pattern(size, i) for i, size in enumerate(sizes)}
    versions = kv.put_many(values)
    assert all(type(version) is int for version in versions)
    assert kv.get_many(values) == list(values.values())
    for spare in (0, 10):
        buffers = [bytearray(b"\x5a" * (size + spare)) for size in sizes]
        assert kv.get_into_many(values, buffers) == sizes
        assert buffers == [value + b"\x5a" * spare for value in values.values()]
    assert sum(kv.stats()["pins"] for _ in range(2)) == 0
    assert all(kv.delete_many(values))


def test_each_key_has_its_result(each_mode: rfp.Client) -> None:
    kv = each_mode
    kv.put_many({b"a": b"12345", b"b": pattern(9000), b"c": pattern(300_000)})
    asked = [b"a", b"nobody", b"b", b"a", b"c", b"b", b"c"]
    buffers = [bytearray(n) for n in (5, 5, 9000, 4, 299_999, 8999, 300_000)]
    results = kv.get_into_many(asked, buffers)
    assert results[:3] == [5, None, 9000]
    assert [type(result) for result in results[3:6]] == [InvalidArgument] * 3
    assert results[6] == 300_000
    assert (buffers[0], buffers[2], buffers[6]) == (
        b"12345",
        pattern(9000),
        pattern(300_000),
    )
    assert kv.get_into_many([], []) == []
    kv.delete_many([b"a", b"b", b"c"])


def test_buffers_are_as_many_as_keys_and_writable(kv: rfp.Client) -> None:
    kv.put(b"k", b"v")
    for buffers in ([], [bytearray(1)] * 2):
        with pytest.raises(InvalidArgument, match="a buffer for each key"):
            kv.get_into_many([b"k"], buffers)
    with pytest.raises(WrongBuffer):
        kv.get_into_many([b"k"], [b"v"])
    with pytest.raises(WrongType, match="int"):
        kv.get_into_many([b"k"], 5)
    with pytest.raises(WrongType):
        kv.get_into_many([b"k"], [5])
    array = np.zeros(3, "u1")
    assert kv.get_into_many(iter([b"k"]), iter([array])) == [1]
    assert array[0] == ord("v")
    buffer = bytearray(1)
    kv.get_into_many([b"k"], [buffer])
    buffer += b"resized"  # the handle does not hold it after the call


def test_registered_buffers_are_used(kv: rfp.Client) -> None:
    whole = bytearray(1 << 20)
    values = [pattern(50_000, i) for i in range(20)]
    views = [memoryview(whole)[50_000 * i : 50_000 * (i + 1)] for i in range(20)]
    with kv.register(whole):
        for view, value in zip(views, values):
            view[:] = value
        kv.put_many((b"r%d" % i, view) for i, view in enumerate(views))
        whole[:] = bytes(1 << 20)
        keys = [b"r%d" % i for i in range(20)]
        assert kv.get_into_many(keys, views) == [50_000] * 20
        assert whole[:1_000_000] == b"".join(values)
    assert all(kv.delete_many(keys))


def test_later_values_of_a_key_win(each_mode: rfp.Client, rng: random.Random) -> None:
    kv = each_mode
    for _ in range(10):
        items = [
            (
                b"k%d" % rng.randrange(4),
                pattern(rng.choice([1, 3000, 100_000, 140_000]), i),
            )
            for i in range(40)
        ]
        versions = kv.put_many(items)
        last = {key: (value, version) for (key, value), version in zip(items, versions)}
        assert {key: kv.item(key) for key in last} == last
        kv.delete_many(last)


@pytest.mark.parametrize("mode", ["auto", "reply"])
def test_a_small_quota_stores_and_returns_all_values(mode: str) -> None:
    with (
        rfp.Server(memory="16MiB", quota="200KiB") as server,
        rfp.connect(server.address, mode=mode, timeout=20) as kv,
        rfp.connect(server.address, mode=mode, timeout=20) as other,
    ):
        values = {b"k%d" % i: pattern(60_000, i) for i in range(40)}
        threads = [threading.Thread(target=kv.put_many, args=(values,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert all(type(version) is int for version in other.put_many(values))
        for thread in threads:
            thread.join()
        assert kv.get_many(values) == list(values.values())
        buffers = [bytearray(60_000) for _ in values]
        assert other.get_into_many(values, buffers) == [60_000] * 40
        assert buffers == list(values.values())
        stats = kv.stats()
        assert stats["uploads"] == stats["bytes_reserved"] == 0


@pytest.mark.parametrize("eviction", ["clock", "none"])
def test_values_without_room_are_refused_each_for_itself(eviction: str) -> None:
    with (
        rfp.Server(memory="4MiB", eviction=eviction) as server,
        rfp.connect(server.address, timeout=20) as kv,
    ):
        values = {b"k%d" % i: pattern(100_000, i) for i in range(60)}
        results = kv.put_many(values)
        stored = [value for value in kv.get_many(values) if value is not None]
        assert set(stored) <= set(values.values())
        assert len(stored) >= 20
        if eviction == "clock":
            assert all(type(result) is int for result in results)
        else:
            assert len(stored) == sum(type(result) is int for result in results)
            refused = {type(result) for result in results if type(result) is not int}
            assert refused == {OutOfMemory}
        assert kv.stats()["uploads"] == 0


def test_a_batch_waits_for_a_window_of_values_not_for_each(
    each_mode: rfp.Client,
) -> None:
    """Count requests, not time: an announcement and a piece for each value."""
    kv = each_mode
    values: dict[bytes, Any] = {b"k%d" % i: pattern(20_000, i) for i in range(64)}
    kv.put_many(values)
    before = kv.stats()["client"]["submitted"]
    kv.put_many(values)
    requests = kv.stats()["client"]["submitted"] - before
    assert requests == 2 * 64 + len(kv.stats()["partitions"])
    assert all(kv.delete_many(values))
