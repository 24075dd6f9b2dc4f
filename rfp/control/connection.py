"""One end of a control channel."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import shlex
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable
from typing import TypeVar

from rfp.address import EMBEDDED, Address, default
from rfp.control import frame
from rfp.control.message import Attached, Detach, Message, Refused
from rfp.errors import Closed, ConnectionFailed, DeadlineExceeded, Forked, HandshakeFailed, InvalidAddress, RfpError

M = TypeVar("M", bound=Message)

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_SO_PEERPIDFD = 77  # Linux 6.5
_FD = struct.calcsize("i")
_ANCILLARY = socket.CMSG_SPACE(frame.FD_LIMIT * _FD)


def deadline_in(seconds: float) -> float:
    """The deadline that many seconds from now, as all calls here take it: a time of time.monotonic()."""
    return time.monotonic() + seconds


class Connection:
    """A stream socket that carries messages and file descriptors, each call with a deadline (a time.monotonic() time).

    One thread at a time is let through; `call` is what many threads share.  After any failure but a deadline the
    connection is closed, since nothing tells where the next message would begin.

    A deadline that has already passed means: do what can be done without waiting.  So a server that sends with
    `deadline=0` drops a client that does not read, instead of waiting for it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._lock = threading.RLock()  # reentrant: a signal handler of the thread inside may call close()
        self._pidfd = -1
        self._ended: Callable[[], RfpError] | None = None  # why nothing can be done any more
        self._data = bytearray()  # of the message that is arriving
        self._fds: list[int] = []
        self._preface: frame.Preface | None = None
        self._number = 0  # of the last call
        self._abandoned: set[int] = set()  # calls whose answers may still come
        self.pid, self.uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        _open.add(self)

    def fileno(self) -> int:
        """The socket, to wait on: readable when `try_receive` has something to do.  -1 when closed."""
        return self._socket.fileno()

    @property
    def closed(self) -> bool:
        return self._ended is not None

    def pidfd(self) -> int:
        """A file descriptor that becomes readable when the peer's process ends.  It is closed with the connection.

        Raises ConnectionFailed if the process has already ended.
        """
        with self._lock:
            self._check()
            if self._pidfd < 0:
                self._pidfd = self._open_pidfd()
            return self._pidfd

    def _open_pidfd(self) -> int:
        gone = ConnectionFailed(f"the peer, process {self.pid}, has ended", hint="connect again")
        try:
            return self._socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise gone from error
        # Before Linux 6.5: by number, which may since belong to another process; but then the peer's socket has closed.
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            raise gone from error
        if wait(self._socket.fileno(), 0, 0.0) & (select.POLLHUP | select.POLLERR):
            os.close(pidfd)
            raise gone
        return pidfd

    # Messages

    def send(self, message: Message, deadline: float) -> None:
        """Sends a message, with the file descriptors of its handles; they stay the caller's."""
        self._acquire(deadline)
        try:
            self._send(message, deadline)
        finally:
            self._lock.release()

    def answer(self, question: Message, answer: Message, deadline: float) -> None:
        """Sends the answer to a message that was received."""
        answer.number = question.number
        self.send(answer, deadline)

    def receive(self, deadline: float) -> Message:
        """The next message.  Raises DeadlineExceeded (and may be called again), HandshakeFailed, ConnectionFailed."""
        self._acquire(deadline)
        try:
            return self._receive(deadline)
        finally:
            self._lock.release()

    def try_receive(self) -> Message | None:
        """The next message if all of it is there, else None: for event loops, which no slow peer can hold up."""
        self._acquire(0.0)
        try:
            return self._advance()
        finally:
            self._lock.release()

    def call(self, question: Message, kind: type[M], deadline: float) -> M:
        """Sends a message and returns its answer, of this kind; raises what the server refused with.

        A call whose deadline passes leaves the connection usable: its answer is dropped when it comes.
        """
        self._acquire(deadline)
        try:
            self._number = self._number % 0xFFFFFFFF + 1
            question.number = self._number
            self._send(question, deadline)
            try:
                answer = self._receive_answer(deadline)
            except BaseException:
                self._abandoned.add(question.number)
                raise
            if isinstance(answer, Refused):
                raise answer.exception()
            if not isinstance(answer, kind):
                answer.close()
                raise self._fail(
                    HandshakeFailed(f"the server answered {question.title()!r} with {answer.title()!r}, not {kind.title()!r}")
                )
            return answer
        finally:
            self._lock.release()

    def _receive_answer(self, deadline: float) -> Message:
        """The answer to the last call, or a refusal that concerns the whole connection."""
        while True:
            answer = self._receive(deadline)
            if answer.number == self._number or (isinstance(answer, Refused) and answer.number == 0):
                return answer
            answer.close()
            if answer.number not in self._abandoned:
                raise self._fail(HandshakeFailed(f"the server answered call {answer.number}, which was not made"))
            self._abandoned.discard(answer.number)
            if isinstance(answer, Attached):  # rings that nobody will use
                self._send(Detach(answer.channel), deadline)

    def _send(self, message: Message, deadline: float) -> None:
        body, fds = message.to_message()
        data = memoryview(frame.pack(message.KIND, message.number, body, len(fds)))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = 0
        try:
            while sent < len(data):
                count = self._write(data[sent:], [] if sent else ancillary)  # file descriptors travel with the first byte
                if not count and not wait(self._socket.fileno(), select.POLLOUT, deadline):
                    raise DeadlineExceeded("the peer did not take a control message in time", hint="is its process stopped?")
                sent += count
        except BaseException:
            if sent:  # the peer would take what follows for the rest of this message
                self._fail(ConnectionFailed("a control message was cut off"))
            raise

    def _write(self, data: memoryview, ancillary: list[tuple[int, int, array.array[int]]]) -> int:
        """Writes what the socket takes now: 0 bytes if it takes nothing."""
        try:
            return self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._fail(_lost(error)) from error

    def _receive(self, deadline: float) -> Message:
        while (message := self._advance()) is None:
            if not wait(self._socket.fileno(), select.POLLIN, deadline):
                raise DeadlineExceeded("the peer did not answer on the control channel in time", hint="is its process stopped?")
        return message

    def _advance(self) -> Message | None:
        """Takes what has arrived of one message, never a byte of the next; returns the message once it is whole."""
        try:
            while True:
                if self._preface is None and len(self._data) == frame.PREFACE.size:
                    self._preface = frame.unpack_preface(self._data)
                    self._data = bytearray()
                wanted = frame.PREFACE.size if self._preface is None else self._preface.length
                if self._preface is not None and len(self._data) == wanted:
                    return self._take(self._preface)
                if not self._read(wanted - len(self._data)):
                    return None
        except RfpError as error:
            raise self._fail(error) from None

    def _read(self, count: int) -> bool:
        """Reads up to count bytes and the file descriptors among them; False if nothing is there."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(count, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError as error:
            raise _lost(error) from error
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(content[: len(content) - len(content) % _FD])
                self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            raise HandshakeFailed(
                "file descriptors from the peer were lost", hint="raise the limit of open files (ulimit -n) of this process"
            )
        if len(self._fds) > frame.FD_LIMIT:
            raise HandshakeFailed(f"the peer sent more than {frame.FD_LIMIT} file descriptors with one message")
        if not data:
            if self._data or self._preface:
                raise HandshakeFailed("the peer closed the connection in the middle of a message")
            raise ConnectionFailed("the peer closed the connection", hint="connect again")
        self._data += data
        return True

    def _take(self, preface: frame.Preface) -> Message:
        kind = Message.KINDS.get(preface.kind)
        if kind is not Refused:  # a refusal can be read whatever version it comes from
            frame.check_version(preface)
        if kind is None:
            raise HandshakeFailed(f"the peer sent a control message of unknown kind {preface.kind}")
        if len(self._fds) != preface.fds:
            raise HandshakeFailed(f"the peer announced {preface.fds} file descriptors and sent {len(self._fds)}")
        message = kind.from_message(frame.unpack_body(self._data), self._fds)
        message.number = preface.number
        self._data, self._preface, self._fds = bytearray(), None, []
        return message

    # The end

    def shutdown(self) -> None:
        """Ends the connection for both sides and wakes whoever waits on it; the socket stays open until `close`."""
        if self._ended is None:
            self._ended = lambda: Closed("the control channel is closed", hint="connect again")
        with contextlib.suppress(OSError):  # the peer, or another thread, was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends the connection and closes its file descriptors.  May be called at any time, by any thread, repeatedly."""
        self.shutdown()
        with self._lock:  # whoever was inside comes out now, and the number of the socket cannot be reused under them
            self._close()

    def _close(self) -> None:
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        _open.discard(self)

    def _fail(self, error: RfpError) -> RfpError:
        """Closes after an error, and returns what to raise."""
        if self._ended is not None:  # close() was called meanwhile: that is why
            error = self._ended()
        else:
            text, hint = Exception.__str__(error), error.hint or "connect again"
            self._ended = lambda: ConnectionFailed(f"the control channel is closed, since {text}", hint=hint)
        self._close()
        return error

    def _acquire(self, deadline: float) -> None:
        self._check()
        if not self._lock.acquire(timeout=max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))):
            self._check()
            raise DeadlineExceeded("another thread used the control channel until the deadline", hint="give it more time")
        try:
            self._check()
        except BaseException:
            self._lock.release()
            raise

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended()

    def _forget(self) -> None:
        """In a forked child: closes the child's copies, without a word to the peer and without the parent's locks."""
        self._ended = lambda: Forked("this control channel belongs to the parent process", hint="connect in the child")
        self._lock = threading.RLock()
        self._close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_ended", self) is None:
            self._close()


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_open):
        connection._forget()


