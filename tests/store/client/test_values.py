"""Values of every size, from and into every kind of buffer."""

from __future__ import annotations

import array
import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import rfp
from rfp.errors import InvalidArgument, OutOfMemory, QuotaExceeded, TooLarge, WrongBuffer, WrongType

from .sample_values import edges, longest_inline_get, longest_inline_put, pattern

pytestmark = pytest.mark.anywhere

MIB = 1 << 20


def test_a_value_of_every_size_is_returned_whole(each_mode: rfp.Client) -> None:
    kv = each_mode
    buffer = bytearray(MIB)
    for key in (b"k", pattern(500), b"\0" * 1024):
        for salt, size in enumerate([*edges(kv, key), MIB]):
            value = pattern(size, salt)
            version = kv.put(key, value)
            assert kv.item(key) == (value, version), size
            assert kv.get_many([key, b"nobody", key]) == [value, None, value]
            assert kv.get_into(key, buffer) == size
            assert buffer[:size] == value
        assert kv.delete(key)


def test_every_part_of_a_value_is_returned(each_mode: rfp.Client) -> None:
    kv = each_mode
    for salt, size in enumerate([*edges(kv, b"k"), MIB]):
        value = pattern(size, salt)
        kv.put(b"k", value)
        fits = longest_inline_get(kv)
        offsets = {0, 1, size // 3, max(0, size - fits), max(0, size - 1), size, size + 1}
        lengths = {0, 1, size // 3, fits - 1, fits, fits + 1, size, MIB}
        ranges = [(b"k", offset, length) for offset in offsets for length in lengths]
        wanted = [value[offset : offset + length] for _, offset, length in ranges]
        assert [kv.get_range(*part) for part in ranges] == wanted
        assert kv.get_ranges(ranges) == wanted
    assert kv.delete(b"k")
    assert kv.get_range(b"k", 0, 1) is None
    assert sum(kv.stats()["pins"] for _ in range(2)) == 0


def test_the_longest_inline_value_fills_the_slot(kv: rfp.Client) -> None:
    def requests() -> int:
        return kv.stats()["client"]["submitted"]

    for key in (b"k", b"k" * 1024):
        for size, most in ((longest_inline_put(kv, key), 1), (longest_inline_put(kv, key) + 1, 2)):
            before = requests()
            kv.put(key, bytes(size))
            workers = len(kv.stats()["partitions"])
            assert requests() - before == most + 2 * workers
    rests = kv.stats()["client"]["tail_reads"]
    kv.put(b"k", pattern(longest_inline_get(kv)))
    assert kv.get(b"k") == pattern(longest_inline_get(kv))
    assert kv.stats()["client"]["tail_reads"] >= rests
    pins = sum(kv.stats()["pins"] for _ in range(2))
    assert pins == 0, "a value that fits into a slot was pinned"


def test_keys_of_every_length_and_of_any_bytes_are_different_keys(server: rfp.Server) -> None:
    keys = [
        bytes([first]) + b"\0" * (size - 1)
        for first in range(0, 256, 5)
        for size in (1, 2, 8, 9, 63, 64, 65, 1023, 1024)
    ]
    with rfp.connect(server.address) as kv:
        kv.put_many((key, key) for key in keys)
        assert kv.get_many(keys) == keys
        assert [kv.get(key) for key in keys] == keys
        assert kv.delete_many(keys[::2]) == [True] * len(keys[::2])
        assert kv.get_many(keys) == [None if i % 2 == 0 else key for i, key in enumerate(keys)]
        assert sum(kv.delete_many(keys)) == len(keys[1::2])


@pytest.fixture(scope="module")
def large() -> Iterator[rfp.Client]:
    with (
        rfp.Server(memory="768MiB", quota="400MiB") as server,
        rfp.connect(server.address, timeout=50) as kv,
    ):
        kv.ping()  # its rings are made here, not in the first test
        yield kv


@pytest.mark.long
@pytest.mark.parametrize(
    "size", [16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 100 * MIB, 256 * MIB - 1, 256 * MIB]
)
def test_a_value_of_up_to_256_mib_is_returned_whole(large: rfp.Client, size: int) -> None:
    value = pattern(size, size)
    large.put(b"huge", value)
    assert large.get(b"huge") == value
    buffer = bytearray(size)
    assert large.get_into(b"huge", buffer) == size
    assert buffer == value


@pytest.mark.long
def test_a_value_beyond_256_mib_is_refused_before_a_request_is_sent(large: rfp.Client) -> None:
    with pytest.raises(TooLarge, match="256 MiB"):
        large.put(b"huge", bytes(256 * MIB + 1))
    versions = large.put_many([(b"a", b"1"), (b"huge", bytes(256 * MIB + 1)), (b"b", b"2")])
    assert isinstance(versions[1], TooLarge)
    assert large.get_many([b"a", b"b"]) == [b"1", b"2"]


def mapped(content: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, max(1, len(content)))
    memory[: len(content)] = content
    return memory


@pytest.mark.parametrize(
    "make",
    [
        bytearray,
        memoryview,
        lambda content: memoryview(content).cast("d"),
        lambda content: array.array("d", content),
        lambda content: np.frombuffer(content, "u2").copy(),
        lambda content: np.frombuffer(content, "u1").reshape(2, -1),
        lambda content: np.asfortranarray(np.frombuffer(content, "u1").reshape(1, -1)),
        lambda content: (ctypes.c_char * len(content)).from_buffer_copy(content),
        lambda content: type("Mine", (bytes,), {})(content),
        mapped,
    ],
    ids=[
        "bytearray",
        "memoryview",
        "cast view",
        "array",
        "numpy",
        "numpy 2-D",
        "numpy Fortran",
        "ctypes",
        "subclass",
        "mmap",
    ],
)
def test_every_contiguous_buffer_is_a_value(kv: rfp.Client, make: Any) -> None:
    for size in (8, 8000, 400_000):  # in a slot, in a piece, in several
        content = pattern(size)
        value = make(content)
        kv.put(b"k", value)
        assert kv.get(b"k") == content
        assert all(
            isinstance(version, int) for version in kv.put_many([(b"a", value), (b"b", value)])
        )
        assert kv.get_many([b"a", b"b"]) == [content, content]


@pytest.mark.parametrize(
    "make",
    [
        bytearray,
        lambda size: memoryview(bytearray(size + 10))[5:-5],
        lambda size: array.array("d", bytes(size)),
        lambda size: np.zeros(size // 8),
        lambda size: np.zeros((2, size // 2), "u1"),
        lambda size: (ctypes.c_char * size)(),
        lambda size: mmap.mmap(-1, size),
    ],
    ids=["bytearray", "view", "array", "numpy", "numpy 2-D", "ctypes", "mmap"],
)
def test_every_writable_buffer_takes_a_value(kv: rfp.Client, make: Any) -> None:
    for size in (8, 8000, 400_000):
        kv.put(b"k", pattern(size))
        buffer = make(size)
        assert kv.get_into(b"k", buffer) == size
        assert memoryview(buffer).tobytes() == pattern(size)


def test_a_buffer_is_written_only_up_to_the_end_of_the_value(kv: rfp.Client) -> None:
    for size in (0, 5, 3000, 200_000):
        kv.put(b"k", pattern(size))
        around = bytearray(b"\x5a" * (size + 20))
        assert kv.get_into(b"k", memoryview(around)[10:]) == size
        assert around == b"\x5a" * 10 + pattern(size) + b"\x5a" * 10


@pytest.mark.parametrize(
    "buffer",
    [memoryview(bytes(1000))[::2], np.zeros(1000)[::2], np.zeros((10, 10))[:, 1]],
    ids=["view", "numpy", "numpy column"],
)
def test_memory_with_gaps_is_neither_a_value_nor_a_buffer(kv: rfp.Client, buffer: Any) -> None:
    kv.put(b"k", b"before")
    for call in (
        lambda: kv.put(b"k", buffer),
        lambda: kv.put_many([(b"other", b"x"), (b"k", buffer)]),
        lambda: kv.get_into(b"k", buffer),
    ):
        with pytest.raises(BufferError) as caught:
            call()
        assert isinstance(caught.value, WrongBuffer) and caught.value.hint
    assert kv.get(b"k") == b"before"
    assert kv.get(b"other") is None, "the values before the invalid one of the batch were sent"


@pytest.mark.parametrize(
    "buffer", [b"x" * 100, memoryview(b"x" * 100), np.frombuffer(b"x" * 100, "u1")], ids=type
)
def test_memory_that_cannot_be_written_is_no_buffer(kv: rfp.Client, buffer: Any) -> None:
    kv.put(b"k", b"value")
    with pytest.raises(WrongBuffer) as caught:
        kv.get_into(b"k", buffer)
    assert caught.value.hint
    assert bytes(buffer) == b"x" * 100
    assert kv.get(b"k") == b"value"


def test_a_buffer_too_short_is_an_error_that_leaves_the_handle_usable(
    each_mode: rfp.Client,
) -> None:
    kv = each_mode
    for size in (10, 2000, 2200, 300_000):
        kv.put(b"k", pattern(size))
        for _ in range(100):  # more often than there are slots, or pins that may be held
            with pytest.raises(InvalidArgument, match=f"{size} bytes") as caught:
                kv.get_into(b"k", bytearray(size - 1))
            assert caught.value.hint
        assert kv.get(b"k") == pattern(size)
        assert kv.get_into(b"k", bytearray(size)) == size


@pytest.mark.parametrize(
    "value",
    ["text", None, 5, 1.5, ["list"], {"a": 1}, object()],
    ids=lambda value: type(value).__name__,
)
def test_an_object_without_a_buffer_is_no_value(kv: rfp.Client, value: Any) -> None:
    for call in (
        lambda: kv.put(b"k", value),
        lambda: kv.put_many({b"first": b"x", b"k": value}),
        lambda: kv.get_into(b"k", value),
    ):
        with pytest.raises(WrongType) as caught:
            call()
        assert caught.value.hint
    assert kv.get(b"first") is None, "the values before the invalid one of the batch were sent"


def test_a_value_beyond_the_memory_is_refused_with_its_key() -> None:
    with rfp.Server(memory="4MiB") as server, rfp.connect(server.address) as kv:
        kv.put(b"small", b"stays")
        for size in (2 * MIB + 1, 3 * MIB, 5 * MIB, 100 * MIB):
            with pytest.raises(TooLarge) as caught:
                kv.put(b"k", bytes(size))
            assert "memory=" in caught.value.hint
            results = kv.put_many([(b"k", bytes(size)), (b"other", b"1")])
            assert isinstance(results[0], TooLarge) and isinstance(results[1], int)
        kv.put(b"k", bytes(MIB))
        assert kv.get(b"k") == bytes(MIB)
        assert kv.get(b"small") == b"stays"


def test_a_client_that_holds_its_quota_gets_no_reference_until_it_releases_one() -> None:
    with rfp.Server(memory="16MiB", quota="1MiB") as server, rfp.connect(server.address) as kv:
        with pytest.raises(TooLarge, match="exceeds the server's limit"):
            kv.put(b"k", bytes(MIB + 1))
        with pytest.raises(QuotaExceeded) as caught:  # with its key it is too much
            kv.put(b"k", bytes(MIB))
        assert "quota=" in caught.value.hint
        for _ in range(20):  # each is released with the next request
            kv.put(b"k", bytes(MIB - 4096))
            assert kv.get(b"k") == bytes(MIB - 4096)
        assert kv.stats()["bytes_reserved"] == 0


def test_only_values_that_fit_into_a_slot_are_taken_without_a_quota() -> None:
    with rfp.Server(memory="4MiB", quota=0) as server, rfp.connect(server.address) as kv:
        kv.put(b"k", pattern(2000))
        assert kv.get(b"k") == pattern(2000)
        with pytest.raises((TooLarge, QuotaExceeded, OutOfMemory)):
            kv.put(b"k", bytes(3000))
        assert kv.get(b"k") == pattern(2000)
