"""The control channel over a Unix socket, which also carries file descriptors and credentials."""

from __future__ import annotations

import array
import errno
import os
import select
import shlex
import socket
import struct

from rfp.address import EMBEDDED, Address, default, elsewhere
from rfp.control import frame
from rfp.control.connection import ControlConnection, nap, wait
from rfp.control.uninterrupted import Descriptor, peer_pidfd, pidfd_open, receive
from rfp.core import clock
from rfp.errors import ConnectionFailed, DeadlineExceeded, HandshakeFailed, InvalidAddress

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_SO_PEERPIDFD = 77  # Linux 6.5


class UnixConnection(ControlConnection):
    """A control channel between two processes of one host.

    The kernel reports which process the peer is, and its user.
    """

    FD_LIMIT = frame.FD_LIMIT

    def __init__(self, sock: socket.socket) -> None:
        self._pidfd: Descriptor | None = None
        super().__init__(sock)
        self.pid, self.uid, _ = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )

    def pidfd(self) -> int:
        """Return a file descriptor that becomes readable when the peer's process ends.

        It is closed with the connection.

        Raises:
            ConnectionFailed: the process has already ended.
        """
        with self._lock:
            self._check()
            if self._pidfd is None:
                self._pidfd = self._open_pidfd()
            return self._pidfd.fd

    def _open_pidfd(self) -> Descriptor:
        gone = ConnectionFailed(f"the peer, process {self.pid}, has exited", hint="connect again")
        try:
            return peer_pidfd(self._socket.fileno(), _SO_PEERPIDFD)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise gone from error
        # Before Linux 6.5: by number, which may since belong to another process; but in that case
        # the peer's socket has been closed.
        try:
            pidfd = pidfd_open(self.pid)
        except OSError as error:
            raise gone from error
        if wait(self._socket.fileno(), 0, 0) & (select.POLLHUP | select.POLLERR):
            raise gone
        return pidfd

    def _put(self, data: memoryview, fds: list[int]) -> int:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            self._awaited = select.POLLOUT
            return 0

    def _get(self, count: int) -> bytes | None:
        data, whole = receive(self._socket.fileno(), count, self._fds, self.FD_LIMIT)
        if data is None:
            self._awaited = select.POLLIN
            return None
        if not whole:
            raise HandshakeFailed(
                "file descriptors from the peer were lost",
                hint="raise this process's limit of open files (ulimit -n)",
            )
        if len(self._fds) > self.FD_LIMIT:
            raise HandshakeFailed(
                f"the peer sent more than {self.FD_LIMIT} file descriptors with one message"
            )
        return data

    def _close(self) -> None:
        super()._close()
        if self._pidfd is not None:
            self._pidfd.close()
            self._pidfd = None


def connect_unix(address: Address, deadline: int, start: str | None = None) -> UnixConnection:
    """Connect to the server at an shm address.

    Raises:
        ConnectionFailed: no server listens there.
        HandshakeFailed: it is another user's server.
        DeadlineExceeded: the deadline has passed.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(os.fsencode(address.path))
                break
            except BlockingIOError:  # its queue is full; a Unix socket has no event for that
                if clock.now_ns() >= deadline:
                    raise DeadlineExceeded(
                        f"timed out connecting to {address}: the server is too "
                        "busy to accept a connection"
                    ) from None
                nap(0.001)
            except OSError as error:
                raise _unreachable(address, error, start) from error
        connection = UnixConnection(sock)
    except BaseException:
        sock.close()
        raise
    if connection.uid != os.geteuid():
        connection.close()
        raise HandshakeFailed(
            f"the server at {address} runs as user {connection.uid}, not as user {os.geteuid()}",
            hint="run server and clients as the same user",
        )
    return connection


def _unreachable(address: Address, error: OSError, hint: str | None) -> ConnectionFailed:
    if os.path.basename(address.path).startswith(EMBEDDED):
        start = "start the program again that contained the server"
    elif hint is not None:
        start = hint
    elif _is_default(address):
        start = "start one: rfp serve"
    else:
        start = f"start one: rfp serve --address {shlex.quote(str(address))}"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        if (pid := _holder(address.path)) is not None:
            return ConnectionFailed(f"the socket of the server at {address} was "
                                    f"removed, but process {pid} still runs",
                                    hint=f"restart it (kill {pid})")  # fmt: skip
        if _is_default(address) and (other := elsewhere()) is not None:
            start += f"; or connect to {other}, the default address of another XDG_RUNTIME_DIR"
        return ConnectionFailed(f"there is no server at {address}", hint=start)
    if isinstance(error, ConnectionRefusedError):
        return ConnectionFailed(f"the server at {address} no longer runs", hint=start)
    return ConnectionFailed(
        f"cannot connect to {address}: {error.strerror}",
        hint="check that it is a server of this user",
    )


def _holder(path: str) -> int | None:
    """Return the process that a server's lock file names, if it runs.

    The lock itself is not touched: a server may be taking it.
    """
    try:
        with open(path + ".lock", "rb") as file:
            pid = int(file.read(16))
        os.kill(pid, 0)
        return pid
    except (OSError, ValueError):
        return None


def _is_default(address: Address) -> bool:
    try:
        return address.path == default().path
    except InvalidAddress:
        return False
