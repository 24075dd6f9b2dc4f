"""Pools in files: create, open, inspect and grow them; the medium that a file is on.

>>> import os, tempfile
>>> path = os.path.join(tempfile.mkdtemp(), "orders.pool")
>>> create(path, "2MiB", assume_persistent=True)   # on a disk, without it
>>> with open_pool(path) as pool:
...     structure = pool.create(b"jobs", kind=1)
>>> with open_pool(path) as pool:
...     list(pool.names)
[b'jobs']
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from rfp import units
from rfp.core.limits import PAGE, SYSTEM_PAGE
from rfp.errors import (
    FabricError,
    InvalidArgument,
    NotAPool,
    PoolInUse,
    PoolRefused,
    VolatileMedium,
)
from rnvm import sizes
from rnvm.format.layout import HEADER_BYTES
from rnvm.media import identity, wal
from rnvm.media.file import FileMedium
from rnvm.media.medium import Medium, VolatileMemory
from rnvm.media.pmem import Direct, file_system, flush_instruction, maps_synchronously
from rnvm.pool import repair
from rnvm.pool.inspect import Inspection, damaged
from rnvm.pool.pool import Pool, format_medium, grow_medium, grown

FILE_OR_DEVICE = "give a file, a block device, or /dev/daxN.M"
COPIED_AT_ONCE = 1 << 16  # bytes of a device that are copied at once
PROMISES = {
    "direct": "acknowledged operations survive a power failure: cache lines are flushed ({how})",
    "image": "acknowledged operations survive a power failure if the disk keeps synced data",
    "volatile": "survives process crashes only: the pool is in the machine's memory",
}


class Media(NamedTuple):
    """The medium of a pool's file.

    Attributes:
        kind: `"devdax"`, `"fsdax"`, `"page cache"` (a file on any disk, or a block device), or a
            file system in memory (`"tmpfs"`).
        mode: `"direct"` or `"image"`.
        volatile: Its content is lost when the machine stops.
        promise: The meaning of an acknowledgement.
    """

    kind: str
    mode: str
    volatile: bool
    promise: str


def media(fd: int) -> Media:
    """Return the medium of an open file.

    Raises:
        NotAPool: It cannot contain a pool.
    """
    status = os.fstat(fd)
    how = flush_instruction()
    if stat.S_ISCHR(status.st_mode):
        device = f"/sys/dev/char/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}/subsystem"
        if os.path.basename(os.path.realpath(device)) != "dax":
            raise NotAPool(
                "this character device is not a DAX device",
                hint=FILE_OR_DEVICE,
            )
        return Media("devdax", "direct", False, PROMISES["direct"].format(how=how))
    if stat.S_ISBLK(status.st_mode):
        return Media("page cache", "image", False, PROMISES["image"])
    if not stat.S_ISREG(status.st_mode):
        raise NotAPool(
            "this is neither a file nor a device",
            hint=FILE_OR_DEVICE,
        )
    in_memory = file_system(fd)
    if in_memory is not None:
        return Media(in_memory, "direct", True, PROMISES["volatile"])
    if status.st_size and how != "none" and maps_synchronously(fd):
        return Media("fsdax", "direct", False, PROMISES["direct"].format(how=how))
    return Media("page cache", "image", False, PROMISES["image"])


def length(fd: int) -> int:
    """Return the bytes of a file or device."""
    status = os.fstat(fd)
    if stat.S_ISCHR(status.st_mode):
        media(fd)  # no other character device has a size
        with open(
            f"/sys/dev/char/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}/size"
        ) as file:
            return int(file.read())
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        raise NotAPool(
            f"cannot use the file as a pool: {error.strerror}", hint="give another path"
        ) from error


def checked_path(path: str | os.PathLike[str]) -> str:
    """Return the path of a pool.

    Raises:
        InvalidArgument: It is empty, as an unset variable of a shell is.
        TypeError: It is no path.
    """
    if not (text := os.fspath(path)):
        raise InvalidArgument("the path of a pool must not be empty", hint=FILE_OR_DEVICE)
    return text


def cannot_open(path: str | os.PathLike[str], error: OSError) -> PoolRefused:
    """Return the error of a pool that the system does not open."""
    hint = "check its permissions and those of its folder"
    if isinstance(error, IsADirectoryError):
        hint = FILE_OR_DEVICE
    return PoolRefused(f"cannot open {os.fspath(path)}: {error.strerror}", hint=hint)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], flags: int, lock: int) -> Iterator[int]:
    """Open and lock a file; the lock is held as long as any copy of the descriptor is open."""
    checked_path(path)
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        folder = os.path.dirname(os.path.abspath(path))
        if flags & os.O_CREAT:
            hint = "create it first, or check the spelling"
            raise PoolRefused(f"there is no folder {folder} for the pool", hint=hint) from None
        raise missing(path) from None
    except FileExistsError:
        raise PoolRefused(
            f"{os.fspath(path)} already exists",
            hint="remove it first, if its content is not needed",
        ) from None
    except OSError as error:
        raise cannot_open(path, error) from error
    try:
        try:
            fcntl.flock(fd, lock | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PoolInUse(
                f"{os.fspath(path)} is open in another process",
                hint="connect to that process, or stop it",
            ) from None
        if not is_still_at(path, fd):
            raise PoolInUse(f"{os.fspath(path)} was replaced at this moment", hint="repeat")
        yield fd
    finally:
        os.close(fd)


def missing(path: str | os.PathLike[str]) -> NotAPool:
    """Return the error of a path where no file is."""
    return NotAPool(
        f"there is no pool at {os.fspath(path)}",
        hint=f"create one: rnvm create {os.fspath(path)} --size 1GiB",
    )


def is_still_at(path: str | os.PathLike[str], fd: int) -> bool:
    """Return whether an open file is still the one at the path: a mirror may set a pool aside."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def create(
    path: str | os.PathLike[str],
    size: str | int,
    *,
    block: str | int = PAGE,
    front_ends: int | None = None,
    names: int | None = None,
    operation_log: str | int | None = None,
    memory_log: str | int | None = None,
    write_ahead: str | int | None = None,
    backend: int = 1,
    assume_persistent: bool = False,
) -> None:
    """Create a pool at a path that does not exist, or on a device, whose content is lost.

    If it fails, nothing is left at the path.

    Args:
        size: Bytes, or text like `"1GiB"`; all of it is allocated now.
        block: Allocation unit of front-ends, in bytes.
        front_ends: Maximum number of front-ends attached at the same time; default 16, fewer in
            small pools.
        names: Maximum number of structures.
        operation_log, memory_log: Bytes for each front-end; the longest value depends on them
            (docs/pool.md).
        write_ahead: Bytes of the area in which a file on a disk keeps its syncs; 0: no area,
            and pages are synced in place.  Pools in memory need none, and have none by default.
        backend: Back-end ID stored in its addresses.
        assume_persistent: Allow a volatile medium, like /dev/shm.

    Raises:
        InvalidArgument: A size or number is out of range.
        VolatileMedium: The medium is volatile, and assume_persistent is not set.
        PoolRefused: The path exists.
        FabricError: The system refused.
    """
    total = units.size(size)

    def parts_for(mode: str) -> sizes.Sizes:
        area = None if mode == "image" else 0
        if write_ahead is not None:
            area = units.size(write_ahead)
        return sizes.choose(
            total, block=units.size(block), front_ends=front_ends, names=names,
            operation_log=None if operation_log is None else units.size(operation_log),
            memory_log=None if memory_log is None else units.size(memory_log),
            write_ahead=area,
        )  # fmt: skip

    parts_for("image").fit(total)  # refuse invalid sizes before there is a file
    device = os.path.exists(path) and not os.path.isfile(path)
    with _opened(
        path, os.O_RDWR if device else os.O_RDWR | os.O_CREAT | os.O_EXCL, fcntl.LOCK_EX
    ) as fd:
        try:
            kind = media(fd)
            if kind.volatile and not assume_persistent:
                raise VolatileMedium(
                    f"{os.fspath(path)} is on {kind.kind}, which "
                    "loses its content when the machine stops",
                    hint="choose another folder, or --assume-persistent (assume_persistent=True) "
                    "to survive process crashes only",
                )
            parts = parts_for(kind.mode)
            total = parts.fit(total)
            if device:
                if length(fd) < total:
                    raise InvalidArgument(
                        f"the device has only {units.show_size(length(fd))}",
                        hint="give a smaller --size",
                    )
            else:
                _allocate(fd, _whole(total, kind))
            with contextlib.closing(_medium(fd, total, media(fd), force_flush=False)) as medium:
                format_medium(medium, parts, backend=backend, assume_persistent=assume_persistent)
            if not device:
                _sync_folder(path)
        except BaseException:
            if not device:
                os.unlink(path)
            raise


