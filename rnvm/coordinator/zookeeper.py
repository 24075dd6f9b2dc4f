"""The driver for ZooKeeper (3.5 or later), with kazoo.

    /rnvm/groups/GROUP/state                       the state
    /rnvm/groups/GROUP/state/ORIGIN                empty; named after the first state
    /rnvm/groups/GROUP/members/NAME@INSTANCE       a member's data, ephemeral

Reads.  A node answers a read from its own memory, which may be old.  `sync` is not enough: the
leader answers it without a majority, for as long as it has not noticed that it lost its followers
and that they have elected another one.  So a read follows a transaction that changes nothing and
that a majority has to log, in the same session: the node that answers it has applied all before it.
If kazoo has begun another session in between, perhaps with another node, the read is repeated.

Sessions.  The coordinator has a session for its calls, and each registration one of its own, whose
time-out is the lease.  That the session is alive proves nothing (a follower that was cut off from
its leader still answers pings), so nothing but the registration depends on it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from rfp.core import clock
from rfp.errors import CoordinatorRefused, Unsupported
from rnvm.coordinator.address import CoordinatorAddress, shown_node
from rnvm.coordinator.attempt import TIMEOUT_S, Attempt, Unanswered, cause_of
from rnvm.coordinator.contract import Coordinator
from rnvm.coordinator.registration import CLOSING_S, Member, Registration, member_of
from rnvm.coordinator.state import State, decode
from rnvm.coordinator.tls import tls_context
from rnvm.coordinator.watch import RETRY_S, WATCH_S, Watch

try:
    from kazoo.client import KazooClient
    from kazoo.exceptions import (
        AuthFailedError,
        BadVersionError,
        InvalidACLError,
        KazooException,
        NoAuthError,
        NodeExistsError,
        NoNodeError,
        RolledBackError,
        RuntimeInconsistency,
    )
    from kazoo.handlers.threading import KazooTimeoutError, SequentialThreadingHandler
    from kazoo.protocol.states import KazooState, KeeperState
    from kazoo.security import make_digest_acl
except ImportError as error:
    raise Unsupported(
        "a coordinator zk://... needs the package kazoo, which is not installed",
        hint="run `pip install 'rfp-rnvm[zookeeper]'`",
    ) from error

if TYPE_CHECKING:
    import ssl

SESSION_S = 3.0  # of calls: a node that does not answer is left after two thirds of it
CONNECTED_POLL_S, ANSWER_POLL_S = 0.02, 0.1  # between two checks whether the call was ended

# Each dropped connection is a warning of kazoo's; the errors of calls contain what matters.
_log = logging.getLogger("rnvm.zookeeper")
_log.setLevel(logging.CRITICAL)


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """Kazoo's threads; keeps the sockets, so that close() can end a connection that hangs.

    Attributes:
        causes: Why the last connection to each node failed.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self._tls = tls
        self.sockets: list[socket.socket] = []  # of the connection
        self.pair: tuple[socket.socket, ...] = ()  # that wakes kazoo's thread
        self.causes: dict[str, str] = {}

    def create_connection(
        self, address: tuple[str, int], *, hostname: str, timeout: float, **_: Any
    ) -> socket.socket:
        # Kazoo's own TLS trusts the authorities of the system beside those of ca=.
        node = shown_node(hostname, address[1])
        try:
            made: socket.socket = super().create_connection(address, timeout=timeout)
            self.sockets = [made]
            if self._tls is not None:
                made = self._tls.wrap_socket(made, server_hostname=hostname)
                self.sockets = [made]
        except OSError as error:
            self.causes[node] = cause_of(error)
            raise
        self.causes.pop(node, None)
        return made

    def create_socket_pair(self) -> tuple[socket.socket, socket.socket]:
        made: tuple[socket.socket, socket.socket] = super().create_socket_pair()
        self.pair = made
        return made

    def drop(self) -> None:
        """End the connection; kazoo's thread finds it broken."""
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's sockets, and send nothing."""
        atexit.unregister(self.stop)
        for each in (*self.sockets, *self.pair):
            with contextlib.suppress(OSError):
                os.close(each.detach())


