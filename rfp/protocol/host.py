"""A host: services, their workers, and the control channel through which clients find them.

    Host --- Worker, Service          one each per partition
         --- Guest --- Attachment     one guest per connected process, one attachment per thread of it

One Python thread watches the control channel and the client processes.  It sets up and takes down; requests never pass
through it, so a Python program that keeps the interpreter busy delays new clients, not those that are connected.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rfp._fabric import Fabric, Region
from rfp.address import Address
from rfp.control import Attach, Attached, Connection, Detach, GetStats, Handle, Hello, Message, Refused, Stats, Welcome, listen
from rfp.errors import CallerError, FabricError, HandshakeFailed, QuotaExceeded, RfpError
from rfp.protocol._server_ring import ServerRing
from rfp.protocol._service import Service
from rfp.protocol._worker import Worker
from rfp.protocol.layout import BELL, NOTIFY, REMOTE_READ, REMOTE_WRITE, REPLIES

MOST_CHANNELS = 1024  # of one client process
MOST_MESSAGES = 16  # of one guest before the others have their turn
ENDING = 5  # ms between two looks whether a worker has let go a ring that is to end
MOST_SHOWN = 200  # clients in figures(), which must fit into one control message
SLOT_SIZE = 33 * 64  # an odd number of cache lines: the slots' first ones spread over all sets of a cache
RESPONSE_CRC, BYPASS = 1, 2  # features (wire.h)


class Attachment:
    """What one client thread has here: a ring to each worker, and the memory for them."""

    def __init__(self, host: Host, guest: Guest, number: int, question: Attach) -> None:
        self.number = number
        self.host = host
        self.rings: list[ServerRing] = []
        self.orders: list[int | None] | None = None  # that end them
        self.opened: list[Any] = []  # what to close, in this order
        try:
            self.answer = self._set_up(guest, question)
        except BaseException:
            self.close()
            raise

    def _set_up(self, guest: Guest, question: Attach) -> Attached:
        host = self.host
        ring = host.slots * host.slot_size
        count = len(host.workers)
        if len(question.pairs) != count:
            raise HandshakeFailed(f"attach brought {len(question.pairs)} queue pairs, and there are {count} workers")
        reply = host.fabric.attach(question.reply.descriptor, question.reply.take())
        self.opened.append(reply)
        if reply.length < REPLIES + count * ring:
            raise HandshakeFailed(f"the reply region has {reply.length} bytes and needs {REPLIES + count * ring}")
        requests = self._register(count * ring, REMOTE_READ | REMOTE_WRITE)
        responses = self._register(count * ring, REMOTE_READ)
        staging = self._register(host.staging_size, REMOTE_READ | REMOTE_WRITE) if host.staging_size else None
        pairs = []
        for i, worker in enumerate(host.workers):
            pair = host.fabric.queue_pair(worker.channel, guest.pidfd, guest.control)
            self.opened.insert(0, pair)  # before the memory that it works on
            pair.connect(question.pairs[i], reply)
            pairs.append(pair.descriptor())
            self.rings.append(
                ServerRing(
                    requests, i * ring, responses, i * ring, staging, pair, reply, REPLIES + i * ring, NOTIFY,
                    host.slots, host.slot_size, bool(guest.features & RESPONSE_CRC),
                )
            )  # fmt: skip
        for server_ring, worker in zip(self.rings, host.workers, strict=True):
            worker.add(server_ring)
        offsets = [i * ring for i in range(count)]
        return Attached(
            channel=self.number,
            request=Handle(requests.descriptor(), requests.fileno()),
            response=Handle(responses.descriptor(), responses.fileno()),
            staging=None if staging is None else Handle(staging.descriptor(), staging.fileno()),
            request_offsets=offsets,
            response_offsets=offsets,
            staging_offsets=[0] * count if staging is not None else [],
            reply_offsets=[REPLIES + offset for offset in offsets],
            pairs=pairs,
        )

    def _register(self, length: int, rights: int) -> Region:
        region = self.host.fabric.register(length, rights)
        self.opened.append(region)
        return region

    def retire(self) -> None:
        """Begins to end the rings: `retired` says when no worker touches them any more, and close() then waits for nobody."""
        if self.orders is None:
            self.orders = [worker.retire(ring) for ring, worker in zip(self.rings, self.host.workers, strict=False)]

    @property
    def retired(self) -> bool:
        pairs = zip(self.orders or (), self.host.workers, strict=False)
        return self.orders is not None and all(worker.retired(order) for order, worker in pairs)

    def close(self) -> None:
        """Ends the rings; waits until no worker touches them any more."""
        self.retire()
        while not self.retired:
            time.sleep(0.0001)
        for thing in self.opened:
            thing.close()
        self.host.past.update(self.counters())
        self.rings.clear()
        self.opened.clear()

    def counters(self) -> Counter[str]:
        """What has passed through the rings, added up."""
        total: Counter[str] = Counter()
        for ring in self.rings:
            total.update(ring.counters)
        return total


class Guest:
    """A connected client process."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        # Copies: the connection closes its own as soon as it fails, and the queue pairs go on watching these.
        self.control = -1
        self.pidfd = os.dup(connection.pidfd())
        try:
            self.control = os.dup(connection.fileno())
        except OSError:
            self.close()
            raise
        self.features = 0
        self.greeted = False
        self.name = ""
        self.attachments: dict[int, Attachment] = {}
        self.ending: list[Attachment] = []
        self.over = False  # and is to be closed with the last of them
        self.numbers = 0
        self.since = time.time()

    def close(self) -> None:
        self.connection.close()
        for fd in (self.control, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.control = self.pidfd = -1


class Host:
    """Serves services at an address until it is closed.

    services: one for each worker; arenas: the region of each, or none; describe: called for the service's part of the figures.
    Everything else is told to clients at the handshake.
    """

    def __init__(
        self,
        address: Address,
        fabric: Fabric,
        services: Sequence[Service],
        *,
        service: str,
        arenas: Sequence[Region] = (),
        seed: int = 0,
        slots: int = 64,
        slot_size: int = SLOT_SIZE,
        staging_size: int = 0,
        lease_ns: int = 0,
        max_value: int = 0,
        features: int = RESPONSE_CRC,
        idle: str = "adaptive",
        cpus: Sequence[int] | None = None,
        describe: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.address = address
        self.fabric = fabric
        self.slots = slots
        self.slot_size = slot_size
        self.staging_size = staging_size
        self.lease_ns = lease_ns
        self.features = features
        self.describe = describe
        self.arenas = list(arenas)
        self.guests: set[Guest] = set()
        self.departing: list[tuple[float, Guest]] = []  # gone, but their processes may still READ what is pinned for them
        self.ending: set[Guest] = set()  # with rings that their workers have not let go yet
        self.past: Counter[str] = Counter()  # what passed through rings that have ended
        self.refused = 0
        self.since = time.time()
        self._closed = False
        self._lock = threading.Lock()
        self._counting = threading.Lock()  # while counters move from one who leaves to `past`
        self._pid = os.getpid()
        self._wake = -1
        self.workers: list[Worker] = []
        self.bells: Region | None = None
        self.listener = listen(address)
        try:
            self.bells = fabric.register(BELL * len(services), REMOTE_READ | REMOTE_WRITE)
            for i, each in enumerate(services):
                self.workers.append(
                    Worker(each, fabric.event_channel(self.bells, BELL * i), idle=idle, slot_size=slot_size)
                )  # fmt: skip
            self.welcome = Welcome(
                features=0,
                service=service,
                slot_size=slot_size,
                slots=slots,
                hash="xxh3-64",
                seed=seed,
                partitions=len(services),
                arenas=[Handle(arena.descriptor(), arena.fileno()) for arena in self.arenas],
                bells=Handle(self.bells.descriptor(), self.bells.fileno()),
                lease_ns=lease_ns,
                staging_size=staging_size,
                max_value=max_value,
                name=os.path.basename(address.path)[:128] or "rfp",
                pid=self._pid,
            )
            for i, worker in enumerate(self.workers):
                worker.start(cpu=cpus[i % len(cpus)] if cpus else None)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            self._end()
            raise
        self._thread = threading.Thread(target=self._watch, name="rfp-control", daemon=True)
        self._thread.start()
        _hosts.add(self)

    # The control thread

    def _watch(self) -> None:
        """Waits for connections, messages and deaths, until close()."""
        poll = select.poll()
        poll.register(self.listener.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        owners: dict[int, Guest] = {}
        while not self._closed:
            pause = None
            if self.departing:
                pause = max(0, int((self.departing[0][0] - time.monotonic()) * 1000) + 1)
            if self.ending:
                pause = min(pause or ENDING, ENDING)
            for fd, _ in poll.poll(pause):
                if fd == self._wake:
                    continue
                if fd == self.listener.fileno():
                    self._welcome_guests(poll, owners)
                    continue
                guest = owners.get(fd)
                if guest is None or self._hear(guest, fd):
                    continue
                # One that may still READ is watched until its process has ended too.
                kept = guest in self.guests and bool(guest.attachments) and not _readable(guest.pidfd)
                for each in (guest.control,) if kept else (guest.pidfd, guest.control):
                    if owners.pop(each, None) is not None:
                        poll.unregister(each)
                self._see_off(guest, at_once=not kept)
            for guest in self._departed():
                poll.unregister(guest.pidfd)
                del owners[guest.pidfd]
                self._free(guest)
            self._end_retired()

    def _welcome_guests(self, poll: select.poll, owners: dict[int, Guest]) -> None:
        while True:
            try:
                connection = self.listener.accept(0.0)
            except FabricError:
                traceback.print_exc()
                return
            if connection is None:
                return
            try:
                guest = Guest(connection)
            except (RfpError, OSError):  # it has gone already, or there is no file descriptor left for it
                connection.close()
                continue
            for fd in (guest.pidfd, guest.control):
                owners[fd] = guest
                poll.register(fd, select.POLLIN)
            self.guests.add(guest)

    def _hear(self, guest: Guest, fd: int) -> bool:
        """Acts on what a guest has sent; returns False when it is to go."""
        if fd == guest.pidfd:
            # The number may have been another's a moment ago, whose end this event then told.
            return not _readable(fd)
        try:
            for _ in range(MOST_MESSAGES):
                message = guest.connection.try_receive()
                if message is None:
                    break
                with message:
                    try:
                        self._act(guest, message)
                    except RfpError as error:
                        self.refused += 1
                        guest.connection.answer(message, Refused.of(error), 0.0)
                        if isinstance(error, HandshakeFailed):
                            return False
            return not guest.connection.closed
        except (RfpError, OSError):
            return False
        except Exception:  # noqa: BLE001 - whatever one client brings about must not end the others' control channel
            traceback.print_exc()
            return False

    def _act(self, guest: Guest, message: Message) -> None:
        if isinstance(message, Hello):
            guest.greeted = True
            guest.name = message.name
            guest.features = message.features & self.features
            self.welcome.features = guest.features
            guest.connection.answer(message, self.welcome, 0.0)
        elif not guest.greeted:
            raise HandshakeFailed(f"the first message was {type(message).__name__}, not Hello")
        elif isinstance(message, Attach):
            if len(guest.attachments) >= MOST_CHANNELS:
                raise QuotaExceeded(f"this process has {MOST_CHANNELS} threads connected", hint="close handles, or end threads")
            guest.numbers += 1
            try:
                attachment = Attachment(self, guest, guest.numbers, message)
            except RfpError:
                raise
            except ValueError as error:
                raise HandshakeFailed(str(error)) from None
            # Before the answer: a client that has it finds itself in the figures.
            guest.attachments[guest.numbers] = attachment
            guest.connection.answer(message, attachment.answer, 0.0)
        elif isinstance(message, Detach):
            if message.channel in guest.attachments:
                self._retire(guest, [message.channel])
        elif isinstance(message, GetStats):
            guest.connection.answer(message, Stats(self.figures()), 0.0)
        else:
            raise HandshakeFailed(f"a client does not send {type(message).__name__}")

    def _see_off(self, guest: Guest, at_once: bool) -> None:
        """Frees what a guest held: at once if its process has died, else when it can READ nothing of it any more."""
        self.guests.discard(guest)
        guest.connection.close()
        if at_once:
            self.departing = [(until, each) for until, each in self.departing if each is not guest]
            self._free(guest)
        else:
            self.departing.append((time.monotonic() + 1.25 * self.lease_ns / 1e9, guest))

    def _departed(self) -> list[Guest]:
        """Those whose time is over."""
        over = []
        while self.departing and self.departing[0][0] <= time.monotonic():
            over.append(self.departing.pop(0)[1])
        return over

    def _free(self, guest: Guest) -> None:
        guest.over = True
        self._retire(guest, list(guest.attachments))

    def _retire(self, guest: Guest, numbers: Sequence[int]) -> None:
        """An RPC handler may keep its worker for long, and nobody else is to wait for that."""
        with self._counting:
            for number in numbers:
                guest.attachments[number].retire()
                guest.ending.append(guest.attachments.pop(number))
            self.ending.add(guest)

    def _end_retired(self) -> None:
        for guest in list(self.ending):
            for attachment in [each for each in guest.ending if each.retired]:
                with self._counting:
                    attachment.close()
                    guest.ending.remove(attachment)
            if not guest.ending:
                with self._counting:
                    self.ending.remove(guest)
                if guest.over:
                    guest.close()

    # For the owner

    def figures(self) -> dict[str, Any]:
        """What is known of workers and clients, and of the service."""
        guests = list(self.guests)
        with self._counting:
            total = Counter(self.past)
            counted: dict[Guest, Counter[str]] = {}
            for guest in {*guests, *(guest for _, guest in self.departing), *self.ending}:
                counted[guest] = Counter()
                for attachment in [*guest.attachments.values(), *guest.ending]:
                    counted[guest].update(attachment.counters())
                total.update(counted[guest])
        return {
            "address": str(self.address),
            "pid": self._pid,
            "uptime": time.time() - self.since,
            "workers": [worker.counters for worker in self.workers],
            "clients": [
                {
                    "pid": guest.connection.pid,
                    "name": guest.name,
                    "threads": len(guest.attachments),
                    "since": guest.since,
                    "served": counted[guest]["served"],
                    "malformed": counted[guest]["malformed"],
                }
                for guest in guests[:MOST_SHOWN]
            ],
            "connected": len(guests),
            **{name: total[name] for name in ("served", "replied", "notified", "malformed")},
            "sizes": [sum(each) for each in zip(*(worker.sizes for worker in self.workers), strict=True)],
            "refused": self.refused,
            **self.describe(),
        }

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Ends all connections and workers, and gives all memory back; waits for an RPC handler that is at work.

        Safe to call again.  Raises CallerError in a handler.
        """
        if any(worker.inside for worker in self.workers):
            raise CallerError("a handler cannot close its own server: the server waits for the handler",
                              hint="let the handler tell another thread")  # fmt: skip
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if os.getpid() != self._pid:
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._end()

    def _end(self) -> None:
        self.listener.close()
        for worker in self.workers:
            worker.stop()
        for guest in [*self.guests, *(guest for _, guest in self.departing)]:
            self._free(guest)
        self._end_retired()
        self.guests.clear()
        self.departing.clear()
        for worker in self.workers:
            worker.channel.close()
        if self.bells is not None:
            self.bells.close()
        if self._wake >= 0:
            os.close(self._wake)

    def forked(self) -> None:
        """In the child of a fork there are no workers: the handle is closed there."""
        self._closed = True
        os.close(self._wake)
        for guest in [*self.guests, *(guest for _, guest in self.departing), *self.ending]:
            guest.close()


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


_hosts: weakref.WeakSet[Host] = weakref.WeakSet()


def _forget_parents_hosts() -> None:
    for host in list(_hosts):
        if not host.closed:
            host.forked()


def _close_hosts() -> None:
    """A program that ends without closing its servers: their threads must not outlive the interpreter."""
    for host in list(_hosts):
        host.close()


os.register_at_fork(after_in_child=_forget_parents_hosts)
atexit.register(_close_hosts)
