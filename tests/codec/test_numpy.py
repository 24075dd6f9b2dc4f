"""numpy arrays as values."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import rfp
from rfp.codec import numpy as codec
from rfp.errors import InvalidArgument, WrongType

types = st.one_of(
    arrays.scalar_dtypes(),
    arrays.array_dtypes(arrays.scalar_dtypes(), min_size=1, max_size=3),
    st.just(np.dtype(">u4")),
    st.just(np.dtype("S0")),
)
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


@given(array=arrays.arrays(types, shapes), layout=st.sampled_from(["C", "F", "reversed"]))
def test_an_array_comes_back_as_it_was(array: np.ndarray, layout: str) -> None:
    if layout != "reversed":
        array = np.asarray(array, order=layout)
    elif array.ndim:
        array = array[::-1]
    try:
        value = codec.pack(array)
    except InvalidArgument as error:
        assert "Latin-1" in str(error)
        return
    back = codec.unpack(bytes(value))
    same(back, array)
    assert layout == "reversed" or back.flags.f_contiguous == array.flags.f_contiguous


def test_the_data_is_not_copied() -> None:
    array = np.arange(1000, dtype=np.float64).reshape(10, 100)
    value = codec.pack(array)
    assert np.shares_memory(codec.unpack(value), np.frombuffer(value, np.uint8))
    codec.unpack(value)[0, 0] = 7  # a bytearray can be written
    assert codec.unpack(value)[0, 0] == 7
    assert not codec.unpack(bytes(value)).flags.writeable


def test_other_programs_read_the_value_as_a_file() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))
    same(np.load(io.BytesIO(codec.pack(array))), array)


def test_a_store_keeps_arrays() -> None:
    with rfp.Server(memory="64MiB") as server, rfp.connect(server.address) as kv:
        large = np.random.default_rng(1).random((500, 700), dtype=np.float32)
        kv.put(b"large", codec.pack(large))
        kv.put(b"scalar", codec.pack(np.array(1.5)))
        same(codec.unpack(kv.get(b"large")), large)
        assert codec.unpack(kv.get(b"scalar")) == 1.5
        buffer = bytearray(2 * large.nbytes)
        length = kv.get_into(b"large", buffer)
        same(codec.unpack(memoryview(buffer)[:length]), large)


@pytest.mark.parametrize(
    "thing",
    [[1, 2], b"bytes", np.array([object()]), np.zeros(2, [("a", object)])],
    ids=["list", "bytes", "objects", "fields"],
)
def test_only_arrays_without_objects_are_packed(thing: object) -> None:
    with pytest.raises(WrongType):
        codec.pack(thing)  # type: ignore[arg-type]


def test_a_type_with_a_too_long_description_is_refused() -> None:
    dtype = np.dtype([("f" * 50 + str(i), "u1") for i in range(200)])
    with pytest.raises(InvalidArgument, match="at most 10000 bytes"):
        codec.pack(np.zeros(1, dtype))


def header(text: str) -> bytes:
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text.encode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x93NUMPY\x02\x00",
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + bytes(8),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}") + bytes(8),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}") + bytes(8),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 62, 4)}") + bytes(8),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 4611686018427387904, 4)}"),
        header("__import__('os').abort()"),
        header("["),
        b"x" * 100,
    ],
    ids=range(10),
)
def test_what_pack_did_not_make_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidArgument, match="is not an array"):
        codec.unpack(value)


@given(flipped=st.lists(st.tuples(st.integers(0, 200), st.integers(1, 255)), max_size=5))
def test_a_damaged_value_raises_invalid_argument_or_is_an_array(flipped) -> None:
    value = codec.pack(np.arange(20))
    for at, change in flipped:
        value[at % len(value)] ^= change
    try:
        codec.unpack(value)
    except InvalidArgument:
        pass


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_goes_into_a_reserved_buffer_and_comes_out_of_a_view(order: str) -> None:
    array = np.asarray(np.arange(60_000, dtype="<i4").reshape(200, 300), order=order)
    with rfp.Server(memory="16MiB") as server, rfp.connect(server.address) as kv:
        with kv.reserve(b"a", codec.packed_size(array)) as buffer:
            codec.pack_into(array, buffer)
        assert kv.get(b"a") == codec.pack(array)
        view = kv.view(b"a")
        back = codec.unpack(view)
        same(back, array)
        assert not view.copied and not back.flags.writeable
        assert np.shares_memory(back, np.frombuffer(view, "u1"))
        kv.put(b"a", bytes(len(view)))
        view.release()
        same(back, array)


def test_pack_into_refuses_a_buffer_that_does_not_fit() -> None:
    array = np.arange(100)
    size = codec.packed_size(array)
    for buffer in (bytearray(size - 1), bytearray(size + 1), bytes(size)):
        with pytest.raises(InvalidArgument, match=f"{size} bytes"):
            codec.pack_into(array, buffer)
    with pytest.raises(WrongType):
        codec.pack_into(array, [1])
