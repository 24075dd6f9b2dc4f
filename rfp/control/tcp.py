"""The control channel over TCP, optionally with TLS."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import shlex
import socket
import ssl

from rfp.address import Address
from rfp.control.authentication import introduce
from rfp.control.connection import ControlConnection, wait
from rfp.control.credentials import Credentials
from rfp.errors import ConnectionFailed, DeadlineExceeded, HandshakeFailed, InvalidArgument

# The end of the peer's process is seen at once; the loss of its machine or of the route, by the
# kernel, within these.
USER_TIMEOUT = 3000  # ms for which sent data may stay unacknowledged
# Seconds before the first probe, seconds between two probes, probes that may stay unanswered.
KEEPALIVE = (1, 1, 3)


class TcpConnection(ControlConnection):
    """A control channel to another host.  It carries no file descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
        for option, value in zip(
            (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT), KEEPALIVE, strict=True
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        # Read now: a connection that was lost does not have its addresses any more.
        self.local = _numeric(sock.getsockname())
        self.remote = _numeric(sock.getpeername())
        super().__init__(sock)

    @property
    def pending(self) -> bool:
        """Whether bytes have already been taken from the socket (TLS).

        Waiting on the socket then reports nothing about them.
        """
        sock = self._socket
        return not self.closed and isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def encrypted(self) -> bool:
        """Continue the TLS handshake; return whether it is complete.

        Raises:
            HandshakeFailed: it failed.
        """
        if not isinstance(self._socket, ssl.SSLSocket):
            return True
        try:
            self._socket.do_handshake()
            return True
        except ssl.SSLWantReadError:
            self._awaited = select.POLLIN
        except ssl.SSLWantWriteError:
            self._awaited = select.POLLOUT
        except ssl.SSLCertVerificationError as error:
            raise self._fail(
                HandshakeFailed(
                    f"cannot verify the peer's certificate: {error.verify_message}",
                    hint="give the CA that signed it as tls_ca=, and an "
                    "address with the certificate's host name",
                )
            ) from None
        except ssl.SSLError as error:
            raise self._fail(
                HandshakeFailed(
                    f"TLS with the peer failed: {error.reason or error}",
                    hint="use TLS on both sides (--tls-...), or on neither",
                )
            ) from None
        except OSError as error:
            raise self._fail(
                HandshakeFailed(
                    "the peer closed the connection in the middle of "
                    f"TLS: {error.strerror or error}"
                )
            ) from None
        return False

    def encrypt(self, deadline: int) -> None:
        """Run the whole TLS handshake."""
        while not self.encrypted():
            if not wait(self._socket.fileno(), self._awaited, deadline):
                raise self._fail(
                    DeadlineExceeded(
                        "timed out waiting for the peer",
                        hint="use TLS on both sides (--tls-...), or on neither",
                    )
                )

    def certificate(self) -> bytes:
        """The SHA-256 of the peer's certificate; b"" without TLS."""
        if not isinstance(self._socket, ssl.SSLSocket):
            return b""
        return hashlib.sha256(self._socket.getpeercert(binary_form=True) or b"").digest()

    @property
    def awaits(self) -> int:
        """The event that the connection waits for: POLLIN, or POLLOUT within TLS."""
        return self._awaited

    def _put(self, data: memoryview, fds: list[int]) -> int:
        if fds:
            raise InvalidArgument(
                "cannot send file descriptors over a network", hint="use an shm:// address"
            )
        try:
            return self._socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            self._awaited = select.POLLOUT
        except ssl.SSLWantReadError:
            self._awaited = select.POLLIN
        return 0

    def _get(self, count: int) -> bytes | None:
        if count == 0:
            return b""
        try:
            return self._socket.recv(count)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._awaited = select.POLLIN
        except ssl.SSLWantWriteError:
            self._awaited = select.POLLOUT
        except ssl.SSLEOFError:
            return b""
        return None


def _numeric(name: tuple[str, int, int, int] | tuple[str, int] | str) -> str:
    """Return the address of a socket's name, without zone; a mapped IPv4 address as IPv4."""
    return str(name[0]).partition("%")[0].removeprefix("::ffff:")


def connect_tcp(
    address: Address, deadline: int, credentials: Credentials, start: str | None = None
) -> TcpConnection:
    """Connect to the server at an rdma address.

    On return both sides have given the proof that the credentials require.

    Raises:
        ConnectionFailed: no server listens there.
        HandshakeFailed: one side does not satisfy the other.
        DeadlineExceeded: the deadline has passed.
    """
    context = credentials.client_context()
    connection = _reach(address, context, deadline, start)
    try:
        connection.encrypt(deadline)
        introduce(connection, credentials.secret, connection.certificate(), deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def _reach(
    address: Address, context: ssl.SSLContext | None, deadline: int, start: str | None
) -> TcpConnection:
    """Return a connection to the first of the host's addresses that accepts."""
    start = start or f"start one: rfp serve --address {shlex.quote(str(address))}"
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConnectionFailed(
            f"cannot find the host {address.host!r}: {reason}", hint="check the name"
        ) from None
    failure: OSError | None = None
    for family, kind, protocol, _, place in found:
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
        try:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(place)
            if not wait(sock.fileno(), select.POLLOUT, deadline):
                raise DeadlineExceeded(
                    f"timed out connecting to {address}",
                    hint="check that the host is up and reachable",
                )
            if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number))
            if context is not None:
                name = address.host.partition("%")[0]
                sock = context.wrap_socket(
                    sock,
                    do_handshake_on_connect=False,
                    server_hostname=name,
                    suppress_ragged_eofs=False,
                )
            return TcpConnection(sock)
        except OSError as error:
            sock.close()
            if isinstance(error, DeadlineExceeded):
                raise
            failure = error
        except BaseException:
            sock.close()
            raise
    assert failure is not None
    raise ConnectionFailed(f"there is no server at {address}: {failure.strerror}", hint=start)
