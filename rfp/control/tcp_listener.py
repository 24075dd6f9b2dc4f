"""Accepts clients that connect over a network, and authenticates them."""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import select
import socket
import ssl
import weakref
from collections import Counter

from rfp.address import Address
from rfp.control.acceptor import BACKLOG, STRANGERS_MAX, Acceptor
from rfp.control.authentication import Examination
from rfp.control.connection import wait
from rfp.control.credentials import Credentials
from rfp.control.message import Refused
from rfp.control.tcp import TcpConnection
from rfp.core import clock
from rfp.core.clock import deadline_in
from rfp.core.forks import in_child
from rfp.core.log import log
from rfp.errors import AddressInUse, FabricError, InvalidAddress, InvalidArgument, RfpError

EVENTS_MAX, EVENTS_TLS_MAX = 16, 4  # strangers served in one turn; TLS costs a millisecond each
ACCEPTED_MAX = 8  # connections accepted in one turn
PROOF_S_MAX = 5.0  # seconds in which a connection must authenticate itself


class _Stranger:
    """A connection that has not authenticated itself yet."""

    def __init__(self, connection: TcpConnection, credentials: Credentials, binding: bytes) -> None:
        self.connection = connection
        self.expires = deadline_in(PROOF_S_MAX)
        self.origin = _origin(connection.remote)
        self.encrypted = False
        self.examination = Examination(connection, credentials.secret, binding)

    def advance(self) -> bool:
        """Process the bytes that have arrived; return whether the client is authenticated now."""
        if not self.encrypted:
            self.encrypted = self.connection.encrypted()
        return self.encrypted and self.examination.advance()


