"""The file of a copy: locked, and of the size and header of the pool that it copies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat

from rfp import units
from rfp.core.limits import SYSTEM_PAGE
from rfp.errors import (
    FabricError,
    NotAPool,
    PoolDamaged,
    PoolInUse,
    PoolRefused,
    PoolTooNew,
    PoolTooOld,
    StorageFailed,
    VolatileMedium,
)
from rnvm import pools
from rnvm.format.layout import HEADER_BYTES
from rnvm.media import identity, wal
from rnvm.media.medium import Medium, VolatileMemory
from rnvm.mirror.follower import has_header, put_head
from rnvm.pool.inspect import Inspection

ZEROS_AT_ONCE = 1 << 20  # also what a device must have of them, to count as empty
OTHER_PATH = "give another path, or remove the file if its content is not needed"
FORMER = ".former"  # suffix of a file that was set aside
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
F_SETSIG = 10  # of fcntl(); Python's module lacks it


class CopyFile:
    """The file or device at a path, locked as an opener of a pool locks it, until close().

    Raises:
        PoolRefused, PoolInUse: It cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pools.checked_path(path)
        self.medium: Medium | None = None
        self._began = False  # open() has accepted the file that was there
        self._broken = False  # opening or closing the medium failed
        self.full = False  # open() found no room
        self.head = b""
        self.made = not os.path.exists(path)
        folder = os.path.dirname(os.path.abspath(path))
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise PoolRefused(
                f"there is no folder {folder} for the copy",
                hint="create it first, or check the spelling",
            ) from None
        except OSError as error:
            raise pools.cannot_open(path, error) from error
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A process that held the lock may have set this file aside.
            in_use = not pools.is_still_at(self.path, self.fd)
        except BlockingIOError:
            in_use = True
        if in_use:
            self.close()
            raise PoolInUse(
                f"{self.path} is open in another process",
                hint="stop that process, or give another path for the copy",
            )

    def refuse_grouped(self) -> None:
        """Raise if the file belongs to a member of a group, whose state may list it.

        Raises:
            PoolRefused: It does.
        """
        total = min(pools.length(self.fd), HEADER_BYTES)
        with (
            contextlib.suppress(PoolDamaged),
            contextlib.closing(pools._copied(self.fd, total)) as view,
        ):
            pools.refuse_grouped(view)

    @property
    def empty(self) -> bool:
        """Whether nothing was ever copied here: the file is new, or without any bytes."""
        return stat.S_ISREG(os.fstat(self.fd).st_mode) and pools.length(self.fd) == 0

    @property
    def regular(self) -> int:
        """Return the descriptor of a regular file; -1: it is a device."""
        return self.fd if stat.S_ISREG(os.fstat(self.fd).st_mode) else -1

    @property
    def failed(self) -> bool:
        """Return whether the medium has failed, or the file was removed or replaced."""
        if self._broken or (self.medium is not None and self.medium.failed):
            return True
        return self.fd >= 0 and os.fstat(self.fd).st_nlink == 0

    def open(self, head: bytes, size: int, *, in_place: bool = False) -> Medium:
        """Return the medium of the copy, of this size and with this header.

        It stays open until close(), or until the primary's header or size is another one.

        Args:
            head: Header and superblock of the primary's pool.
            size: Bytes of the primary's pool.
            in_place: Allow a file on a disk for a pool without write-ahead area.

        Raises:
            PoolRefused, VolatileMedium: The file cannot be a copy of that pool.
            FabricError: There is no room.
            StorageFailed: The medium failed.
        """
        if self.medium is not None and self.medium.length == size and self.head == head[:256]:
            return self.medium
        try:
            self.medium = self._opened(head, size, in_place=in_place)
        except FabricError as error:
            # What was not synced may look well in the page cache: it is not tried again.
            self._broken = isinstance(error, StorageFailed)
            self.full = error.errno in NO_ROOM
            raise
        self.head = head[:256]
        return self.medium

    def _opened(self, head: bytes, size: int, *, in_place: bool) -> Medium:
        self._release()
        with contextlib.closing(VolatileMemory(size)) as view:
            view.poke(0, head)
            view.poke(4096, head[:256])
            view.poke(3 * 4096, head[2 * 4096 : 2 * 4096 + 64])
            theirs = Inspection(view)
            area = wal.describe(view)
        kind = self._kind()
        if kind.volatile and not theirs.assume_persistent:
            raise VolatileMedium(
                f"{self.path} is on {kind.kind}, which loses its content when the machine stops, "
                "and the pool was created for a persistent medium",
                hint="choose another folder for the copy",
            )
        if kind.mode == "image" and area is None and not in_place:
            raise PoolRefused(
                f"the pool has no write-ahead area, so a copy on {kind.kind} syncs its pages in "
                "place, which is slow",
                hint="choose a folder in memory, create the pool with --write-ahead 16MiB, or "
                "allow it: --in-place (in_place=True)",
            )
        new = self._is_new(head)
        if not new and not self._began and kind.mode == "direct" and self.regular >= 0:
            self._leave_mapped(head, size, kind)
        else:
            self._resize(size, kind)
            if new:
                _put_head(self.fd, head, size)
        if not self._began and self.regular >= 0:
            # Also if an earlier attempt made the file, and was cut off before it synced the folder.
            pools._sync_folder(self.path)
        self._began = True
        medium = pools._medium(self.fd, size, pools.media(self.fd), force_flush=False)
        if medium.direct and (wal.describe(medium) or {"frames": 0})["frames"]:
            # An area on a direct medium is unused: these are frames of a file that was copied here.
            wal.apply(medium)
            wal.forget(medium)
        return medium

    def _kind(self) -> pools.Media:
        if self.regular < 0 or pools.length(self.fd):
            return pools.media(self.fd)
        # A file system with DAX shows itself only if there is a page to map.
        os.ftruncate(self.fd, SYSTEM_PAGE)
        try:
            return pools.media(self.fd)
        finally:
            os.ftruncate(self.fd, 0)

    # A file that front-ends may have mapped

    def _leave_mapped(self, head: bytes, size: int, kind: pools.Media) -> None:
        """Use the file that is there; or a new one, if a process may store into that one.

        Front-ends of a back-end that served this file may have been stopped while they wrote to
        their rings.  When they go on, they would damage the copy behind the mirror's back.
        """
        held = _held_by_others(self.fd)
        if held is None:
            # A mirror wrote it last if it says so: opening a pool erases a mirror's identity.
            with contextlib.closing(pools._copied(self.fd, HEADER_BYTES)) as view:
                found = identity.read(view)
            held = found is None or found["state"] == "none" or any(found["group"])
        if not held:
            self._resize(size, kind)
            return
        try:
            self._set_aside(head, size, kind)
        except FabricError as error:
            if error.errno in NO_ROOM:
                error.hint = (
                    "end the front-ends of the pool that was served from this file, so that it can "
                    "be overwritten; or remove the file"
                )
            raise

    def _set_aside(self, head: bytes, size: int, kind: pools.Media) -> None:
        """Replace the file by a new one, with this header; keep a whole one as POOL.former."""
        real = os.path.realpath(self.path)
        made = f"{real}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)  # of an attempt that was cut off
        mode = stat.S_IMODE(os.fstat(self.fd).st_mode)
        fd = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            pools._fill(fd, size, kind)
            _put_head(fd, head, size)
            if self._is_whole():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(real + FORMER)
                os.link(real, real + FORMER)
            os.rename(made, real)  # the path always has a file
        except BaseException:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise
        former, self.fd = self.fd, fd
        os.close(former)

    def _is_whole(self) -> bool:
        """Return whether the file may be the last whole copy; one in catch-up must replace none."""
        with contextlib.closing(pools._copied(self.fd, HEADER_BYTES)) as view:
            found = identity.read(view)
        return found is None or found["state"] != "catching up"

    def leveled(self) -> None:
        """Remove the file that was set aside: the copy is whole and followed."""
        former = os.path.realpath(self.path) + FORMER
        with contextlib.suppress(OSError):
            with open(former, "rb") as file:
                same = file.read(256) == self.head
            if same:
                os.unlink(former)

    def _is_new(self, head: bytes) -> bool:
        """Return whether the file has no content yet; raise if it has another one than a copy's."""
        total = pools.length(self.fd)
        with contextlib.closing(pools._copied(self.fd, min(total, HEADER_BYTES))) as view:
            blank = view.length < HEADER_BYTES
            if blank and view.read(0, view.length) != bytes(view.length):
                raise NotAPool(f"{self.path} is neither a pool nor empty", hint=OTHER_PATH)
            if blank:
                return True
            if head[:256] in [view.read(at, 256) for at in (0, 4096)]:
                return False
            found = identity.read(view)
            if found is not None and found["state"] == "catching up" and not has_header(view):
                return True  # cut off while the header was written, or before
            if found is None and self._is_zero(total):
                return True
        try:
            with contextlib.closing(pools._view(self.fd, total)) as whole:
                theirs = Inspection(whole).uuid
        except (NotAPool, PoolDamaged, PoolTooNew, PoolTooOld):
            raise NotAPool(f"{self.path} is neither a pool nor empty", hint=OTHER_PATH) from None
        raise PoolRefused(
            f"{self.path} is another pool ({theirs}), not a copy of the one that is served",
            hint=OTHER_PATH,
        )

    def _is_zero(self, total: int) -> bool:
        if self.regular >= 0:
            return _has_zeros(self.fd, total)
        # The size of a device says nothing: other users of one begin within the first bytes.
        total = min(total, ZEROS_AT_ONCE)
        with contextlib.closing(pools._copied(self.fd, total)) as view:
            return _zeros(0, view.read(0, total))

    def _resize(self, size: int, kind: pools.Media) -> None:
        if self.regular >= 0:
            pools._fill(self.fd, size, kind)
        elif pools.length(self.fd) < size:
            raise PoolRefused(
                f"the device has only {units.show_size(pools.length(self.fd))}, but the pool has "
                f"{units.show_size(size)}",
                hint="give a larger device for the copy",
            )

    def close(self) -> None:
        """Write the medium back, and release the lock; may be called again.

        Raises:
            StorageFailed: The medium fails now.
        """
        try:
            self._release()
        finally:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def _release(self) -> None:
        medium, self.medium = self.medium, None
        if medium is not None:
            medium.close()

    def forked(self) -> None:
        """Release the lock in the child of a fork: it is the parent's."""
        self.medium = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def discard(self) -> None:
        """Remove a file that was made here and in which nothing is."""
        if self.made and self.fd >= 0 and self.empty:
            with contextlib.suppress(OSError):
                real = os.path.realpath(self.path)
                if os.path.samestat(os.stat(real), os.fstat(self.fd)):
                    os.unlink(real)


