"""One end of a control channel."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import NoReturn

from rfp.control import frame
from rfp.control.message import Attached, Detach, M, Message, Refused
from rfp.control.uninterrupted import Descriptor, in_turn
from rfp.core import clock
from rfp.core.forks import in_child
from rfp.errors import (
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    Forked,
    HandshakeFailed,
    RfpError,
    not_copied,
)

POLL_MS_MAX = 60_000.0


class _Waits(threading.local):
    end = -1  # of this thread: a descriptor that ends them when it is readable


_waits = _Waits()


@contextlib.contextmanager
def waits_ended_by(fd: int) -> Iterator[None]:
    """Let this thread's waits for peers raise `Closed` as soon as a descriptor is readable."""
    _waits.end = fd
    try:
        yield
    finally:
        _waits.end = -1


class ControlConnection:
    """A stream socket that carries messages: base of Unix (unix.py) and TCP (tcp.py) connections.

    Each call takes a deadline (a clock.now_ns() time).  A deadline that has already passed means:
    do all that is possible without waiting.  So a server that sends with `deadline=0` drops a
    client that does not read, instead of waiting for it.

    One thread at a time may use the connection; many threads may share `call`.  After any failure
    but a deadline the connection is closed, since nothing marks the start of the next message.
    """

    FD_LIMIT = 0  # file descriptors that may come with a message

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        # Reentrant: a signal handler of the same thread may call close().
        self._lock = threading.RLock()
        self._inside = False  # a thread is using the connection
        self._torn = False  # it stopped in the middle of a message: no other thread could go on
        self._data = bytearray()  # of the message that is arriving
        self._fds: list[Descriptor] = []
        self._preface: frame.Preface | None = None
        self._number = 0  # of the last call
        self._abandoned: set[int] = set()  # calls whose responses may still come
        self._begun: dict[int, Message | None] = {}  # calls of begin(), and their responses
        self._awaited = select.POLLIN
        self.limit = frame.BODY_LIMIT  # bytes that the body of an incoming message may have
        # All bytes in both directions, while they are needed.
        self.transcript: bytearray | None = None
        self.pid = 0  # of the peer's process, if the transport or the peer provides it
        self._ended: Callable[[], RfpError] | None = None  # why the connection is closed
        _open.add(self)

    def fileno(self) -> int:
        """Return the socket, to wait on: readable when `try_receive` has work.  -1 when closed."""
        return self._socket.fileno()

    @property
    def closed(self) -> bool:
        return self._ended is not None

    def pidfd(self) -> int:
        """Return a file descriptor that becomes readable when the peer's process ends.

        -1 if there is none, as over a network.
        """
        return -1

    @property
    def pending(self) -> bool:
        """Whether bytes have already been taken from the socket (TLS).

        Waiting on the socket then reports nothing about them.
        """
        return False

    # Messages

    def send(self, message: Message, deadline: int) -> None:
        """Send a message with the file descriptors of its handles; the caller keeps owning them."""
        in_turn(self, deadline, self._send, message, deadline)

    def answer(self, question: Message, answer: Message, deadline: int) -> None:
        """Send the response to a message that was received."""
        answer.number = question.number
        self.send(answer, deadline)

    def receive(self, deadline: int) -> Message:
        """Return the next message.

        Raises:
            DeadlineExceeded: the deadline has passed; the call may be repeated.
            HandshakeFailed: the message is not valid.
            ConnectionFailed: the connection is lost.
        """
        return in_turn(self, deadline, self._receive, deadline)

    def try_receive(self) -> Message | None:
        """Return the next message if all of it has arrived, else None.

        For event loops: no slow peer can block them.
        """
        return in_turn(self, 0, self._advance)

    def call(self, question: Message, kind: type[M], deadline: int) -> M:
        """Send a message and return its response.

        A call whose deadline passes leaves the connection usable: its response is dropped when it
        comes.  An exception of a signal handler does too, unless it comes in the middle of a
        message: then the connection is closed.

        Args:
            question: the message to send.
            kind: class of the response.
            deadline: a clock.now_ns() time.

        Raises:
            RfpError: the server refused, with the exception that it sent.
            DeadlineExceeded: the deadline has passed.
            ConnectionFailed: the connection is lost.
        """
        answer: M = in_turn(self, deadline, self._call, question, kind, deadline)
        return answer

    def _call(self, question: Message, kind: type[M], deadline: int) -> M:
        self._number = question.number = self._number % 0xFFFFFFFF + 1
        # Record the call before it is sent: however it ends, its response may still come.
        self._abandoned.add(question.number)
        try:
            self._send(question, deadline)
        except DeadlineExceeded:
            # None of it was sent, or the connection is closed.
            self._abandoned.discard(question.number)
            raise
        answer = self._receive_answer(deadline)
        question.answered = answer
        self._abandoned.discard(question.number)
        if isinstance(answer, Refused):
            self._torn = False
            raise answer.exception()
        if not isinstance(answer, kind):
            answer.close()
            raise self._fail(
                HandshakeFailed(
                    f"the server answered {question.title()!r} with {answer.title()!r}, not "
                    f"{kind.title()!r}"
                )
            )
        return answer

    def begin(self, question: Message) -> int:
        """Send a message without waiting for its response; return its number, for finish().

        Raises:
            DeadlineExceeded: the connection is in use, or cannot send now.
        """
        number: int = in_turn(self, 0, self._begin, question)
        return number

    def _begin(self, question: Message) -> int:
        self._number = question.number = self._number % 0xFFFFFFFF + 1
        # Record the call before it is sent, as _call() does.
        self._begun[question.number] = None
        try:
            self._send(question, 0)
        except DeadlineExceeded:
            self._begun.pop(question.number, None)
            raise
        return question.number

    def finish(self, number: int) -> Message | None:
        """Return the response to begin()'s message if it has come, else None.

        Raises:
            RfpError: the server refused, with the exception that it sent.
            DeadlineExceeded: the connection is in use.
        """
        answer: Message | None = in_turn(self, 0, self._finish, number)
        if isinstance(answer, Refused):
            raise answer.exception()
        return answer

    def _finish(self, number: int) -> Message | None:
        while self._begun[number] is None:
            answer = self._advance()
            if answer is None:
                return None
            self._dispatch(answer, 0)
        return self._begun.pop(number)

    def _receive_answer(self, deadline: int) -> Message:
        """Return the response to the last call, or a refusal that concerns the whole connection."""
        while True:
            answer = self._receive(deadline)
            if answer.number == self._number or (
                isinstance(answer, Refused) and answer.number == 0
            ):
                return answer
            self._dispatch(answer, deadline)

    def _dispatch(self, answer: Message, deadline: int) -> None:
        """Keep the response to a call of begin(); drop the one to a call that was given up."""
        if answer.number in self._begun and self._begun[answer.number] is None:
            self._begun[answer.number] = answer
            return
        answer.close()
        if answer.number not in self._abandoned:
            if isinstance(answer, Refused):
                raise self._fail(answer.exception())
            raise self._fail(
                HandshakeFailed(
                    f"the server answered call {answer.number}, which this client never made"
                )
            )
        self._abandoned.discard(answer.number)
        if isinstance(answer, Attached):  # rings that no thread will use
            self._send(Detach(answer.channel), deadline)

    def _send(self, message: Message, deadline: int) -> None:
        body, fds = message.to_message()
        data = memoryview(frame.pack(message.KIND, message.number, body, len(fds)))
        self._note(data)
        sent = 0
        self._torn = True
        while sent < len(data):
            # The file descriptors travel with the first byte.
            count = self._write(data[sent:], [] if sent else fds)
            if not count and not wait(self._socket.fileno(), self._awaited, deadline):
                if sent:  # the peer would take the next message for the rest of this one
                    self._fail(ConnectionFailed("a control message was cut off"))
                self._torn = False
                raise DeadlineExceeded(
                    "timed out sending a control message to the peer",
                    hint="check whether its process is stopped",
                )
            sent += count
        self._torn = False

    def _note(self, data: bytes | bytearray | memoryview) -> None:
        if self.transcript is not None:
            self.transcript += data

    def _write(self, data: memoryview, fds: list[int]) -> int:
        """Write as many bytes as the socket accepts now: 0 if it accepts none."""
        try:
            return self._put(data, fds)
        except RfpError:
            raise
        except OSError as error:
            raise self._fail(_lost(error)) from error

    def _receive(self, deadline: int) -> Message:
        while (message := self._advance()) is None:
            if not wait(self._socket.fileno(), self._awaited, deadline):
                raise DeadlineExceeded(
                    "timed out waiting for the peer on the control channel",
                    hint="check whether its process is stopped",
                )
        return message

    def _advance(self) -> Message | None:
        """Read the bytes of one message that have arrived, never a byte of the next.

        Returns:
            The message once it is complete, else None.
        """
        self._torn = True
        try:
            while True:
                if self._preface is None and len(self._data) == frame.PREFACE.size:
                    self._preface = frame.unpack_preface(self._data, self.limit, self.FD_LIMIT)
                    self._note(self._data)
                    self._data = bytearray()
                wanted = frame.PREFACE.size if self._preface is None else self._preface.length
                if self._preface is not None and len(self._data) == wanted:
                    return self._take(self._preface)
                if not self._read(wanted - len(self._data)):
                    self._torn = False
                    return None
        except RfpError as error:
            raise self._fail(error) from None

    def _read(self, count: int) -> bool:
        """Read up to count bytes and the file descriptors among them; False if none arrived."""
        try:
            data = self._get(count)
        except RfpError:
            raise
        except OSError as error:
            raise _lost(error) from error
        if data is None:
            return False
        if not data:
            if self._data or self._preface:
                raise HandshakeFailed("the peer closed the connection in the middle of a message")
            raise ConnectionFailed("the peer closed the connection", hint="connect again")
        self._data += data
        return True

    # The transport.  If nothing can be done now, _awaited is set to the events to wait for.

    def _put(self, data: memoryview, fds: list[int]) -> int:
        """Send some of the data, and the file descriptors with its first byte.

        Returns:
            The number of bytes sent: 0 if none can be sent now.
        """
        raise NotImplementedError

    def _get(self, count: int) -> bytes | None:
        """Return up to count bytes, with file descriptors appended to _fds.

        Returns:
            None if no bytes are there now, b"" at the end of the stream.
        """
        raise NotImplementedError

    def _take(self, preface: frame.Preface) -> Message:
        self._note(self._data)
        kind = Message.KINDS.get(preface.kind)
        if kind is not Refused:  # a refusal is readable in every version
            frame.check_version(preface)
        if kind is None:
            raise HandshakeFailed(f"the peer sent a control message of unknown kind {preface.kind}")
        if len(self._fds) != preface.fds:
            raise HandshakeFailed(
                f"the peer announced {preface.fds} file descriptors and sent {len(self._fds)}"
            )
        message = kind.from_message(frame.unpack_body(self._data), self._fds)
        message.number = preface.number
        self._data, self._preface, self._fds = bytearray(), None, []
        return message

    # The end

    def shutdown(self) -> None:
        """End the connection for both sides and wake all threads that wait on it.

        The socket stays open until `close`.
        """
        if self._ended is None:
            self._ended = lambda: Closed("the control channel is closed", hint="connect again")
        with contextlib.suppress(OSError):  # the peer, or another thread, was faster
            # The plain socket's, not TLS's: another thread may be inside that.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection and close its file descriptors.

        May be called at any time, by any thread, repeatedly.
        """
        self.shutdown()
        # A thread that uses the connection returns first: the number of the socket must not be
        # reused under it.
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._socket.close()
        for begun in self._begun.values():
            if begun is not None:
                begun.close()
        self._begun = {}
        for fd in self._fds:
            fd.close()
        self._fds = []
        _open.discard(self)

    def _fail(self, error: RfpError) -> RfpError:
        """Close after an error, and return the exception to raise."""
        if self._ended is not None:  # close() was called in the meantime: that is the reason
            error = self._ended()
        else:
            text, hint = Exception.__str__(error), error.hint or "connect again"
            self._ended = lambda: ConnectionFailed(
                f"the control channel is closed: {text}", hint=hint
            )
        self._close()
        return error

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended()

    def _forget(self) -> None:
        """In a forked child: close its copies, without the parent's locks and without a message."""
        self._ended = lambda: Forked(
            "the control channel belongs to the parent process", hint="connect in the child"
        )
        self._lock = threading.RLock()
        self._close()

    def __enter__(self) -> ControlConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "connect again")

    def __del__(self) -> None:
        if getattr(self, "_ended", self) is None:  # constructed, and not closed
            self._close()


_open: weakref.WeakSet[ControlConnection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_open):
        connection._forget()


in_child(_after_fork)


def _lost(error: OSError) -> ConnectionFailed:
    return ConnectionFailed(
        f"the connection to the peer was lost: {error.strerror or error}", hint="connect again"
    )


def wait(fd: int, events: int, deadline: int) -> int:
    """Return the events that have occurred, or 0 when the deadline has passed."""
    if fd < 0:  # closed in the meantime: the next system call reports it
        return select.POLLNVAL
    poller = select.poll()
    poller.register(fd, events)
    if _waits.end >= 0:
        poller.register(_waits.end, select.POLLIN)
    while True:
        left_ns = deadline - clock.now_ns()
        found = dict(poller.poll(min(max(0.0, left_ns / 1e6), POLL_MS_MAX)))
        if _waits.end in found:
            raise Closed("the wait was ended")
        if found:
            return found[fd]
        if left_ns <= 0:
            return 0


def nap(seconds: float) -> None:
    """Sleep; raise `Closed` if this thread's waits are ended meanwhile."""
    poller = select.poll()
    if _waits.end >= 0:
        poller.register(_waits.end, select.POLLIN)
    if poller.poll(seconds * 1000):
        raise Closed("the wait was ended")
