"""The host: runs services in workers, and the control channel through which clients connect.

    Host --- Worker, Service                one each per partition
         --- ClientConnection --- Channel   one connection per client process, one channel per
                                            thread of it

One Python thread (the control thread) polls the control channel and the client processes.  It only
sets up and takes down: requests never pass through it, so a Python program that keeps the
interpreter busy delays new clients, not connected ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rfp.address import Address
from rfp.control import (
    Attach,
    ControlConnection,
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
from rfp.control.acceptor import STRANGERS_MAX
from rfp.control.message import printable
from rfp.core import clock
from rfp.core.at_exit import at_exit, is_leaving
from rfp.core.forks import in_child, notice
from rfp.core.limits import LINE
from rfp.core.log import log
from rfp.core.process import time_namespace
from rfp.errors import (
    CallerError,
    FabricError,
    HandshakeFailed,
    QuotaExceeded,
    RfpError,
    ServerRefused,
    explained,
)
from rfp.fabric.fabric import REMOTE_READ, REMOTE_WRITE, Fabric, Region
from rfp.protocol.handshake_layout import EVENTCOUNT_BYTES, KEY_HASH
from rfp.protocol.server.client_connection import Channel, ClientConnection, RingParams, handle
from rfp.protocol.server.heartbeat import Heartbeat
from rfp.protocol.server.incarnation import Incarnation, kernel_marks_dead_owners
from rfp.protocol.server.process_memory import MEMORY_NUMBER, KeptMemory, ProcessMemory
from rfp.protocol.server.real_thread import RealThread
from rfp.protocol.server.service import Service
from rfp.protocol.server.shares import CHANNELS_MIN, CLIENTS_BYTES_MIN, Cost, Shares
from rfp.protocol.server.worker import Worker
from rfp.protocol.wire import DIRECT_READS, RESPONSE_CRC, WAKEUP

REGIONS_MAX = 1024  # regions that a service gives one client process beside its rings
MESSAGES_MAX = 16  # cheap messages of one client before the others have their turn
RETIRE_POLL_MS = 5  # interval of the polls whether a worker has released a ring that ends
NEWCOMERS_MAX = 8  # connections accepted in one round of the control thread
TURNED_AWAY_MAX = 16  # connections that wait to receive the reason for their refusal
CLIENT_MEMORY_BYTES = 64 << 10  # per connection, approximately
SESSION_MEMORY_BYTES = 24 << 10  # per session, for the service's state
PAIR_MEMORY_BYTES = 64 << 10  # per queue pair of a device
REGION = Cost(descriptors=1)  # of a region from the service
CLIENTS_SHOWN_MAX = 200  # clients in figures(), which must fit into one control message
# bytes: an odd number of cache lines, so the slots' first lines spread over all sets of a cache
DEFAULT_SLOT_BYTES = 33 * LINE


class Reporter(Protocol):
    """A service that reports from a thread that must not wait for the interpreter."""

    def wake_by(self, descriptor: int) -> None:
        """Take the eventfd to write if there is something to report; -1: it is closed."""

    def report(self) -> None:
        """Log the events since the last call.  The control thread calls this."""


class Host:
    """Serves services at an address until close().

    Args:
        address: address to listen at.
        fabric: fabric of the server.
        services: one for each worker.
        service: name of the kind of service, sent to clients.
        arenas: the arena region of each service, or none.
        seed, lease_ns, max_value: values of the service that clients receive at the handshake.
        slots, slot_size, staging_size: slots of each ring, bytes of a slot, bytes of a client
            thread's staging ring.
        features: features that the server grants.
        idle, cpus: see Worker.
        describe: called for the service's part of the figures.
        process_memory: gives each client process memory of its own, if the service has such.
        memory: returns the region that a client requests by number, made with that client's fabric,
            or refuses.
        direct_memory: bytes of arenas that may be registered for direct reads of all clients.
        rings: bytes that all clients' rings may take; None: the largest of a gigabyte, the need of
            256 threads, and `store`.
        store: bytes of the store.
        credentials, allow_anyone: the clients that may connect over a network.
        reporter: a service with something to log, if there is one.

    Raises:
        Any error of listening; FabricError if memory, file descriptors or threads are not
        available.  After an error nothing is left behind.
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
        slot_size: int = DEFAULT_SLOT_BYTES,
        staging_size: int = 0,
        lease_ns: int = 0,
        max_value: int = 0,
        features: int = RESPONSE_CRC,
        idle: str = "adaptive",
        cpus: Sequence[int] | None = None,
        describe: Callable[[], dict[str, Any]] = dict,
        memory: Callable[[int, Fabric], Region] | None = None,
        direct_memory: int = 0,
        process_memory: ProcessMemory | None = None,
        rings: int | None = None,
        store: int = 0,
        credentials: Credentials | None = None,
        allow_anyone: bool = False,
        reporter: Reporter | None = None,
    ) -> None:
        self.fabric = fabric
        self.lease_ns = lease_ns
        self.direct_memory = direct_memory
        self.direct_refused = 0
        # An isolated client sleeps on its own device's descriptor.
        self.features = features | (0 if fabric.closing_revokes else WAKEUP)
        self.describe = describe
        self.memory = memory
        self.reporter = reporter
        self.arenas = list(arenas)
        self.clients: set[ClientConnection] = set()
        # disconnected, but their processes may still READ the values pinned for them
        self.departing: list[tuple[int, ClientConnection]] = []
        # with rings that their workers have not released yet
        self.ending: set[ClientConnection] = set()
        self.past: Counter[str] = Counter()  # counters of rings that have ended
        self.refused = 0
        self.since = clock.now()
        self._closed = False
        self._ended = False
        self._closer: int | None = None  # the thread that is inside close()
        # of close(): a signal handler of the thread inside may call close() too
        self._lock = threading.RLock()
        # held while counters move from an ending channel to `past`
        self._counting = threading.Lock()
        self._pid = os.getpid()
        self._wake = -1
        self.workers: list[Worker] = []
        isolated = fabric.closing_revokes
        per_ring = (
            2 * slots * slot_size + SESSION_MEMORY_BYTES + (PAIR_MEMORY_BYTES if isolated else 0)
        )
        # On shm each region of the server has a file descriptor; a connection has its socket, a
        # pidfd, copies of both, and one descriptor that may arrive with a message.
        cost = Cost(
            len(services) * per_ring + staging_size, 0 if isolated else 3 if staging_size else 2, 1
        )
        self.client_cost = Cost(CLIENT_MEMORY_BYTES, 2 if isolated else 5)
        self.ring_params = RingParams(self.workers, slots, slot_size, staging_size, cost)
        self.shares = Shares(
            rings or max(CLIENTS_BYTES_MIN, CHANNELS_MIN * cost.memory, store),
            STRANGERS_MAX if isolated else 0,
        )
        self.kept = KeptMemory(process_memory, self.shares)
        self.turned_away = 0
        self.eventcounts: Region | None = None  # the workers' eventcounts
        self.heartbeat_region: Region | None = None  # contains the heartbeat word
        self.heartbeat: Heartbeat | None = None
        self.incarnation: Incarnation | None = None  # if clients may READ the arenas by loads
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
                self.heartbeat_region = fabric.reserve(LINE, REMOTE_READ)
                self.heartbeat = Heartbeat(self.heartbeat_region)
                self.heartbeat.start()
            else:
                self.eventcounts = fabric.register(EVENTCOUNT_BYTES * len(services), REMOTE_WRITE)
            for i, each in enumerate(services):
                self.workers.append(
                    Worker(
                        each,
                        fabric.event_channel(self.eventcounts, EVENTCOUNT_BYTES * i),
                        idle=idle,
                        slot_size=slot_size,
                    )
                )
            self.welcome = Welcome(
                features=0,
                service=service,
                slot_size=slot_size,
                slots=slots,
                hash=KEY_HASH,
                seed=seed,
                partitions=len(services),
                arenas=[] if self.isolated else [handle(arena) for arena in self.arenas],
                bells=None if self.eventcounts is None else handle(self.eventcounts),
                lease_ns=lease_ns,
                staging_size=staging_size,
                max_value=max_value,
                name=printable(os.path.basename(address.path), 128) or "rfp",
                pid=self._pid,
            )
            if self.isolated and self.arenas:
                self.welcome.arena_size = self.arenas[0].length
                self.welcome.chunk_size = min(self.arenas[0].length, fabric.share_limit)
            if self.arenas and not self.isolated and features & DIRECT_READS:
                line = fabric.reserve(LINE, REMOTE_READ)
                if kernel_marks_dead_owners(line):
                    self.incarnation = Incarnation(line)
                    self.welcome.owner_line = handle(line)
                else:
                    line.close()
                    log.warning(
                        "no direct reads: the kernel does not mark robust futexes of dead threads"
                    )
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            if self.reporter is not None:
                self.reporter.wake_by(self._wake)
            for i, worker in enumerate(self.workers):
                worker.start(cpu=cpus[i % len(cpus)] if cpus else None)
            _hosts.add(self)
            self._thread = RealThread(self._watch, "rfp-control")
            self._thread.start()
            log.info("serving %s at %s with %d workers", service, self.address, len(self.workers))
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
        """Whether regions for one client are out of the other clients' reach, and so are made and
        registered per client."""
        return self.fabric.closing_revokes

    # The control thread

    def _watch(self) -> None:
        """Handles connections, messages and ends of processes, until close()."""
        if self.incarnation is None:
            self._poll()
            return
        # This thread owns the incarnation: it holds it before the first client is welcomed, and
        # close() waits for this thread before it releases anything.
        try:
            self.incarnation.hold()
            self.welcome.owner = self.incarnation.owner
        except FabricError as error:
            self.welcome.owner_line = None
            log.warning("no direct reads: %s", error)
        try:
            self._poll()
        finally:
            self.incarnation.release()

    def _poll(self) -> None:
        poll = select.poll()
        poll.register(self.listener.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        owners: dict[int, ClientConnection] = {}
        while not self._closed:
            until = [self.departing[0][0]] if self.departing else []
            until += [self.listener.expires] if self.listener.expires is not None else []
            pauses = [max(0, (min(until) - clock.now_ns()) // 1_000_000 + 1)] if until else []
            pauses += [RETIRE_POLL_MS] if self.ending or self.kept.ending else []
            self.kept.watch(poll)
            # poll() does not report data that TLS has already read from a socket.
            heard = [client.control_fd for client in self.clients if client.control.pending]
            ready = [fd for fd, _ in poll.poll(0 if heard else min(pauses, default=None))]
            for fd in dict.fromkeys([*ready, *heard]):
                self.kept.end(fd)
                client = owners.get(fd)
                if client is not None and not self._hear(client, fd):
                    self._part(client, poll, owners)
            # Connected clients come first, with one round of the listener between two of theirs:
            # strangers cannot delay them.
            if self.listener.fileno() in ready or self.listener.expires is not None:
                self._welcome_clients(poll, owners)
            if self._wake in ready:
                self._report()
            for client in self._departed():
                poll.unregister(client.pidfd)
                del owners[client.pidfd]
                self._free(client)
            self._end_retired()
            self.kept.reap()

    def _report(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self.reporter is not None:
            self.reporter.report()

    def _part(
        self, client: ClientConnection, poll: select.poll, owners: dict[int, ClientConnection]
    ) -> None:
        """Release a client that has disconnected or must be disconnected."""
        # The control thread watches a client that may still READ until its process has ended too.
        kept = client in self.clients and bool(client.channels) and not self._cut_off(client)
        for each in (client.control_fd,) if kept else (client.pidfd, client.control_fd):
            if owners.pop(each, None) is not None:
                poll.unregister(each)
        self._see_off(client, at_once=not kept)

    def _welcome_clients(self, poll: select.poll, owners: dict[int, ClientConnection]) -> None:
        """Accept a few of the waiting connections, so that the connected clients have their
        turn."""
        for _ in range(NEWCOMERS_MAX):
            try:
                connection = self.listener.accept(0)
            except (RfpError, OSError) as error:
                log.error("cannot accept clients at %s: %s", self.address, error)
                return
            if connection is None:
                return
            client = self._welcome(connection)
            if client is None:
                continue
            for fd in client.watched():
                owners[fd] = client
                poll.register(fd, select.POLLIN)
            self.clients.add(client)
            waiting = [each for each in self.clients if each.refusal is not None]
            if len(waiting) > TURNED_AWAY_MAX:
                self._part(min(waiting, key=lambda each: each.since), poll, owners)

    def _welcome(self, connection: ControlConnection) -> ClientConnection | None:
        """Return a client for a connection; if a quota is used up, a client that only receives the
        refusal."""
        peer, cost, refusal = self.shares.peer(connection), self.client_cost, None
        try:
            self.shares.take(peer, cost)
        except ServerRefused as error:
            self.turned_away += 1
            cost, refusal = Cost(), error
            log.warning("refused %s: %s", peer, error)
        try:
            return ClientConnection(connection, self.fabric, peer, cost, refusal)
        # it has disconnected already, or this process has no file descriptor left for it
        except (RfpError, OSError) as error:
            log.warning("cannot take the connection of %s: %s", peer, error)
            self.shares.give_back(peer, cost)
            connection.close()
            return None

    def _cut_off(self, client: ClientConnection) -> bool:
        """Whether a disconnected client can READ nothing any more: its access is revoked, or its
        process has ended."""
        client.revoke()
        return self.isolated or _readable(client.pidfd)

    def _hear(self, client: ClientConnection, fd: int) -> bool:
        """Handle a client's messages.  Return False if the client must be disconnected."""
        if fd == client.pidfd:
            # The descriptor's number may have belonged to another client a moment ago, and this
            # event to that one.
            return not _readable(fd)
        try:
            for _ in range(MESSAGES_MAX):
                message = client.control.try_receive()
                if message is None:
                    break
                with message:
                    try:
                        self._act(client, message)
                    except RfpError as error:
                        self.refused += 1
                        if client.refusal is None:
                            log.warning("refused %s of %s: %s", message.title(), client, error)
                        client.control.answer(message, Refused.of(error), 0)
                        if isinstance(error, HandshakeFailed) or client.refusal is not None:
                            return False
                # all other messages may take long: the next client's turn comes first
                if not isinstance(message, Detach):
                    break
            return not client.control.closed
        except HandshakeFailed as error:
            log.warning("invalid message from %s: %s", client, error)
            return False
        except (RfpError, OSError) as error:
            log.debug("the connection of %s ended: %s", client, error)
            return False
        except Exception:  # noqa: BLE001 - one client's error must not end all clients' control
            log.exception("cannot serve %s", client)
            return False

    def _act(self, client: ClientConnection, message: Message) -> None:
        if client.refusal is not None:
            raise client.refusal
        if isinstance(message, Hello):
            newcomer, client.greeted = not client.greeted, True
            client.name = message.name
            client.features = message.features & self.features
            client.pid = client.pid or message.pid
            welcome = dataclasses.replace(
                self.welcome, features=client.features, time_namespace=time_namespace()
            )
            if self.heartbeat_region is not None:
                if client.heartbeat is None:
                    client.heartbeat = client.fabric.share(
                        self.heartbeat_region, 0, self.heartbeat_region.length, REMOTE_READ
                    )
                welcome.beat = handle(client.heartbeat)
            client.control.answer(message, welcome, 0)
            if newcomer:
                log.info("%s connected", client)
        elif not client.greeted:
            raise HandshakeFailed(f"the first message must be Hello, not {type(message).__name__}")
        elif isinstance(message, Attach):
            client.numbers += 1
            # so the next thread can use the share of a thread that has just ended
            self._end_retired()
            cost = self.ring_params.cost
            if message.wakeup:
                cost = dataclasses.replace(cost, descriptors=cost.descriptors + 1)
            self.shares.take(client.peer, cost)
            try:
                channel = Channel(self.ring_params, client, client.numbers, message, cost)
            except BaseException as error:
                self.shares.give_back(client.peer, cost)
                if isinstance(error, ValueError):
                    raise HandshakeFailed(str(error)) from None
                if isinstance(error, FabricError):
                    raise ServerRefused(
                        f"the server cannot add another thread: {Exception.__str__(error)}",
                        hint="raise the limits of the server's process (memory, `ulimit -n`)",
                    ) from error
                raise
            # Before the answer: a client that has received it finds itself in the figures.
            client.channels[client.numbers] = channel
            client.control.answer(message, channel.answer, 0)
            channel.answered()
            log.info(
                "%s has rings for thread %d: %d workers, %d slots, %d bytes",
                client,
                client.numbers,
                len(self.workers),
                self.ring_params.slots,
                self.ring_params.cost.memory,
            )
        elif isinstance(message, Detach):
            if message.channel in client.channels:
                self._retire(client, [message.channel])
        elif isinstance(message, Map):
            client.control.answer(message, Mapped(handle(self._chunk(client, message))), 0)
        elif isinstance(message, GetStats):
            client.control.answer(message, Stats(self.figures()), 0)
        elif (
            isinstance(message, GetMemory)
            and self.kept.source is not None
            and message.which & MEMORY_NUMBER == self.kept.source.number
        ):
            region = self.kept.give(client, message.which & ~MEMORY_NUMBER)
            client.control.answer(message, SharedMemory(handle(region)), 0)
        elif isinstance(message, GetMemory):
            if self.memory is None or len(client.regions) >= REGIONS_MAX:
                raise QuotaExceeded("this server has no more memory to share")
            self.shares.take(client.peer, REGION)
            try:
                client.regions.append(self.memory(message.which, client.fabric))
            except BaseException:
                self.shares.give_back(client.peer, REGION)
                raise
            client.given += 1
            client.control.answer(message, SharedMemory(handle(client.regions[-1])), 0)
        else:
            raise HandshakeFailed(f"a client may not send {type(message).__name__}")

    def _chunk(self, client: ClientConnection, message: Map) -> Region:
        """Return a chunk of an arena, for this client alone.

        Cost:
            Registering may take a device a second; only the control thread waits for it.
        """
        size, place = self.welcome.chunk_size, (message.partition, message.chunk)
        if (
            message.partition >= len(self.arenas)
            or size == 0
            or message.chunk * size >= self.welcome.arena_size
        ):
            raise HandshakeFailed(f"there is no chunk {message.chunk} of arena {message.partition}")
        if place not in client.chunks:
            arena, at = self.arenas[message.partition], message.chunk * size
            length = min(size, arena.length - at)
            if message.direct and self._direct_bytes() + length > self.direct_memory:
                self.direct_refused += 1
                raise QuotaExceeded(
                    f"{self._direct_bytes()} of {self.direct_memory} bytes are registered for "
                    "direct reads",
                    hint="start the server with a larger direct_memory=",
                )
            client.chunks[place] = client.fabric.share(arena, at, length, REMOTE_READ)
            client.direct_bytes += length if message.direct else 0
        return client.chunks[place]

    def _direct_bytes(self) -> int:
        """Return the bytes that are registered for direct reads, of all clients."""
        ends = [client for _, client in list(self.departing)]
        return sum(each.direct_bytes for each in {*self.clients, *ends, *self.ending})

    def _see_off(self, client: ClientConnection, at_once: bool) -> None:
        """Free a client's resources: at once if its process has ended, else when it can no longer
        READ any of them."""
        if client in self.clients and client.greeted:
            log.info("%s disconnected after %.1f s", client, clock.now() - client.since)
        self.clients.discard(client)
        client.control.close()
        if at_once:
            self.departing = [(until, each) for until, each in self.departing if each is not client]
            self._free(client)
        else:
            self.departing.append((clock.now_ns() + 5 * self.lease_ns // 4, client))

    def _departed(self) -> list[ClientConnection]:
        """Return the clients whose grace time has ended."""
        over = []
        while self.departing and self.departing[0][0] <= clock.now_ns():
            over.append(self.departing.pop(0)[1])
        return over

    def _free(self, client: ClientConnection) -> None:
        client.over = True
        self._retire(client, list(client.channels))

    def _retire(self, client: ClientConnection, numbers: Sequence[int]) -> None:
        """Begin to end channels without waiting: an RPC handler may keep its worker for long."""
        with self._counting:
            for number in numbers:
                client.channels[number].retire()
                client.ending.append(client.channels.pop(number))
            self.ending.add(client)

    def _end_retired(self) -> None:
        for client in list(self.ending):
            for channel in [each for each in client.ending if each.retired]:
                with self._counting:
                    passed = channel.close()
                    self.past.update(passed)
                    client.ending.remove(channel)
                self.shares.give_back(client.peer, channel.cost)
                if passed["malformed"]:
                    log.warning(
                        "%s left %d malformed requests in its rings", client, passed["malformed"]
                    )
            if not client.ending:
                with self._counting:
                    self.ending.remove(client)
                if client.over:
                    client.close()
                    if not client.share_returned:
                        client.share_returned = True
                        self.shares.give_back(
                            client.peer,
                            Cost(client.cost.memory, client.cost.descriptors + client.given),
                        )

    # For the owner

    def figures(self) -> dict[str, Any]:
        """Return the figures of workers, clients and the service."""
        clients = [client for client in list(self.clients) if client.refusal is None]
        now = clock.now()
        with self._counting:
            total = Counter(self.past)
            counted: dict[ClientConnection, Counter[str]] = {}
            for client in {*clients, *(client for _, client in self.departing), *self.ending}:
                counted[client] = Counter()
                for channel in [*client.channels.values(), *client.ending]:
                    counted[client].update(channel.counters())
                total.update(counted[client])
        return {
            "address": str(self.address),
            "pid": self._pid,
            "uptime": now - self.since,
            "workers": [worker.counters for worker in self.workers],
            "clients": [
                {
                    "pid": client.pid,
                    "name": client.name,
                    "threads": len(client.channels),
                    "connected": now - client.since,
                    "since": time.time() - (now - client.since),
                    "served": counted[client]["served"],
                    "malformed": counted[client]["malformed"],
                }
                for client in clients[:CLIENTS_SHOWN_MAX]
            ],
            "connected": len(clients),
            **{name: total[name] for name in ("served", "replied", "notified", "malformed")},
            "sizes": [
                sum(each) for each in zip(*(worker.sizes for worker in self.workers), strict=True)
            ],
            "refused": self.refused,
            "turned_away": self.turned_away + self.listener.dropped,
            "shares": self.shares.figures(),
            "direct_memory": {
                "registered": self._direct_bytes(),
                "limit": self.direct_memory,
                "refused": self.direct_refused,
            },
            **self.describe(),
        }

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def ended(self) -> bool:
        """Whether close() has finished: no thread of the host uses any of its objects."""
        return self._ended

    @property
    def inside(self) -> bool:
        """Whether the current thread is one of the host's own, for which close() would wait."""
        return (
            any(worker.inside for worker in self.workers)
            or threading.current_thread() is self._thread
        )

    @property
    def foreign(self) -> bool:
        """Whether this process is the child of a fork, and the host belongs to its parent."""
        notice()
        return os.getpid() != self._pid

    def close(self) -> None:
        """End all connections and workers, and release all memory.  Wait for an RPC handler that is
        running.

        It is safe to call this again: the call waits if another thread is inside, and continues if
        a signal handler has raised out of it.

        Raises:
            CallerError: a handler called it.
        """
        if self.foreign:
            self._closed = True
            return
        if any(worker.inside for worker in self.workers):
            raise CallerError(
                "a handler cannot close its own server: the server waits for the handler",
                hint="close it from another thread",
            )
        # A forked child sees it ended; a signal handler may interrupt the thread that is inside
        # close().
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
                    if not is_leaving():  # handlers of the program may have been closed
                        log.info("stopped serving at %s", self.address)
                self._ended = True
            finally:
                self._closer = None

    def _stop_watching(self) -> None:
        """End the control thread, if it has begun."""
        if self._thread is not None and self._thread.begun:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
        self._thread = None

    def _end(self) -> None:
        """End everything.  The caller may call it again after a signal handler has raised out of
        it."""
        self.listener.close()
        for worker in self.workers:
            worker.stop()
        if self.reporter is not None:
            self.reporter.wake_by(-1)
            self.reporter.report()
        for client in [*self.clients, *(client for _, client in self.departing)]:
            self._free(client)
        self._end_retired()
        self.kept.close()
        self.clients.clear()
        self.departing.clear()
        for worker in self.workers:
            worker.channel.close()
        if self.heartbeat is not None:
            self.heartbeat.stop()
        incarnation = None if self.incarnation is None else self.incarnation.region
        for region in (self.eventcounts, self.heartbeat_region, incarnation):
            if region is not None:
                region.close()
        wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)

    def forked(self) -> None:
        """Close the handle in the child of a fork: there are no workers in it."""
        self._closed = self._ended = True
        wake, self._wake = self._wake, -1
        if wake >= 0:
            os.close(wake)
        self.kept.forked()
        for client in [*self.clients, *(client for _, client in self.departing), *self.ending]:
            client.close()


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
    """Close the servers that a program has left open at its exit: their threads must not outlive
    the interpreter."""
    for host in list(_hosts):
        host.close()


in_child(_forget_parents_hosts)
at_exit(_close_hosts)
