"""Objects that are accepted as bytes, and objects that only resemble bytes."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

import rfp
from rfp.errors import InvalidArgument, WrongBuffer, WrongType


class Pointing(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p)]


ADDRESSES: dict[str, Any] = {
    "objects": np.array(["Ada", "Grace"], dtype=object),
    "no objects": np.array([], dtype=object),
    "one object": np.array("Ada", dtype=object),
    "a view of objects": memoryview(np.array(["Ada", "Grace"], dtype=object)),
    "records with objects": np.array([(1, "Ada")], dtype=[("n", "i4"), ("name", "O")]),
    "a C string": ctypes.c_char_p(b"hello"),
    "a wide C string": ctypes.c_wchar_p("hello"),
    "a C object": ctypes.py_object([]),
    "a pointer": ctypes.pointer(ctypes.c_int(5)),
    "an address": ctypes.c_void_p(5),
    "a function": ctypes.CFUNCTYPE(None)(lambda: None),
    "an array of C strings": (ctypes.c_char_p * 2)(b"a", b"b"),
    "a structure with a pointer": Pointing(1, b"name"),
}
if hasattr(np.dtypes, "StringDType"):
    ADDRESSES["strings of any length"] = np.array(["x" * 20], dtype=np.dtypes.StringDType())


@pytest.mark.parametrize("thing", ADDRESSES.values(), ids=ADDRESSES)
def test_elements_that_are_addresses_are_refused_wherever_bytes_are_taken(
    kv: rfp.Client, thing: Any
) -> None:
    with rfp.RpcServer(bytes) as other, rfp.RpcClient(other.address) as rpc:
        for call in (
            lambda: kv.put(b"k", thing),
            lambda: kv.put_many({b"k": thing}),
            lambda: kv.put_many(iter([(b"k", thing)])),
            lambda: kv.register(thing),
            lambda: kv.get(thing),
            lambda: kv.put(thing, b"v"),
            lambda: kv.delete(thing),
            lambda: kv.get_many([thing]),
            lambda: kv.delete_many([thing]),
            lambda: kv.put_many([(thing, b"v")]),
            lambda: rpc.call(thing),
        ):
            with pytest.raises(WrongType, match="objects or pointers") as refused:
                call()
            assert refused.value.hint
    kv.put(b"k", b"\1" * 64)
    with pytest.raises(WrongType, match="objects or pointers"):
        kv.get_into(b"k", thing)
    repr(thing)  # follows the addresses
    gc.collect()


def test_a_handlers_response_is_not_made_of_addresses(caplog: pytest.LogCaptureFixture) -> None:
    view = memoryview(np.array(["Ada"], dtype=object))
    with rfp.RpcServer(lambda message: view) as server, rfp.RpcClient(server.address) as rpc:
        with pytest.raises(rfp.errors.HandlerFailed, match="objects or pointers"):
            rpc.call(b"")
    assert "WrongType" in caplog.text


@pytest.mark.parametrize(
    "number", [np.int64(5), np.float64(1.5), np.bool_(True), np.datetime64("2020-01-01")], ids=repr
)
def test_a_scalar_of_numpy_is_refused_like_a_number_of_python(kv: rfp.Client, number: Any) -> None:
    for call in (
        lambda: kv.put(b"k", number),
        lambda: kv.put_many({b"k": number}),
        lambda: kv.get(number),
        lambda: kv.register(number),
    ):
        with pytest.raises(WrongType) as refused:
            call()
        assert refused.value.hint
    kv.put(b"k", np.asarray(number))  # an explicit request for its bytes
    assert kv.get(b"k") == np.asarray(number).tobytes()


def test_an_array_with_a_mask_is_refused_since_the_mask_would_be_lost(kv: rfp.Client) -> None:
    masked = np.ma.masked_array([1, 2, 3], mask=[False, True, False])
    for call in (
        lambda: kv.put(b"k", masked),
        lambda: kv.put_many({b"k": masked}),
        lambda: kv.get_into(b"k", masked),
    ):
        with pytest.raises(WrongType, match="mask") as refused:
            call()
        assert "filled" in refused.value.hint
    assert kv.put(b"k", masked.filled(0)) and kv.get(b"k") == np.array([1, 0, 3]).tobytes()


def test_a_released_memoryview_is_no_buffer(kv: rfp.Client) -> None:
    released = memoryview(b"abc")
    released.release()
    for call in (
        lambda: kv.get(released),
        lambda: kv.put(b"k", released),
        lambda: kv.put_many({b"k": released}),
        lambda: kv.register(released),
    ):
        with pytest.raises(WrongBuffer) as refused:
            call()
        assert refused.value.hint


def test_dates_are_stored_as_their_numbers_and_refused_as_keys(kv: rfp.Client) -> None:
    dates = np.arange("2020-01-01", "2020-02-01", dtype="M8[D]")
    kv.put(b"k", dates)
    assert np.array_equal(np.frombuffer(kv.get(b"k"), dates.dtype), dates)
    assert kv.get_into(b"k", dates) == dates.nbytes
    with pytest.raises(WrongBuffer):
        kv.get(dates)
    with pytest.raises(WrongBuffer, match="view"):
        kv.register(dates)


def test_a_message_that_rpc_cannot_send_is_refused_with_a_hint() -> None:
    with rfp.RpcServer(bytes) as server, rfp.RpcClient(server.address) as rpc:
        for message, error in (
            (None, WrongType),
            (5, WrongType),
            ("text", WrongType),
            (memoryview(b"abcd")[::2], WrongBuffer),
        ):
            with pytest.raises(error) as refused:
                rpc.call(message)
            assert refused.value.hint
        assert rpc.call(np.arange(3, dtype="u1")) == b"\0\1\2"


@pytest.mark.parametrize(
    "seconds",
    [10**400, -(10**400), 1.1e9, float("inf"), float("nan")],
    ids=lambda seconds: f"{seconds!s:.6}",
)
def test_the_error_of_a_time_out_of_range_names_both_bounds(kv: rfp.Client, seconds: Any) -> None:
    for call in (
        lambda: kv.put(b"k", b"v", ttl=seconds),
        lambda: kv.touch(b"k", seconds),
        lambda: kv.put_many({}, ttl=seconds),
        lambda: kv.get(b"k", timeout=seconds),
        lambda: kv.get_many([], timeout=seconds),
        lambda: rfp.connect(kv.connection.address, timeout=seconds),
    ):
        with pytest.raises(InvalidArgument) as refused:
            call()
        assert (
            "must be between 1e-09 and 1e+09" in str(refused.value)
            and len(str(refused.value)) < 300
        )
