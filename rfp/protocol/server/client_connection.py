"""A connected client process, and the channel of each of its threads on the server's side."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rfp.control import Attach, Attached, ControlConnection, Handle
from rfp.control.message import printable
from rfp.core import clock
from rfp.errors import ConnectionFailed, FabricError, HandshakeFailed, RfpError, ServerRefused
from rfp.fabric.fabric import REMOTE_READ, REMOTE_WRITE, Fabric, Region
from rfp.protocol.handshake_layout import NOTIFY, REPLIES
from rfp.protocol.server.server_ring import ServerRing
from rfp.protocol.server.shares import Cost, Peer
from rfp.protocol.server.worker import Worker
from rfp.protocol.wire import RESPONSE_CRC, WAKEUP

PAGE_BYTES_MAX = 64 << 10  # a client may have rounded its region up by this much


def handle(region: Region) -> Handle:
    """Return the handle that a client needs to use one of the server's regions."""
    return Handle(region.descriptor(), region.fileno())


@dataclass(frozen=True)
class RingParams:
    """The parameters of every client thread: a ring to each worker.  slot_size and staging_size are
    in bytes."""

    workers: Sequence[Worker]
    slots: int
    slot_size: int
    staging_size: int
    cost: Cost


class Channel:
    """One client thread's rings, one to each worker, and their memory.

    cost: charged to its peer's share.
    """

    def __init__(
        self,
        ring_params: RingParams,
        client: ClientConnection,
        number: int,
        question: Attach,
        cost: Cost,
    ) -> None:
        self.number = number
        self.ring_params = ring_params
        self.cost = cost
        self.rings: list[ServerRing] = []
        self.commands: list[int | None] | None = None  # the commands that end the rings
        self.opened: list[Any] = []  # objects to close, in this order
        self.wakeup: socket.socket | None = None  # the client's end, until it has it
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
            raise HandshakeFailed(
                f"attach has {len(question.pairs)} queue pairs, but there are {count} workers"
            )
        reply = client.fabric.attach(question.reply.descriptor, question.reply.take())
        self.opened.append(reply)
        needed = REPLIES + count * ring
        # a longer one would cost only the server, in addresses
        if not needed <= reply.length <= needed + PAGE_BYTES_MAX:
            raise HandshakeFailed(f"the reply region has {reply.length} bytes but needs {needed}")
        requests = self._register(client, count * ring, REMOTE_WRITE)
        responses = self._register(client, count * ring, REMOTE_READ)
        staging = (
            self._register(client, ring_params.staging_size, REMOTE_WRITE)
            if ring_params.staging_size
            else None
        )
        waker = self._wakeup(client) if question.wakeup else -1
        pairs = []
        for i, worker in enumerate(ring_params.workers):
            pair = client.fabric.queue_pair(worker.channel, client.pidfd, client.control_fd)
            self.opened.insert(0, pair)  # before the memory that it uses
            try:
                pair.connect(question.pairs[i], reply)
            except FabricError as error:  # the client is unreachable now, perhaps only for a moment
                raise ConnectionFailed(
                    f"the server cannot reach this client: {Exception.__str__(error)}"
                ) from error
            if waker >= 0:
                pair.wake_by(waker)
            pairs.append(pair.descriptor())
            self.rings.append(
                ServerRing(
                    requests,
                    i * ring,
                    responses,
                    i * ring,
                    staging,
                    pair,
                    reply,
                    REPLIES + i * ring,
                    NOTIFY,
                    ring_params.slots,
                    ring_params.slot_size,
                    bool(client.features & RESPONSE_CRC),
                    client.peer.number,
                    client.control.pid,
                )
            )
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
            wakeup=None if self.wakeup is None else Handle(b"", self.wakeup.fileno()),
        )

    def _wakeup(self, client: ClientConnection) -> int:
        """Make a socket pair for the client to sleep on; return the descriptor of this end."""
        if not client.features & WAKEUP:
            raise HandshakeFailed("attach requests a descriptor, which was not granted")
        try:
            ours, self.wakeup = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise ServerRefused(
                f"the server cannot make a descriptor for this thread: {error.strerror}",
                hint="raise the limit of open files of the server's process (`ulimit -n`)",
            ) from error
        self.opened.append(ours)
        # A client that never reads keeps a few buffers, and one that writes gets an error.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        ours.shutdown(socket.SHUT_RD)
        return ours.fileno()

    def answered(self) -> None:
        """Close the client's end of its descriptor, which it has received."""
        if self.wakeup is not None:
            self.wakeup.close()

    def _register(self, client: ClientConnection, length: int, rights: int) -> Region:
        region = client.fabric.register(length, rights)
        self.opened.append(region)
        return region

    def retire(self) -> None:
        """Begin to end the rings.  When `retired` is True, no worker uses them and close() does not
        wait."""
        if self.commands is None:
            self.commands = [
                worker.retire(ring)
                for ring, worker in zip(self.rings, self.ring_params.workers, strict=False)
            ]

    @property
    def retired(self) -> bool:
        pairs = zip(self.commands or (), self.ring_params.workers, strict=False)
        return self.commands is not None and all(
            worker.retired(command) for command, worker in pairs
        )

    def close(self) -> Counter[str]:
        """End the rings; wait until no worker uses them.  Return their counters."""
        self.retire()
        while not self.retired:
            time.sleep(0.0001)
        for thing in self.opened:
            thing.close()
        self.answered()
        passed = self.counters()
        self.rings.clear()
        self.opened.clear()
        return passed

    def counters(self) -> Counter[str]:
        """Return the sum of the rings' counters."""
        total: Counter[str] = Counter()
        for ring in self.rings:
            total.update(ring.counters)
        return total


class ClientConnection:
    """A connected client process, and the memory that only it can reach.

    cost: charged to its peer's share.  refusal: if not None, the client is accepted only to receive
    this error.
    """

    def __init__(
        self,
        control: ControlConnection,
        fabric: Fabric,
        peer: Peer,
        cost: Cost,
        refusal: RfpError | None = None,
    ) -> None:
        self.control = control
        self.peer = peer
        self.cost = cost
        self.refusal = refusal
        self.isolated = fabric.closing_revokes and refusal is None
        # its own, if the fabric has domains
        self.fabric = fabric.domain() if refusal is None else fabric
        # of the arenas, those that it has requested
        self.chunks: dict[tuple[int, int], Region] = {}
        self.direct_bytes = 0  # of them, for direct reads
        self.heartbeat: Region | None = None
        self.regions: list[Region] = []  # regions from the service
        # Copies: the control connection closes its own descriptors as soon as it fails, and the
        # queue pairs still watch these.
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
        self.share_returned = False  # its share has been given back
        self.name = ""
        self.channels: dict[int, Channel] = {}
        self.ending: list[Channel] = []
        self.over = False  # close it together with the last of them
        self.numbers = 0
        self.given = 0  # number of regions from the service
        self.since = clock.now()

    def __str__(self) -> str:
        """Return the description of the client for the log."""
        kind, key = self.peer.key
        name = f" {printable(self.name, 128)!r}" if self.name else ""
        return f"client {self.peer.number} ({kind} {key}{name})"

    def watched(self) -> list[int]:
        """Return the file descriptors that report its messages and its end."""
        return [fd for fd in (self.pidfd, self.control_fd) if fd >= 0]

    def revoke(self) -> None:
        """Revoke its access to the arenas, if the fabric can: its READs fail from now on."""
        for chunk in self.chunks.values():
            chunk.close()
        self.chunks.clear()
        self.direct_bytes = 0
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
