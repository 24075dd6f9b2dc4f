"""Where a server waits for its clients: a socket of this user alone, taken by one server at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
import weakref

from rfp.address import EMBEDDED, Address, check_private
from rfp.control.accepting import Acceptor
from rfp.control.connection import wait
from rfp.control.unix import UnixConnection
from rfp.errors import AddressInUse, FabricError, InvalidAddress

_BACKLOG = 128


class _Lock:
    """A lock file that dies with its process: PATH.lock, with the holder's pid in it.

    It decides who may replace the socket.  The socket alone could not: between a look at it and its removal another
    server may have put a new one there.  flock rather than fcntl locks: two servers of one process must exclude each other.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    @classmethod
    def take(cls, path: str) -> _Lock | int | None:
        """The lock; or who has it: a pid, None if unknown."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = os.pread(fd, 16, 0).strip()
                    os.close(fd)
                    return int(text) if text.isdigit() else None
                if _same(fd, path):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                    return cls(path, fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its last holder has removed the file since: the lock is on the new one

    def release(self) -> None:
        """Removes the file first, while nobody else can hold it, so that no litter is left."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self.fd)


def _same(fd: int, path: str) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


class UnixListener:
    """Listens at an shm address, as the only server there.

    Raises AddressInUse if a server lives there; what a killed one has left is removed.  Raises InvalidAddress if the
    directory is not this user's alone; a missing one is made.
    """

    def __init__(self, address: Address) -> None:
        if address.provider != "shm":
            raise InvalidAddress(f"{address} is not an shm:// address")
        self.address = address
        self.foreign = 0  # connections of other users, closed at once
        self._acceptor: Acceptor | None = None
        self._identity: tuple[int, int] | None = None
        path = address.path
        directory = os.path.dirname(path)
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
        except OSError as error:
            raise InvalidAddress(
                f"cannot make the directory {directory}: {error.strerror}", hint="give an address elsewhere"
            ) from error
        check_private(directory)
        if os.path.basename(path).startswith(EMBEDDED):
            sweep(directory)
        try:
            lock = _Lock.take(path + ".lock")
        except OSError as error:
            raise FabricError(f"cannot lock {path}.lock: {error.strerror}") from error
        if not isinstance(lock, _Lock):
            raise _in_use(address, lock)
        self._lock: _Lock | None = lock
        try:
            self._listen(path)
        except BaseException:
            self.close()
            raise
        _open.add(self)

    def _listen(self, path: str) -> None:
        _remove_stale(self.address, path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._acceptor = Acceptor(sock, self.address)
        os.fchmod(sock.fileno(), 0o600)  # before bind, so that it never stands there with more
        try:
            sock.bind(os.fsencode(path))
            found = os.lstat(path)
            self._identity = found.st_dev, found.st_ino
            sock.listen(_BACKLOG)
        except OSError as error:
            raise FabricError(f"cannot listen at {self.address}: {error.strerror}") from error

    def fileno(self) -> int:
        """The socket, to wait on: readable when `accept` has something to do.  -1 when closed."""
        return self._acceptor.socket.fileno() if self._acceptor is not None else -1

    expires: float | None = None  # when `accept` has something to do though nothing comes: never

    @property
    def dropped(self) -> int:
        """Connections closed because this process had no file descriptor left."""
        return self._acceptor.dropped if self._acceptor is not None else 0

    def accept(self, deadline: float) -> UnixConnection | None:
        """The next connection of this user's, or None when the deadline passes or the listener is closed.

        A deadline in the past means: without waiting.  Others' connections are closed and counted in `foreign`.
        """
        while (acceptor := self._acceptor) is not None:
            client = acceptor.take()
            if client is None:
                if acceptor.closed or acceptor.exhausted or not wait(acceptor.socket.fileno(), select.POLLIN, deadline):
                    return None
                continue
            try:
                connection = UnixConnection(client)
            except OSError:  # it has already gone
                client.close()
                continue
            if connection.uid == os.geteuid():
                return connection
            connection.close()
            self.foreign += 1
        return None

    def close(self) -> None:
        """Stops listening and removes the socket, unless somebody has put another in its place.  Repeatable."""
        _open.discard(self)
        acceptor, self._acceptor = self._acceptor, None
        if self._identity is not None:
            try:
                found = os.lstat(self.address.path)
                if (found.st_dev, found.st_ino) == self._identity:
                    os.unlink(self.address.path)
            except OSError:
                pass
            self._identity = None
        if acceptor is not None:
            acceptor.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _forget(self) -> None:
        """In a forked child: closes the child's copies only.  Otherwise a child would keep a dead server's lock."""
        if self._lock is not None:
            os.close(self._lock.fd)
        self._lock = self._identity = None
        self.close()

    def __enter__(self) -> UnixListener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_open: weakref.WeakSet[UnixListener] = weakref.WeakSet()


def _after_fork() -> None:
    for listener in list(_open):
        listener._forget()


os.register_at_fork(after_in_child=_after_fork)


def _in_use(address: Address, pid: int | None) -> AddressInUse:
    who = f", process {pid}" if pid else ""
    stop = f"stop it (kill {pid})" if pid else "stop it"
    return AddressInUse(
        f"a server is already running at {address}{who}", hint=f"connect to it, {stop}, or choose another address"
    )


def _remove_stale(address: Address, path: str) -> None:
    """Removes the socket of a server that was killed.  The lock is ours, so nobody of ours can be putting one there."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    probe.setblocking(False)
    try:
        probe.connect(os.fsencode(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        if not os.path.islink(path) and _is_socket(path):
            os.unlink(path)
            return
        raise InvalidAddress(f"{path} exists and is not a socket", hint="remove it, or choose another address") from None
    except BlockingIOError:  # somebody listens, and is busy
        pass
    except OSError as error:
        raise FabricError(f"cannot tell whether {address} is in use: {error.strerror}") from error
    finally:
        probe.close()
    raise _in_use(address, None)


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.lstat(path).st_mode)


def sweep(directory: str) -> int:
    """Removes what killed embedded servers have left in the directory; returns of how many."""
    count = 0
    for entry in os.listdir(directory):
        lock_path = os.path.join(directory, entry)
        if not (entry.startswith(EMBEDDED) and entry.endswith(".lock") and _written(lock_path)):
            continue
        lock = _Lock.take(lock_path)
        if isinstance(lock, _Lock):
            path = lock_path.removesuffix(".lock")
            if os.path.lexists(path) and _is_socket(path):
                os.unlink(path)
            lock.release()
            count += 1
    return count


def _written(lock_path: str) -> bool:
    """Whether a lock ever had a holder: an empty one is of a server that is just starting, and must be left to it."""
    try:
        return os.lstat(lock_path).st_size > 0
    except FileNotFoundError:
        return False
