"""`rnvm.Mirror` and `rnvm.backup`: a copy of a served pool that follows it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import warnings
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from rfp.address import Address
from rfp.control import Credentials
from rfp.control.connection import waits_ended_by
from rfp.control.message import printable
from rfp.core import clock
from rfp.core.at_exit import at_exit
from rfp.core.forks import in_child, notice
from rfp.core.log import Log
from rfp.errors import (
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    FabricError,
    HandshakeFailed,
    InvalidAddress,
    PoolDamaged,
    PoolRefused,
    QuotaExceeded,
    RfpError,
    ServerRefused,
    StorageFailed,
    Unsupported,
    not_copied,
)
from rfp.fabric.fabric import Fabric
from rfp.protocol.server.real_thread import RealThread
from rfp.units import checked_seconds
from rnvm.connecting import opener_of
from rnvm.coordinator.address import is_coordinator
from rnvm.media import identity
from rnvm.mirror.copy_file import CopyFile
from rnvm.mirror.follower import OVERRUN, PATIENCE, Follower, StreamEnded
from rnvm.pools import refuse_grouped

if TYPE_CHECKING:
    from typing_extensions import Self

log = Log("rnvm")

COMPARED_BYTES = 1 << 18  # of one READ in catch-up; frames are applied between two of them
REQUESTED_BYTES_MAX = 256 << 20
RETRY_S_MIN, RETRY_S_MAX = 0.05, 1.0  # between two attempts to connect
FOLLOWED_S = 3600.0  # for which the thread follows without Python, unless its state changes


class Mirror:
    """Keep a copy of a served pool, and follow its back-end until it is closed.

    The copy has its own file, on any medium, which no other process can open meanwhile.  A thread
    of its own copies what differs, while front-ends go on, then applies each change of the pool in
    order.  It connects and compares again whenever the back-end restarts or the connection is lost.
    From the moment when it is level, calls of promise "replicated" wait for it.

    Args:
        path: Path of the copy; made if it does not exist.  An existing file must be a copy of the
            same pool, and is overwritten.
        of: Address of the back-end, or the path of a pool that `rnvm serve` serves on this host.
        name: The mirror's name in the back-end's figures; default: host name and process.
        in_place: Allow a file on a disk for a pool without write-ahead area, which syncs pages in
            place.
        timeout: Seconds that an attempt to connect, and each answer of the back-end, may take.
        secret, secret_file, tls_ca, tls_cert, tls_key: As of `rfp.connect`, for RDMA.

    Raises:
        InvalidAddress: The address is invalid.
        PoolRefused, PoolInUse: The path cannot be used, or belongs to a group.

    Cost:
        Catch-up READs the whole pool once.  Afterwards one READ and one WRITE per frame.

    >>> import os, tempfile, rnvm
    >>> folder = tempfile.mkdtemp()
    >>> path, copy = os.path.join(folder, "orders.pool"), os.path.join(folder, "copy.pool")
    >>> with rnvm.Backend(path, size="4MiB", assume_persistent=True) as backend:
    ...     with rnvm.Mirror(copy, of=backend.address) as mirror:
    ...         mirror.wait_level(10)
    ...         mirror.state
    'level'
    """

    _in_group = False  # it is a member of a group

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        of: str | os.PathLike[str] | Address,
        name: str | None = None,
        in_place: bool = False,
        timeout: float = 5.0,
        secret: str | bytes | None = None,
        secret_file: str | os.PathLike[str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        fabric: Fabric | None = None,
        _joins: bool = True,
    ) -> None:
        checked_seconds("timeout", timeout, 0.01, 3600)
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._state = "connecting"
        self._reason: RfpError | None = None  # of the last attempt that failed
        self._error: BaseException | None = None  # that ended the mirror
        self._trace: TracebackType | None = None
        self._closing = False
        self._closed = True
        self._ended = threading.Lock()  # held by the thread inside close()
        self._follower: Follower | None = None
        self._thread: RealThread | None = None
        self._connections = 0
        self._levels = 0
        self._size = 0
        self._last: dict[str, Any] = {}
        self._joins = _joins
        self._in_place = in_place
        self.timeout = timeout
        self.name = printable(name or f"{socket.gethostname()}:{os.getpid()}", 32)
        credentials = Credentials.of(secret, secret_file, tls_cert, tls_key, tls_ca)
        if is_coordinator(of) and _joins:
            raise InvalidAddress(
                f"invalid address {str(of)!r}: a mirror of a group is one of its members",
                hint="use rnvm.GroupMember, or rnvm serve POOL --group",
            )
        self._opener = opener_of(of, credentials, fabric=fabric, in_group=self._in_group)
        self.address = str(self._opener.address)
        self._end_fd = os.eventfd(0, os.EFD_CLOEXEC)  # readable: it is being closed
        try:
            self._file = CopyFile(path)
            if not self._in_group:
                self._file.refuse_grouped()
            self.path = self._file.path
            _mirrors.add(self)
            self._closed = False
            self._thread = RealThread(self._run, "rnvm-mirror")
            self._thread.start()
        except BaseException:
            self._closed = True
            if hasattr(self, "_file"):
                self._file.discard()
                self._file.close()
            self._opener.close()
            os.close(self._end_fd)
            raise

    # The thread

    def _run(self) -> None:
        try:
            with waits_ended_by(self._end_fd):
                self._follow_primary()
        except Closed as error:
            if not self._closing:
                self._fail(error)
        except BaseException as error:  # noqa: BLE001 - kept for wait_level()
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.error("the mirror %s of %s ended: %s", self.path, self.address, error)
        if not self._size:
            self._file.discard()
        self._error, self._trace = error, error.__traceback__
        self._set("failed")

    def _set(self, state: str) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _follow_primary(self) -> None:
        pause, stream = RETRY_S_MIN, 0
        while not self._is_ending():
            levels = self._levels
            try:
                self._connect_and_follow(stream)
            except StreamEnded as error:
                self._reason = error
                late = error.reason == PATIENCE and levels == self._levels
                if error.reason == OVERRUN or late:
                    stream = min(2 * int(self._last["stream"]), REQUESTED_BYTES_MAX)
                    log.warning(
                        "the mirror %s compares again with a stream of %d bytes: the last one was "
                        "full",
                        self.path,
                        stream,
                    )
            except HandshakeFailed as error:
                if not self._connections:
                    raise
                log.warning("the mirror %s: %s", self.path, error)
                self._reason = error
            except (ConnectionFailed, DeadlineExceeded, QuotaExceeded) as error:
                self._reason = error
                if isinstance(error.__cause__, ServerRefused):
                    stream //= 2  # the primary has no memory for so much
            except StorageFailed as error:
                if self._file.failed:
                    raise
                self._reason = error  # the primary's
            if self._closing:
                return
            log.info("the mirror %s is not connected: %s", self.path, self._reason)
            self._set("waiting")
            if levels != self._levels:
                pause = RETRY_S_MIN
            self._wait(lambda: self._closing, clock.deadline_in(pause))
            pause = min(2 * pause, RETRY_S_MAX)

    def _deadline(self) -> int:
        return clock.deadline_in(self.timeout)

    def _connect_and_follow(self, stream: int) -> None:
        try:
            self._follow_once(stream)
        except Exception as error:
            if not self._retries() or not self._is_passing(error):
                raise
            raise ConnectionFailed(f"cannot follow the primary now: {error}") from error

    def _retries(self) -> bool:
        """Return whether a trouble may be one of this moment: it has followed before."""
        return self._in_group or self._connections > 0

    def _follow_once(self, stream: int) -> None:
        follower = None
        try:
            follower = Follower(
                self._opener,
                self._deadline(),
                stream=stream,
                member=self.name,
                in_group=self._in_group,
                waits=self._joins and stream >= REQUESTED_BYTES_MAX,
                connected=self._connected,
            )
            self._follow(follower)
        finally:
            with self._changed:
                if follower is not None:
                    self._last = self._shown(follower)
                self._follower = None
            if follower is not None:
                follower.close()

    def _connected(self, follower: Follower) -> None:
        with self._changed:
            self._follower = follower
            if self._closing:
                follower.stop()

    def _is_passing(self, error: BaseException) -> bool:
        """Return whether another attempt may succeed although this one has failed."""
        if isinstance(error, ServerRefused):
            return not isinstance(error, (PoolRefused, Unsupported, QuotaExceeded))
        # This process, or the primary's, lacks memory or descriptors for a moment.
        resources = isinstance(error, (FabricError, MemoryError, OSError))
        known = isinstance(error, (StorageFailed, ConnectionFailed, DeadlineExceeded))
        # A member without room tries again: its group goes on.  The operator of a mirror must know.
        ends = self._file.failed or (self._file.full and not self._in_group)
        return resources and not known and not ends

    def _follow(self, follower: Follower) -> None:
        self._before_open(follower)
        self._refuse_group(follower)
        medium = self._file.open(follower.head, follower.size, in_place=self._in_place)
        if not self._in_group:
            with contextlib.suppress(PoolDamaged):
                refuse_grouped(medium)
        follower.begin(medium, self._deadline(), self._file.regular, mirrors=self._joins)
        self._connections += 1
        self._size = follower.size
        self._set("copying")
        began = clock.now()
        for at in range(0, follower.size, COMPARED_BYTES):
            follower.copy(at, min(COMPARED_BYTES, follower.size - at), self._deadline())
        follower.finish(self._deadline())
        self._whole(follower)
        log.info(
            "the mirror %s is whole: %d of %d bytes differed, %.1f s",
            self.path,
            follower.changed,
            follower.size,
            clock.now() - began,
        )
        if self._joins:
            follower.join(self._deadline())
        while True:
            if self._state != "level" and (follower.in_sync or not self._joins):
                self._levels += 1
                self._file.leveled()
                self._set("level")
                log.info("the mirror %s follows %s, epoch %d", self.path, self.address,
                         follower.epoch)  # fmt: skip
            follower.follow(FOLLOWED_S)

    def _refuse_group(self, follower: Follower) -> None:
        """Raise if this mirror would wait for ever: only members join a group's primary."""
        if self._joins and not self._in_group and any(follower.group):
            raise PoolRefused(
                f"{self.address} is the primary of a group, whose mirrors are its members",
                hint="use rnvm serve --group, or rnvm backup",
            )

    def _before_open(self, follower: Follower) -> None:
        """Called before the copy's file is used; for a member of a group."""

    def _whole(self, follower: Follower) -> None:
        """Called when the copy is whole; for a member of a group."""

    # For other threads

    def _wait(self, until: Callable[[], bool], deadline: int) -> bool:
        with self._changed:
            while not until():
                left = deadline - clock.now_ns()
                if left <= 0:
                    return False
                self._changed.wait(left / 1e9)
        return True

    @property
    def state(self) -> str:
        """Return the state of the mirror.

        "connecting", "copying" (the copy is not whole yet), "level" (the back-end waits for this
        mirror), "waiting" (the back-end cannot be reached: it tries again), "failed" or "closed".
        """
        return self._state

    def wait_level(self, timeout: float = 60.0) -> None:
        """Wait until the copy is whole and the back-end waits for this mirror.

        Args:
            timeout: Seconds.

        Raises:
            DeadlineExceeded: It is not level yet; the cause is the last failure to connect.
            Closed: The mirror was closed.
            PoolRefused, VolatileMedium, FabricError, StorageFailed, HandshakeFailed: The mirror
                has ended for this reason.
        """
        checked_seconds("timeout", timeout, 0, WAIT_S_MAX)
        over = ("level", "failed", "closed")
        reached = self._wait(lambda: self._state in over, clock.deadline_in(timeout))
        if self._error is not None:
            raise self._error.with_traceback(self._trace)  # it does not grow with each call
        if self._state == "closed":
            raise Closed("the mirror is closed")
        if not reached:
            copied, size = self.progress
            raise DeadlineExceeded(
                f"the mirror of {self.address} is not level after {timeout:g} s: {self._state}, "
                f"{copied} of {size} bytes compared",
                hint="check that the back-end is running" if self._state == "waiting" else None,
            ) from self._reason

    @property
    def progress(self) -> tuple[int, int]:
        """Return how many bytes of how many are compared in this catch-up."""
        shown = self._figures()
        return shown.get("copied", 0), self._size

    @property
    def failed(self) -> bool:
        """Return whether the mirror has ended for a reason that wait_level() raises."""
        return self._error is not None

    @property
    def error(self) -> BaseException | None:
        """Return that reason; or, if it waits for the back-end, why it cannot be reached; or
        None."""
        return self._error or (self._reason if self._state == "waiting" else None)

    def stats(self) -> dict[str, Any]:
        """Return the figures of the mirror.

        Returns:
            `state`; `epoch` of the back-end; `applied`, `published`: numbers of frames;
            `lag_frames`, `lag_bytes`: what is not applied yet; `copied`, `changed`: bytes compared
            and written by this catch-up; `size` of the pool in bytes; `connections`: how often it
            connected.
        """
        shown = self._figures()
        return {
            "state": self._state,
            "address": self.address,
            "size": self._size,
            "connections": self._connections,
            "epoch": 0, "applied": 0, "published": 0, "lag_frames": 0, "lag_bytes": 0,
            "copied": 0, "changed": 0, "stream": 0,
            **shown,
        }  # fmt: skip

    def _figures(self) -> dict[str, Any]:
        with self._changed:
            return self._last if self._follower is None else self._shown(self._follower)

    @staticmethod
    def _shown(follower: Follower) -> dict[str, Any]:
        return {
            "epoch": follower.epoch,
            "applied": follower.applied,
            "published": follower.published,
            "lag_frames": max(0, follower.published - follower.applied),
            "lag_bytes": follower.behind_bytes,
            "copied": follower.copied,
            "changed": follower.changed,
            "stream": follower.stream_bytes,
        }

    @property
    def closed(self) -> bool:
        """Return whether close() was called."""
        return self._closed

    def close(self) -> None:
        """Stop following, and release the copy.  Safe to call again.

        A copy that is whole can be opened as a pool then; one that is not whole is refused.

        Raises:
            StorageFailed: The copy's medium fails now.
        """
        self._end(erase=False)

    def _is_ending(self) -> bool:
        return self._closing

    def _end(self, *, erase: bool) -> None:
        notice()
        if self._closed or os.getpid() != self._pid:
            self._closed = True
            return
        with self._ended:
            if self.closed:
                return
            with self._changed:
                self._closing = True
                os.eventfd_write(self._end_fd, 1)
                if self._follower is not None:
                    self._follower.stop()
                self._changed.notify_all()
            if self._thread is not None and self._thread.begun:
                self._thread.join()
            self._closed = True
            _mirrors.discard(self)
            try:
                if erase and self._file.medium is not None:
                    found = identity.read(self._file.medium)
                    if found is None or found["state"] != "whole":
                        # The connection was lost after the copy was whole, and it copies again.
                        raise ConnectionFailed("the copy is not whole any more", hint="repeat")
                    identity.erase(self._file.medium)
            finally:
                self._file.discard()
                try:
                    self._file.close()
                finally:
                    self._opener.close()
                    os.close(self._end_fd)
                    self._set("closed")

    def _forked(self) -> None:
        """In the child of a fork: the mirror is the parent's."""
        self._closed = True
        self._changed = threading.Condition()
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.forked()
        self._file.forked()
        os.close(self._end_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "start another mirror")

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
        self.close()

    def __repr__(self) -> str:
        return f"<rnvm.Mirror {getattr(self, 'path', '')} of {self.address}: {self._state}>"