os.register_at_fork(after_in_child=_after_fork)


def connect(address: Address, deadline: float) -> Connection:
    """Connects to the server at an shm address.

    Raises ConnectionFailed if nobody is there, HandshakeFailed if it is another user's server, DeadlineExceeded.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(os.fsencode(address.path))
                break
            except BlockingIOError:  # its queue is full; a Unix socket has no event for that
                if time.monotonic() >= deadline:
                    raise DeadlineExceeded(f"the server at {address} is too busy to accept a connection") from None
                time.sleep(0.001)
            except OSError as error:
                raise _unreachable(address, error) from error
        connection = Connection(sock)
    except BaseException:
        sock.close()
        raise
    if connection.uid != os.geteuid():
        connection.close()
        raise HandshakeFailed(
            f"the server at {address} runs as user {connection.uid}, and this is user {os.geteuid()}",
            hint="server and clients must run as the same user",
        )
    return connection


def _unreachable(address: Address, error: OSError) -> ConnectionFailed:
    if os.path.basename(address.path).startswith(EMBEDDED):
        start = "the program that it was part of has ended"
    elif _is_default(address):
        start = "start one: rfp serve"
    else:
        start = f"start one: rfp serve --address {shlex.quote(str(address))}"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return ConnectionFailed(f"there is no server at {address}", hint=start)
    if isinstance(error, ConnectionRefusedError):
        return ConnectionFailed(f"the server at {address} is gone", hint=start)
    return ConnectionFailed(f"cannot connect to {address}: {error.strerror}", hint="is it a server of this user?")


def _is_default(address: Address) -> bool:
    try:
        return address.path == default().path
    except InvalidAddress:
        return False


def _lost(error: OSError) -> ConnectionFailed:
    return ConnectionFailed(f"the connection to the peer was lost: {error.strerror}", hint="connect again")


def wait(fd: int, events: int, deadline: float) -> int:
    """The events that are there, or 0 when the deadline has passed."""
    if fd < 0:  # closed meanwhile: let the system call that follows say so
        return select.POLLNVAL
    poller = select.poll()
    poller.register(fd, events)
    while True:
        left = deadline - time.monotonic()
        found = poller.poll(min(max(0.0, left * 1000), 60_000.0))
        if found:
            return found[0][1]
        if left <= 0:
            return 0