class TcpListener:
    """Listens at an rdma address.  A connection that `accept` returns is authenticated.

    Args:
        address: where to listen.
        credentials: secret or certificates that clients must prove to have.
        allow_anyone: require neither a secret nor clients' certificates, even if others than this
            host's users can connect.

    Raises:
        AddressInUse: another server listens there.
        InvalidAddress: the host's name is not valid.
        InvalidArgument: an address on a network without a secret.
        FabricError: the system refused.
    """

    def __init__(
        self, address: Address, credentials: Credentials, *, allow_anyone: bool = False
    ) -> None:
        self.credentials = credentials
        self.rejected = 0  # connections that did not authenticate themselves
        self._context = credentials.server_context()  # raises if the certificate is not valid
        self._binding = credentials.binding()
        self._strangers: dict[int, _Stranger] = {}  # by file descriptor, oldest first
        self._acceptors: dict[int, Acceptor] = {}
        self._epoll = select.epoll()
        try:
            self.address = self._listen(address, allow_anyone)
        except BaseException:
            self.close()
            raise
        _open.add(self)

    def _listen(self, address: Address, allow_anyone: bool) -> Address:
        """Listen at all addresses of the host's name; return the address with the port."""
        try:
            found = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidAddress(
                f"cannot find the host {address.host!r}: {reason}", hint="check the name"
            ) from None
        # The authorities are never public ones (server_context() rejects them).
        known = self.credentials.secret is not None or self.credentials.authorities is not None
        if not (known or allow_anyone or all(_loopback(str(place[0])) for *_, place in found)):
            raise InvalidArgument(
                f"cannot serve at {address} without a secret: it is not on loopback, and every "
                "client could read and change all data",
                hint="give secret= or secret_file= (--secret-file), or allow "
                "every client with no_auth=True (--no-auth)",
            )
        port = address.port
        for family, kind, protocol, _, place in found:
            sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            acceptor = Acceptor(sock, address)
            self._acceptors[sock.fileno()] = acceptor
            try:
                # Remains of closed connections are no server.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != "::")
                sock.bind((place[0], port, *place[2:]))
                sock.listen(BACKLOG)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise AddressInUse(
                        f"a program is already listening at {address}",
                        hint="choose another port, or port 0 for any",
                    ) from None
                hint = "give an address of this host"
                raise FabricError(
                    f"cannot listen at {address}: {error.strerror}", hint=hint
                ) from None
            port = sock.getsockname()[1]
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        return dataclasses.replace(address, port=port)

    def fileno(self) -> int:
        """Return a descriptor to wait on: readable when `accept` has work.  -1 when closed."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    @property
    def expires(self) -> int | None:
        """The clock.now_ns() time when `accept` has work even without events; None: never."""
        return next((stranger.expires for stranger in self._strangers.values()), None)

    @property
    def dropped(self) -> int:
        """Number of connections closed because this process had no file descriptor left."""
        return sum(acceptor.dropped for acceptor in self._acceptors.values())

    def accept(self, deadline: int) -> TcpConnection | None:
        """Return the next authenticated connection.

        Args:
            deadline: a clock.now_ns() time; in the past: one turn, without waiting.  A turn is
                bounded, however many strangers connect.

        Returns:
            None when the deadline passes or the listener is closed.
        """
        while not self._epoll.closed:
            for stranger in self._expired():
                self._reject(stranger, None)
            ready = self._epoll.poll(0, EVENTS_MAX if self._context is None else EVENTS_TLS_MAX)
            for fd, _ in ready:
                if fd in self._acceptors:
                    self._let_in(self._acceptors[fd])
                elif (
                    fd in self._strangers
                    and (connection := self._examine(self._strangers[fd])) is not None
                ):
                    return connection
            if any(acceptor.exhausted for acceptor in self._acceptors.values()):
                return None
            if ready:
                if clock.now_ns() >= deadline:
                    return None
                continue
            until = deadline if self.expires is None else min(deadline, self.expires)
            if not wait(self.fileno(), select.POLLIN, until) and until == deadline:
                return None
        return None

    def _let_in(self, acceptor: Acceptor) -> None:
        for _ in range(ACCEPTED_MAX):
            sock = acceptor.take()
            if sock is None:
                return
            try:
                sock.setblocking(False)
                if self._context is not None:
                    sock = self._context.wrap_socket(
                        sock,
                        server_side=True,
                        do_handshake_on_connect=False,
                        suppress_ragged_eofs=False,
                    )
                stranger = _Stranger(TcpConnection(sock), self.credentials, self._binding)
            except (OSError, ssl.SSLError):  # the client has already disconnected
                sock.close()
                continue
            if len(self._strangers) >= STRANGERS_MAX:
                self._reject(self._least_likely(), None)
            fd = stranger.connection.fileno()
            self._strangers[fd] = stranger
            self._epoll.register(fd, select.EPOLLIN)

    def _least_likely(self) -> _Stranger:
        """Return the stranger to drop for a new one.

        It is the oldest one without a greeting, of the origin with the most strangers.
        """
        counts = Counter(stranger.origin for stranger in self._strangers.values())
        most = max(counts.values())
        candidates = [
            stranger for stranger in self._strangers.values() if counts[stranger.origin] == most
        ]
        return next(
            (stranger for stranger in candidates if not stranger.examination.greeted), candidates[0]
        )

    def _examine(self, stranger: _Stranger) -> TcpConnection | None:
        """Continue with a stranger; return its connection once it is authenticated."""
        try:
            trusted = stranger.advance()
        except RfpError as error:
            self._reject(stranger, error)
            return None
        if not trusted:
            # POLLIN and EPOLLIN are equal.
            self._epoll.modify(stranger.connection.fileno(), stranger.connection.awaits)
            return None
        self._forget_stranger(stranger)
        return stranger.connection

    def _expired(self) -> list[_Stranger]:
        now = clock.now_ns()
        return [stranger for stranger in self._strangers.values() if stranger.expires <= now]

    def _reject(self, stranger: _Stranger, error: RfpError | None) -> None:
        self.rejected += 1
        if error is not None:
            log.warning("refused a connection from %s: %s", stranger.connection.remote, error)
        else:
            log.info(
                "closed a connection from %s that had not authenticated", stranger.connection.remote
            )
        self._forget_stranger(stranger)
        if error is not None and not stranger.connection.closed:
            try:
                stranger.connection.send(Refused.of(error), 0)
            except RfpError:
                pass  # the peer does not even read
        stranger.connection.close()

    def _forget_stranger(self, stranger: _Stranger) -> None:
        for fd, each in list(self._strangers.items()):
            if each is stranger:
                del self._strangers[fd]
                if not stranger.connection.closed:  # otherwise the kernel has removed it already
                    self._epoll.unregister(fd)

    def close(self) -> None:
        """Stop listening, and close the connections that are not authenticated.  Repeatable."""
        _open.discard(self)
        for stranger in list(self._strangers.values()):
            stranger.connection.close()
        self._strangers.clear()
        for acceptor in self._acceptors.values():
            acceptor.close()
        self._epoll.close()

    def _forget(self) -> None:
        """In a forked child: close the child's copies; each connection closes its own."""
        self._strangers.clear()
        self.close()

    def __enter__(self) -> TcpListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_open: weakref.WeakSet[TcpListener] = weakref.WeakSet()


def _after_fork() -> None:
    for listener in list(_open):
        listener._forget()


in_child(_after_fork)


def _origin(place: str) -> str:
    """Return the origin of a connection: an IPv4 address, or the network of an IPv6 one.

    A host has many IPv6 addresses of one network.
    """
    return place if ":" not in place else str(ipaddress.ip_network(f"{place}/64", strict=False))


def _loopback(place: str) -> bool:
    return ipaddress.ip_address(place.partition("%")[0].removeprefix("::ffff:")).is_loopback
