"""Memory that a service gives to one client process, for as long as that process exists.

It outlives the process's connections: the control thread watches the process itself.
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from typing import Protocol

from rfp.errors import ServerRefused, Unsupported
from rfp.fabric.fabric import Region
from rfp.protocol.server.client_connection import ClientConnection
from rfp.protocol.server.shares import Cost, Peer, Shares

# The part of GetMemory.which that is the number of the memory; the rest is the client's image.
MEMORY_NUMBER = 0xFF


class ProcessMemory(Protocol):
    """A service that shares memory with each client process.  The control thread calls it."""

    number: int  # by which clients request the memory
    cost: Cost  # for one process, without descriptors

    def open(self, peer: int) -> Region:
        """Return the memory for a process that has none, by the number of its peer."""

    def end(self, peer: int) -> None:
        """Begin to end the use of a process's memory."""

    def ended(self, peer: int) -> bool:
        """Return whether that use has ended; close the memory and forget the process then."""

    def close(self) -> None:
        """Close all memory; the workers have ended."""


@dataclass
class Kept:
    """The memory of one process."""

    peer: Peer
    image: int
    pidfd: int
    region: Region
    cost: Cost


class KeptMemory:
    """The memory of all client processes.

    Args:
        source: the service, if it shares such memory.
        shares: to which the processes' peers are charged.
    """

    def __init__(self, source: ProcessMemory | None, shares: Shares) -> None:
        self.source = source
        self.shares = shares
        self.by_peer: dict[int, Kept] = {}
        self.by_pidfd: dict[int, Kept] = {}
        self.ending: list[Kept] = []
        self.poll: select.poll | None = None  # of the control thread
        self.fresh: list[int] = []  # pidfds that it does not poll yet

    def give(self, client: ClientConnection, image: int) -> Region:
        """Return the memory of a client's process; all its connections receive the same.

        Args:
            client: of the process.
            image: a number that changes when the process executes another program, which loses the
                memory.

        Raises:
            Unsupported: the server cannot watch this process.
            QuotaExceeded: the client's share is used up.
            ServerRefused: the memory of the program before, or of a process that had the same PID,
                has not ended yet; the client asks again.
        """
        if self.source is None or client.pidfd < 0 or not client.control.pid:
            raise Unsupported("the server cannot detect the end of this process")
        kept = self.by_peer.get(client.peer.number)
        if kept is not None and (kept.image != image or _readable(kept.pidfd)):
            self._end(kept)
        if any(each.peer is client.peer for each in self.ending):
            raise ServerRefused("the memory that this process had before has not ended yet")
        kept = self.by_peer.get(client.peer.number)
        if kept is None:
            cost = Cost(self.source.cost.memory, 2)
            self.shares.take(client.peer, cost)
            pidfd = -1
            try:
                pidfd = os.dup(client.pidfd)
                region = self.source.open(client.peer.number)
                kept = Kept(client.peer, image, pidfd, region, cost)
            except BaseException:
                self.shares.give_back(client.peer, cost)
                if pidfd >= 0:
                    os.close(pidfd)
                raise
            self.by_peer[client.peer.number] = self.by_pidfd[pidfd] = kept
            self.fresh.append(pidfd)
        return kept.region

    def watch(self, poll: select.poll) -> None:
        """Register the processes that have received memory since the last call."""
        self.poll = poll
        for pidfd in self.fresh:
            poll.register(pidfd, select.POLLIN)
        self.fresh.clear()

    def end(self, pidfd: int) -> None:
        """Begin to end the memory of a process that has ended, if the pidfd belongs to one."""
        kept = self.by_pidfd.get(pidfd)
        # The descriptor's number may have belonged to a client a moment ago, and the event to that.
        if kept is not None and _readable(pidfd):
            # A new process may have this PID: it is another peer.
            self.shares.retire(kept.peer)
            self._end(kept)

    def _end(self, kept: Kept) -> None:
        assert self.source is not None
        if kept.pidfd in self.fresh:
            self.fresh.remove(kept.pidfd)
        elif self.poll is not None:
            self.poll.unregister(kept.pidfd)
        os.close(kept.pidfd)
        del self.by_pidfd[kept.pidfd]
        del self.by_peer[kept.peer.number]
        self.source.end(kept.peer.number)
        self.ending.append(kept)

    def reap(self) -> None:
        """Close the memory that no worker uses any more."""
        for kept in list(self.ending):
            assert self.source is not None
            if self.source.ended(kept.peer.number):
                self.ending.remove(kept)
                self.shares.give_back(kept.peer, kept.cost)

    def close(self) -> None:
        """Close all memory; the workers have ended."""
        self.forked()
        if self.source is not None:
            self.source.close()

    def forked(self) -> None:
        """Close this process's descriptors only."""
        for pidfd in self.by_pidfd:
            os.close(pidfd)
        self.by_pidfd.clear()
        self.by_peer.clear()
        self.ending.clear()
        self.fresh.clear()


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
