"""Registered buffers: the same values by the same calls, and memory that stays during a call."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import rfp
from rfp.errors import Closed, WrongBuffer, WrongType

from .sample_values import pattern

SIZE = 3_000_000


class Tensor:
    """The part of torch's tensors that the client uses."""

    def __init__(self, data: bytes, *, device: str = "cpu", contiguous: bool = True) -> None:
        self.memory = ctypes.create_string_buffer(data, max(len(data), 1))
        self.device = type("device", (), {"type": device})
        self.length = len(data)
        self.contiguous = contiguous

    def data_ptr(self) -> int:
        return ctypes.addressof(self.memory)

    def numel(self) -> int:
        return self.length // 2

    def element_size(self) -> int:
        return 2

    def is_contiguous(self) -> bool:
        return self.contiguous

    def __bytes__(self) -> bytes:
        return self.memory.raw[: self.length]


def test_registered_buffers_carry_the_same_values_as_others(kv: rfp.Client) -> None:
    value, buffer = bytearray(pattern(SIZE)), np.zeros(SIZE + 100, np.uint8)
    with kv.register(value) as registration, kv.register(buffer):
        assert registration.nbytes == SIZE
        kv.put(b"k", value)
        assert kv.get_into(b"k", buffer[100:]) == SIZE  # a part of it
        assert buffer[100:].tobytes() == value
        assert kv.get(b"k") == value
    value[:5] = b"after"
    kv.put(b"k", value)
    assert kv.get_into(b"k", buffer) == SIZE
    assert buffer[:SIZE].tobytes() == value


def test_a_range_beyond_a_registered_buffer_is_used_like_any_other(kv: rfp.Client) -> None:
    whole = bytearray(pattern(SIZE))
    with kv.register(memoryview(whole)[1000:-1000]):
        kv.put(b"k", whole)
        target = bytearray(SIZE)
        with kv.register(memoryview(target)[:10]):
            assert kv.get_into(b"k", target) == SIZE
        assert target == whole


def test_a_read_only_buffer_can_be_sent_from(kv: rfp.Client) -> None:
    value = pattern(SIZE)
    with kv.register(value):
        kv.put(b"k", value)
    assert kv.get(b"k") == value


@pytest.mark.parametrize("size", [0, 100, SIZE])
def test_tensors_are_buffers(kv: rfp.Client, size: int) -> None:
    source, target = Tensor(pattern(size)), Tensor(bytes(size))
    with kv.register(source), kv.register(target):
        kv.put(b"k", source)
        assert kv.get_into(b"k", target) == size
    assert bytes(target) == bytes(source)
    kv.put(b"m", source)
    assert kv.get(b"m") == bytes(source)


def test_tensors_of_other_devices_are_refused_with_a_hint(kv: rfp.Client) -> None:
    with pytest.raises(WrongBuffer, match=r"on cuda.*tensor\.cpu\(\)"):
        kv.register(Tensor(b"1234", device="cuda"))
    with pytest.raises(WrongBuffer, match=r"not contiguous.*tensor\.contiguous\(\)"):
        kv.put(b"k", Tensor(b"1234", contiguous=False))


def test_an_object_without_a_buffer_is_refused(kv: rfp.Client) -> None:
    for thing in (7, None, [1, 2]):
        with pytest.raises(WrongType):
            kv.register(thing)
    with pytest.raises(WrongType, match=r"value\.encode\(\)"):
        kv.register("text")
    with pytest.raises(WrongBuffer):
        kv.register(np.zeros((10, 10))[:, 1])


def test_registered_memory_stays_in_place_until_the_end(kv: rfp.Client) -> None:
    buffer = bytearray(SIZE)
    registration = kv.register(buffer)
    with pytest.raises(BufferError):
        buffer.extend(b"more")
    registration.close()
    registration.close()
    buffer.extend(b"more")


def test_a_registration_may_outlive_its_handle(kv: rfp.Client) -> None:
    with rfp.connect(kv.connection.address) as other:
        registration = other.register(bytearray(SIZE))
    registration.close()
    with pytest.raises(Closed):
        other.register(bytearray(SIZE))
