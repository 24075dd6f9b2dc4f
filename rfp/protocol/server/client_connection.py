"""A connected client process, and what each of its threads has at the server."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfp.control import Attach, Attached, ControlConnection, Handle
from rfp.control.message import printable
from rfp.core import clock
from rfp.errors import ConnectionFailed, FabricError, HandshakeFailed, RfpError
from rfp.fabric.fabric import Fabric, Region
from rfp.protocol.handshake_layout import NOTIFY, REMOTE_READ, REMOTE_WRITE, REPLIES, RESPONSE_CRC
from rfp.protocol.server.server_ring import ServerRing
from rfp.protocol.server.shares import Cost, Peer
from rfp.protocol.server.worker import Worker

PAGE_BYTES_MAX = 64 << 10  # bytes: what a client's region may have been rounded up by


def handle(region: Region) -> Handle:
    """What a client needs of a region of ours."""
    return Handle(region.descriptor(), region.fileno())


@dataclass(frozen=True)
class RingParams:
    """What every client thread gets: a ring to each of the workers, of so many slots; slot and staging ring in bytes."""

    workers: Sequence[Worker]
    slots: int
    slot_size: int
    staging_size: int
    cost: Cost


class Channel:
    """What one client thread has here: a ring to each worker, and the memory for them."""

    def __init__(self, ring_params: RingParams, client: ClientConnection, number: int, question: Attach) -> None:
        self.number = number
        self.ring_params = ring_params
        self.cost = ring_params.cost
        self.rings: list[ServerRing] = []
        self.commands: list[int | None] | None = None  # that end them
        self.opened: list[Any] = []  # what to close, in this order
        try:
            self.answer = self._set_up(client, question)
        except BaseException:
            self.close()
            raise

    def _set_up(self, client: ClientConnection, question: Attach) -> Attached:
        ring_params = self.ring_params
        ring = ring_params.slots * ring_params.slot_size
        count = len(ring_params.workers)
        if len(question.pairs) != count:
            raise HandshakeFailed(f"attach has {len(question.pairs)} queue "
                                  f"pairs, but there are {count} workers")
        reply = client.fabric.attach(question.reply.descriptor, question.reply.take())
        self.opened.append(reply)
        needed = REPLIES + count * ring
        if not needed <= reply.length <= needed + PAGE_BYTES_MAX:  # a longer one would cost only us, in addresses
            raise HandshakeFailed(f"the reply region has {reply.length} bytes but needs {needed}")
        requests = self._register(client, count * ring, REMOTE_WRITE)
        responses = self._register(client, count * ring, REMOTE_READ)
        staging = self._register(client, ring_params.staging_size, REMOTE_WRITE) if ring_params.staging_size else None
        pairs = []
        for i, worker in enumerate(ring_params.workers):
            pair = client.fabric.queue_pair(worker.channel, client.pidfd, client.control_fd)
            self.opened.insert(0, pair)  # before the memory that it works on
            try:
                pair.connect(question.pairs[i], reply)
            except FabricError as error:  # no way to this client now, and perhaps again in a moment
                raise ConnectionFailed(f"the server cannot reach this client: {Exception.__str__(error)}") from error
            pairs.append(pair.descriptor())
            self.rings.append(
                ServerRing(
                    requests, i * ring, responses, i * ring, staging, pair, reply, REPLIES + i * ring, NOTIFY,
                    ring_params.slots, ring_params.slot_size, bool(client.features & RESPONSE_CRC), client.peer.number,
                    client.control.pid,
                )
            )  # fmt: skip
        for server_ring, worker in zip(self.rings, ring_params.workers, strict=True):
            worker.add(server_ring)
        offsets = [i * ring for i in range(count)]
        return Attached(
            channel=self.number,
            request=handle(requests),
            response=handle(responses),
            staging=None if staging is None else handle(staging),
            request_offsets=offsets,
            response_offsets=offsets,
            staging_offsets=[0] * count if staging is not None else [],
            reply_offsets=[REPLIES + offset for offset in offsets],
            pairs=pairs,
        )

    def _register(self, client: ClientConnection, length: int, rights: int) -> Region:
        region = client.fabric.register(length, rights)
        self.opened.append(region)
        return region

    def retire(self) -> None:
        """Begins to end the rings: `retired` says when no worker touches them any more, and close() then waits for nobody."""
        if self.commands is None:
            self.commands = [worker.retire(ring) for ring, worker in zip(self.rings, self.ring_params.workers, strict=False)]

    @property
    def retired(self) -> bool:
        pairs = zip(self.commands or (), self.ring_params.workers, strict=False)
        return self.commands is not None and all(worker.retired(command) for command, worker in pairs)

    def close(self) -> Counter[str]:
        """Ends the rings; waits until no worker touches them any more.  Returns what has passed through them."""
        self.retire()
        while not self.retired:
            time.sleep(0.0001)
        for thing in self.opened:
            thing.close()
        passed = self.counters()
        self.rings.clear()
        self.opened.clear()
        return passed

    def counters(self) -> Counter[str]:
        """What has passed through the rings, added up."""
        total: Counter[str] = Counter()
        for ring in self.rings:
            total.update(ring.counters)
        return total


class ClientConnection:
    """A connected client process, and what it alone can reach.

    cost: what its peer's share was charged for it.  refusal: why it is let in only to be told so.
    """

    def __init__(self, control: ControlConnection, fabric: Fabric, peer: Peer, cost: Cost,
                 refusal: RfpError | None = None) -> None:
        self.control = control
        self.peer = peer
        self.cost = cost
        self.refusal = refusal
        self.isolated = fabric.closing_revokes and refusal is None
        self.fabric = fabric.domain() if refusal is None else fabric  # of its own, where there are such
        self.chunks: dict[tuple[int, int], Region] = {}  # of the arenas, as far as it has asked for them
        self.heartbeat: Region | None = None
        self.regions: list[Region] = []  # that the service gave it
        # Copies: the connection closes its own as soon as it fails, and the queue pairs go on watching these.
        self.control_fd = self.pidfd = -1
        try:
            if refusal is None:
                self.pidfd = _copy(control.pidfd())
            self.control_fd = _copy(control.fileno())
        except BaseException:
            self.close()
            raise
        self.pid = control.pid
        self.features = 0
        self.greeted = False
        self.share_returned = False  # its share was given back
        self.name = ""
        self.channels: dict[int, Channel] = {}
        self.ending: list[Channel] = []
        self.over = False  # and is to be closed with the last of them
        self.numbers = 0
        self.given = 0  # regions, of those of the service
        self.since = clock.now()

    def __str__(self) -> str:
        """Who it is, for the log."""
        kind, key = self.peer.key
        name = f" {printable(self.name, 128)!r}" if self.name else ""
        return f"client {self.peer.number} ({kind} {key}{name})"

    def watched(self) -> list[int]:
        """The file descriptors that tell of it."""
        return [fd for fd in (self.pidfd, self.control_fd) if fd >= 0]

    def revoke(self) -> None:
        """Takes the arenas away from it, where that can be done: what it READs from now on fails."""
        for chunk in self.chunks.values():
            chunk.close()
        self.chunks.clear()
        for region in self.regions:
            region.close()
        self.regions.clear()

    def close(self) -> None:
        self.control.close()
        self.revoke()
        if self.heartbeat is not None:
            self.heartbeat.close()
        for fd in self.watched():
            os.close(fd)
        self.control_fd = self.pidfd = -1
        if self.isolated:
            self.fabric.close()


def _copy(fd: int) -> int:
    return os.dup(fd) if fd >= 0 else -1
