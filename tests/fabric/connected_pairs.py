"""Connected queue pairs in one process, and two threads that use them at the same time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from time_bounds import SOON

from rfp.fabric.fabric import (
    REMOTE_ATOMIC,
    REMOTE_READ,
    REMOTE_WRITE,
    EventChannel,
    Fabric,
    QueuePair,
    Region,
    RemoteRegion,
)

PAGE = os.sysconf("SC_PAGE_SIZE")
ALL = REMOTE_READ | REMOTE_WRITE | REMOTE_ATOMIC
First, Second = TypeVar("First"), TypeVar("Second")


def at_once(first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
    """Run both functions in threads and return both results.

    Each thread has a CPU of its own if there are two: the scheduler tends to move a woken thread to
    the CPU of its waker.
    """
    cpus = sorted(os.sched_getaffinity(0))

    def on(cpu: int, function: Callable[[], First]) -> First:
        os.sched_setaffinity(0, {cpu})
        return function()

    with ThreadPoolExecutor(2) as pool:
        results = pool.submit(on, cpus[0], first), pool.submit(on, cpus[-1], second)
        return results[0].result(), results[1].result()


PART = 100  # rounds


def in_parts(rounds: int, play: Callable[[int], int], seconds: float = 4.0) -> int:
    """Return the sum of play(n) over parts of so many rounds.

    Two threads that wait for each other take a time slice for each round if both CPUs have other
    work. So no further part begins after these seconds.
    """
    end = time.monotonic() + seconds
    found = 0
    for _ in range(rounds // PART):
        found += play(PART)
        if time.monotonic() > end:
            break
    return found


class End(NamedTuple):
    """One side of a connection, with the peer's memory as `theirs`.

    Line 0 of its memory is the word of its event channel.
    """

    fabric: Fabric
    memory: Region
    theirs: RemoteRegion
    channel: EventChannel
    pair: QueuePair


def attached(fabric: Fabric, region: Region) -> RemoteRegion:
    """Return the remote region that a region of this process is to its peer, or to itself."""
    fd = region.fileno()
    return fabric.attach(region.descriptor(), os.dup(fd) if fd >= 0 else -1)


def until(fact: Callable[[], object], seconds: float = SOON) -> float:
    """Wait until fact() is true; return how long that took."""
    began = time.monotonic()
    while not fact():
        assert time.monotonic() - began < seconds
        time.sleep(0.0002)
    return time.monotonic() - began


def completions(pair: QueuePair, n: int, seconds: float = SOON) -> list[tuple[int, int, int]]:
    """Return the next n completions."""
    done: list[tuple[int, int, int]] = []

    def all_complete() -> bool:
        done.extend(pair.poll(min(64, n - len(done))))
        return len(done) == n

    until(all_complete, seconds)
    return done


@contextlib.contextmanager
def connected(
    mine: Fabric,
    yours: Fabric,
    *,
    length: int = 16 * PAGE,
    events: tuple[Region, EventChannel] | None = None,
) -> Iterator[tuple[End, End]]:
    """Yield both ends of a connection within this process.

    Args:
        events: The peer's region and event channel, if they are not in the memory made here.
    """
    with contextlib.ExitStack() as stack:
        own = stack.enter_context

        memory, peers = own(mine.register(length, ALL)), own(yours.register(length, ALL))
        channel = own(mine.event_channel(memory, 0))
        events_region, peers_channel = events or (peers, own(yours.event_channel(peers, 0)))
        theirs, ours = own(attached(mine, peers)), own(attached(yours, memory))
        pair, peers_pair = (
            own(mine.queue_pair(channel, -1, -1)),
            own(yours.queue_pair(peers_channel, -1, -1)),
        )
        pair.connect(
            peers_pair.descriptor(), own(attached(mine, events_region)) if events else theirs
        )
        peers_pair.connect(pair.descriptor(), ours)
        yield (
            End(mine, memory, theirs, channel, pair),
            End(yours, peers, ours, peers_channel, peers_pair),
        )
