"""Pools in files: what a file is on, and what that promises; making, opening, looking at and growing a pool.

>>> import os, tempfile
>>> path = os.path.join(tempfile.mkdtemp(), "orders.pool")
>>> create(path, "2MiB", assume_persistent=True)        # where the folder is on a disk, without assume_persistent
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
from rfp.errors import FabricError, InvalidArgument, NotAPool, PoolInUse, PoolRefused, VolatileMedium
from rnvm import sizes
from rnvm.media import wal
from rnvm.media.file import FileMedium
from rnvm.media.medium import Medium, VolatileMemory
from rnvm.media.pmem import Direct, file_system, flush_instruction, maps_synchronously
from rnvm.pool import repair
from rnvm.pool.inspect import Inspection, damaged
from rnvm.pool.pool import Pool, format_medium, grow_medium, grown

PAGE = os.sysconf("SC_PAGE_SIZE")
PIECE = 1 << 16  # bytes of a device that are copied at once
HEADERS = 16384  # bytes of a pool in which its header stands
PROMISES = {
    "direct": "acknowledged operations survive a power failure: cache lines are flushed ({how})",
    "image": "acknowledged operations survive a power failure if the disk keeps synced data",
    "volatile": "survives process crashes only: the pool is in the machine's memory",
}


class Media(NamedTuple):
    """What a pool's file is on.

    kind: `"devdax"`, `"fsdax"`, `"page cache"` (a file on any disk, or a block device), or a file system in memory (`"tmpfs"`).
    mode: `"direct"` or `"image"`.  volatile: it forgets with the machine.  promise: what an acknowledgement means here.
    """

    kind: str
    mode: str
    volatile: bool
    promise: str


def media(fd: int) -> Media:
    """What an open file is on.  Raises NotAPool for what can hold no pool."""
    status = os.fstat(fd)
    how = flush_instruction()
    if stat.S_ISCHR(status.st_mode):
        device = f"/sys/dev/char/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}/subsystem"
        if os.path.basename(os.path.realpath(device)) != "dax":
            raise NotAPool("this character device is not a DAX device",
                           hint="give a file, a block device, or /dev/daxN.M")
        return Media("devdax", "direct", False, PROMISES["direct"].format(how=how))
    if stat.S_ISBLK(status.st_mode):
        return Media("page cache", "image", False, PROMISES["image"])
    if not stat.S_ISREG(status.st_mode):
        raise NotAPool("this is neither a file nor a device", hint="give a file, a block device, or /dev/daxN.M")
    in_memory = file_system(fd)
    if in_memory is not None:
        return Media(in_memory, "direct", True, PROMISES["volatile"])
    if status.st_size and how != "none" and maps_synchronously(fd):
        return Media("fsdax", "direct", False, PROMISES["direct"].format(how=how))
    return Media("page cache", "image", False, PROMISES["image"])


def length(fd: int) -> int:
    """Bytes of a file or device."""
    status = os.fstat(fd)
    if stat.S_ISCHR(status.st_mode):
        with open(f"/sys/dev/char/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}/size") as file:
            return int(file.read())
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        raise NotAPool(f"cannot use the file as a pool: {error.strerror}",
                       hint="give another path") from error


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], flags: int, lock: int) -> Iterator[int]:
    """A descriptor, and the lock that goes with it: the lock is held as long as any copy of the descriptor is open."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        folder = os.path.dirname(os.path.abspath(path))
        if flags & os.O_CREAT:
            hint = "create it first, or check the spelling"
            raise PoolRefused(f"there is no folder {folder} for the pool", hint=hint) from None
        hint = f"create one: rnvm create {os.fspath(path)} --size 1GiB"
        raise NotAPool(f"there is no pool at {os.fspath(path)}", hint=hint) from None
    except FileExistsError:
        raise PoolRefused(f"{os.fspath(path)} already exists",
                          hint="remove it first, if its content is not needed") from None
    except OSError as error:
        hint = "check its permissions and those of its folder"
        raise PoolRefused(f"cannot open {os.fspath(path)}: {error.strerror}", hint=hint) from error
    try:
        try:
            fcntl.flock(fd, lock | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PoolInUse(f"{os.fspath(path)} is open in another process",
                            hint="connect to that process, or stop it") from None
        yield fd
    finally:
        os.close(fd)


def create(
    path: str | os.PathLike[str],
    size: str | int,
    *,
    block: str | int = 4096,
    front_ends: int | None = None,
    names: int | None = None,
    operation_log: str | int | None = None,
    memory_log: str | int | None = None,
    write_ahead: str | int | None = None,
    backend: int = 1,
    assume_persistent: bool = False,
) -> None:
    """Make a pool at a path where nothing is yet, or on a device, whose content is lost.

    size: bytes or text like `"1GiB"`; all of it is allocated now.  block: what front-ends get and give back.  front_ends: how
    many may be attached at once; 16 unless given, fewer in small pools.  names: how many structures there may be.  operation_log,
    memory_log: bytes for each front-end, and what the longest value depends on (docs/pool.md).
    write_ahead: bytes of the area in which a file on a disk keeps what it syncs; 0: it has none, and syncs pages where they are.
    Pools in memory need none, and have none unless it is given.  backend: the number that its addresses carry.
    assume_persistent: allow a medium that forgets, like /dev/shm.

    Raises InvalidArgument, VolatileMedium, PoolRefused (something is there), or FabricError; then nothing is left there.
    """
    total = units.size(size)

    def parts_for(mode: str) -> sizes.Sizes:
        return sizes.choose(
            total, block=units.size(block), front_ends=front_ends, names=names,
            operation_log=None if operation_log is None else units.size(operation_log),
            memory_log=None if memory_log is None else units.size(memory_log),
            write_ahead=units.size(write_ahead) if write_ahead is not None else None if mode == "image" else 0,
        )  # fmt: skip

    parts_for("image").fit(total)  # what cannot be is refused before there is a file
    device = os.path.exists(path) and not os.path.isfile(path)
    with _opened(path, os.O_RDWR if device else os.O_RDWR | os.O_CREAT | os.O_EXCL, fcntl.LOCK_EX) as fd:
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
                    raise InvalidArgument(f"the device has only {units.show_size(length(fd))}",
                                          hint="give a smaller --size")
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
    """So many bytes for a file.  Raises FabricError where there is no room, and then has not made the file longer."""
    before = length(fd)
    try:
        os.posix_fallocate(fd, 0, total)
    except OSError as error:
        # A file system may have given all that it has before it found that this is too little.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, before)
        hint = "give a smaller size, or free space on the device"
        failure = FabricError(f"cannot allocate {units.show_size(total)} "
                              f"for the pool: {error.strerror}", hint=hint)
        failure.errno = error.errno
        raise failure from error
    os.fsync(fd)


def _whole(size: int, kind: Media) -> int:
    """The length of a file for a pool of so many bytes: of one that is mapped, processes map whole pages."""
    return -(-size // PAGE) * PAGE if kind.mode == "direct" else size


def _has_holes(fd: int, total: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode) and (length(fd) < total or os.lseek(fd, 0, os.SEEK_HOLE) < total)


def _fill(fd: int, size: int, kind: Media) -> None:
    """See to it that a file has a place on its device for each byte of its pool.

    A copy may have holes (cp --sparse, rsync -S), and storing into one where a file system in memory is full ends the process
    (SIGBUS); its end may be within a page, which front-ends cannot map.
    """
    total = _whole(size, kind)
    if _has_holes(fd, total):
        _allocate(fd, total)


def _sync_folder(path: str | os.PathLike[str]) -> None:
    """A file that was just made survives only once its folder is durable too."""
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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
    """What a pool stands on, locked for this process.

    force_flush: flush cache lines also where it is of no use (file systems in memory), to measure what it would cost.  The
    environment variable RNVM_FLUSHING=libpmem2 leaves flushing to that library.
    Raises NotAPool, PoolInUse, PoolRefused, VolatileMedium or FabricError.
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
        area = wal.look(view)
        carry = kind.mode == "direct" and area is not None and area["frames"] > 0
        if (carry or _has_holes(fd, inspection.size)) and inspection.run() and inspection.fatal:
            raise damaged(inspection.fatal)  # before anything is carried over, or holes are filled that may be all there is
    _fill(fd, inspection.size, kind)
    medium = _medium(fd, inspection.size, kind, force_flush=force_flush)
    if carry:
        # A copy, in what is memory, of a file that was not closed: nothing else would look at its area.
        wal.apply(medium)
        wal.forget(medium)
    return medium


def open_pool(path: str | os.PathLike[str], *, force_flush: bool = False, accept_loss: bool = False) -> Pool:
    """Open a pool for writing, and recover it if need be.

    accept_loss: also where logs that were durable are gone.  Raises what open_medium() raises, PoolTooNew and PoolDamaged; the
    pool is unchanged then.
    """
    return _pool_on(open_medium(path, force_flush=force_flush), accept_loss=accept_loss)


def _pool_on(medium: Medium, *, accept_loss: bool = False) -> Pool:
    try:
        return Pool(medium, accept_loss=accept_loss)
    except BaseException:
        medium.close()
        raise


def _view(fd: int, total: int) -> VolatileMemory:
    """The bytes of a pool in memory of our own, with what its write-ahead area says."""
    view = _copied(fd, total)
    wal.apply(view)
    return view


def _copied(fd: int, total: int) -> VolatileMemory:
    if not stat.S_ISCHR(os.fstat(fd).st_mode):
        return VolatileMemory(total, fd)
    with contextlib.closing(Direct(fd, total, "none", sync=False)) as device:  # it can neither be read nor be mapped privately
        view = VolatileMemory(total)
        for at in range(0, total, PIECE):
            if (data := device.read(at, min(PIECE, total - at))) != bytes(len(data)):
                view.poke(at, data)
    return view


@contextlib.contextmanager
def view(path: str | os.PathLike[str]) -> Iterator[tuple[VolatileMemory, Media]]:
    """The bytes of a pool that nobody has open, to look at: whatever is done to them, the pool does not change."""
    flags = os.O_RDONLY if os.path.isfile(path) else os.O_RDWR
    with _opened(path, flags, fcntl.LOCK_SH) as fd:
        kind = media(fd)
        with contextlib.closing(_view(fd, length(fd))) as private:
            yield private, kind


class Claim:
    """A pool that this process alone may open until the claim ends, and that no front-end changes any more.

    The front-ends of a back-end that was killed may still have a pool in memory mapped, and go on with what needs no back-end:
    each record in a log of theirs is acknowledged when it stands there.  Before somebody writes to the pool what was derived from
    an earlier state of it, they have to stop.  So their sessions are ended first, as opening the pool does; a front-end looks at
    its session before it acknowledges anything.
    """

    def __init__(self, path: str | os.PathLike[str], fd: int) -> None:
        self.path = path
        self.fd = fd
        kind, total = media(fd), length(fd)
        if kind.mode == "image":  # what they have mapped is a copy, which nobody reads any more
            return
        with contextlib.closing(_copied(fd, min(total, HEADERS))) as view:
            at, count = repair.session_table(view, total)
        if count:
            _fill(fd, total, kind)
            with contextlib.closing(_medium(fd, total, kind, force_flush=False)) as medium:
                repair.end_sessions(medium, at, count)

    def view(self) -> VolatileMemory:
        """The bytes of the pool as they are now, in memory of our own."""
        return _view(self.fd, length(self.fd))

    def raw(self) -> Medium:
        """All of the file or device, whatever it holds."""
        kind, total = media(self.fd), length(self.fd)
        _fill(self.fd, total, kind)
        return _medium(self.fd, total, kind, force_flush=False)

    def pool(self, *, accept_loss: bool = False) -> Pool:
        """The same as open_pool()."""
        return _pool_on(_medium_at(self.path, self.fd), accept_loss=accept_loss)


@contextlib.contextmanager
def claim(path: str | os.PathLike[str]) -> Iterator[Claim]:
    """Claim a pool that no process has open.  Raises NotAPool, PoolInUse or PoolRefused."""
    with _opened(path, os.O_RDWR, fcntl.LOCK_EX) as fd:
        yield Claim(path, fd)


def grow(path: str | os.PathLike[str], size: str | int) -> int:
    """Make a pool that nobody has open larger: its new size in bytes.

    Raises InvalidArgument where it would not grow, FabricError where there is no room; it is as large as before then.
    """
    total = units.size(size)
    with claim(path) as claimed:
        with contextlib.closing(claimed.view()) as view:
            total = grown(Inspection(view), total)
        if total > length(claimed.fd) and not os.path.isfile(path):
            raise InvalidArgument(f"the device has only {units.show_size(length(claimed.fd))}",
                                  hint="give a smaller --size")
        with claimed.pool():
            pass  # it is whole, and closed in order
        _fill(claimed.fd, total, media(claimed.fd))
        with contextlib.closing(claimed.raw()) as medium:
            return grow_medium(medium, total)


__all__ = ["Claim", "Media", "claim", "create", "grow", "length", "media", "open_medium", "open_pool", "view"]
