"""Many keys in one call."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from polling import until
from slower import rounds

import rfp
from rfp.core import clock
from rfp.errors import Closed, DeadlineExceeded, OutOfMemory, TooLarge, WrongType
from rfp.protocol.client.opener import Opener

from .sample_values import longest_inline_put, pattern

pytestmark = pytest.mark.anywhere


def test_an_empty_batch_sends_no_request(each_mode: rfp.Client) -> None:
    submitted = each_mode.stats()["client"]["submitted"]
    assert (
        each_mode.get_many([])
        == each_mode.put_many({})
        == each_mode.delete_many(iter(()))
        == each_mode.put_many([])
        == each_mode.exists_many(iter(()))
        == []
    )
    assert each_mode.stats()["client"]["submitted"] - submitted == len(
        each_mode.stats()["partitions"]
    )


def test_results_keep_the_order_of_the_keys(each_mode: rfp.Client, rng: random.Random) -> None:
    kv = each_mode
    keys = [b"key %d" % i for i in range(500)]
    values = {
        key: pattern(rng.choice([0, 1, 30, 500, 2000, 2100, 9000, 140_000]), i)
        for i, key in enumerate(keys)
    }
    versions = kv.put_many(values)
    assert [kv.item(key) for key in keys[:50]] == [
        (values[key], version) for key, version in list(zip(keys, versions))[:50]
    ]
    asked = rng.choices([*keys, *(b"nobody %d" % i for i in range(100))], k=1000)
    assert kv.get_many(asked) == [values.get(key) for key in asked]
    assert kv.exists_many(asked) == [key in values for key in asked]
    rng.shuffle(keys)
    gone = keys[:250]
    assert kv.delete_many(gone) == [True] * 250
    assert kv.delete_many(keys) == [False] * 250 + [True] * 250


def test_any_iterable_is_accepted(kv: rfp.Client) -> None:
    pairs = [(b"%d" % i, b"v%d" % i) for i in range(100)]
    keys = [key for key, _ in pairs]
    values = [value for _, value in pairs]

    def each(items: list[object]) -> Iterator[object]:
        yield from items

    for items in (
        dict(pairs),
        pairs,
        tuple(pairs),
        each(pairs),
        dict(pairs).items(),
        zip(keys, values),
    ):
        versions = kv.put_many(items)
        assert versions == sorted(versions) and len(set(versions)) == 100
        for many in (
            keys,
            tuple(keys),
            each(keys),
            dict(pairs),
            dict(pairs).keys(),
            map(bytes, keys),
        ):
            assert kv.get_many(many) == values
    assert kv.delete_many(key for key in keys) == [True] * 100


def test_a_generator_may_use_the_handle_of_its_batch(kv: rfp.Client) -> None:
    kv.put(b"a", b"1")
    kv.put_many((b"copy %d" % i, kv.get(b"a")) for i in range(20))
    assert (
        kv.get_many(b"copy %d" % i for i in range(20) if kv.exists(b"copy %d" % i)) == [b"1"] * 20
    )


def test_no_request_is_sent_if_the_generator_raises(kv: rfp.Client) -> None:
    def broken() -> Iterator[tuple[bytes, bytes]]:
        yield b"unsent", b"v"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kv.put_many(broken())
    assert kv.get(b"unsent") is None


def test_a_key_may_be_in_a_batch_more_than_once(each_mode: rfp.Client) -> None:
    kv = each_mode
    assert kv.get_many([b"nobody"] * 40) == [None] * 40
    for sizes in ((1, 1), (1, 5000), (5000, 1), (5000, 5001), (1, 5000, 1), (5000, 1, 5000, 1)):
        values = [pattern(size, salt) for salt, size in enumerate(sizes)]
        versions = kv.put_many([(b"k", value) for value in values] + [(b"other", b"x")])
        assert versions[:-1] == sorted(set(versions[:-1]))
        assert kv.item(b"k") == (values[-1], versions[-2]), (
            "an earlier put of the batch overtook a later one"
        )
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


def test_values_that_do_not_fit_into_one_response_are_all_returned(each_mode: rfp.Client) -> None:
    kv = each_mode
    most = longest_inline_put(kv, b"key 00")
    values = {b"key %02d" % i: pattern(most - i % 3, i) for i in range(64)}
    kv.put_many(values)
    assert kv.get_many(values) == list(values.values())
    assert all(kv.delete_many(values))


def test_a_batch_respects_the_time_to_live(kv: rfp.Client) -> None:
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
        assert all(
            isinstance(result, OutOfMemory) for result, fine in zip(results, stored) if not fine
        )
        assert any(stored) and not all(stored)
        assert [
            value is not None for value in kv.get_many(b"fill %d" % i for i in range(3000))
        ] == stored


@pytest.mark.shm
def test_a_batch_that_is_cut_off_reports_the_known_results(server: rfp.Server) -> None:
    with rfp.connect(server.address, timeout=20) as kv:
        items = [(b"key %d" % i, b"v") for i in range(100_000)]
        known: list[int | None] = []
        timeout = 0.001
        # Too short: no request was sent; too long: the batch was not cut off.
        while len(set(map(type, known))) != 2:
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
def test_a_batch_ends_at_its_deadline_even_if_the_server_is_never_late(
    kv: rfp.Client, call: str
) -> None:
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
        for _ in range(rounds(50, 10)):
            keys[:] = wanted
            try:
                assert kv.get_many(keys) in (wanted, wanted[:10])
            except TypeError:  # None is no key
                pass
    finally:
        ended.set()
        thread.join()
    assert all(kv.delete_many(wanted))


class Ending(rfp.Client):
    """A handle that is closed, or has no time left, at a certain value of a batch.

    That value is one that must be sent by itself.
    """

    def __init__(self, server: rfp.Server, last: bytes, how: str) -> None:
        super().__init__(Opener(server.address, "kv"), timeout=20)
        self.last, self.how = last, how

    def _end(self, key: bytes) -> None:
        if key == self.last:
            if self.how == "late":
                raise DeadlineExceeded("no time is left")
            self.close()

    def put(
        self, key: bytes, value: Any, *, ttl: float | None = None, timeout: float | None = None
    ) -> int:
        self._end(key)
        return super().put(key, value, ttl=ttl, timeout=timeout)


@pytest.mark.shm
@pytest.mark.parametrize(("how", "error"), [("closed", Closed), ("late", DeadlineExceeded)])
def test_a_batch_with_large_values_that_is_cut_off_reports_the_known_results(
    server: rfp.Server, how: str, error: type[Exception]
) -> None:
    values = {
        b"small": b"1",
        b"large": pattern(140_000),
        b"last": pattern(140_000, 1),
        b"after": pattern(140_000, 2),
        b"small too": b"2",
    }
    with Ending(server, b"last", how) as ending, pytest.raises(error) as cut_off:
        ending.put_many(values)
    known = [type(result) for result in cut_off.value.results]
    assert known == [int, int, type(None), type(None), int]


@pytest.mark.parametrize("call", ["get_many", "get_into_many", "put_many"])
def test_a_batch_of_large_values_that_ends_at_its_deadline_reports_the_known_results(
    kv: rfp.Client, call: str
) -> None:
    values = {b"late %d" % i: pattern(140_000 if i % 2 else 90_000, i) for i in range(200)}
    kv.put_many(values)
    for mode in ("auto", "fetch"):
        with rfp.connect(kv.connection.address, mode=mode, timeout=20) as other:
            other.ping()
            buffers = [bytearray(140_000) for _ in values]
            arguments = {
                "get_many": (values,),
                "get_into_many": (values, buffers),
                "put_many": (values,),
            }
            with pytest.raises(DeadlineExceeded) as cut_off:
                getattr(other, call)(*arguments[call], timeout=1e-3)
            known = cut_off.value.results
            assert known is not None
            assert len(known) == 200
            assert known[-1] is None
            for value, buffer, result in zip(values.values(), buffers, known):
                if call == "put_many":
                    assert result is None or type(result) is int
                elif call == "get_many":
                    assert result is None or result == value
                else:
                    assert result is None or buffer[:result] == value
            assert other.get_many(values) == list(values.values())
    assert all(kv.delete_many(values))


@pytest.mark.shm
@pytest.mark.parametrize("call", ["put_many", "get_many", "put"])
def test_a_signal_ends_a_batch_of_large_values_long_before_its_end(call: str) -> None:
    value = bytes(1 << 20)
    count = 20_000  # work for many seconds
    done = 0

    class Counting(rfp.Client):
        def put(
            self, key: bytes, value: Any, *, ttl: float | None = None, timeout: float | None = None
        ) -> int:
            nonlocal done
            done += 1
            return super().put(key, value, ttl=ttl, timeout=timeout)

    def progress() -> int:
        return kv.stats()["client"]["direct"]["found"] if call == "get_many" else done

    def interrupt() -> None:
        until(lambda: progress() >= 10)
        os.kill(os.getpid(), signal.SIGUSR1)

    def handle(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt)
    try:
        with (
            rfp.Server(memory="64MiB") as server,
            Counting(Opener(server.address, "kv"), timeout=60) as kv,
        ):
            kv.put(b"k", value)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                if call == "put_many":
                    kv.put_many([(b"k%d" % (i % 8), value) for i in range(count)])
                elif call == "get_many":
                    kv.get_many([b"k"] * count)
                else:
                    while True:
                        kv.put(b"k", value)
            assert 10 <= progress() < count // 2
            assert kv.get(b"k") == value
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_the_time_that_a_generator_takes_does_not_count_for_the_deadline() -> None:
    def slowly(items: list[Any]) -> Iterator[Any]:
        until = clock.now() + 3.3
        while clock.now() < until:
            time.sleep(0.05)
        yield from items

    with (
        rfp.Server(memory="16MiB") as server,
        rfp.connect(server.address) as kv,
        rfp.connect(server.address) as fresh,
        ThreadPoolExecutor() as pool,
    ):
        kv.put_many([(b"read", b"1"), (b"deleted", b"2")])
        put = pool.submit(kv.put_many, slowly([(b"a", b"1"), (b"b", b"2")]), timeout=3)
        got = pool.submit(kv.get_many, slowly([b"read", b"absent"]), timeout=3)
        deleted = pool.submit(kv.delete_many, slowly([b"deleted", b"absent"]), timeout=3)
        first = pool.submit(fresh.get_many, slowly([b"read"]), timeout=3)
        assert [type(version) for version in put.result()] == [int, int]
        assert got.result() == [b"1", None]
        assert deleted.result() == [True, False]
        assert first.result() == [b"1"]


@pytest.mark.parametrize("size", [4, 9000])
def test_a_generator_may_use_its_memory_again(kv: rfp.Client, size: int) -> None:
    buffer = bytearray(size)

    def reusing(kind: Any) -> Iterator[tuple[bytes, Any]]:
        for i in range(20):
            buffer[:] = b"%d" % (i % 10) * size
            yield b"r%d" % i, kind(buffer)

    wanted = [b"%d" % (i % 10) * size for i in range(20)]
    for kind in (lambda memory: memory, memoryview, lambda memory: np.frombuffer(memory, np.uint8)):
        for items in (reusing(kind), map(tuple, reusing(kind))):
            kv.put_many(items)
            assert kv.get_many(b"r%d" % i for i in range(20)) == wanted


def test_values_of_a_list_or_a_dict_are_used_in_place(kv: rfp.Client) -> None:
    values = [bytearray(b"%d" % i * 9000) for i in range(5)]
    for items in (
        {b"%d" % i: value for i, value in enumerate(values)},
        [(b"%d" % i, value) for i, value in enumerate(values)],
    ):
        kv.put_many(items)
        assert kv.get_many(b"%d" % i for i in range(5)) == values
    values[0] += b"resized"  # the handle does not hold it after the call


def test_a_batch_takes_all_values_that_put_takes(kv: rfp.Client) -> None:
    class Tensor:  # like torch.Tensor, which exports no buffer
        def __init__(self, data: bytes) -> None:
            self.memory = ctypes.create_string_buffer(data, len(data))

        def data_ptr(self) -> int:
            return ctypes.addressof(self.memory)

        def element_size(self) -> int:
            return 1

        def numel(self) -> int:
            return len(self.memory)

        def is_contiguous(self) -> bool:
            return True

    values = [
        b"bytes",
        bytearray(b"bytearray"),
        memoryview(b"view"),
        np.arange(5),
        np.array([], "i8"),
        Tensor(b"a tensor"),
        Tensor(bytes(9000)),
        np.arange("2020-01-01", "2020-02-01", dtype="M8[D]"),
        np.zeros(3, "c16"),
        np.zeros((3, 3), order="F")[0:0],
        np.void(b"raw"),
        np.array([(1, 2.0)], dtype=[("Object", "i4"), ("Z", "f8")]),
        (ctypes.c_int * 3)(1, 2, 3),
        np.bytes_(b"text"),
    ]
    for number, value in enumerate(values):
        kv.put(b"put %d" % number, value)
    for items in (
        {b"many %d" % number: value for number, value in enumerate(values)},
        ((b"many %d" % n, v) for n, v in enumerate(values)),
    ):
        assert all(isinstance(version, int) for version in kv.put_many(items))
        assert kv.get_many(b"many %d" % n for n in range(len(values))) == kv.get_many(
            b"put %d" % n for n in range(len(values))
        )


def test_an_argument_that_is_no_iterable_of_keys_or_pairs_is_refused_with_the_item(
    kv: rfp.Client,
) -> None:
    for call in (kv.get_many, kv.exists_many, kv.delete_many, kv.put_many):
        with pytest.raises(WrongType, match="int"):
            call(5)
    with pytest.raises(WrongType, match="item 1"):
        kv.put_many([(b"k", b"v"), 5])
    with pytest.raises(WrongType, match="item 0"):
        kv.put_many([(b"k", b"v", b"w")])
