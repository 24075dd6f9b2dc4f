"""Connected queue pairs in one process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from rfp._fabric import REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE, EventChannel, Fabric, QueuePair, Region, RemoteRegion

PAGE = os.sysconf("SC_PAGE_SIZE")
ALL = REMOTE_READ | REMOTE_WRITE | REMOTE_ATOMIC


class End(NamedTuple):
    """One side of a connection: its memory (line 0: its bell), the peer's, its channel and queue pair."""

    memory: Region
    theirs: RemoteRegion
    channel: EventChannel
    pair: QueuePair


@contextlib.contextmanager
def connected(
    mine: Fabric, yours: Fabric, *, length: int = 16 * PAGE, bells: tuple[Region, EventChannel] | None = None,
) -> Iterator[tuple[End, End]]:
    """Both ends of a connection, within this process.  bells: your event channel, if it is not in the memory made here."""
    with contextlib.ExitStack() as stack:
        own = stack.enter_context

        def attach(fabric: Fabric, region: Region) -> RemoteRegion:
            return own(fabric.attach(region.descriptor(), os.dup(region.fileno())))

        memory, peers = own(mine.register(length, ALL)), own(yours.register(length, ALL))
        channel = own(mine.event_channel(memory, 0))
        bell_region, peers_channel = bells or (peers, own(yours.event_channel(peers, 0)))
        theirs, ours = attach(mine, peers), attach(yours, memory)
        pair, peers_pair = own(mine.queue_pair(channel, -1, -1)), own(yours.queue_pair(peers_channel, -1, -1))
        pair.connect(peers_pair.descriptor(), attach(mine, bell_region) if bells else theirs)
        peers_pair.connect(pair.descriptor(), ours)
        yield End(memory, theirs, channel, pair), End(peers, ours, peers_channel, peers_pair)
