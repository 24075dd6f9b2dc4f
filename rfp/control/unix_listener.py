"""Accepts clients on this host: a socket of this user alone, owned by one server at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import stat
import weakref

from rfp.address import EMBEDDED, Address, open_private
from rfp.control.acceptor import BACKLOG, Acceptor
from rfp.control.connection import wait
from rfp.control.unix import UnixConnection
from rfp.core import clock
from rfp.core.forks import in_child
from rfp.core.log import log
from rfp.errors import AddressInUse, FabricError, InvalidAddress

FOREIGN_MAX = 16  # connections of other users, closed in one turn
# File descriptors that come with a client's message: those of an incomplete one would be kept here.
CLIENTS_FDS = 1


class _Lock:
    """A lock file that is released with its process: PATH.lock, with the holder's pid in it.

    It decides which server may replace the socket.  The socket alone could not: between a check of
    it and its removal another server may have put a new one there.  flock rather than fcntl locks:
    two servers of one process must exclude each other.

    folder: a file descriptor of its directory, to which the path is then relative.
    """

    def __init__(self, path: str, fd: int, folder: int | None) -> None:
        self.path = path
        self.fd = fd
        self.folder = folder

    @classmethod
    def take(cls, path: str, folder: int | None = None) -> _Lock | int | None:
        """Return the lock, or the pid of its holder (None if unknown)."""
        while True:
            fd = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder
            )
            try:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = os.pread(fd, 16, 0).strip()
                    os.close(fd)
                    return int(text) if text.isdigit() else None
                if _same(fd, path, folder):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                    return cls(path, fd, folder)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its last holder has removed the file since: the lock is on the new one

    def release(self) -> None:
        """Release the lock.

        Removes the file first, while no other process can hold it, so that no litter is left.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path, dir_fd=self.folder)
        os.close(self.fd)


def _same(fd: int, path: str, folder: int | None) -> bool:
    try:
        found = os.stat(path, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


class UnixListener:
    """Listens at an shm address, as the only server there.

    The remains of a killed server are removed, and a missing directory is created.

    Raises:
        AddressInUse: a server already listens there.
        InvalidAddress: the directory is not this user's alone.
    """

    def __init__(self, address: Address) -> None:
        if address.provider != "shm":
            raise InvalidAddress(f"{address} is not an shm:// address")
        self.address = address
        self.foreign = 0  # connections of other users, closed at once
        self._acceptor: Acceptor | None = None
        self._identity: tuple[int, int] | None = None
        self._lock: _Lock | None = None
        directory, self._name = os.path.split(address.path)
        # From here on all paths are relative to the checked directory, wherever its path leads
        # later.
        self._folder = open_private(directory)
        try:
            if self._name.startswith(EMBEDDED):
                sweep(directory)
            try:
                lock = _Lock.take(self._name + ".lock", self._folder)
            except OSError as error:
                raise FabricError(f"cannot lock {address.path}.lock: {error.strerror}") from error
            if not isinstance(lock, _Lock):
                raise _in_use(address, lock)
            self._lock = lock
            self._listen(address.path)
        except BaseException:
            self.close()
            raise
        _open.add(self)

    def _listen(self, path: str) -> None:
        _remove_stale(self.address, path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._acceptor = Acceptor(sock, self.address)
        os.fchmod(sock.fileno(), 0o600)  # before bind, so that it never exists with more rights
        try:
            # bind takes a path only, so the check below confirms that the socket is in our
            # directory.
            sock.bind(os.fsencode(path))
            made, found = os.lstat(path), self._stat()
            if found is None or (made.st_dev, made.st_ino) != (found.st_dev, found.st_ino):
                raise InvalidAddress(
                    f"the directory of {path} was moved away",
                    hint="check the owners of the directories above it",
                )
            self._identity = found.st_dev, found.st_ino
            sock.listen(BACKLOG)
        except OSError as error:
            raise FabricError(f"cannot listen at {self.address}: {error.strerror}") from error

    def _stat(self) -> os.stat_result | None:
        """Return the status of the file at the socket's path, or None."""
        try:
            return os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def fileno(self) -> int:
        """Return the socket, to wait on: readable when `accept` has work.  -1 when closed."""
        return self._acceptor.socket.fileno() if self._acceptor is not None else -1

    expires: int | None = None  # when `accept` has work without an event: never

    @property
    def dropped(self) -> int:
        """Number of connections closed because this process had no file descriptor left."""
        return self._acceptor.dropped if self._acceptor is not None else 0

    def accept(self, deadline: int) -> UnixConnection | None:
        """Return the next connection of this user.

        Connections of other users are closed and counted in `foreign`.

        Args:
            deadline: a clock.now_ns() time; in the past: do not wait.

        Returns:
            None when the deadline passes or the listener is closed.
        """
        foreign = 0
        while (acceptor := self._acceptor) is not None and (
            foreign < FOREIGN_MAX or clock.now_ns() < deadline
        ):
            client = acceptor.take()
            if client is None:
                if (
                    acceptor.closed
                    or acceptor.exhausted
                    or not wait(acceptor.socket.fileno(), select.POLLIN, deadline)
                ):
                    return None
                continue
            try:
                connection = UnixConnection(client)
            except OSError:  # the client has already disconnected
                client.close()
                continue
            if connection.uid == os.geteuid():
                connection.FD_LIMIT = CLIENTS_FDS
                return connection
            connection.close()
            log.warning(
                "refused a connection of user %d at %s: it is not the server's user",
                connection.uid,
                self.address,
            )
            self.foreign += 1
            foreign += 1
        return None

    def close(self) -> None:
        """Stop listening and remove the socket, unless it has been replaced.  Repeatable."""
        _open.discard(self)
        acceptor, self._acceptor = self._acceptor, None
        if self._identity is not None:
            with contextlib.suppress(OSError):
                found = self._stat()
                if found is not None and (found.st_dev, found.st_ino) == self._identity:
                    os.unlink(self._name, dir_fd=self._folder)
            self._identity = None
        if acceptor is not None:
            acceptor.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    def _forget(self) -> None:
        """In a forked child: close the child's copies only.

        Otherwise a child would keep the lock of a server that has exited.
        """
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


in_child(_after_fork)


def _in_use(address: Address, pid: int | None) -> AddressInUse:
    who = f", process {pid}" if pid else ""
    stop = f"stop it (kill {pid})" if pid else "stop it"
    if not os.path.lexists(address.path):
        return AddressInUse(f"a server is already running at {address}{who}, but its socket was "
                            "removed: clients cannot connect",
                            hint=f"{stop}, or choose another address")  # fmt: skip
    return AddressInUse(
        f"a server is already running at {address}{who}",
        hint=f"connect to it, {stop}, or choose another address",
    )


def _remove_stale(address: Address, path: str) -> None:
    """Remove the socket of a server that was killed.

    The caller holds the lock, so no other server of this user can be creating a socket there.
    """
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
        raise InvalidAddress(
            f"{path} exists and is not a socket", hint="remove it, or choose another address"
        ) from None
    except BlockingIOError:  # a server listens there, and is busy
        pass
    except OSError as error:
        raise FabricError(f"cannot check whether {address} is in use: {error.strerror}") from error
    finally:
        probe.close()
    raise _in_use(address, None)


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.lstat(path).st_mode)


def sweep(directory: str) -> int:
    """Remove the remains of killed embedded servers from the directory; return their number."""
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
    """Return whether a lock ever had a holder.

    An empty one belongs to a server that is starting, which must keep it.
    """
    try:
        return os.lstat(lock_path).st_size > 0
    except FileNotFoundError:
        return False
