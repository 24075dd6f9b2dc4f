"""Takes connections from a listening socket, also where no file descriptor is left for them."""

from __future__ import annotations

import errno
import os
import socket

from rfp.core.log import log
from rfp.errors import FabricError

STRANGERS_MAX = 64  # connections over a network that have not proved anything yet; one goes when another comes
DROPPED_MAX = 16   # in one take(): who floods the socket must not keep its owner here


class Acceptor:
    """A listening socket, with a file descriptor in reserve.

    Out of file descriptors, it drops one waiting connection by means of the reserve: left in the queue it would make
    whoever waits on the socket spin.
    """

    def __init__(self, sock: socket.socket, what: object) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.what = what  # where it listens, for messages
        self.dropped = 0
        self.closed = False
        self._spare = _spare()

    def take(self) -> socket.socket | None:
        """The next connection, or None if none waits, or if several had to be dropped."""
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
                raise FabricError(f"cannot accept connections at {self.what}: {error.strerror}") from error
        return None

    @property
    def exhausted(self) -> bool:
        """Whether not even the reserve could be had: waiting on the socket would only spin."""
        return self._spare < 0

    def _drop_one(self) -> bool:
        """False if none waits (the kernel looks for a free number before it looks for a connection)."""
        if self._spare >= 0:
            os.close(self._spare)
        try:
            self.socket.accept()[0].close()
        except OSError:
            return False
        else:
            self.dropped += 1
            log.warning("dropped a connection at %s: no file descriptor is left (ulimit -n)", self.what)
            return True
        finally:
            self._spare = _spare()

    def close(self) -> None:
        """Safe to call again."""
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
