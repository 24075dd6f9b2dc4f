"""Sleeping and waking: the three steps of an event channel, and that no wake-up is lost."""

from __future__ import annotations

import threading
import time

import pytest

from rfp.errors import Closed, InvalidArgument
from rfp.fabric.fabric import REMOTE_READ, REMOTE_WRITE, SUCCESS, WRITE, WRITE_NOTIFY
from rfp.fabric.shm.region import ShmFabric
from rfp.testing import litmus

from .connected_pairs import PAGE, at_once, connected, in_parts
from .providers import SHM_AND_VERBS

LONG = 10.0  # seconds; no test sleeps that long unless a wake-up was lost


@pytest.fixture
def shm_ends():
    with connected(ShmFabric(), ShmFabric()) as ends:
        yield ends


@pytest.fixture(params=SHM_AND_VERBS)
def ends(request):
    with request.param() as mine, request.param() as yours, connected(mine, yours) as ends:
        yield ends


def test_a_notify_between_prepare_wait_and_wait_makes_wait_return_at_once(ends):
    a, b = ends
    armed = b.channel.prepare_wait()
    assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS
    began = time.monotonic()
    assert b.channel.wait(armed, LONG)
    assert time.monotonic() - began < LONG / 2


def test_a_local_notify_between_prepare_wait_and_wait_makes_wait_return_at_once(ends):
    channel = ends[0].channel
    armed = channel.prepare_wait()
    channel.notify()
    assert channel.wait(armed, LONG)


def test_a_wait_without_a_notify_times_out(ends):
    a, b = ends
    # A notify before prepare_wait() wakes no sleeper.
    assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS
    assert a.pair.execute(WRITE, a.memory, 64, a.theirs, 64, 8) == SUCCESS
    armed = b.channel.prepare_wait()
    assert a.pair.execute(WRITE, a.memory, 64, a.theirs, 64, 8) == SUCCESS  # without a notify
    began = time.monotonic()
    assert not b.channel.wait(armed, 0.02)
    assert time.monotonic() - began >= 0.02


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_a_wait_of_no_time_only_polls(ends, seconds):
    channel = ends[0].channel
    assert not channel.wait(channel.prepare_wait(), seconds)


def test_a_cancelled_wait_is_not_woken_later(ends):
    a, b = ends
    b.channel.prepare_wait()
    b.channel.cancel_wait()
    assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS
    assert not b.channel.wait(b.channel.prepare_wait(), 0.001)


@pytest.mark.parametrize("how", ["notify", "wake"])
def test_a_sleeping_thread_is_woken(ends, how):
    a, b = ends
    woken = []
    sleeper = threading.Thread(
        target=lambda: woken.append(b.channel.wait(b.channel.prepare_wait(), LONG))
    )
    sleeper.start()
    deadline = time.monotonic() + LONG
    # Until it is awake: the first notify may come before prepare_wait().
    while sleeper.is_alive() and time.monotonic() < deadline:
        if how == "notify":
            assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS
        else:
            b.channel.notify()
        sleeper.join(0.001)
    sleeper.join()
    assert woken == [True]


def test_a_notify_of_no_bytes_wakes_the_peer(ends):
    a, b = ends
    armed = b.channel.prepare_wait()
    assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 0) == SUCCESS
    assert b.channel.wait(armed, LONG)


def test_a_refused_notify_wakes_no_sleeper(ends):
    a, b = ends
    armed = b.channel.prepare_wait()
    assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 2**64 - 1, 8) != SUCCESS
    assert not b.channel.wait(armed, 0.001)


@pytest.mark.parametrize("make", SHM_AND_VERBS)
def test_channels_in_one_region_are_notified_separately(make):
    with (
        make() as fabric,
        fabric.register(PAGE, REMOTE_WRITE) as memory,
        fabric.event_channel(memory, 0) as first,
        fabric.event_channel(memory, 64) as second,
    ):
        armed = first.prepare_wait(), second.prepare_wait()
        first.notify()
        assert first.wait(armed[0], LONG)
        assert not second.wait(armed[1], 0.001)


