"""One end of a control channel."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import weakref
from collections.abc import Callable
from typing import NoReturn, TypeVar

from rfp.control import frame
from rfp.control.message import Attached, Detach, Message, Refused
from rfp.control.uninterrupted import Descriptor, in_turn
from rfp.core import clock
from rfp.core.forks import in_child
from rfp.errors import Closed, ConnectionFailed, DeadlineExceeded, Forked, HandshakeFailed, RfpError, not_copied

M = TypeVar("M", bound=Message)


def deadline_in(seconds: float) -> float:
    """The deadline that many seconds from now, as all calls here take it: a time of clock.now()."""
    return clock.now() + seconds


class ControlConnection:
    """A stream socket that carries messages, each call with a deadline (a clock.now() time); the base of what goes over
    Unix sockets (unix.py) and over TCP (tcp.py).

    One thread at a time is let through; `call` is what many threads share.  After any failure but a deadline the
    connection is closed, since nothing tells where the next message would begin.

    A deadline that has already passed means: do what can be done without waiting.  So a server that sends with
    `deadline=0` drops a client that does not read, instead of waiting for it.
    """

    FD_LIMIT = 0  # file descriptors that may come with a message

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._lock = threading.RLock()  # reentrant: a signal handler of the thread inside may call close()
        self._inside = False  # a thread is
        self._torn = False  # in the middle of a message, where nobody else could go on
        self._data = bytearray()  # of the message that is arriving
        self._fds: list[Descriptor] = []
        self._preface: frame.Preface | None = None
        self._number = 0  # of the last call
        self._abandoned: set[int] = set()  # calls whose answers may still come
        self._awaited = select.POLLIN
        self.limit = frame.BODY_LIMIT  # bytes of a message's body that may arrive
        self.transcript: bytearray | None = None  # of all that has passed, while somebody wants it
        self.pid = 0  # of the peer's process, where the transport or the peer tells
        self._ended: Callable[[], RfpError] | None = None  # why nothing can be done any more
        _open.add(self)

    def fileno(self) -> int:
        """The socket, to wait on: readable when `try_receive` has something to do.  -1 when closed."""
        return self._socket.fileno()

    @property
    def closed(self) -> bool:
        return self._ended is not None

    def pidfd(self) -> int:
        """A file descriptor that becomes readable when the peer's process ends; -1 where there is none, as over a network."""
        return -1

    @property
    def pending(self) -> bool:
        """Whether bytes have been taken from the socket already, so that waiting on it says nothing about them (TLS)."""
        return False

    # Messages

    def send(self, message: Message, deadline: float) -> None:
        """Sends a message, with the file descriptors of its handles; they stay the caller's."""
        in_turn(self, deadline, self._send, message, deadline)

    def answer(self, question: Message, answer: Message, deadline: float) -> None:
        """Sends the answer to a message that was received."""
        answer.number = question.number
        self.send(answer, deadline)

    def receive(self, deadline: float) -> Message:
        """The next message.  Raises DeadlineExceeded (and may be called again), HandshakeFailed, ConnectionFailed."""
        return in_turn(self, deadline, self._receive, deadline)

    def try_receive(self) -> Message | None:
        """The next message if all of it is there, else None: for event loops, which no slow peer can hold up."""
        return in_turn(self, 0.0, self._advance)

    def call(self, question: Message, kind: type[M], deadline: float) -> M:
        """Sends a message and returns its answer, of this kind; raises what the server refused with.

        A call whose deadline passes leaves the connection usable: its answer is dropped when it comes.  So does an exception of a
        signal handler, unless it comes in the middle of a message: then the connection is closed.
        """
        answer: M = in_turn(self, deadline, self._call, question, kind, deadline)
        return answer

    def _call(self, question: Message, kind: type[M], deadline: float) -> M:
        self._number = question.number = self._number % 0xFFFFFFFF + 1
        # Before it is sent: whatever ends this call, the answer may still come.
        self._abandoned.add(question.number)
        try:
            self._send(question, deadline)
        except DeadlineExceeded:
            self._abandoned.discard(question.number)  # nothing of it was sent, or the connection is closed
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
                HandshakeFailed(f"the server answered {question.title()!r} with {answer.title()!r}, not {kind.title()!r}")
            )
        return answer

    def _receive_answer(self, deadline: float) -> Message:
        """The answer to the last call, or a refusal that concerns the whole connection."""
        while True:
            answer = self._receive(deadline)
            if answer.number == self._number or (isinstance(answer, Refused) and answer.number == 0):
                return answer
            answer.close()
            if answer.number not in self._abandoned:
                raise self._fail(HandshakeFailed(f"the server answered call {answer.number}, "
                                                 "which this client never made"))
            self._abandoned.discard(answer.number)
            if isinstance(answer, Attached):  # rings that nobody will use
                self._send(Detach(answer.channel), deadline)

    def _send(self, message: Message, deadline: float) -> None:
        body, fds = message.to_message()
        data = memoryview(frame.pack(message.KIND, message.number, body, len(fds)))
        self._note(data)
        sent = 0
        self._torn = True
        while sent < len(data):
            count = self._write(data[sent:], [] if sent else fds)  # file descriptors travel with the first byte
            if not count and not wait(self._socket.fileno(), self._awaited, deadline):
                if sent:  # the peer would take what follows for the rest of this message
                    self._fail(ConnectionFailed("a control message was cut off"))
                self._torn = False
                raise DeadlineExceeded("timed out sending a control message to the peer",
                                       hint="check whether its process is stopped")
            sent += count
        self._torn = False

    def _note(self, data: bytes | bytearray | memoryview) -> None:
        if self.transcript is not None:
            self.transcript += data

    def _write(self, data: memoryview, fds: list[int]) -> int:
        """Writes what the socket takes now: 0 bytes if it takes nothing."""
        try:
            return self._put(data, fds)
        except RfpError:
            raise
        except OSError as error:
            raise self._fail(_lost(error)) from error

    def _receive(self, deadline: float) -> Message:
        while (message := self._advance()) is None:
            if not wait(self._socket.fileno(), self._awaited, deadline):
                raise DeadlineExceeded("timed out waiting for the peer on the control channel",
                                       hint="check whether its process is stopped")
        return message

    def _advance(self) -> Message | None:
        """Takes what has arrived of one message, never a byte of the next; returns the message once it is whole."""
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
        """Reads up to count bytes and the file descriptors among them; False if nothing is there."""
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

    # The transport.  Where nothing can be done now, _awaited becomes the events to wait for.

    def _put(self, data: memoryview, fds: list[int]) -> int:
        """Sends some of the data, and the file descriptors with its first byte; returns how many bytes: 0 if none now."""
        raise NotImplementedError

    def _get(self, count: int) -> bytes | None:
        """Up to count bytes; None if there are none now, b"" at the end.  File descriptors among them go to _fds."""
        raise NotImplementedError

    def _take(self, preface: frame.Preface) -> Message:
        self._note(self._data)
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
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # and not TLS's, which another thread may be inside of

    def close(self) -> None:
        """Ends the connection and closes its file descriptors.  May be called at any time, by any thread, repeatedly."""
        self.shutdown()
        with self._lock:  # whoever was inside comes out now, and the number of the socket cannot be reused under them
            self._close()

    def _close(self) -> None:
        self._socket.close()
        for fd in self._fds:
            fd.close()
        self._fds = []
        _open.discard(self)

    def _fail(self, error: RfpError) -> RfpError:
        """Closes after an error, and returns what to raise."""
        if self._ended is not None:  # close() was called meanwhile: that is why
            error = self._ended()
        else:
            text, hint = Exception.__str__(error), error.hint or "connect again"
            self._ended = lambda: ConnectionFailed(f"the control channel is closed: {text}",
                                                   hint=hint)
        self._close()
        return error

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended()

    def _forget(self) -> None:
        """In a forked child: closes the child's copies, without a word to the peer and without the parent's locks."""
        self._ended = lambda: Forked("the control channel belongs to the parent process",
                                     hint="connect in the child")
        self._lock = threading.RLock()
        self._close()

    def __enter__(self) -> ControlConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "connect again")

    def __del__(self) -> None:
        if getattr(self, "_ended", self) is None:  # it was made, and not closed
            self._close()


_open: weakref.WeakSet[ControlConnection] = weakref.WeakSet()


def _after_fork() -> None:
    for connection in list(_open):
        connection._forget()


in_child(_after_fork)


def _lost(error: OSError) -> ConnectionFailed:
    return ConnectionFailed(f"the connection to the peer was lost: {error.strerror or error}", hint="connect again")


def wait(fd: int, events: int, deadline: float) -> int:
    """The events that are there, or 0 when the deadline has passed."""
    if fd < 0:  # closed meanwhile: let the system call that follows say so
        return select.POLLNVAL
    poller = select.poll()
    poller.register(fd, events)
    while True:
        left = deadline - clock.now()
        found = poller.poll(min(max(0.0, left * 1000), 60_000.0))
        if found:
            return found[0][1]
        if left <= 0:
            return 0