def backup(
    path: str | os.PathLike[str],
    *,
    of: str | os.PathLike[str] | Address,
    timeout: float = 3600.0,
    connect_timeout: float = 5.0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> None:
    """Copy a served pool while front-ends use it; the copy is an ordinary pool.

    It contains everything that was acknowledged before the call, and is as consistent as the pool
    is after a crash of its back-end: opening it is ordinary recovery.  Front-ends never wait for a
    backup.

    Args:
        path: Path of the copy.
        of: Address of the back-end, or the path of a pool that `rnvm serve` serves on this host; or
            a group, whose primary is copied.
        timeout: Seconds for all of it.
        connect_timeout: Seconds for connecting, and for each answer of the back-end.
        progress: Called now and then with the bytes compared and the bytes of the pool.
        options: Further arguments of `Mirror`.

    Raises:
        DeadlineExceeded: It took longer.  The file is not a pool; another call goes on with it.
        PoolRefused, VolatileMedium, FabricError, StorageFailed, ConnectionFailed: As `Mirror`.

    >>> import os, tempfile, rnvm
    >>> folder = tempfile.mkdtemp()
    >>> path, copy = os.path.join(folder, "orders.pool"), os.path.join(folder, "backup.pool")
    >>> with rnvm.Backend(path, size="4MiB", assume_persistent=True) as backend:
    ...     rnvm.backup(copy, of=backend.address)
    >>> with rnvm.Backend(copy) as restored:
    ...     restored.recovered[:0]
    []
    """
    deadline = clock.deadline_in(checked_seconds("timeout", timeout, 0.01, WAIT_S_MAX))
    with Mirror(path, of=of, timeout=connect_timeout, _joins=False, **options) as mirror:
        while True:
            try:
                left = max(0, deadline - clock.now_ns()) / 1e9
                mirror.wait_level(min(PROGRESS_S, left))
                break
            except DeadlineExceeded:
                if clock.now_ns() >= deadline:
                    raise
                # A back-end that is not there yet is waited for, but not for the whole time-out.
                if mirror.state == "waiting" and not mirror.stats()["connections"] and mirror.error:
                    raise mirror.error from None
                if progress is not None:
                    progress(*mirror.progress)
        mirror._end(erase=True)


WAIT_S_MAX = 1e9  # longer times do not fit into 64 bits of nanoseconds
PROGRESS_S = 0.5  # seconds between two calls of `progress`

_mirrors: weakref.WeakSet[Mirror] = weakref.WeakSet()


def _forget_parents_mirrors() -> None:
    for mirror in list(_mirrors):
        mirror._forked()
    _mirrors.clear()


def _close_mirrors() -> None:
    """Close the mirrors that a program has left open at its exit."""
    for mirror in list(_mirrors):
        mirror.close()


in_child(_forget_parents_mirrors)
at_exit(_close_mirrors)

__all__ = ["Mirror", "backup"]
