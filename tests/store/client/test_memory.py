"""The limit of memory, eviction when it is reached, and the server's counters."""

from __future__ import annotations

import random

import pytest

import rfp
from rfp.errors import OutOfMemory, TooLarge
from rfp.store.counters import COUNTERS

from .sample_values import pattern

MIB = 1 << 20


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("eviction", ["clock", "bucket"])
def test_a_full_server_evicts_and_stays_usable(eviction: str, workers: int) -> None:
    with (
        rfp.Server(memory="6MiB", workers=workers, eviction=eviction) as server,
        rfp.connect(server.address) as kv,
    ):
        count, size = 20_000, 1000  # 20 MB
        versions = kv.put_many((b"key %d" % i, pattern(size, i % 7)) for i in range(count))
        assert all(isinstance(version, int) for version in versions)
        stats = kv.stats()
        assert stats["bytes_used"] <= stats["bytes_total"] <= 6 * MIB
        assert stats["records"] + stats["evictions"] == count
        values = kv.get_many(b"key %d" % i for i in range(count))
        found = [i for i, value in enumerate(values) if value is not None]
        assert len(found) == stats["records"]
        assert all(values[i] == pattern(size, i % 7) for i in found), (
            "a value of another key, or a torn one"
        )
        assert size * len(found) > 6 * MIB / (8 if eviction == "bucket" else 2), (
            "most of the memory holds no value"
        )
        assert values[-1] is not None, "the newest value was evicted first"


def test_values_in_use_outlive_unused_ones() -> None:
    with rfp.Server(memory="2MiB", eviction="clock") as server, rfp.connect(server.address) as kv:
        hot = [b"hot %d" % i for i in range(100)]
        kv.put_many((key, bytes(1000)) for key in hot)
        for i in range(400):
            kv.put_many((b"cold %d %d" % (i, k), bytes(1000)) for k in range(20))
            kv.get_many(hot[i % 5 :: 5])
        assert kv.stats()["evictions"] > 6000
        assert sum(key in kv for key in hot) > 90


def test_a_full_server_without_eviction_refuses_puts_and_keeps_all_values() -> None:
    with rfp.Server(memory="2MiB", eviction="none") as server, rfp.connect(server.address) as kv:
        stored = 0
        with pytest.raises(OutOfMemory) as caught:
            while True:
                kv.put(b"key %d" % stored, pattern(1000, stored))
                stored += 1
        assert "memory=" in caught.value.hint and "key" in str(caught.value)
        assert stored > 1000
        with pytest.raises(OutOfMemory):
            kv.put(b"large", bytes(500_000))
        assert kv.get_many(b"key %d" % i for i in range(stored)) == [
            pattern(1000, i) for i in range(stored)
        ]
        stats = kv.stats()
        assert stats["evictions"] == 0 and stats["records"] == stored and stats["refused"] >= 2
        assert kv.delete_many([b"key 1", b"key 2"]) == [True, True]
        assert kv.put(b"one more", bytes(1000)) > 0


@pytest.mark.parametrize("eviction", ["clock", "bucket"])
def test_other_values_are_evicted_for_a_large_one(eviction: str) -> None:
    with (
        rfp.Server(memory="8MiB", eviction=eviction) as server,
        rfp.connect(server.address, timeout=20) as kv,
    ):
        kv.put_many((b"key %d" % i, bytes(500)) for i in range(20_000))
        for salt in range(6):
            value = pattern(3 * MIB, salt)
            version = kv.put(b"large %d" % salt, value)
            assert kv.item(b"large %d" % salt) == (value, version)
        assert kv.stats()["bytes_used"] <= 8 * MIB
        assert kv.stats()["bytes_reserved"] == kv.stats()["uploads"] == 0


