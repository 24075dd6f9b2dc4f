"""Many keys in one call."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

import rfp
from rfp.errors import DeadlineExceeded, OutOfMemory, TooLarge

from .content import longest_inline_put, pattern

pytestmark = pytest.mark.anywhere


def test_an_empty_batch_asks_nobody(each_mode: rfp.Client) -> None:
    submitted = each_mode.stats()["client"]["submitted"]
    assert each_mode.get_many([]) == each_mode.put_many({}) == each_mode.delete_many(iter(())) == each_mode.put_many([]) == []
    assert each_mode.stats()["client"]["submitted"] - submitted == len(each_mode.stats()["partitions"])


def test_results_keep_the_order_of_the_keys(each_mode: rfp.Client, rng: random.Random) -> None:
    kv = each_mode
    keys = [b"key %d" % i for i in range(500)]
    values = {key: pattern(rng.choice([0, 1, 30, 500, 2000, 2100, 9000, 140_000]), i) for i, key in enumerate(keys)}
    versions = kv.put_many(values)
    assert [kv.item(key) for key in keys[:50]] == [(values[key], version) for key, version in list(zip(keys, versions))[:50]]
    asked = rng.choices([*keys, *(b"nobody %d" % i for i in range(100))], k=1000)
    assert kv.get_many(asked) == [values.get(key) for key in asked]
    rng.shuffle(keys)
    gone = keys[:250]
    assert kv.delete_many(gone) == [True] * 250
    assert kv.delete_many(keys) == [False] * 250 + [True] * 250


def test_any_iterable_will_do(kv: rfp.Client) -> None:
    pairs = [(b"%d" % i, b"v%d" % i) for i in range(100)]
    keys = [key for key, _ in pairs]
    values = [value for _, value in pairs]

    def each(items: list[object]) -> Iterator[object]:
        yield from items

    for items in (dict(pairs), pairs, tuple(pairs), each(pairs), dict(pairs).items(), zip(keys, values)):
        versions = kv.put_many(items)
        assert versions == sorted(versions) and len(set(versions)) == 100
        for many in (keys, tuple(keys), each(keys), dict(pairs), dict(pairs).keys(), map(bytes, keys)):
            assert kv.get_many(many) == values
    assert kv.delete_many(key for key in keys) == [True] * 100


def test_a_generator_may_use_the_handle_that_it_feeds(kv: rfp.Client) -> None:
    kv.put(b"a", b"1")
    kv.put_many((b"copy %d" % i, kv.get(b"a")) for i in range(20))
    assert kv.get_many(b"copy %d" % i for i in range(20) if kv.exists(b"copy %d" % i)) == [b"1"] * 20


def test_an_exception_of_the_generator_sends_nothing(kv: rfp.Client) -> None:
    def broken() -> Iterator[tuple[bytes, bytes]]:
        yield b"unsent", b"v"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kv.put_many(broken())
    assert kv.get(b"unsent") is None


def test_a_key_may_stand_in_a_batch_more_than_once(each_mode: rfp.Client) -> None:
    kv = each_mode
    assert kv.get_many([b"nobody"] * 40) == [None] * 40
    for sizes in ((1, 1), (1, 5000), (5000, 1), (5000, 5001), (1, 5000, 1), (5000, 1, 5000, 1)):
        values = [pattern(size, salt) for salt, size in enumerate(sizes)]
        versions = kv.put_many([(b"k", value) for value in values] + [(b"other", b"x")])
        assert versions[:-1] == sorted(set(versions[:-1]))
        assert kv.item(b"k") == (values[-1], versions[-2]), "an earlier put of the batch overtook a later one"
        assert kv.get_many([b"k", b"other", b"k"]) == [values[-1], b"x", values[-1]]
    assert kv.delete_many([b"k", b"k", b"other"]) == [True, False, True]


def test_a_hundred_thousand_keys(server: rfp.Server) -> None:
    with rfp.connect(server.address, timeout=50) as kv:
        keys = [b"key %d" % i for i in range(100_000)]
        versions = kv.put_many(zip(keys, keys))
        assert len(set(versions)) == len(keys) or len(kv.stats()["partitions"]) > 1
        assert kv.get_many(keys) == keys
        assert kv.stats()["records"] == len(keys)
        assert kv.delete_many(keys) == [True] * len(keys)


def test_values_that_do_not_fit_into_one_answer_come_all_the_same(each_mode: rfp.Client) -> None:
    kv = each_mode
    most = longest_inline_put(kv, b"key 00")
    values = {b"key %02d" % i: pattern(most - i % 3, i) for i in range(64)}
    kv.put_many(values)
    assert kv.get_many(values) == list(values.values())
    assert all(kv.delete_many(values))


def test_a_batch_sees_the_time_to_live(kv: rfp.Client) -> None:
    kv.put_many([(b"small", b"1"), (b"large", bytes(5000))], ttl=1000)
    kv.put_many([(b"small for ever", b"1"), (b"large for ever", bytes(5000))])
    short = [b"short", b"short and large"]
    kv.put_many([(short[0], b"1"), (short[1], bytes(5000))], ttl=0.001)
    while any(value is not None for value in kv.get_many(short)):
        pass
    left = kv.get_many([b"small", b"large", b"small for ever", b"large for ever"])
    assert left == [b"1", bytes(5000)] * 2


def test_each_value_that_is_refused_has_its_own_error() -> None:
    with rfp.Server(memory="2MiB", eviction="none") as server, rfp.connect(server.address) as kv:
        results = kv.put_many([(b"a", b"1"), (b"b", bytes(3 << 20)), (b"c", b"3")])
        assert [type(result) for result in results] == [int, TooLarge, int]
        results = kv.put_many((b"fill %d" % i, bytes(1500)) for i in range(3000))
        stored = [isinstance(result, int) for result in results]
        assert all(isinstance(result, OutOfMemory) for result, fine in zip(results, stored) if not fine)
        assert any(stored) and not all(stored)
        assert [value is not None for value in kv.get_many(b"fill %d" % i for i in range(3000))] == stored


@pytest.mark.shm
def test_a_batch_that_is_cut_off_tells_what_is_known(server: rfp.Server) -> None:
    with rfp.connect(server.address, timeout=20) as kv:
        items = [(b"key %d" % i, b"v") for i in range(100_000)]
        known: list[int | None] = []
        timeout = 0.001
        while len(set(map(type, known))) != 2:  # too short: nothing was sent; too long: nothing was cut off
            kv.delete_many(key for key, _ in items)
            try:
                kv.put_many(items, timeout=timeout)
                timeout /= 1.5
            except DeadlineExceeded as error:
                known = error.results
                timeout *= 1.2
        assert len(known) == len(items)
        done = [key for (key, _), version in zip(items, known) if version is not None]
        assert kv.get_many(done) == [b"v"] * len(done)
        kv.delete_many(key for key, _ in items)


@pytest.mark.parametrize("call", ["get_many", "put_many", "delete_many"])
def test_a_batch_ends_at_its_deadline_also_when_the_server_is_never_late(kv: rfp.Client, call: str) -> None:
    keys = [b"key %d" % i for i in range(200_000)]
    with pytest.raises(DeadlineExceeded):
        getattr(kv, call)(zip(keys, keys) if call == "put_many" else keys, timeout=1e-6)


def test_the_list_of_keys_may_change_during_the_call(kv: rfp.Client) -> None:
    keys = [b"key %d" % i for i in range(2000)]
    kv.put_many(zip(keys, keys))
    wanted = list(keys)
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            keys[:] = [None] * 10
            keys[:] = wanted

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(50):
            keys[:] = wanted
            try:
                assert kv.get_many(keys) in (wanted, wanted[:10])
            except TypeError:  # None is no key
                pass
    finally:
        ended.set()
        thread.join()
    assert all(kv.delete_many(wanted))
