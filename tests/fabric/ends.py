"""Connected queue pairs in one process."""

from __future__ import annotations

import contextlib
import os
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
def connected(mine: Fabric, yours: Fabric, *, length: int = 16 * PAGE, rights: int = ALL, pidfd: int = -1, control: int = -1):
    """Both ends of a connection, within this process."""
    with contextlib.ExitStack() as stack:
        memories = [stack.enter_context(fabric.register(length, rights | REMOTE_WRITE)) for fabric in (mine, yours)]
        remotes = [stack.enter_context(fabric.attach(memory.descriptor(), os.dup(memory.fileno())))
                   for fabric, memory in zip((mine, yours), reversed(memories))]
        channels = [stack.enter_context(fabric.event_channel(memory, 0)) for fabric, memory in zip((mine, yours), memories)]
        pairs = [stack.enter_context(fabric.queue_pair(channel, pidfd, control))
                 for fabric, channel in zip((mine, yours), channels)]
        for pair, peer, remote in zip(pairs, reversed(pairs), remotes):
            pair.connect(peer.descriptor(), remote)
        yield tuple(End(*each) for each in zip(memories, remotes, channels, pairs))