def test_values_of_all_sizes_pass_through_little_memory(rng: random.Random) -> None:
    with rfp.Server(memory="4MiB") as server, rfp.connect(server.address, timeout=20) as kv:
        stored: dict[bytes, bytes] = {}
        for i in range(1500):
            key = b"key %d" % rng.randrange(200)
            if rng.random() < 0.1:
                assert not kv.delete(key) or key in stored
                stored.pop(key, None)
            else:
                value = pattern(rng.choice([1, 100, 1000, 5000, 50_000, 300_000]), i)
                kv.put(key, value)
                stored[key] = value
            asked = b"key %d" % rng.randrange(200)
            assert kv.get(asked) in (None, stored.get(asked)), (
                "an older value, or one of another key"
            )
        assert kv.stats()["evictions"] > 0


def test_the_counters_count_each_request(server: rfp.Server) -> None:
    with rfp.connect(server.address, mode="fetch") as kv:
        before = kv.stats()

        def more(name: str) -> int:
            return kv.stats()[name] - before[name]

        kv.put_many((b"key %d" % i, bytes(100)) for i in range(300))
        assert more("puts") == more("records") == 300 and more("value_bytes") == 30_000
        kv.put(b"large", bytes(200_000))
        assert more("puts") == more("records") == 301 and more("value_bytes") == 230_000
        assert more("bytes_used") >= 230_000
        kv.get_many(b"key %d" % i for i in range(400))
        assert (more("gets"), more("hits"), more("misses")) == (400, 300, 100)
        kv.get(b"large")
        kv.item(b"nobody")
        assert (more("gets"), more("hits"), more("misses")) == (402, 301, 101)
        kv.delete_many(b"key %d" % i for i in range(250, 350))
        kv.delete(b"large")
        assert more("deletes") == 51 and more("records") == 250 and more("value_bytes") == 25_000
        kv.incr(b"n")
        kv.incr(b"n", 1000)
        assert more("incrs") == 2 and more("value_bytes") == 25_004
        kv.touch(b"n", 1000)
        kv.touch(b"nobody", 1000)
        assert more("touches") == 1
        kv.put(b"n", b"x")
        with pytest.raises(rfp.errors.NotANumber):
            kv.incr(b"n")
        with pytest.raises(TooLarge):
            kv.put(b"n", bytes(90 * MIB))
        assert more("refused") == 2
        assert more("evictions") == more("expirations") == more("unknown_pins") == 0
        assert kv.stats()["pins"] == kv.stats()["uploads"] == kv.stats()["bytes_reserved"] == 0
        assert all(kv.delete_many([b"n", *(b"key %d" % i for i in range(250))]))
        assert more("records") == more("value_bytes") == 0


def test_stats_are_the_sums_of_the_partitions(server: rfp.Server) -> None:
    with rfp.connect(server.address) as kv:
        kv.put_many((b"key %d" % i, b"v") for i in range(100))
        stats = kv.stats()
        assert set(stats) == {*COUNTERS, "partitions", "client"}
        workers = len(server.figures()["workers"])
        assert len(stats["partitions"]) == workers
        for name in COUNTERS:
            assert stats[name] == sum(partition[name] for partition in stats["partitions"])
        assert all(partition["puts"] > 0 for partition in stats["partitions"]), (
            "a worker has no keys"
        )
        assert stats["bytes_total"] <= server.memory < stats["bytes_total"] + 4096 * workers
        kv.delete_many(b"key %d" % i for i in range(100))


def test_the_figures_name_clients_and_their_threads(server: rfp.Server) -> None:
    with rfp.connect(server.address) as kv, rfp.connect(server.address) as other:
        kv.ping()
        figures = server.figures()
        assert [
            client["threads"]
            for client in sorted(figures["clients"], key=lambda client: -client["threads"])
        ] == [1, 0]
        assert {client["pid"] for client in figures["clients"]} == {server.pid}
        assert all(worker["rings"] == 1 for worker in figures["workers"])
        other.ping()
        assert all(worker["rings"] == 2 for worker in server.figures()["workers"])
        served = sum(worker["served"] for worker in figures["workers"])
        for _ in range(10):
            other.ping()
        assert sum(worker["served"] for worker in server.figures()["workers"]) >= served + 10
    assert server.figures()["memory"] == server.memory and server.figures()["eviction"] == "clock"