def _put_head(fd: int, head: bytes, size: int) -> None:
    """Mark a new file as not whole, and write the primary's header and superblock into it."""
    medium = pools._medium(fd, size, pools.media(fd), force_flush=False)
    with contextlib.closing(medium):
        put_head(medium, head)


def _held_by_others(fd: int) -> bool | None:
    """Return whether another process may have a file open or mapped; None: it is not known."""
    # The kernel grants a lease for writing only if no other descriptor of the file exists; each
    # mapping keeps one.  Its signal, if another process opens the file just now, must be harmless.
    try:
        fcntl.fcntl(fd, F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False


def _has_zeros(fd: int, length: int) -> bool:
    """Return whether a file contains zeros alone, beside a first identity that was cut off."""
    at = 0
    while at < length:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO  # only holes are left
        data = os.pread(fd, ZEROS_AT_ONCE, at)
        if not data or not _zeros(at, data):
            return False
        at += len(data)
    return True


def _zeros(at: int, data: bytes) -> bool:
    """Return whether the bytes at this offset are zeros, beside the records of an identity."""
    left = bytearray(data)
    for begin, end in identity.IDENTITY_RECORDS:
        low, high = max(begin - at, 0), min(end - at, len(data))
        if low < high:
            left[low:high] = bytes(high - low)
    return left.count(0) == len(left)
