"""A worker's arena as clients see it: in chunks, attached when they are needed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfp.errors import HandshakeFailed, InvalidArgument
from rfp.fabric.fabric import REMOTE_READ, RemoteRegion
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.client.remote_arena import RemoteArena

PAGE = 4096


def region(length: int = PAGE) -> RemoteRegion:
    fabric = ShmFabric()
    with fabric.register(length, REMOTE_READ) as own:
        return fabric.attach(own.descriptor(), os.dup(own.fileno()))


@given(st.data())
def test_every_chunk_of_a_range_that_is_not_attached_is_needed(
    data: st.DataObject,
) -> None:
    chunk = data.draw(st.integers(1, PAGE))
    length = data.draw(st.integers(1, 20 * chunk))
    offset = data.draw(st.integers(0, length - 1))
    size = data.draw(st.integers(1, length - offset))
    count = (length + chunk - 1) // chunk
    attached = data.draw(st.sets(st.integers(0, count - 1), max_size=3))
    arena = RemoteArena(length, chunk)
    try:
        for index in attached:
            arena.attach(index, region())
        touched = {at // chunk for at in range(offset, offset + size)}
        assert arena.needed(offset, size) == sorted(touched - attached)
    finally:
        arena.close()
    assert arena.needed(offset, size) == sorted(touched)


def test_a_chunk_that_is_too_short_is_refused() -> None:
    arena = RemoteArena(3 * PAGE - 1, 2 * PAGE)
    with region() as short:
        with pytest.raises(HandshakeFailed, match="4096 bytes instead of a chunk of 8192"):
            arena.attach(0, short)
        arena.attach(1, short)  # the last chunk, which is shorter
        with pytest.raises(InvalidArgument, match="index must be between 0 and 1, got 2"):
            arena.attach(2, short)
        arena.close()


@pytest.mark.parametrize(("length", "chunk"), [(0, 1), (1, 0), (1 << 40, 1)])
def test_an_invalid_arena_is_refused(length: int, chunk: int) -> None:
    with pytest.raises(HandshakeFailed, match="in chunks of"):
        RemoteArena(length, chunk)
