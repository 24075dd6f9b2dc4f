"""A host: services, their workers, and the control channel through which clients find them.

    Host --- Worker, Service          one each per partition
         --- Guest --- Attachment     one guest per connected process, one attachment per thread of it

One Python thread watches the control channel and the client processes.  It sets up and takes down; requests never pass
through it, so a Python program that keeps the interpreter busy delays new clients, not those that are connected.
"""

from __future__ import annotations

import dataclasses
import os
import select
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from rfp.address import Address
from rfp.control import (
    Attach,
    Connection,
    Credentials,
    Detach,
    GetMemory,
    GetStats,
    Hello,
    Map,
    Mapped,
    Message,
    Refused,
    SharedMemory,
    Stats,
    Welcome,
    listen,
)
from rfp.control.acceptor import MOST_STRANGERS
from rfp.control.message import printable
from rfp.core import clock
from rfp.core.at_exit import at_exit
from rfp.core.forks import in_child, notice
from rfp.errors import CallerError, FabricError, HandshakeFailed, QuotaExceeded, RfpError, ServerRefused, explained
from rfp.fabric.fabric import Fabric, Region
from rfp.protocol.handshake_layout import BELL, LINE, REMOTE_READ, REMOTE_WRITE, RESPONSE_CRC
from rfp.protocol.server.client_connection import Attachment, Guest, Offer, handle
from rfp.protocol.server.heartbeat import Heart
from rfp.protocol.server.real_thread import RealThread
from rfp.protocol.server.service import Service
from rfp.protocol.server.shares import LEAST_CHANNELS, LEAST_MEMORY, Cost, Shares
from rfp.protocol.server.worker import Worker

MOST_REGIONS = 1024  # that a service gives one client process beside its rings
MOST_MESSAGES = 16  # of those that take no time, of one guest before the others have their turn
ENDING = 5  # ms between two looks whether a worker has let go a ring that is to end
MOST_NEWCOMERS = 8  # connections taken in one turn of the control thread
MOST_TURNED_AWAY = 16  # connections that wait to be told why they are refused
GUEST_MEMORY = 64 << 10  # bytes, about, for a connection
SESSION_MEMORY = 24 << 10  # and for what a service keeps of a session
PAIR_MEMORY = 64 << 10  # and for a queue pair of a device
REGION = Cost(descriptors=1)  # of what a service gives
MOST_SHOWN = 200  # clients in figures(), which must fit into one control message
SLOT_SIZE = 33 * 64  # an odd number of cache lines: the slots' first ones spread over all sets of a cache


