"""The file of a copy: locked, and of the size and header of the pool that it copies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from rfp import units
from rfp.errors import (
    NotAPool,
    PoolDamaged,
    PoolInUse,
    PoolRefused,
    PoolTooNew,
    PoolTooOld,
    VolatileMedium,
)
from rnvm import pools
from rnvm.format.layout import HEADER_BYTES
from rnvm.media import identity, wal
from rnvm.media.medium import Medium, VolatileMemory
from rnvm.mirror.follower import put_head
from rnvm.pool.inspect import Inspection

ZEROS_AT_ONCE = 1 << 20
OTHER_PATH = "give another path, or remove the file if its content is not needed"


class CopyFile:
    """The file or device at a path, locked as an opener of a pool locks it, until close().

    Raises:
        PoolRefused, PoolInUse: It cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.medium: Medium | None = None
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
            raise PoolRefused(
                f"cannot open {self.path}: {error.strerror}",
                hint="check its permissions and those of its folder",
            ) from error
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise PoolInUse(
                f"{self.path} is open in another process",
                hint="stop that process, or give another path for the copy",
            ) from None

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
        if self.medium is not None and self.medium.failed:
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
        self._release()
        with contextlib.closing(VolatileMemory(size)) as view:
            view.poke(0, head)
            view.poke(4096, head[:256])
            view.poke(3 * 4096, head[2 * 4096 : 2 * 4096 + 64])
            theirs = Inspection(view)
            area = wal.describe(view)
        kind = pools.media(self.fd)
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
        self._resize(size, kind)
        if new:
            with contextlib.closing(
                pools._medium(self.fd, size, pools.media(self.fd), force_flush=False)
            ) as medium:
                put_head(medium, head)
            if stat.S_ISREG(os.fstat(self.fd).st_mode):
                pools._sync_folder(self.path)
        self.medium = pools._medium(self.fd, size, pools.media(self.fd), force_flush=False)
        self.head = head[:256]
        if self.medium.direct and (wal.describe(self.medium) or {"frames": 0})["frames"]:
            # An area on a direct medium is unused: these are frames of a file that was copied here.
            wal.apply(self.medium)
            wal.forget(self.medium)
        return self.medium

    def _is_new(self, head: bytes) -> bool:
        """Return whether the file has no content yet; raise if it has another one than a copy's."""
        total = pools.length(self.fd)
        with contextlib.closing(pools._copied(self.fd, min(total, HEADER_BYTES))) as view:
            blank = view.length < HEADER_BYTES
            if blank and view.read(0, view.length) != bytes(view.length):
                raise NotAPool(f"{self.path} is neither a pool nor empty", hint=OTHER_PATH)
            if blank:
                return True
            pages = [view.read(at, 256) for at in (0, 4096)]
            if head[:256] in pages:
                return False
            if pages == [bytes(256)] * 2:
                found = identity.read(view)
                if found is not None and found["state"] == "catching up":
                    return True
                # An image of a disc begins with zeros, too.
                if found is None and (
                    not stat.S_ISREG(os.fstat(self.fd).st_mode) or _is_zero(self.fd, total)
                ):
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

    def _resize(self, size: int, kind: pools.Media) -> None:
        regular = stat.S_ISREG(os.fstat(self.fd).st_mode)
        if not regular and pools.length(self.fd) < size:
            raise PoolRefused(
                f"the device has only {units.show_size(pools.length(self.fd))}, but the pool has "
                f"{units.show_size(size)}",
                hint="give a larger device for the copy",
            )
        if regular:
            pools._fill(self.fd, size, kind)

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
                os.unlink(self.path)


def _is_zero(fd: int, length: int) -> bool:
    """Return whether a file contains zeros alone."""
    at = 0
    while at < length:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            return error.errno == errno.ENXIO  # only holes are left
        data = os.pread(fd, ZEROS_AT_ONCE, at)
        if not data or data.count(0) != len(data):
            return False
        at += len(data)
    return True
