"""Accepts connections from a listening socket, even if no file descriptor is left for them."""

from __future__ import annotations

import errno
import os
import socket

from rfp.core.log import log
from rfp.errors import FabricError

BACKLOG = 4096  # as far as the system allows (net.core.somaxconn)
STRANGERS_MAX = 64  # network connections without proof yet; a new one replaces one of them
DROPPED_MAX = 16  # in one take(): a client that floods the socket must not block its owner here


class Acceptor:
    """A listening socket, with a file descriptor in reserve.

    If the process has no file descriptor left, take() drops one waiting connection by means of the
    reserve: a connection left in the queue would make the thread that waits on the socket spin.
    """

    def __init__(self, sock: socket.socket, what: object) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.what = what  # the listening address, for messages
        self.dropped = 0
        self.closed = False
        self._spare = _spare()

    def take(self) -> socket.socket | None:
        """Return the next connection, or None if none waits, or if several had to be dropped."""
        for _ in range(DROPPED_MAX):
            try:
                return self.socket.accept()[0]
            except BlockingIOError:
                return None
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if self.closed:
                    return None
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    if self._drop_one():
                        continue
                    return None
                raise FabricError(
                    f"cannot accept connections at {self.what}: {error.strerror}"
                ) from error
        return None

    @property
    def exhausted(self) -> bool:
        """Whether the reserve could not be reopened: waiting on the socket would only spin."""
        return self._spare < 0

    def _drop_one(self) -> bool:
        """Drop one waiting connection; return False if none waits.

        The kernel allocates a descriptor before it takes a connection from the queue.
        """
        if self._spare >= 0:
            os.close(self._spare)
        try:
            self.socket.accept()[0].close()
        except OSError:
            return False
        else:
            self.dropped += 1
            log.warning(
                "dropped a connection at %s: no file descriptor is left (ulimit -n)", self.what
            )
            return True
        finally:
            self._spare = _spare()

    def close(self) -> None:
        """Close the socket and the reserve.  Safe to call again."""
        self.closed = True
        self.socket.close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1


def _spare() -> int:
    try:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
