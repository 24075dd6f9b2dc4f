"""A thread sleeps on a descriptor: its end of a socket pair, into which its peer sends a byte."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator

import pytest

from rfp.errors import Closed
from rfp.fabric.fabric import SUCCESS, WRITE_NOTIFY
from rfp.fabric.shm.region import ShmFabric
from rfp.testing.reordering_fabric import ReorderFabric

from .connected_pairs import End, at_once, connected

LONG = 10.0  # seconds; no test sleeps that long unless a wake-up was lost
FABRICS = {
    "shm": ShmFabric,
    "emulated": lambda: ShmFabric(rtt_ns=2_000),
    "reorder": lambda: ReorderFabric(seed=1),
}


@contextlib.contextmanager
def polled(make) -> Iterator[tuple[End, End, socket.socket]]:
    """Yield two ends, of which the second sleeps on a descriptor, and the waker's socket."""
    waker, sleeper = socket.socketpair()
    with make() as mine, make() as yours, connected(mine, yours) as (a, b), waker:
        b.channel.poll_by(sleeper.detach())
        a.pair.wake_by(waker.fileno())
        yield a, b, waker


@pytest.fixture(params=FABRICS)
def ends(request) -> Iterator[tuple[End, End, socket.socket]]:
    with polled(FABRICS[request.param]) as ends:
        yield ends


@pytest.fixture
def shm() -> Iterator[tuple[End, End, socket.socket]]:
    with polled(ShmFabric) as ends:
        yield ends


def notify(a: End) -> None:
    assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS


def readable(b: End) -> bool:
    return bool(select.select([b.channel.fileno()], [], [], 0)[0])


def test_a_notify_after_prepare_wait_makes_the_descriptor_readable(ends):
    a, b, _ = ends
    armed = b.channel.prepare_wait()
    assert not readable(b)
    notify(a)
    assert readable(b)
    assert b.channel.wait(armed, 0)
    assert not readable(b)


def test_a_notify_sends_nothing_to_a_thread_that_is_awake(ends):
    a, b, _ = ends
    notify(a)
    assert not readable(b)
    b.channel.prepare_wait()
    b.channel.cancel_wait()
    notify(a)
    assert not readable(b)


def test_a_notify_sends_one_byte_for_each_arming(shm):
    a, b, _ = shm
    armed = b.channel.prepare_wait()
    for _ in range(10):
        notify(a)
    assert b.channel.wait(armed, 0)
    assert not b.channel.wait(b.channel.prepare_wait(), 0)


def test_a_byte_stays_until_it_is_waited_for(shm):
    a, b, _ = shm
    b.channel.prepare_wait()
    notify(a)
    armed = b.channel.prepare_wait()  # again, as after another ring's poll
    assert readable(b)
    assert b.channel.wait(armed, LONG)


def test_a_blocking_wait_works_on_the_descriptor_too(shm):
    a, b, _ = shm
    assert not b.channel.wait(b.channel.prepare_wait(), 0.01)
    rounds = 300

    def sleeper() -> int:
        woken = 0
        for i in range(rounds):
            while True:
                armed = b.channel.prepare_wait()
                if b.memory.read(64, 8) >= (i + 1).to_bytes(8, "big"):
                    b.channel.cancel_wait()
                    break
                woken += b.channel.wait(armed, LONG)
            b.memory.write(128, (i + 1).to_bytes(8, "big"))
        return woken

    def waker() -> None:
        for i in range(rounds):
            a.memory.write(64, (i + 1).to_bytes(8, "big"))
            assert a.pair.execute(WRITE_NOTIFY, a.memory, 64, a.theirs, 64, 8) == SUCCESS
            while b.memory.read(128, 8) < (i + 1).to_bytes(8, "big"):
                pass

    at_once(sleeper, waker)


def test_a_sleeper_that_never_reads_costs_its_waker_nothing(shm):
    a, b, waker = shm
    for _ in range(5000):  # far more than the socket takes
        b.channel.prepare_wait()
        notify(a)
    with pytest.raises(BlockingIOError):
        waker.send(bytes(1 << 20), socket.MSG_DONTWAIT)
        waker.send(bytes(1 << 20), socket.MSG_DONTWAIT)
    assert b.channel.wait(b.channel.prepare_wait(), LONG)


def test_a_sleeper_that_closes_its_end_costs_its_waker_nothing(shm):
    a, b, _ = shm
    theirs = socket.fromfd(b.channel.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.shutdown(socket.SHUT_RDWR)
    theirs.close()
    for _ in range(10):
        b.channel.prepare_wait()
        notify(a)


def test_the_end_of_the_waker_ends_every_wait(shm):
    a, b, waker = shm
    armed = b.channel.prepare_wait()
    waker.close()
    assert b.channel.wait(armed, LONG)


def test_a_word_that_a_peer_invents_sends_nothing(shm):
    a, b, _ = shm
    b.memory.write(0, (77).to_bytes(4, "little"))
    notify(a)
    assert not readable(b)
    assert b.memory.read(0, 4) == bytes(4)


def test_a_channel_has_one_descriptor_and_closes_it(shm):
    _, b, _ = shm
    ours, other = socket.socketpair()
    with ours, pytest.raises(Closed):
        b.channel.poll_by(other.detach())
    fd = b.channel.fileno()
    b.channel.close()
    assert b.channel.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        socket.fromfd(fd, socket.AF_UNIX, socket.SOCK_STREAM)


def test_a_channel_without_a_descriptor_reports_none():
    with ShmFabric() as mine, ShmFabric() as yours, connected(mine, yours) as (_, b):
        assert b.channel.fileno() == -1
