"""Existing memory, shared with peers or used locally: domain, reserve, share."""

from __future__ import annotations

import os

import pytest

from rfp.errors import CallerError, Closed, InvalidArgument, RequestFailed, WrongBuffer
from rfp.fabric.fabric import (
    BOUNDS,
    FETCH_ADD,
    READ,
    REMOTE_READ,
    REMOTE_WRITE,
    RIGHTS,
    SUCCESS,
    WRITE,
)
from rfp.fabric.shm.region import ShmFabric
from rfp.testing.reordering_fabric import ReorderFabric

from .connected_pairs import PAGE, connected


@pytest.fixture(params=[ShmFabric, ReorderFabric])
def fabric(request):
    return request.param()


def test_on_shm_a_domain_is_the_fabric_itself(fabric):
    assert fabric.domain() is fabric
    with fabric:
        pass
    fabric.close()
    fabric.register(PAGE, 0).close()  # this closes only the domain's hold on a device; shm has none


def test_a_shared_region_is_the_same_memory_and_outlives_the_first(fabric):
    region = fabric.reserve(4 * PAGE, REMOTE_READ)
    assert fabric.share_limit >= region.length
    again = fabric.domain().share(region, 0, region.length, REMOTE_READ)
    with again, fabric.attach(again.descriptor(), os.dup(again.fileno())) as theirs:
        region.write(100, b"hello")
        assert theirs.read(100, 5) == again.read(100, 5) == b"hello"
        region.close()
        again.write(100, b"still")
        assert theirs.read(100, 5) == b"still"
        with pytest.raises(Closed):
            region.read(0, 1)


@pytest.mark.parametrize(
    ("offset", "length", "rights"),
    [
        (0, PAGE, REMOTE_READ),
        (PAGE, PAGE, REMOTE_READ),
        (0, 2 * PAGE, REMOTE_READ | REMOTE_WRITE),
        (0, 2 * PAGE, 0),
    ],
)
def test_on_shm_only_a_whole_region_is_shared_and_with_its_own_rights(
    fabric, offset, length, rights
):
    with (
        fabric.register(2 * PAGE, REMOTE_READ) as region,
        pytest.raises(InvalidArgument, match="all of it"),
    ):
        fabric.share(region, offset, length, rights)


def test_a_closed_region_is_not_shared(fabric):
    region = fabric.register(PAGE, REMOTE_READ)
    region.close()
    with pytest.raises(Closed):
        fabric.share(region, 0, PAGE, REMOTE_READ)


@pytest.fixture
def ends(fabric):
    with connected(fabric, fabric) as ends:
        yield ends


def test_a_buffer_is_read_into_and_written_from_in_place(fabric, ends):
    a, b = ends
    buffer = bytearray(100)
    b.memory.write(256, b"hello")
    with fabric.share(buffer, 10, 50, 0) as local:
        assert (local.length, local.rights) == (50, 0)
        assert a.pair.execute(READ, local, 20, a.theirs, 256, 5) == SUCCESS
        assert buffer == bytes(30) + b"hello" + bytes(65)
        assert a.pair.execute(WRITE, local, 20, a.theirs, 512, 5) == SUCCESS
        assert b.memory.read(512, 5) == b"hello"
        assert a.pair.execute(READ, local, 48, a.theirs, 256, 5) == BOUNDS
    local.close()
    assert a.pair.execute(READ, local, 0, a.theirs, 256, 5) == BOUNDS


def test_a_read_only_buffer_is_written_from_and_never_read_into(fabric, ends):
    a, b = ends
    constant = bytes(range(64))
    with fabric.share(constant, 0, 64, 0) as local:
        assert local.rights == 0
        assert a.pair.execute(WRITE, local, 0, a.theirs, 512, 64) == SUCCESS
        assert b.memory.read(512, 64) == constant
        assert a.pair.execute(READ, local, 0, a.theirs, 0, 8) == RIGHTS
        assert a.pair.execute(FETCH_ADD, local, 0, a.theirs, 64, 8, operand=1) == RIGHTS
        with pytest.raises(InvalidArgument, match="read-only"):
            local.write(0, b"x")
    assert constant == bytes(range(64))


def test_a_buffer_cannot_be_resized_while_it_is_shared(fabric):
    buffer = bytearray(64)
    with fabric.share(buffer, 0, 64, 0), pytest.raises(BufferError):
        buffer.extend(b"x")
    buffer.extend(b"x")


def test_an_object_that_cannot_be_shared_is_refused(fabric):
    with pytest.raises(WrongBuffer, match="contiguous"):
        fabric.share(memoryview(bytes(64))[::2], 0, 32, 0)
    with pytest.raises(WrongBuffer, match="int"):
        fabric.share(7, 0, 1, 0)
    with pytest.raises(InvalidArgument, match="not within"):
        fabric.share(bytearray(64), 60, 5, 0)
    with pytest.raises(InvalidArgument, match="buffer"):
        fabric.share(bytearray(64), 0, 64, REMOTE_READ)
    with fabric.share(bytearray(64), 0, 64, 0) as local:
        for call in (local.descriptor, local.fileno):
            with pytest.raises(CallerError, match="local use"):
                call()


def test_a_failed_request_raises_an_error_that_names_it_on_request(ends):
    a, _ = ends
    with pytest.raises(
        RequestFailed,
        match=r"READ of 8 bytes, 64 in a local region of \d+, 99999999 in a remote one",
    ) as caught:
        a.pair.execute(READ, a.memory, 64, a.theirs, 99999999, 8, check=True)
    assert (caught.value.verb, caught.value.status) == ("READ", BOUNDS)
    assert caught.value.hint
    assert a.pair.execute(READ, a.memory, 64, a.theirs, 0, 8, check=True) == SUCCESS
    assert a.pair.failure is None
