"""Invalid arguments are refused with a hint, before a request is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rfp
from rfp.errors import (
    AddressInUse,
    AlreadyExists,
    CallerError,
    Closed,
    ConnectionFailed,
    InvalidAddress,
    InvalidArgument,
    NotANumber,
    VersionMismatch,
    WrongType,
)

KEYED = {
    "get": lambda kv, key: kv.get(key),
    "item": lambda kv, key: kv.item(key),
    "get_into": lambda kv, key: kv.get_into(key, bytearray(10)),
    "put": lambda kv, key: kv.put(key, b"v"),
    "delete": lambda kv, key: kv.delete(key),
    "exists": lambda kv, key: kv.exists(key),
    "in": lambda kv, key: key in kv,
    "incr": lambda kv, key: kv.incr(key),
    "touch": lambda kv, key: kv.touch(key),
    "get_many": lambda kv, key: kv.get_many([b"good", key]),
    "get_range": lambda kv, key: kv.get_range(key, 0, 1),
    "get_ranges": lambda kv, key: kv.get_ranges([(b"good", 0, 1), (key, 0, 1)]),
    "exists_many": lambda kv, key: kv.exists_many([b"good", key]),
    "get_into_many": lambda kv, key: kv.get_into_many([b"good", key], [bytearray(9)] * 2),
    "put_many": lambda kv, key: kv.put_many([(b"good", b"v"), (key, b"v")]),
    "delete_many": lambda kv, key: kv.delete_many([b"good", key]),
}
keyed = pytest.mark.parametrize("call", KEYED.values(), ids=KEYED)


@pytest.fixture(autouse=True)
def _the_handle_stays_usable(kv: rfp.Client) -> Any:
    kv.put(b"good", b"stays")
    records = kv.stats()["records"]
    yield
    assert kv.get(b"good") == b"stays"
    assert kv.stats()["records"] == records


@keyed
def test_a_key_is_bytes(kv: rfp.Client, call: Any) -> None:
    for key in ("text", None, 5, 1.5, [], object()):
        with pytest.raises(WrongType, match=type(key).__name__):
            call(kv, key)
    with pytest.raises(TypeError) as caught:
        call(kv, "text")
    assert "encode" in caught.value.hint


@pytest.mark.parametrize("number", [-1, 1 << 63, 1.5, "1", None])
def test_a_range_has_no_negative_numbers(kv: rfp.Client, number: Any) -> None:
    error = InvalidArgument if isinstance(number, int) else WrongType
    for call in (kv.get_range, lambda *part: kv.get_ranges([(b"good", 0, 1), part])):
        with pytest.raises(error, match="offset"):
            call(b"good", number, 1)
        with pytest.raises(error, match="length"):
            call(b"good", 1, number)


@pytest.mark.parametrize("ranges", [5, [5], [(b"good", 1)], [(b"good", 1, 2, 3)]])
def test_get_ranges_refuses_all_but_triples(kv: rfp.Client, ranges: Any) -> None:
    with pytest.raises(WrongType, match="ranges must be"):
        kv.get_ranges(ranges)


@keyed
def test_a_key_has_1_to_1024_bytes(kv: rfp.Client, call: Any) -> None:
    for key in (b"", bytearray(), b"k" * 1025, memoryview(b"k" * 5000)):
        with pytest.raises(InvalidArgument, match=f"{len(key)} bytes") as caught:
            call(kv, key)
        assert "1024" in str(caught.value)


def test_every_buffer_is_a_key(kv: rfp.Client) -> None:
    class Mine(bytes):
        pass

    views = [memoryview(b"other"), memoryview(b"o.t.h.e.r")[::2], np.frombuffer(b"other", "u1")]
    for key in (bytearray(b"other"), *views, Mine(b"other")):
        kv.put(key, b"v")
        assert kv.get(b"other") == kv.get(key) == kv.get_many([key])[0] == b"v"
        assert kv.delete_many([key]) == [True]
        assert kv.put_many([(key, b"w")])[0] > 0
        assert kv.delete(key)


@pytest.mark.parametrize("ttl", [0, -1, 1e9 + 1, float("nan"), float("inf"), -float("inf")])
def test_a_time_to_live_is_a_positive_number_of_seconds(kv: rfp.Client, ttl: float) -> None:
    for call in (
        lambda: kv.put(b"k", b"v", ttl=ttl),
        lambda: kv.put_many({b"k": b"v"}, ttl=ttl),
        lambda: kv.touch(b"good", ttl),
    ):
        with pytest.raises(
            InvalidArgument, match="ttl must be between 1e-09 and 1e\\+09, got"
        ) as caught:
            call()
        assert "seconds" in caught.value.hint


@pytest.mark.parametrize("timeout", [0, -1, 1e9 + 1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number_of_seconds(kv: rfp.Client, timeout: float) -> None:
    for call in (
        lambda: kv.get(b"k", timeout=timeout),
        lambda: kv.put(b"k", b"v", timeout=timeout),
        lambda: kv.get_many([b"k"], timeout=timeout),
        lambda: kv.stats(timeout=timeout),
        lambda: kv.ping(timeout=timeout),
        lambda: rfp.connect("shm:///nowhere", timeout=timeout),
        lambda: rfp.RpcClient("shm:///nowhere", timeout=timeout),
    ):
        with pytest.raises(
            InvalidArgument, match="timeout must be between 1e-09 and 1e\\+09, got"
        ) as caught:
            call()
        assert "seconds" in caught.value.hint


def test_a_number_of_another_type_is_refused(kv: rfp.Client) -> None:
    for wrong in ("5", b"5", [], object()):
        for call in (
            lambda wrong=wrong: kv.put(b"k", b"v", ttl=wrong),
            lambda wrong=wrong: kv.touch(b"k", wrong),
            lambda wrong=wrong: kv.get(b"k", timeout=wrong),
            lambda wrong=wrong: rfp.connect("shm:///nowhere", timeout=wrong),
            lambda wrong=wrong: kv.put(b"k", b"v", if_version=wrong),
            lambda wrong=wrong: kv.incr(b"k", wrong),
        ):
            with pytest.raises(WrongType):
                call()
    for call in (lambda: kv.incr(b"k", 1.5), lambda: kv.put(b"k", b"v", if_version=1.0)):
        with pytest.raises(WrongType, match="whole number"):
            call()
    assert kv.incr(b"number", np.int64(-5)) == -5
    assert kv.delete(b"number")


@pytest.mark.parametrize("amount", [1 << 63, -(1 << 63) - 1, 1 << 100])
def test_an_amount_has_64_bits(kv: rfp.Client, amount: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        kv.incr(b"k", amount)
    assert str(2**63 - 1) in str(caught.value)


@pytest.mark.parametrize("version", [-1, 1 << 64])
def test_a_version_has_64_bits(kv: rfp.Client, version: int) -> None:
    with pytest.raises(InvalidArgument):
        kv.put(b"good", b"other", if_version=version)


def test_two_conditions_exclude_each_other(kv: rfp.Client) -> None:
    with pytest.raises(InvalidArgument, match="cannot use both"):
        kv.put(b"k", b"v", if_absent=True, if_version=1)


@pytest.mark.parametrize("size", [5, 5000, 500_000], ids=["inline", "large", "several pieces"])
def test_a_refused_condition_names_the_present_version(kv: rfp.Client, size: int) -> None:
    version = kv.put(b"good", b"stays")
    with pytest.raises(AlreadyExists) as exists:
        kv.put(b"good", bytes(size), if_absent=True)
    assert exists.value.version == version and str(version) in str(exists.value)
    for wrong in (0, version - 1, version + 1, (1 << 64) - 1):
        with pytest.raises(VersionMismatch) as mismatch:
            kv.put(b"good", bytes(size), if_version=wrong)
        assert mismatch.value.version == version and mismatch.value.hint
    with pytest.raises(VersionMismatch, match="no value") as mismatch:
        kv.put(b"nobody", bytes(size), if_version=5)
    assert mismatch.value.version is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"1 ",
        b" 1",
        b"+1",
        b"1.0",
        b"0x1",
        b"--1",
        b"-",
        b"9" * 19 + b"9",
        b"1" * 21,
        bytes(5000),
    ],
)
def test_incr_of_a_value_that_is_no_number_changes_nothing(kv: rfp.Client, text: bytes) -> None:
    version = kv.put(b"good", text)
    with pytest.raises(NotANumber):
        kv.incr(b"good")
    assert kv.item(b"good") == (text, version)
    kv.put(b"good", b"stays")


def test_a_sum_beyond_64_bits_changes_nothing(kv: rfp.Client) -> None:
    for start, amount in ((2**63 - 1, 1), (-(2**63), -1), (2**62, 2**62), (-(2**62) - 1, -(2**62))):
        version = kv.put(b"good", str(start).encode())
        with pytest.raises(NotANumber, match="64 bits"):
            kv.incr(b"good", amount)
        assert kv.item(b"good") == (str(start).encode(), version)
    kv.put(b"good", b"stays")


@pytest.mark.parametrize("items", [5, [5], [(b"k",)], [(b"k", b"v", b"w")], [b"kv"]])
def test_put_many_refuses_all_but_a_mapping_or_pairs(kv: rfp.Client, items: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        kv.put_many(items)


@pytest.mark.parametrize("keys", [5, None, "text", b"bytes"])
def test_get_many_refuses_all_but_keys(kv: rfp.Client, keys: Any) -> None:
    for call in (kv.get_many, kv.exists_many, kv.delete_many):
        with pytest.raises(TypeError):
            call(keys)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "push"},
        {"mode": None},
        {"fetch": 0},
        {"fetch": 63},
        {"fetch": -1},
        {"fetch": 1.5},
        {"fetch": 1 << 40},
        {"retries": -1},
        {"retries": "5"},
    ],
    ids=str,
)
def test_connect_checks_its_options(kv: rfp.Client, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        rfp.connect(kv.connection.address, **options)
    assert caught.value.hint or "must be" in str(caught.value) or "expected" in str(caught.value)


@pytest.mark.parametrize("fetch", [64, 100, 256, 2112, 1 << 20])
def test_any_f_fetches_any_value(kv: rfp.Client, fetch: int) -> None:
    with rfp.connect(kv.connection.address, mode="fetch", fetch=fetch, retries=0) as other:
        for size in (0, 30, 40, 41, 77, 1000, 2088, 2089):
            value = os.urandom(size)
            other.put(b"k", value)
            assert other.get(b"k") == value
        assert other.delete(b"k")


@pytest.mark.parametrize(
    "options",
    [
        {"memory": 0},
        {"memory": "1 apple"},
        {"memory": "1MiB", "workers": 2},
        {"memory": None},
        {"workers": 0},
        {"workers": 65},
        {"workers": 1.0},
        {"workers": "2"},
        {"eviction": "random"},
        {"eviction": None},
        {"idle": "busy"},
        {"lease": 0},
        {"lease": 3601},
        {"quota": -1},
        {"quota": "much"},
        {"cpus": [1 << 20]},
        {"cpus": [-1]},
    ],
    ids=str,
)
def test_a_server_checks_its_options_and_leaves_nothing_behind(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        rfp.Server(**{"memory": "8MiB", **options})
    assert caught.value.hint or "must be" in str(caught.value) or "expected" in str(caught.value)


def test_a_server_whose_address_is_in_use_leaves_nothing_behind(kv: rfp.Client) -> None:
    with pytest.raises(AddressInUse):
        rfp.Server(memory="8MiB", address=kv.connection.address)


@pytest.mark.parametrize(
    "address", ["", "nowhere", "http://host", "shm://", "shm://" + "/x" * 60, "shm:///x?rtt=fast"]
)
def test_an_address_is_checked(address: str) -> None:
    for call in (
        rfp.connect,
        rfp.RpcClient,
        lambda address: rfp.Server(memory="8MiB", address=address),
    ):
        with pytest.raises(InvalidAddress) as caught:
            call(address)
        assert (
            caught.value.hint or "must be" in str(caught.value) or "expected" in str(caught.value)
        )


def test_connecting_without_a_server_is_an_error_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.chmod(tmp_path, 0o700)
    with pytest.raises(ConnectionFailed, match="no server") as caught:
        rfp.connect(f"shm://{tmp_path}/nobody")
    assert "rfp serve" in caught.value.hint
    del caught
    with pytest.raises(ConnectionFailed):
        rfp.connect()  # the default server of a user without one
    assert capfd.readouterr().err == "", (
        "the handle that was never connected prints an error when it is collected"
    )


def test_clients_of_stores_and_rpc_servers_are_refused_by_the_other_kind(kv: rfp.Client) -> None:
    with pytest.raises(rfp.errors.HandshakeFailed, match="'kv', not 'rpc'"):
        rfp.RpcClient(kv.connection.address)
    with (
        rfp.RpcServer(bytes.upper) as server,
        pytest.raises(rfp.errors.HandshakeFailed, match="'rpc', not 'kv'"),
    ):
        rfp.connect(server.address)


@keyed
def test_a_closed_handle_raises_closed(kv: rfp.Client, call: Any) -> None:
    with rfp.connect(kv.connection.address) as other:
        other.ping()
    for _ in range(2):
        with pytest.raises(Closed) as caught:
            call(other, b"k")
        assert isinstance(caught.value, CallerError)
        other.close()
    assert "closed" in repr(other) and other.closed