def test_a_peer_that_writes_invalid_values_into_the_eventcount_causes_only_wake_ups(shm_ends):
    a, b = shm_ends
    armed = b.channel.prepare_wait()
    a.theirs.write(0, b"\xff" * 64)
    assert b.channel.wait(armed, LONG)
    armed = b.channel.prepare_wait()
    assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS
    assert b.channel.wait(armed, LONG)


@pytest.mark.parametrize("offset", [1, 4, 32, PAGE, PAGE - 32, 2**64 - 64])
def test_an_eventcount_has_a_cache_line_to_itself(offset):
    with (
        ShmFabric().register(PAGE, REMOTE_WRITE) as region,
        pytest.raises(InvalidArgument, match="cache line"),
    ):
        ShmFabric().event_channel(region, offset)


def test_a_channel_in_a_region_that_peers_cannot_write_is_refused():
    with (
        ShmFabric().register(PAGE, REMOTE_READ) as region,
        pytest.raises(InvalidArgument, match="REMOTE_WRITE"),
    ):
        ShmFabric().event_channel(region, 0)


def test_a_channel_in_a_closed_region_is_refused():
    region = ShmFabric().register(PAGE, REMOTE_WRITE)
    region.close()
    with pytest.raises(Closed):
        ShmFabric().event_channel(region, 0)


def test_a_closed_channel_does_not_wait_and_closes_again(ends):
    fabric, channel = ends[0].fabric, ends[0].channel
    channel.close()
    channel.close()
    channel.notify()
    channel.cancel_wait()
    assert not channel.wait(channel.prepare_wait(), LONG)
    with pytest.raises(Closed):
        fabric.queue_pair(channel, -1, -1)


def test_no_wake_up_is_lost_in_a_hundred_thousand(shm_ends):
    assert lost_wake_ups(shm_ends, 100_000) == 0


def test_no_wake_up_is_lost(ends):
    assert lost_wake_ups(ends, 1000) == 0


def lost_wake_ups(ends, rounds: int) -> int:
    a, b = ends

    def play(rounds: int) -> int:
        b.memory.write(128, bytes(128))
        lost, _ = at_once(
            lambda: litmus.sleeper(b.channel, b.memory, 128, rounds, step=LONG),
            lambda: litmus.waker(a.pair, a.memory, a.theirs, 128, rounds),
        )
        return lost

    return in_parts(rounds, play)


@pytest.mark.parametrize("tending", ["replenish", "poll", "wait", "none"])
def test_any_number_of_notifies_pass_if_the_peer_replenishes_and_wait_if_it_does_not(ends, tending):
    a, b = ends
    posted = done = idle = 0
    polled = time.monotonic()
    while done < 1000:
        if posted < 1000:
            posted += a.pair.post(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8, id=posted)
        found = len(a.pair.poll(64))
        done += found
        idle = 0 if found else idle + 1
        if tending == "replenish":
            b.channel.replenish()
        elif tending == "poll":
            b.pair.poll(1)
        elif tending == "wait":
            b.channel.wait(b.channel.prepare_wait(), 0.0)
        # Over shm there is always room; over verbs the rest must wait.
        elif idle > 1000 and time.monotonic() - polled > 0.3:
            assert done == 1000 or 100 < done < 1000
            b.channel.replenish()
            polled = time.monotonic()
        assert time.monotonic() - polled < 2 * LONG


@pytest.mark.parametrize("length", [16, 64, 128, 504, 512, 4096])
def test_a_read_sees_a_message_that_is_being_published_in_order(shm_ends, length):
    a, b = shm_ends

    def play(rounds: int) -> int:
        b.memory.write(4096, bytes(8))
        _, torn = at_once(
            lambda: litmus.publisher(b.memory, 4096, length, rounds),
            lambda: litmus.fetcher(a.pair, a.memory, a.theirs, 4096, length, rounds),
        )
        return torn

    assert in_parts(5000, play) == 0