def _allocate(fd: int, total: int) -> None:
    """Allocate this many bytes for a file.

    Raises:
        FabricError: There is no room; the file is not longer than before.
    """
    before = length(fd)
    try:
        os.posix_fallocate(fd, 0, total)
    except OSError as error:
        # A file system may have allocated all it has before it failed.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, before)
        hint = "give a smaller size, or free space on the device"
        failure = FabricError(
            f"cannot allocate {units.show_size(total)} for the pool: {error.strerror}", hint=hint
        )
        failure.errno = error.errno
        raise failure from error
    os.fsync(fd)


def _whole(size: int, kind: Media) -> int:
    """Return the file length for a pool of this size: mapped files have whole pages."""
    return -(-size // SYSTEM_PAGE) * SYSTEM_PAGE if kind.mode == "direct" else size


def _has_holes(fd: int, total: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode) and (
        length(fd) < total or os.lseek(fd, 0, os.SEEK_HOLE) < total
    )


def _fill(fd: int, size: int, kind: Media) -> None:
    """Allocate a place on the device for each byte of a pool's file.

    A copy may have holes (cp --sparse, rsync -S), and storing into a hole when a file system in
    memory is full kills the process (SIGBUS); its end may be within a page, which front-ends cannot
    map.
    """
    total = _whole(size, kind)
    if _has_holes(fd, total):
        _allocate(fd, total)


def _sync_folder(path: str | os.PathLike[str]) -> None:
    """Sync the folder: a new file survives only once its folder is durable too."""
    folder = os.open(
        os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    )
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _medium(fd: int, total: int, kind: Media, *, force_flush: bool) -> Medium:
    if kind.mode == "image":
        return FileMedium(total, fd)
    if kind.volatile:
        return Direct(fd, total, "lines" if force_flush else "none", sync=False)
    return Direct(fd, total, os.environ.get("RNVM_FLUSHING", "lines"), sync=kind.kind == "fsdax")


def open_medium(path: str | os.PathLike[str], *, force_flush: bool = False) -> Medium:
    """Open a pool's medium, locked for this process.

    The environment variable RNVM_FLUSHING=libpmem2 leaves flushing to that library.

    Args:
        force_flush: Flush cache lines even if that has no effect (file systems in memory), to
            measure its cost.

    Raises:
        NotAPool, PoolInUse, PoolRefused, VolatileMedium, FabricError: It cannot be opened.
    """
    with _opened(path, os.O_RDWR, fcntl.LOCK_EX) as fd:
        return _medium_at(path, fd, force_flush=force_flush)


def _medium_at(path: str | os.PathLike[str], fd: int, *, force_flush: bool = False) -> Medium:
    kind, total = media(fd), length(fd)
    with contextlib.closing(_view(fd, total)) as view:
        inspection = Inspection(view)
        if kind.volatile and not inspection.assume_persistent:
            raise VolatileMedium(
                f"{os.fspath(path)} is on volatile {kind.kind}, "
                "but was created for a persistent medium",
                hint="copy it back to a disk",
            )
        area = wal.describe(view)
        carry = kind.mode == "direct" and area is not None and area["frames"] > 0
        if (carry or _has_holes(fd, inspection.size)) and inspection.run() and inspection.fatal:
            # before frames are applied, or holes filled that may be all there is
            raise damaged(inspection.fatal)
    _fill(fd, inspection.size, kind)
    medium = _medium(fd, inspection.size, kind, force_flush=force_flush)
    if carry:
        # A copy, on a medium in memory, of a file that was not closed: apply its area here, since
        # this medium does not.
        wal.apply(medium)
        wal.forget(medium)
    return medium


def open_pool(
    path: str | os.PathLike[str],
    *,
    force_flush: bool = False,
    accept_loss: bool = False,
    in_group: bool = False,
) -> Pool:
    """Open a pool for writing, and recover it if necessary.

    Args:
        accept_loss: Open it even if durable logs are lost.
        in_group: Open it although it belongs to a group: the group's state says that it may be.

    Raises:
        NotAPool, PoolInUse, PoolRefused, VolatileMedium, FabricError: As open_medium().
        PoolTooNew, PoolTooOld, PoolDamaged: It cannot be used; the pool is unchanged.
    """
    medium = open_medium(path, force_flush=force_flush)
    return _pool_on(medium, accept_loss=accept_loss, in_group=in_group)


def refuse_grouped(medium: Medium) -> None:
    """Raise if the pool belongs to a group: what is written without it would not be there.

    Raises:
        PoolRefused: It does.
    """
    found = identity.read(medium)
    if found is not None and any(found["group"]):
        raise PoolRefused(
            f"the pool belongs to a group, as member {found['member']}",
            hint="serve it as a member (rnvm serve --group), or make it leave: "
            "rnvm serve --leave-group",
        )


def _pool_on(medium: Medium, *, accept_loss: bool = False, in_group: bool = False) -> Pool:
    try:
        if not in_group:
            refuse_grouped(medium)
        return Pool(medium, accept_loss=accept_loss)
    except BaseException:
        medium.close()
        raise


def _view(fd: int, total: int) -> VolatileMemory:
    """Return the bytes of a pool in private memory, with its write-ahead area applied."""
    view = _copied(fd, total)
    wal.apply(view)
    return view


def _copied(fd: int, total: int) -> VolatileMemory:
    if not stat.S_ISCHR(os.fstat(fd).st_mode):
        return VolatileMemory(total, fd)
    # it can neither be read nor be mapped privately
    with contextlib.closing(Direct(fd, total, "none", sync=False)) as device:
        view = VolatileMemory(total)
        for at in range(0, total, COPIED_AT_ONCE):
            if (data := device.read(at, min(COPIED_AT_ONCE, total - at))) != bytes(len(data)):
                view.poke(at, data)
    return view


@contextlib.contextmanager
def view(path: str | os.PathLike[str]) -> Iterator[tuple[VolatileMemory, Media]]:
    """Yield a private copy of the bytes of a pool that no process has open.

    The pool itself does not change.
    """
    flags = os.O_RDONLY if os.path.isfile(path) else os.O_RDWR
    with _opened(path, flags, fcntl.LOCK_SH) as fd:
        kind = media(fd)
        with contextlib.closing(_view(fd, length(fd))) as private:
            yield private, kind


class Claim:
    """A pool that only this process may open, and no front-end changes, until the claim ends.

    The front-ends of a back-end that was killed may still have a pool in memory mapped, and
    continue with operations that need no back-end: each record in one of their logs is acknowledged
    as soon as it is there.  They must stop before this process writes anything to the pool that it
    derived from an earlier state.  So their sessions are ended first, as opening the pool does; a
    front-end checks its session before it acknowledges anything.
    """

    def __init__(self, path: str | os.PathLike[str], fd: int) -> None:
        self.path = path
        self.fd = fd
        kind, total = media(fd), length(fd)
        if kind.mode == "image":  # their mapping is a copy, which no process reads any more
            return
        with contextlib.closing(_copied(fd, min(total, HEADER_BYTES))) as view:
            found = identity.read(view) if view.length >= HEADER_BYTES else None
            if found is not None and found["state"] == "catching up":
                return  # refused by every opener: nothing may be written before
            at, count = repair.session_table(view, total)
        if count:
            _fill(fd, total, kind)
            with contextlib.closing(_medium(fd, total, kind, force_flush=False)) as medium:
                repair.end_sessions(medium, at, count)

    def view(self) -> VolatileMemory:
        """Return the present bytes of the pool in private memory."""
        return _view(self.fd, length(self.fd))

    def raw(self) -> Medium:
        """Return the whole file or device, with any content."""
        kind, total = media(self.fd), length(self.fd)
        _fill(self.fd, total, kind)
        return _medium(self.fd, total, kind, force_flush=False)

    def pool(self, *, accept_loss: bool = False) -> Pool:
        """Open the pool, like open_pool(); claim() has refused one of a group."""
        medium = _medium_at(self.path, self.fd)
        return _pool_on(medium, accept_loss=accept_loss, in_group=True)


@contextlib.contextmanager
def claim(path: str | os.PathLike[str], *, in_group: bool = False) -> Iterator[Claim]:
    """Claim a pool that no process has open.

    Args:
        in_group: Also one that belongs to a group.

    Raises:
        NotAPool, PoolInUse, PoolRefused: It cannot be claimed.
    """
    with _opened(path, os.O_RDWR, fcntl.LOCK_EX) as fd:
        if not in_group:
            with contextlib.closing(_view(fd, length(fd))) as view:
                refuse_grouped(view)
        yield Claim(path, fd)


def grow(path: str | os.PathLike[str], size: str | int) -> int:
    """Grow a pool that no process has open; return its new size in bytes.

    Raises:
        InvalidArgument: It would not grow.
        FabricError: There is no room; the size is unchanged.
    """
    total = sizes.checked_size(units.size(size))
    # The members of a group are grown one by one, all closed: their sizes must be equal.
    with claim(path, in_group=True) as claimed:
        with contextlib.closing(claimed.view()) as view:
            total = grown(Inspection(view), total)
        if total > length(claimed.fd) and not os.path.isfile(path):
            raise InvalidArgument(
                f"the device has only {units.show_size(length(claimed.fd))}",
                hint="give a smaller --size",
            )
        with claimed.pool():
            pass  # it is whole, and was closed in order
        _fill(claimed.fd, total, media(claimed.fd))
        with contextlib.closing(claimed.raw()) as medium:
            return grow_medium(medium, total)


__all__ = [
    "Claim",
    "Media",
    "claim",
    "create",
    "grow",
    "length",
    "media",
    "open_medium",
    "open_pool",
    "view",
]
