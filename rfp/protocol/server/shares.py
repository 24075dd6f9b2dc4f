"""Quotas of a server's memory and file descriptors: a limit for all clients together, and half of
it for each.

A client is a process; over a network, where the server cannot distinguish processes, it is a host.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from rfp import units
from rfp.control import ControlConnection
from rfp.errors import QuotaExceeded, ServerRefused
from rfp.fabric import memory_limits

CLIENTS_BYTES_MIN = 1 << 30  # bytes for all clients, unless the server's owner sets another limit
# client threads; the memory for all clients suffices for at least as many
CHANNELS_MIN = 256
CHANNELS_MAX = 1024  # of one client
# bytes that the machine or control group keeps: its own figures are slightly out of date
MARGIN = 8 << 20
# file descriptors for everything else: a refused client must be accepted to receive the refusal
KEPT = 64
FILES_MAX = 1 << 20  # new limit if the system sets none


@dataclass(frozen=True)
class Cost:
    """The resources of one connection, or of one thread's rings."""

    memory: int = 0  # bytes
    descriptors: int = 0
    channels: int = 0


class Peer:
    """A client, with all its connections."""

    def __init__(self, number: int, key: tuple[str, object]) -> None:
        self.number = number  # services distinguish clients by it
        self.key = key
        self.memory = self.descriptors = self.channels = 0

    def __str__(self) -> str:
        return f"client {self.key[0]} {self.key[1]}"


class Shares:
    """Counts the resources that clients take and give back.

    Args:
        memory: bytes for all clients together.
        descriptors: file descriptors that the server needs for itself beyond those open now.
    """

    def __init__(self, memory: int, descriptors: int) -> None:
        self.most_memory = memory
        self.most_descriptors = for_clients(descriptors)
        self.memory = self.descriptors = 0
        self.peers: dict[tuple[str, object], Peer] = {}
        self._numbers = 0

    def peer(self, connection: ControlConnection) -> Peer:
        """Return the peer at the other end of a control connection."""
        remote = getattr(connection, "remote", None)
        key = ("process", connection.pid) if remote is None else ("host", remote)
        if key not in self.peers:
            self._numbers += 1
            self.peers[key] = Peer(self._numbers, key)
        return self.peers[key]

    def take(self, peer: Peer, cost: Cost) -> None:
        """Charge a cost to a peer.

        Raises:
            QuotaExceeded: the peer's limit or that of all clients is reached; nothing is charged.
            ServerRefused: the server's machine has no memory left; nothing is charged.
        """
        try:
            self._check(peer, cost)
        except ServerRefused:
            self._forget(peer)
            raise
        self._add(peer, cost, 1)

    def give_back(self, peer: Peer, cost: Cost) -> None:
        self._add(peer, cost, -1)
        self._forget(peer)

    def retire(self, peer: Peer) -> None:
        """Forget a process that has ended: the next one with its PID is another peer."""
        if self.peers.get(peer.key) is peer:
            del self.peers[peer.key]

    def _check(self, peer: Peer, cost: Cost) -> None:
        if peer.channels + cost.channels > CHANNELS_MAX:
            raise QuotaExceeded(
                f"{peer} has {peer.channels} threads connected, and one client may have "
                f"{CHANNELS_MAX} at a server",
                hint="close handles or end threads of this client",
            )
        for what, theirs, all_, more, most, more_of_it in (
            (
                "bytes of the server's memory",
                peer.memory,
                self.memory,
                cost.memory,
                self.most_memory,
                "raise the server's limit for rings (rings=, --rings)",
            ),
            (
                "of the server's file descriptors",
                peer.descriptors,
                self.descriptors,
                cost.descriptors,
                self.most_descriptors,
                "raise the server's limit of open files (ulimit -n)",
            ),
        ):
            if theirs + more > most // 2:
                raise QuotaExceeded(
                    f"{peer} has {theirs} {what}, and one client may have {most // 2}",
                    hint=f"close handles or end threads of this client, or {more_of_it}",
                )
            if all_ + more > most:
                raise QuotaExceeded(
                    f"the server's clients have {all_} {what}, and all together may have {most}",
                    hint=f"close clients, or {more_of_it}",
                )
        if cost.memory + MARGIN > (available := memory_limits.available()):
            raise ServerRefused(
                "the server has no memory for another client or thread: its machine or container "
                "has "
                f"{units.show_size(available)} left and must keep {units.show_size(MARGIN)}",
                hint="give the server's container more memory, or serve with a smaller memory=",
            )

    def _add(self, peer: Peer, cost: Cost, sign: int) -> None:
        self.memory += sign * cost.memory
        self.descriptors += sign * cost.descriptors
        peer.memory += sign * cost.memory
        peer.descriptors += sign * cost.descriptors
        peer.channels += sign * cost.channels

    def _forget(self, peer: Peer) -> None:
        # A refused peer is removed before its connection ends; by then its process may count as
        # another peer.
        if (
            not (peer.memory or peer.descriptors or peer.channels)
            and self.peers.get(peer.key) is peer
        ):
            del self.peers[peer.key]

    def figures(self) -> dict[str, int]:
        """Return the figures that show why a client was refused."""
        return {
            "memory": self.memory,
            "most_memory": self.most_memory,
            "descriptors": self.descriptors,
            "most_descriptors": self.most_descriptors,
        }


def for_clients(needed: int) -> int:
    """Return how many file descriptors clients may have: this process's limit minus those open or
    reserved."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = FILES_MAX if soft == resource.RLIM_INFINITY else min(soft, FILES_MAX)
    try:
        open_now = len(os.listdir("/proc/self/fd"))
    except OSError:
        open_now = 16
    left = max(0, limit - open_now)
    return left - min(KEPT + needed, left // 4)


def raise_open_files() -> None:
    """Raise this process's limit of open files as far as allowed: the usual soft limit, 1024, is
    for programs with select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
