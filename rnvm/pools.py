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
from rnvm import _ahead, sizes
from rnvm._image import Image
from rnvm._persistence import Medium, Private
from rnvm._pmem import Direct, file_system, flush_instruction, maps_synchronously
from rnvm.pool._inspect import Inspection
from rnvm.pool._pool import Pool, format_medium, grow_medium

PROMISES = {
    "direct": "what was acknowledged survives a power failure: cache lines are flushed ({how})",
    "image": "what was acknowledged survives a power failure, if the disk keeps what it syncs",
    "volatile": "survives process crash only: the machine's memory is all there is",
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
            raise NotAPool("this character device is no DAX device", hint="give a file, a block device, or /dev/daxN.M")
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
    return os.lseek(fd, 0, os.SEEK_END)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], flags: int, lock: int) -> Iterator[int]:
    """A descriptor, and the lock that goes with it: the lock is held as long as any copy of the descriptor is open."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        hint = f"make one: rnvm create {os.fspath(path)} --size 1GiB"
        raise NotAPool(f"there is no pool at {os.fspath(path)}", hint=hint) from None
    except FileExistsError:
        raise PoolRefused(f"{os.fspath(path)} is there already", hint="remove it first, if nobody needs what is in it") from None
    except OSError as error:
        hint = "look at its rights and its folder's"
        raise PoolRefused(f"{os.fspath(path)} cannot be opened: {error.strerror}", hint=hint) from error
    try:
        try:
            fcntl.flock(fd, lock | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PoolInUse(f"{os.fspath(path)} is open in another process", hint="connect to that one, or stop it") from None
        yield fd
    finally:
        os.close(fd)


def create(
    path: str | os.PathLike[str],
    size: str | int,
    *,
    block: str | int = 4096,
    front_ends: int = 16,
    names: int | None = None,
    operation_log: str | int | None = None,
    memory_log: str | int | None = None,
    write_ahead: str | int | None = None,
    backend: int = 1,
    assume_persistent: bool = False,
) -> None:
    """Make a pool at a path where nothing is yet, or on a device, whose content is lost.

    size: bytes or text like `"1GiB"`; all of it is allocated now.  block: what front-ends get and give back.  front_ends: how
    many may be attached at once.  names: how many structures there may be.  operation_log, memory_log: bytes for each front-end.
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
                    f"{os.fspath(path)} is on {kind.kind}, which forgets when the machine stops",
                    hint="another folder; or --assume-persistent (assume_persistent=True): it survives process crash only",
                )
            parts = parts_for(kind.mode)
            total = parts.fit(total)
            if device:
                if length(fd) < total:
                    raise InvalidArgument(f"the device has only {units.show_size(length(fd))}", hint="a smaller --size")
            else:
                _allocate(fd, total)
            with contextlib.closing(_medium(fd, total, media(fd), force_flush=False)) as medium:
                format_medium(medium, parts, backend=backend, assume_persistent=assume_persistent)
            if not device:
                _sync_folder(path)
        except BaseException:
            if not device:
                os.unlink(path)
            raise


def _allocate(fd: int, total: int) -> None:
    try:
        os.posix_fallocate(fd, 0, total)
    except OSError as error:
        hint = "a smaller size, or more room on the device"
        raise FabricError(f"no {units.show_size(total)} for the pool: {error.strerror}", hint=hint) from error
    os.fsync(fd)


def _sync_folder(path: str | os.PathLike[str]) -> None:
    """A file that was just made survives only once its folder is durable too."""
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _medium(fd: int, total: int, kind: Media, *, force_flush: bool) -> Medium:
    if kind.mode == "image":
        return Image(total, fd)
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
        kind, total = media(fd), length(fd)
        with contextlib.closing(_view(fd, total)) as view:
            inspection = Inspection(view)
            if kind.volatile and not inspection.assume_persistent:
                raise VolatileMedium(
                    f"{os.fspath(path)} is on {kind.kind}, which forgets, and was made for a medium that does not",
                    hint="copy it back to a disk",
                )
            area = _ahead.look(view)
            carry = kind.mode == "direct" and area and area["frames"] and not (inspection.run() and inspection.fatal)
            medium = _medium(fd, inspection.size, kind, force_flush=force_flush)
    if carry:
        # A copy, in what is memory, of a file that was not closed: nothing else would look at its area.
        _ahead.apply(medium)
        _ahead.forget(medium)
    return medium


def open_raw(path: str | os.PathLike[str]) -> Medium:
    """The bytes of a file or device, whatever they are, locked for this process: for repair."""
    with _opened(path, os.O_RDWR, fcntl.LOCK_EX) as fd:
        return _medium(fd, length(fd), media(fd), force_flush=False)


def open_pool(path: str | os.PathLike[str], *, force_flush: bool = False, accept_loss: bool = False) -> Pool:
    """Open a pool for writing, and recover it if need be.

    accept_loss: also where logs that were durable are gone.  Raises what open_medium() raises, PoolTooNew and PoolDamaged; the
    pool is unchanged then.
    """
    medium = open_medium(path, force_flush=force_flush)
    try:
        return Pool(medium, accept_loss=accept_loss)
    except BaseException:
        medium.close()
        raise


def _view(fd: int, total: int) -> Private:
    """The bytes of a pool in memory of our own, with what its write-ahead area says."""
    view = _copied(fd, total)
    _ahead.apply(view)
    return view


def _copied(fd: int, total: int) -> Private:
    if not stat.S_ISCHR(os.fstat(fd).st_mode):
        return Private(total, fd)
    with contextlib.closing(Direct(fd, total, "none", sync=False)) as device:  # it can neither be read nor be mapped privately
        view = Private(total)
        for at in range(0, total, 1 << 20):
            view.poke(at, device.read(at, min(1 << 20, total - at)))
    return view


@contextlib.contextmanager
def view(path: str | os.PathLike[str]) -> Iterator[tuple[Private, Media]]:
    """The bytes of a pool that nobody has open, to look at: whatever is done to them, the pool does not change."""
    flags = os.O_RDONLY if os.path.isfile(path) else os.O_RDWR
    with _opened(path, flags, fcntl.LOCK_SH) as fd, contextlib.closing(_view(fd, length(fd))) as private:
        yield private, media(fd)


def grow(path: str | os.PathLike[str], size: str | int) -> int:
    """Make a pool that nobody has open larger: its new size in bytes.  Raises InvalidArgument where it would not grow."""
    total = units.size(size)
    with open_pool(path):
        pass  # it is whole, and closed in order
    with _opened(path, os.O_RDWR, fcntl.LOCK_EX) as fd:
        if total > length(fd):
            if not os.path.isfile(path):
                raise InvalidArgument(f"the device has only {units.show_size(length(fd))}", hint="a smaller --size")
            _allocate(fd, total)
        with contextlib.closing(_medium(fd, length(fd), media(fd), force_flush=False)) as medium:
            return grow_medium(medium, total)


__all__ = ["Media", "create", "grow", "length", "media", "open_medium", "open_pool", "open_raw", "view"]