class Host:
    """Serves services at an address until it is closed.

    services: one for each worker; arenas: the region of each, or none; describe: called for the service's part of the figures;
    memory: gives the region that a client asks for by number, made with the fabric that is that client's, or refuses; rings:
    bytes that all clients' rings may take, None for a gigabyte, what 256 threads need or as much as the store has; store: bytes
    of that; credentials, allow_anyone: who may connect over a network.  Everything else is told to clients at the handshake.

    Raises what listening raises, FabricError (memory, file descriptors or threads cannot be had); nothing is left then.
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
        memory: Callable[[int, Fabric], Region] | None = None,
        rings: int | None = None,
        store: int = 0,
        credentials: Credentials | None = None,
        allow_anyone: bool = False,
    ) -> None:
        self.fabric = fabric
        self.lease_ns = lease_ns
        self.features = features
        self.describe = describe
        self.memory = memory
        self.arenas = list(arenas)
        self.guests: set[Guest] = set()
        self.departing: list[tuple[float, Guest]] = []  # gone, but their processes may still READ what is pinned for them
        self.ending: set[Guest] = set()  # with rings that their workers have not let go yet
        self.past: Counter[str] = Counter()  # what passed through rings that have ended
        self.refused = 0
        self.since = clock.now()
        self._closed = False
        self._ended = False
        self._closer: int | None = None  # the thread that is inside close()
        self._lock = threading.RLock()  # of close(): a signal handler of the thread inside may call it too
        self._counting = threading.Lock()  # while counters move from one who leaves to `past`
        self._pid = os.getpid()
        self._wake = -1
        self.workers: list[Worker] = []
        isolated = fabric.closing_revokes
        per_ring = 2 * slots * slot_size + SESSION_MEMORY + (PAIR_MEMORY if isolated else 0)
        # On shm each region of ours has a file descriptor; a connection has the socket, a pidfd, copies of both, and one that may
        # be coming in with a message.
        cost = Cost(len(services) * per_ring + staging_size, 0 if isolated else 3 if staging_size else 2, 1)
        self.guest_cost = Cost(GUEST_MEMORY, 2 if isolated else 5)
        self.offer = Offer(self.workers, slots, slot_size, staging_size, cost)
        self.shares = Shares(rings or max(LEAST_MEMORY, LEAST_CHANNELS * cost.memory, store), MOST_STRANGERS if isolated else 0)
        self.turned_away = 0
        self.bells: Region | None = None  # where the workers' sleeping words stand
        self.pulse: Region | None = None  # where the heart beats
        self.heart: Heart | None = None
        self._thread: RealThread | None = None
        try:
            self.listener = listen(address, credentials, allow_anyone=allow_anyone)
        except RfpError:
            raise
        except OSError as error:
            raise explained(error, f"cannot listen at {address}") from error
        self.address = self.listener.address
        try:
            if self.isolated:
                self.pulse = fabric.reserve(LINE, REMOTE_READ)
                self.heart = Heart(self.pulse)
                self.heart.start()
            else:
                self.bells = fabric.register(BELL * len(services), REMOTE_WRITE)
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
                arenas=[] if self.isolated else [handle(arena) for arena in self.arenas],
                bells=None if self.bells is None else handle(self.bells),
                lease_ns=lease_ns,
                staging_size=staging_size,
                max_value=max_value,
                name=printable(os.path.basename(address.path), 128) or "rfp",
                pid=self._pid,
            )
            if self.isolated and self.arenas:
                self.welcome.arena_size = self.arenas[0].length
                self.welcome.chunk_size = min(self.arenas[0].length, fabric.share_limit)
            for i, worker in enumerate(self.workers):
                worker.start(cpu=cpus[i % len(cpus)] if cpus else None)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            _hosts.add(self)
            self._thread = RealThread(self._watch, "rfp-control")
            self._thread.start()
        except BaseException as error:
            self._closed = True
            self._stop_watching()
            self._end()
            self._ended = True
            if isinstance(error, OSError) and not isinstance(error, RfpError):
                raise explained(error, f"cannot serve at {address}") from error
            raise

    @property
    def isolated(self) -> bool:
        """Whether what is for one client is out of the others' reach, so that it is made and registered for each one."""
        return self.fabric.closing_revokes

    # The control thread

    def _watch(self) -> None:
        """Waits for connections, messages and deaths, until close()."""
        poll = select.poll()
        poll.register(self.listener.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        owners: dict[int, Guest] = {}
        while not self._closed:
            until = [self.departing[0][0]] if self.departing else []
            until += [self.listener.expires] if self.listener.expires is not None else []
            pauses = [max(0, int((min(until) - clock.now()) * 1000) + 1)] if until else []
            pauses += [ENDING] if self.ending else []
            # What TLS has taken from a socket already does not show there.
            heard = [guest.control for guest in self.guests if guest.connection.pending]
            ready = [fd for fd, _ in poll.poll(0 if heard else min(pauses, default=None))]
            for fd in dict.fromkeys([*ready, *heard]):
                guest = owners.get(fd)
                if guest is not None and not self._hear(guest, fd):
                    self._part(guest, poll, owners)
            # Those that are in come first, and one turn of the listener between two of theirs: strangers cannot delay them.
            if self.listener.fileno() in ready or self.listener.expires is not None:
                self._welcome_guests(poll, owners)
            for guest in self._departed():
                poll.unregister(guest.pidfd)
                del owners[guest.pidfd]
                self._free(guest)
            self._end_retired()

    def _part(self, guest: Guest, poll: select.poll, owners: dict[int, Guest]) -> None:
        """Lets go of a guest that has gone or has to go."""
        # One that may still READ is watched until its process has ended too.
        kept = guest in self.guests and bool(guest.attachments) and not self._cut_off(guest)
        for each in (guest.control,) if kept else (guest.pidfd, guest.control):
            if owners.pop(each, None) is not None:
                poll.unregister(each)
        self._see_off(guest, at_once=not kept)

    def _welcome_guests(self, poll: select.poll, owners: dict[int, Guest]) -> None:
        """Lets a few of those in that wait, so that the others have their turn."""
        for _ in range(MOST_NEWCOMERS):
            try:
                connection = self.listener.accept(0.0)
            except (RfpError, OSError):
                traceback.print_exc()
                return
            if connection is None:
                return
            guest = self._welcome(connection)
            if guest is None:
                continue
            for fd in guest.watched():
                owners[fd] = guest
                poll.register(fd, select.POLLIN)
            self.guests.add(guest)
            waiting = [each for each in self.guests if each.refusal is not None]
            if len(waiting) > MOST_TURNED_AWAY:
                self._part(min(waiting, key=lambda each: each.since), poll, owners)

    def _welcome(self, connection: Connection) -> Guest | None:
        """A guest for a connection; one that is only to be told why not, where its share or the server's is used up."""
        peer, cost, refusal = self.shares.peer(connection), self.guest_cost, None
        try:
            self.shares.take(peer, cost)
        except ServerRefused as error:
            self.turned_away += 1
            cost, refusal = Cost(), error
        try:
            return Guest(connection, self.fabric, peer, cost, refusal)
        except (RfpError, OSError):  # it has gone already, or this process has no file descriptor left for it
            self.shares.give_back(peer, cost)
            connection.close()
            return None

    def _cut_off(self, guest: Guest) -> bool:
        """Whether a guest that has gone can READ nothing any more: its access has been taken away, or its process has ended."""
        guest.revoke()
        return self.isolated or _readable(guest.pidfd)

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
                        if isinstance(error, HandshakeFailed) or guest.refusal is not None:
                            return False
                if not isinstance(message, Detach):  # all others may take long: the next guest's turn comes first
                    break
            return not guest.connection.closed
        except (RfpError, OSError):
            return False
        except Exception:  # noqa: BLE001 - whatever one client brings about must not end the others' control channel
            traceback.print_exc()
            return False

    def _act(self, guest: Guest, message: Message) -> None:
        if guest.refusal is not None:
            raise guest.refusal
        if isinstance(message, Hello):
            guest.greeted = True
            guest.name = message.name
            guest.features = message.features & self.features
            guest.pid = guest.pid or message.pid
            welcome = dataclasses.replace(self.welcome, features=guest.features)
            if self.pulse is not None:
                if guest.beat is None:
                    guest.beat = guest.fabric.share(self.pulse, 0, self.pulse.length, REMOTE_READ)
                welcome.beat = handle(guest.beat)
            guest.connection.answer(message, welcome, 0.0)
        elif not guest.greeted:
            raise HandshakeFailed(f"the first message was {type(message).__name__}, not Hello")
        elif isinstance(message, Attach):
            guest.numbers += 1
            self._end_retired()  # what a thread that has just ended gave back is there for the next
            self.shares.take(guest.peer, self.offer.cost)
            try:
                attachment = Attachment(self.offer, guest, guest.numbers, message)
            except BaseException as error:
                self.shares.give_back(guest.peer, self.offer.cost)
                if isinstance(error, ValueError) and not isinstance(error, RfpError):
                    raise HandshakeFailed(str(error)) from None
                if isinstance(error, FabricError):
                    raise ServerRefused(
                        f"the server has no room for another thread: {Exception.__str__(error)}",
                        hint="the limits are those of the server's process (memory, `ulimit -n`)",
                    ) from error
                raise
            # Before the answer: a client that has it finds itself in the figures.
            guest.attachments[guest.numbers] = attachment
            guest.connection.answer(message, attachment.answer, 0.0)
        elif isinstance(message, Detach):
            if message.channel in guest.attachments:
                self._retire(guest, [message.channel])
        elif isinstance(message, Map):
            guest.connection.answer(message, Mapped(handle(self._chunk(guest, message))), 0.0)
        elif isinstance(message, GetStats):
            guest.connection.answer(message, Stats(self.figures()), 0.0)
        elif isinstance(message, GetMemory):
            if self.memory is None or len(guest.regions) >= MOST_REGIONS:
                raise QuotaExceeded("this server has no more memory to share")
            self.shares.take(guest.peer, REGION)
            try:
                guest.regions.append(self.memory(message.which, guest.fabric))
            except BaseException:
                self.shares.give_back(guest.peer, REGION)
                raise
            guest.given += 1
            guest.connection.answer(message, SharedMemory(handle(guest.regions[-1])), 0.0)
        else:
            raise HandshakeFailed(f"a client does not send {type(message).__name__}")

    def _chunk(self, guest: Guest, message: Map) -> Region:
        """A chunk of an arena, for this guest alone.  Registering may take a device a second: only this thread waits."""
        size, place = self.welcome.chunk_size, (message.partition, message.chunk)
        if message.partition >= len(self.arenas) or size == 0 or message.chunk * size >= self.welcome.arena_size:
            raise HandshakeFailed(f"there is no chunk {message.chunk} of arena {message.partition}")
        if place not in guest.chunks:
            arena, at = self.arenas[message.partition], message.chunk * size
            guest.chunks[place] = guest.fabric.share(arena, at, min(size, arena.length - at), REMOTE_READ)
        return guest.chunks[place]

    def _see_off(self, guest: Guest, at_once: bool) -> None:
        """Frees what a guest held: at once if its process has died, else when it can READ nothing of it any more."""
        self.guests.discard(guest)
        guest.connection.close()
        if at_once:
            self.departing = [(until, each) for until, each in self.departing if each is not guest]
            self._free(guest)
        else:
            self.departing.append((clock.now() + 1.25 * self.lease_ns / 1e9, guest))

    def _departed(self) -> list[Guest]:
        """Those whose time is over."""
        over = []
        while self.departing and self.departing[0][0] <= clock.now():
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
                    self.past.update(attachment.close())
                    guest.ending.remove(attachment)
                self.shares.give_back(guest.peer, attachment.cost)
            if not guest.ending:
                with self._counting:
                    self.ending.remove(guest)
                if guest.over:
                    guest.close()
                    if not guest.settled:
                        guest.settled = True
                        self.shares.give_back(guest.peer, Cost(guest.cost.memory, guest.cost.descriptors + guest.given))

    # For the owner

    def figures(self) -> dict[str, Any]:
        """What is known of workers and clients, and of the service."""
        guests = [guest for guest in list(self.guests) if guest.refusal is None]
        now = clock.now()
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
            "uptime": now - self.since,
            "workers": [worker.counters for worker in self.workers],
            "clients": [
                {
                    "pid": guest.pid,
                    "name": guest.name,
                    "threads": len(guest.attachments),
                    "connected": now - guest.since,
                    "since": time.time() - (now - guest.since),
                    "served": counted[guest]["served"],
                    "malformed": counted[guest]["malformed"],
                }
                for guest in guests[:MOST_SHOWN]
            ],
            "connected": len(guests),
            **{name: total[name] for name in ("served", "replied", "notified", "malformed")},
            "sizes": [sum(each) for each in zip(*(worker.sizes for worker in self.workers), strict=True)],
            "refused": self.refused,
            "turned_away": self.turned_away + self.listener.dropped,
            "shares": self.shares.figures(),
            **self.describe(),
        }

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def ended(self) -> bool:
        """Whether close() is done: no thread of the host's touches anything any more."""
        return self._ended

    @property
    def inside(self) -> bool:
        """Whether this is one of the host's own threads, for which close() would wait."""
        return any(worker.inside for worker in self.workers) or threading.current_thread() is self._thread

    @property
    def foreign(self) -> bool:
        """Whether this is the child of a fork, and the host its parent's."""
        notice()
        return os.getpid() != self._pid

    def close(self) -> None:
        """Ends all connections and workers, and gives all memory back; waits for an RPC handler that is at work.

        Safe to call again: it waits where another thread is at it, and goes on where a signal handler has raised out of it.
        Raises CallerError in a handler.
        """
        if self.foreign:
            self._closed = True
            return
        if any(worker.inside for worker in self.workers):
            raise CallerError("a handler cannot close its own server: the server waits for the handler",
                              hint="let the handler tell another thread")  # fmt: skip
        # A forked child finds it ended; a signal handler may interrupt the thread that is closing it.
        ended = self._ended
        if ended or self._closer == threading.get_ident():
            return
        with self._lock:
            if self._ended:
                return
            self._closer = threading.get_ident()
            try:
                self._closed = True
                if os.getpid() == self._pid:
                    self._stop_watching()
                    self._end()
                self._ended = True
            finally:
                self._closer = None

    def _stop_watching(self) -> None:
        """Ends the control thread, if it has begun."""
        if self._thread is not None and self._thread.begun:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        self._thread = None

    def _end(self) -> None:
        """Ends all that there is.  It may be called again after a signal handler has raised out of it."""
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
        if self.heart is not None:
            self.heart.stop()
        for region in (self.bells, self.pulse):
            if region is not None:
                region.close()
        wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)

    def forked(self) -> None:
        """In the child of a fork there are no workers: the handle is closed there."""
        self._closed = self._ended = True
        wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)
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


in_child(_forget_parents_hosts)
at_exit(_close_hosts)
