"""Versions, times to live, and the effects of a restart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import server_addresses

import rfp
from rfp.errors import VersionMismatch

from .sample_values import pattern

pytestmark = pytest.mark.anywhere

SIZES = (5, 3000, 300_000)


def until(condition: Callable[[], bool], seconds: float = 20) -> float:
    """Poll until condition() is true; return the time (time.monotonic()) of that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
    return time.monotonic()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = Path(tmp_path_factory.mktemp("place", numbered=True))
    folder.chmod(0o700)
    return server_addresses.own(folder)


def test_versions_only_grow_over_all_keys_of_a_worker(kv: rfp.Client) -> None:
    versions = []
    for i in range(100):
        key = b"key %d" % (i % 7)
        versions.append(kv.put(key, pattern(SIZES[i % 3])))
        if i % 5 == 0:
            kv.delete(key)
            kv.incr(key)
            versions.append(kv.item(key).version)
        versions.extend(kv.put_many({b"a": b"1", b"b": bytes(3000)}.items()))
    small, large = versions.index(versions[-2]), versions.index(versions[-1])
    assert small < large
    assert versions == sorted(set(versions))


def test_touch_keeps_the_version(kv: rfp.Client) -> None:
    version = kv.put(b"k", b"v")
    assert kv.touch(b"k", 100) and kv.touch(b"k")
    assert kv.item(b"k") == (b"v", version)


@pytest.mark.parametrize("workers", [1, 3])
def test_versions_grow_over_a_restart(place: str, workers: int) -> None:
    last = 0
    with rfp.Server(memory="8MiB", address=place, workers=workers) as server:
        kv = rfp.connect(place)
    for _ in range(3):
        with rfp.Server(memory="8MiB", address=place, workers=workers) as server:
            for i in range(50):
                assert kv.get(b"key %d" % i) is None, "a value of another server was returned"
            if last:
                with pytest.raises(VersionMismatch):
                    kv.put(b"key 0", b"v", if_version=last)
            versions = kv.put_many((b"key %d" % i, b"v") for i in range(50))
            assert min(versions) > last
            last = max(versions)
            # Both handles agree on which worker has which key.
            with rfp.connect(server.address) as other:
                assert other.get_many(b"key %d" % i for i in range(50)) == [b"v"] * 50
                assert all(kv.get(b"key %d" % i) == b"v" and b"key %d" % i in kv for i in range(50))
    kv.close()


def test_a_handle_works_after_a_restart_with_other_workers_and_slots(place: str) -> None:
    server = rfp.Server(memory="16MiB", address=place, workers=3)
    with rfp.connect(place, timeout=20) as kv:
        for workers in (1, 4, 2):
            kv.put_many((b"key %d" % i, b"v") for i in range(40))
            server.close()
            server = rfp.Server(memory="16MiB", address=place, workers=workers)
            assert len(kv.stats()["partitions"]) == workers
            kv.put_many((b"key %d" % i, b"%d" % workers) for i in range(40))
            assert [kv.get(b"key %d" % i) for i in range(40)] == [b"%d" % workers] * 40
    server.close()


@pytest.mark.parametrize("size", SIZES)
def test_a_value_expires_at_its_time_and_not_before(kv: rfp.Client, size: int) -> None:
    value = pattern(size)
    started = time.monotonic()
    kv.put(b"short", value, ttl=0.1)
    kv.put(b"long", value, ttl=1000)
    kv.put(b"ever", value)
    ended = until(lambda: kv.get(b"short") is None)
    assert ended - started >= 0.099
    assert b"short" not in kv and kv.get_many([b"short"]) == [None] and kv.item(b"short") is None
    assert kv.delete(b"short") is False and kv.touch(b"short") is False
    assert kv.put(b"short", b"again", if_absent=True)
    assert kv.get_many([b"short", b"long", b"ever"]) == [b"again", value, value]


def test_touch_lengthens_shortens_and_removes_a_time_to_live(kv: rfp.Client) -> None:
    kv.put(b"longer", b"v", ttl=0.2)
    kv.put(b"lifted", b"v", ttl=0.2)
    kv.put(b"shorter", b"v", ttl=1000)
    kv.put(b"control", b"v", ttl=0.2)
    assert kv.touch(b"longer", 1000) and kv.touch(b"lifted") and kv.touch(b"shorter", 0.001)
    until(lambda: b"control" not in kv)
    until(lambda: b"shorter" not in kv)
    assert kv.get_many([b"longer", b"lifted"]) == [b"v", b"v"]


def test_incr_keeps_a_time_to_live_and_put_replaces_it(kv: rfp.Client) -> None:
    kv.put(b"counter", b"1", ttl=0.2)
    kv.put(b"replaced", b"1", ttl=0.2)
    kv.put(b"control", b"v", ttl=0.2)
    assert kv.incr(b"counter") == 2
    kv.put(b"replaced", b"2")
    until(lambda: b"counter" not in kv)
    until(lambda: b"control" not in kv)
    assert kv.get(b"replaced") == b"2"


def test_the_memory_of_expired_values_is_freed() -> None:
    with rfp.Server(memory="4MiB", eviction="none") as server, rfp.connect(server.address) as kv:
        empty = kv.stats()["bytes_used"]
        for _ in range(5):  # 1.5 MiB each time: unless memory is freed, the third would not fit
            versions = kv.put_many(((b"key %d" % i, bytes(1500)) for i in range(1000)), ttl=0.05)
            assert all(isinstance(version, int) for version in versions)
            until(lambda: kv.stats()["records"] == 0)  # without a request for them
        stats = kv.stats()
        assert stats["expirations"] == 5000
        assert stats["bytes_used"] - stats["index_bytes"] <= empty
        assert stats["value_bytes"] == 0
