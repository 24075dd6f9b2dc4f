"""A server known only by its heartbeat.

It counts as alive while the heartbeat advances, and as dead about a second after that.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from rfp.core.limits import LINE
from rfp.fabric.fabric import REMOTE_READ, REMOTE_WRITE, Region
from rfp.fabric.shm.region import ShmFabric
from rfp.protocol.client.client_ring import ClientRing
from rfp.protocol.handshake_layout import EVENTCOUNT_BYTES, REPLIES
from rfp.protocol.server.heartbeat import Heartbeat
from rfp.testing import ring_harness as steps

SLOTS, SLOT = 4, 256


class Line(NamedTuple):
    """A client's ring to a server that answers no request."""

    ring: ClientRing
    heartbeat: Region  # the server's


@contextlib.contextmanager
def line() -> Iterator[Line]:
    fabric, length = ShmFabric(), SLOTS * SLOT
    with contextlib.ExitStack() as stack:
        own = stack.enter_context

        def theirs(size: int, rights: int) -> tuple[Region, object]:
            region = own(fabric.register(size, rights))
            return region, own(fabric.attach(region.descriptor(), os.dup(region.fileno())))

        (eventcounts, to_bells), (heartbeat, to_beat) = (
            theirs(EVENTCOUNT_BYTES, REMOTE_WRITE),
            theirs(LINE, REMOTE_READ),
        )
        (_, requests), (_, responses) = theirs(length, REMOTE_WRITE), theirs(length, REMOTE_READ)
        reply = own(fabric.register(REPLIES + length, REMOTE_WRITE))
        scratch = own(fabric.register(2 * length + LINE, 0))
        events = own(fabric.event_channel(reply, 0))
        pair, far = (
            own(fabric.queue_pair(events, -1, -1)),
            own(fabric.queue_pair(own(fabric.event_channel(eventcounts, 0)), -1, -1)),
        )
        pair.connect(far.descriptor(), to_bells)
        ring = ClientRing(
            pair,
            events,
            requests,
            0,
            responses,
            0,
            reply,
            REPLIES,
            scratch,
            0,
            SLOTS,
            SLOT,
            False,
            to_beat,
        )
        yield Line(ring, heartbeat)


def waits(ring: ClientRing, seconds: float) -> tuple[str, float]:
    """Return the outcome of a wait for a response that does not come, and its duration."""
    assert steps.submit(ring, b"is anybody there?") is not None
    steps.flush(ring)
    started = time.monotonic()
    return steps.wait(ring, seconds), time.monotonic() - started


def test_a_server_whose_heartbeat_stops_is_disconnected() -> None:
    with line() as it:
        found, seconds = waits(it.ring, 20)
        assert found == "gone"
        assert seconds >= 0.8


def test_a_server_whose_heartbeat_advances_is_only_slow() -> None:
    with line() as it:
        heart = Heartbeat(it.heartbeat)
        heart.start()
        try:
            found, _ = waits(it.ring, 2)
            assert found == "timed out"
        finally:
            heart.stop()
        assert steps.wait(it.ring, 20) == "gone"


def test_time_in_which_the_client_did_not_poll_does_not_count() -> None:
    """A client that was stopped for a minute, or made no call, has not observed the server."""
    with line() as it:
        assert waits(it.ring, 0.3)[0] == "timed out"
        time.sleep(1)
        it.heartbeat.write(0, struct.pack("<Q", 1))
        started = time.monotonic()
        assert steps.wait(it.ring, 20) == "gone"
        assert time.monotonic() - started >= 0.7


@pytest.mark.parametrize("started", [True, False])
def test_a_heartbeat_can_be_stopped_twice(started: bool) -> None:
    with ShmFabric().register(LINE, REMOTE_READ) as region:
        heart = Heartbeat(region)
        if started:
            heart.start()
            deadline = time.monotonic() + 10
            while (first := region.read(0, 8)) == bytes(8):
                assert time.monotonic() < deadline
            while region.read(0, 8) == first:
                assert time.monotonic() < deadline
        heart.stop()
        heart.stop()
        last = region.read(0, 8)
        time.sleep(0.12)
        assert region.read(0, 8) == last
