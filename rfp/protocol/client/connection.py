"""A client process's connection to a server, and the channels of its threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from rfp.address import Address
from rfp.control import (
    Attach,
    Attached,
    ControlConnection,
    Detach,
    GetMemory,
    GetStats,
    Handle,
    Hello,
    Map,
    Mapped,
    SharedMemory,
    Stats,
    Welcome,
)
from rfp.control.uninterrupted import Descriptor, duplicate
from rfp.core import clock
from rfp.core.limits import LINE, SLOT_BYTES_MAX, SLOTS_MAX
from rfp.core.process import time_namespace
from rfp.errors import (
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    FabricError,
    HandshakeFailed,
    RfpError,
    Unsupported,
    not_copied,
)
from rfp.fabric.fabric import REMOTE_READ, REMOTE_WRITE, Fabric, Region, RemoteRegion
from rfp.protocol.client.channel import Channel
from rfp.protocol.client.client_ring import ClientRing, scratch_bytes
from rfp.protocol.client.remote_arena import RemoteArena
from rfp.protocol.handshake_layout import KEY_HASH, REPLIES
from rfp.protocol.wire import RESPONSE_CRC, WAKEUP

BOUNCE_BYTES = 1 << 20  # of a bounce buffer


class LentRegions(Protocol):
    """The owner of regions that may outlive their connection."""

    regions: list[Any]

    def close(self) -> None:
        """Close the regions as soon as they are not used any more."""


class Connection:
    """A client process's connection to the server at an address.

    Args:
        address: of the server.
        fabric: of all regions and queue pairs.
        control: the control channel, which the connection then owns.
        service: the name of the service that the server must serve.
        deadline: ns of the monotonic clock.
        features: to request.
        name: of this process, for the server's statistics.

    Raises:
        ConnectionFailed: the server cannot be reached.
        HandshakeFailed: the server refuses, or its response is invalid.
        DeadlineExceeded: the deadline has passed.
    """

    def __init__(
        self,
        address: Address,
        fabric: Fabric,
        control: ControlConnection,
        service: str,
        deadline: int,
        *,
        features: int = 0,
        name: str = "",
    ) -> None:
        self.address = address
        self.fabric = fabric
        self.channels: list[Channel] = []
        self.regions: list[Any] = []
        self._closed = False
        self._mapping = threading.Lock()
        self.bounce_buffers: list[Region] = []
        self._watched: list[Descriptor] = []
        # Regions of this connection that another object uses and closes, perhaps later.
        self.lent: LentRegions | None = None
        self.control = control
        try:
            if not fabric.reads_ordered:
                features |= RESPONSE_CRC
            features |= WAKEUP
            hello = Hello(features=features, name=name[:128], pid=os.getpid())
            with self.control.call(hello, Welcome, deadline) as welcome:
                self._take(welcome, service, features)
            # Copies: the control channel closes its own descriptors as soon as it fails, while the
            # queue pairs continue to watch these.
            for fd in (control.fileno(), control.pidfd()):
                if fd >= 0:
                    self._watched.append(duplicate(fd))
        except BaseException:
            self.close()
            raise

    def _take(self, welcome: Welcome, service: str, features: int) -> None:
        """Check the server's answer and map the memory that it shares."""
        if welcome.service != service:
            raise HandshakeFailed(f"{self.address} serves {welcome.service!r}, not {service!r}",
                                  hint="check the address")  # fmt: skip
        if welcome.hash != KEY_HASH:
            raise HandshakeFailed(
                f"the server hashes keys with {welcome.hash!r}, which this client does not support"
            )
        if welcome.slots > SLOTS_MAX or welcome.slot_size > SLOT_BYTES_MAX:
            raise HandshakeFailed(
                f"the server's rings of {welcome.slots} slots of {welcome.slot_size} bytes exceed "
                "the limits",
                hint=f"serve with at most {SLOTS_MAX} slots of {SLOT_BYTES_MAX} bytes",
            )
        if welcome.features & ~features:
            raise HandshakeFailed(
                f"the server granted features {welcome.features:#x}, but "
                f"{features:#x} were requested"
            )
        self.features = welcome.features
        self.seed = welcome.seed
        self.slots = welcome.slots
        self.slot_size = welcome.slot_size
        self.partitions = welcome.partitions
        self.lease_ns = welcome.lease_ns
        self.max_value = welcome.max_value
        self.server_pid = welcome.pid
        self.arenas: list[RemoteArena | None] = [None] * welcome.partitions
        for i, handle in enumerate(welcome.arenas):
            region = self._map(handle, REMOTE_READ, files=service == "rnvm")  # a pool is a file
            self.arenas[i] = self._arena(region.length, region.length)
            self.arenas[i].attach(0, region)  # type: ignore[union-attr]
        if welcome.arena_size:
            self.arenas = [self._arena(welcome.arena_size, welcome.chunk_size) for _ in self.arenas]
        self.eventcounts = (
            None if welcome.bells is None else self._keep(welcome.bells, REMOTE_WRITE)
        )
        self.heartbeat = None if welcome.beat is None else self._keep(welcome.beat, REMOTE_READ)
        self.owner_line: RemoteRegion | None = None
        if welcome.owner_line is not None:
            self.owner_line = self._keep(welcome.owner_line, REMOTE_READ)
            if self.owner_line.length < LINE:
                raise HandshakeFailed(
                    f"invalid incarnation line: {self.owner_line.length} bytes (expected {LINE})"
                )
        self.owner = welcome.owner
        # In another time namespace the server's clock is another one.
        self.same_clock = welcome.time_namespace == time_namespace()

    def _arena(self, length: int, chunk: int) -> RemoteArena:
        arena = RemoteArena(length, chunk)
        self.regions.append(arena)
        return arena

    @property
    def control_fd(self) -> int:
        """The control channel's socket, by which a pair detects the server's exit; -1: closed."""
        return self._watched[0].fd if self._watched else -1

    @property
    def pidfd(self) -> int:
        """The server's process, for the same purpose; -1: none."""
        return self._watched[1].fd if len(self._watched) > 1 else -1

    @property
    def silence_ns_max(self) -> int:
        """Time (ns) without a new heartbeat after which the server counts as failed.

        It is a little longer than the device's own limit, whose error contains the cause.
        """
        return (
            self.address.rdma.patience if self.address.provider == "rdma" else 800_000_000
        ) + 100_000_000

    @property
    def needs_registration(self) -> bool:
        """Whether local memory must be registered before a work request may use it."""
        return self.fabric.closing_revokes

    def checkout_bounce_buffer(self) -> Region:
        """Return a registered buffer through which other memory is copied.

        The caller appends it to `bounce_buffers` afterwards.
        """
        if self.bounce_buffers:
            return self.bounce_buffers.pop()
        region = self.fabric.register(BOUNCE_BYTES, 0)
        self.regions.append(region)
        return region

    def map_chunks(self, partition: int, offset: int, length: int, deadline: int) -> None:
        """Attach the missing chunks of a range of a worker's arena.

        Raises:
            ConnectionFailed, HandshakeFailed, DeadlineExceeded: as a control call.

        Cost:
            One call on the control channel for each chunk: the server registers up to 64 MiB, which
            may take a device a second.
        """
        arena = self.arenas[partition]
        assert arena is not None
        with self._mapping:  # the second of two threads that need one chunk finds it attached
            for index in arena.needed(offset, length):
                with self.control.call(Map(partition, index), Mapped, deadline) as answer:
                    arena.attach(index, self._map(answer.memory, REMOTE_READ))

    def begin_chunk(self, partition: int, index: int) -> int:
        """Request a chunk of an arena for direct reads, without waiting; return the call's number.

        Raises:
            ConnectionFailed, DeadlineExceeded: the control channel is lost, or in use.
        """
        return self.control.begin(Map(partition, index, direct=True))

    def finish_chunk(self, partition: int, index: int, number: int) -> bool:
        """Attach the chunk that begin_chunk() requested; False: the response has not come yet.

        Raises:
            QuotaExceeded: the server refuses to register more memory.
            ConnectionFailed, HandshakeFailed, DeadlineExceeded: as a control call.
        """
        answer = self.control.finish(number)
        if answer is None:
            return False
        with answer:
            if not isinstance(answer, Mapped):
                raise HandshakeFailed(f"the server answered 'map' with {answer.title()!r}")
            arena = self.arenas[partition]
            assert arena is not None
            if not self._closed:
                arena.attach(index, self._map(answer.memory, REMOTE_READ))
        return True

    def _keep(self, handle: Handle, rights: int, files: bool = False) -> RemoteRegion:
        region = self._map(handle, rights, files)
        self.regions.append(region)
        return region

    def _map(self, handle: Handle, rights: int, files: bool = False) -> RemoteRegion:
        """Attach the server's memory if it grants the rights.

        Args:
            handle: from the server.
            rights: that this client needs.
            files: accept a range of a file, which the server can truncate while it is mapped; only
                for a pool.
        """
        region = handle.attach(self.fabric, files)
        if region.rights & rights != rights:
            region.close()
            raise HandshakeFailed(
                "the server shared memory with rights "
                f"{region.rights:#x}, but {rights:#x} is needed"
            )
        return region

    def memory(
        self, number: int, rights: int, deadline: int, *, files: bool = False
    ) -> RemoteRegion:
        """Attach memory of the service that not all clients share, until the connection closes.

        Args:
            number: by which the service knows the memory.
            rights: that this client needs.
            deadline: ns of the monotonic clock.
            files: accept a range of a file.
        """
        with self.control.call(GetMemory(number), SharedMemory, deadline) as answer:
            return self._keep(answer.region, rights, files)

    def lend(
        self, number: int, borrow: Callable[[Connection, RemoteRegion], LentRegions], deadline: int
    ) -> LentRegions:
        """Return the owner of regions that may outlive the connection; the same at each call.

        Args:
            number: of the memory that the service shares for them.
            borrow: called once with this connection and that memory, which peers may write.
            deadline: ns of the monotonic clock.
        """
        if self.lent is None:
            if not self._mapping.acquire(timeout=max(0, (deadline - clock.now_ns()) / 1e9)):
                raise DeadlineExceeded("timed out waiting for another thread that maps memory")
            try:
                if self.lent is None:
                    region = self.memory(number, REMOTE_WRITE, deadline)
                    if self._closed:  # by a signal handler
                        raise Closed("the connection is closed")
                    self.lent = borrow(self, region)
            finally:
                self._mapping.release()
        return self.lent

    def attach(self, deadline: int, *, polled: bool = False) -> Channel:
        """Return a channel for one more thread.

        polled: whether the thread sleeps on a descriptor, that of `Channel.events`.
        """
        opened: list[Any] = []  # closed after a failure, the last first

        def keep(thing: Any) -> Any:
            opened.append(thing)
            return thing

        count, ring = self.partitions, self.slots * self.slot_size
        scratch_size = scratch_bytes(self.slots, self.slot_size)
        question: Attach | None = None
        channel: Channel | None = None
        try:
            reply = keep(self.fabric.register(REPLIES + count * ring, REMOTE_WRITE))
            scratch = keep(self.fabric.register(count * scratch_size, 0))
            events = keep(self.fabric.event_channel(reply, 0))
            pairs = [
                keep(self.fabric.queue_pair(events, self.pidfd, self.control_fd))
                for _ in range(count)
            ]
            wakeup = polled and events.fileno() < 0
            if wakeup and not self.features & WAKEUP:
                raise Unsupported(
                    f"{self.address} cannot wake a client through a descriptor",
                    hint="use the same release of rfp-rnvm on both sides",
                )
            question = Attach(
                wakeup=wakeup,
                reply=Handle(reply.descriptor(), reply.fileno()),
                pairs=[pair.descriptor() for pair in pairs],
            )
            with self.control.call(question, Attached, deadline) as answer:
                lengths = (
                    answer.pairs,
                    answer.request_offsets,
                    answer.response_offsets,
                    answer.reply_offsets,
                )
                if any(len(each) != count for each in lengths):
                    raise HandshakeFailed(
                        f"the server answered for {len(answer.pairs)} workers, but it has {count}"
                    )
                if wakeup:
                    if answer.wakeup is None:
                        raise HandshakeFailed("the server sent no descriptor, which it had granted")
                    events.poll_by(answer.wakeup.take())
                requests = keep(self._map(answer.request, REMOTE_WRITE))
                responses = keep(self._map(answer.response, REMOTE_READ))
                staging = None
                if answer.staging is not None:
                    staging = keep(self._map(answer.staging, REMOTE_WRITE))
                rings = []
                for i, pair in enumerate(pairs):
                    try:
                        pair.connect(answer.pairs[i], self.eventcounts)
                    except FabricError as error:  # no route now, but perhaps again in a moment
                        raise ConnectionFailed(
                            f"cannot reach {self.address}: {Exception.__str__(error)}"
                        ) from error
                    if not pair.reads_ordered and not self.features & RESPONSE_CRC:
                        raise HandshakeFailed(
                            "the server sends responses without "
                            "checksums, which this fabric requires"
                        )
                    rings.append(
                        ClientRing(
                            pair, events, requests, answer.request_offsets[i],
                            responses, answer.response_offsets[i], reply, answer.reply_offsets[i],
                            scratch, i * scratch_size, self.slots, self.slot_size,
                            bool(self.features & RESPONSE_CRC), self.heartbeat, self.silence_ns_max,
                        )
                    )  # fmt: skip
            channel = Channel(
                answer.channel, rings, self.arenas, staging, reply, scratch, requests, responses,
                events, self.lease_ns, self.seed,
            )  # fmt: skip
            channel.connection = self
            if self._closed:
                raise Closed("the connection is closed")
            self.channels.append(channel)
            return channel
        except BaseException as error:
            if channel in self.channels:
                self.channels.remove(channel)
            for thing in reversed(opened):
                thing.close()
            if self._closed and isinstance(error, (RfpError, OSError, ValueError)):
                raise Closed(
                    "the connection is closed"
                ) from error  # by a signal handler, under this thread
            # Detach too if a signal handler's exception came after the answer.
            if question is not None and isinstance(question.answered, Attached):
                self._detach(question.answered.channel)
                if isinstance(error, ValueError):
                    raise HandshakeFailed(f"invalid response from the server: {error}") from None
            raise

    def detach(self, channel: Channel) -> None:
        """Give back one thread's rings; the caller made sure that no call is in progress."""
        self.channels.remove(channel)
        channel.close()
        self._detach(channel.number)

    def _detach(self, number: int) -> None:
        try:
            self.control.send(Detach(number), 0)
        except RfpError:
            pass  # the end of the connection has the same effect

    def figures(self, deadline: int) -> dict[str, Any]:
        """Return the server's statistics of its workers and clients."""
        with self.control.call(GetStats(), Stats, deadline) as answer:
            return answer.figures

    def close(self) -> None:
        """Close the connection; the caller made sure that no call is in progress.

        Safe to call again.
        """
        if self._closed:
            return
        self._closed = True
        for channel in self.channels:
            channel.close()
            self._detach(channel.number)
        self.control.close()
        lent = [] if self.lent is None else self.lent.regions
        for region in self.regions:
            if not any(region is each for each in lent):
                region.close()
        if self.lent is not None:
            self.lent.close()
        self._close_copies()

    def _close_copies(self) -> None:
        for descriptor in self._watched:
            descriptor.close()
        self._watched = []

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "connect again")

    def forked(self) -> None:
        """Disable the connection in the child of a fork.

        The control channel and the fabric do the same for themselves.
        """
        self._closed = True
        self._close_copies()