class _Session:
    """A session with the service, which kazoo's threads keep and replace."""

    def __init__(self, address: CoordinatorAddress, seconds: float) -> None:
        self._address, self._seconds = address, seconds
        self._lock = threading.Lock()
        self._closed = False
        self.connected = threading.Event()
        self.changed = threading.Event()  # after any change of the connection
        self._client: Any = None
        self._password = address.options.password()
        self._tls = tls_context(address) if address.options.encrypted else None

    def _start(self) -> Any:
        options = self._address.options
        client = KazooClient(
            hosts=self._address.hosts,
            timeout=self._seconds,
            handler=_Handler(self._tls),
            connection_retry=dict(max_tries=-1, delay=0.05, backoff=2, max_delay=0.5),
            auth_data=[("digest", f"{options.user}:{self._password}")] if options.user else None,
            default_acl=[make_digest_acl(options.user, self._password, all=True)]
            if options.user
            else None,
            logger=_log,
        )
        client.add_listener(self._noted)
        client.start_async()
        return client

    def _noted(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self.connected.set()
        else:
            self.connected.clear()
        self.changed.set()

    def client(self, attempt: Attempt) -> Any:
        """Return the client when it is connected.

        Raises:
            Unanswered: the deadline passed, or the session was closed.
        """
        while True:
            with self._lock:
                if self._closed:
                    raise Unanswered
                if self._client is not None and self._client.client_state in (
                    KeeperState.CLOSED,
                    KeeperState.AUTH_FAILED,
                ):  # kazoo's thread has ended
                    refused = self._client.client_state == KeeperState.AUTH_FAILED
                    stopped, self._client = self._client, None
                    _stop(stopped)
                    if refused:
                        raise CoordinatorRefused(
                            f"ZooKeeper at {self._address.hosts} refused user "
                            f"{self._address.options.user!r}",
                            hint="check user= and password_file= of the address",
                        )
                if self._client is None:
                    self._client = self._start()
                client = self._client
            if self.connected.wait(attempt.left(CONNECTED_POLL_S)):
                return client
            attempt.causes.update(client.handler.causes)

    def answer(self, pending: Any, attempt: Attempt, *, changes: bool = False) -> Any:
        """Return the result of a request that was sent."""
        try:
            while True:
                try:
                    return pending.get(timeout=attempt.left(ANSWER_POLL_S))
                except KazooTimeoutError:
                    continue  # left() ends the call
        except (NoNodeError, NodeExistsError, BadVersionError):
            raise
        except (NoAuthError, AuthFailedError, InvalidACLError) as error:
            raise CoordinatorRefused(
                f"ZooKeeper at {self._address.hosts} refused: {type(error).__name__}",
                hint="check user= and password_file= of the address, and the ACLs of /rnvm",
            ) from error
        except (KazooException, Unanswered) as error:
            if changes:
                attempt.unknown = True
            attempt.failed(
                self._address.hosts,
                "no answer in time"
                if isinstance(error, Unanswered)
                else str(error) or type(error).__name__,
            )
            raise Unanswered from error

    def transact(self, attempt: Attempt, requests: list[tuple[str, Any]], *, changes: bool) -> None:
        """Send a transaction; raises the error of the request that failed."""
        transaction = self.client(attempt).transaction()
        for name, arguments in requests:
            getattr(transaction, name)(*arguments)
        results = self.answer(transaction.commit_async(), attempt, changes=changes)
        failed = [each for each in results if isinstance(each, Exception)]
        for each in failed:
            if isinstance(each, (NoAuthError, InvalidACLError)):
                raise CoordinatorRefused(
                    f"ZooKeeper at {self._address.hosts} refused: {type(each).__name__}",
                    hint="check user= and password_file= of the address, and the ACLs of /rnvm",
                ) from each
            if not isinstance(each, (RolledBackError, RuntimeInconsistency)):
                raise each
        if failed:
            raise Unanswered

    def close(self) -> None:
        """End the session.  The service removes its ephemeral nodes."""
        with self._lock:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            _stop(client)
        self.changed.set()

    def forget(self) -> None:
        """In a forked child: close the copies of the parent's sockets."""
        self._lock = threading.Lock()
        client, self._client = self._client, None
        if client is not None:
            client.handler.forget()


def _session_id(client: Any) -> tuple[int, bytes]:
    """Return the id of a client's session and its password.

    Raises:
        Unanswered: the connection was lost.
    """
    found: tuple[int, bytes] | None = client.client_id
    if found is None:
        raise Unanswered
    return found


def _stop(client: Any) -> None:
    """Stop a client; wait for its node no longer than CLOSING_S."""

    def stop() -> None:
        with contextlib.suppress(Exception):
            client.stop()
        with contextlib.suppress(Exception):
            client.close()

    thread = threading.Thread(target=stop, name="rnvm-closing", daemon=True)
    thread.start()
    thread.join(CLOSING_S)
    if thread.is_alive():
        client.handler.drop()
        thread.join(CLOSING_S)


class ZooKeeperCoordinator(Coordinator):
    """The coordinator of a group in ZooKeeper.  See `Coordinator` for the contract."""

    def __init__(self, address: CoordinatorAddress, *, timeout: float = TIMEOUT_S) -> None:
        self._session = _Session(address, SESSION_S)
        super().__init__(address, timeout=timeout)
        self._state = f"{self._folder}/state"
        self._members_folder = f"{self._folder}/members"

    def _barrier(self, attempt: Attempt) -> tuple[Any, Any]:
        """Return (client, session) when the session's node has applied all acknowledged changes."""
        client = self._session.client(attempt)
        session = _session_id(client)
        # The transaction fails if there is no group, and a majority logs its failure too.
        with contextlib.suppress(NoNodeError):
            self._session.transact(attempt, [("check", (self._folder, -1))], changes=False)
        return client, session

    def _read(self, attempt: Attempt) -> State | None:
        client, session = self._barrier(attempt)
        try:
            raw, stat = self._session.answer(client.get_async(self._state), attempt)
        except NoNodeError:
            raw = None
        if client.client_id != session:
            raise Unanswered
        if raw is None:
            return None
        return decode(raw, f"{self._state} of ZooKeeper at {self.address.hosts}", stat.version)

    def _create(self, state: State, attempt: Attempt) -> bool:
        requests = [
            ("create", (self._state, state.encode())),
            ("create", (f"{self._state}/{state.id}", b"")),
        ]
        try:
            self._session.transact(attempt, requests, changes=True)
        except NodeExistsError:
            return False
        except NoNodeError:
            self._make_folders(attempt)
            raise Unanswered from None
        return True

    def _make_folders(self, attempt: Attempt) -> None:
        pending = self._session.client(attempt).ensure_path_async(self._members_folder)
        self._session.answer(pending, attempt)

    def _set(self, old: State, new: State, attempt: Attempt) -> bool:
        requests = [
            ("check", (f"{self._state}/{old.origin}", -1)),
            ("set_data", (self._state, new.encode(), old.stamp)),
        ]
        try:
            self._session.transact(attempt, requests, changes=True)
        except (NoNodeError, BadVersionError):
            return False
        return True

    def _members(self, attempt: Attempt) -> list[Member]:
        client, session = self._barrier(attempt)
        try:
            names = self._session.answer(client.get_children_async(self._members_folder), attempt)
        except NoNodeError:
            names = []
        pending = [client.get_async(f"{self._members_folder}/{name}") for name in names]
        found = []
        for name, each in zip(names, pending):
            try:
                data, _ = self._session.answer(each, attempt)
            except NoNodeError:  # it has left since
                continue
            member = member_of(name, data)
            if member is not None:
                found.append(member)
        if client.client_id != session:
            raise Unanswered
        return found

    def _registration(self, member: Member, lease: float) -> Registration:
        return _ZooKeeperRegistration(self, member, lease)

    def _follow(self, watch: Watch) -> None:
        attempt = Attempt(clock.deadline_in(WATCH_S), watch.closing)
        watch.interrupt = watch.noted.set
        watch.noted.clear()
        client = self._session.client(attempt)
        # Kazoo keeps a set of functions for each path: the same one for each call, or it would grow
        # until there is a change.
        with contextlib.suppress(NoNodeError):
            self._session.answer(client.exists_async(self._state, watch.note), attempt)
            pending = client.get_children_async(self._members_folder, watch.note)
            self._session.answer(pending, attempt)
        watch.hint()  # a change before this moment is found by the read, a later one is noted
        while not watch.closing.is_set() and not watch.noted.wait(RETRY_S):
            if clock.now_ns() > attempt.deadline:
                return

    def _shut(self) -> None:
        self._session.close()

    def _forget(self) -> None:
        super()._forget()
        self._session.forget()


class _ZooKeeperRegistration(Registration):
    """An ephemeral node of a session of its own, which kazoo's thread keeps by its pings."""

    def __init__(self, coordinator: ZooKeeperCoordinator, member: Member, lease: float) -> None:
        super().__init__(coordinator._registrations, member, lease)
        self._session = _Session(coordinator.address, lease)
        self._owner = coordinator
        self._path = f"{coordinator._members_folder}/{member.name}@{member.instance}"
        self._absent = False  # the node was found to be missing, or another session's

    def _run(self) -> None:
        once = False
        while not self._closing.is_set():
            attempt = Attempt(clock.deadline_in(TIMEOUT_S), self._closing)
            attempt.causes = self.causes
            self._session.changed.clear()
            try:
                self._ensure(attempt)
            except Unanswered:
                self._registered.clear()
                self._closing.wait(RETRY_S)
                continue
            except Exception as error:  # noqa: BLE001 - the thread lives as long as the member
                if not once:
                    self._cause = error
                    return
                self._closing.wait(RETRY_S)
                continue
            # Counted here: the attempts before may have been several.
            self.lapses += once and self._absent
            once, self._absent = True, False
            self._registered.set()
            self._session.changed.wait(self.lease)

    def _ensure(self, attempt: Attempt) -> None:
        """Create the node, unless this session owns it."""
        client = self._session.client(attempt)
        stat = self._session.answer(client.exists_async(self._path), attempt)
        if stat is not None and stat.ephemeralOwner == _session_id(client)[0]:
            return
        self._absent = True
        self._registered.clear()
        if stat is not None:  # of the session before, which has not ended yet
            with contextlib.suppress(NoNodeError):
                self._session.answer(client.delete_async(self._path), attempt)
        pending = client.create_async(self._path, self.member.data, ephemeral=True)
        try:
            self._session.answer(pending, attempt)
        except NodeExistsError:  # an attempt that was not answered
            raise Unanswered from None
        except NoNodeError:
            self._owner._make_folders(attempt)
            raise Unanswered from None

    def _withdraw(self) -> None:
        self._session.close()

    def _forget(self) -> None:
        super()._forget()
        self._session.forget()
