"""Pools in persistent memory: map a DAX device or file, and flush it."""

import os
import stat

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.mman cimport (
    MADV_DONTFORK, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, mmap, munmap,
)
from posix.unistd cimport close as close_fd
from rfp.core.core cimport rfp_copy_out, rfp_store64
from rfp.core.system cimport MAP_SHARED_VALIDATE, MAP_SYNC
from rnvm.format.layout cimport RNVM_PAGE
from rnvm.media.flush cimport flush, flush_drain, flush_kind, store_flushed
from rnvm.media.medium cimport Medium, medium, medium_operations

from rfp.core.forks import live
from rfp.errors import FabricError, InvalidArgument

cdef extern from "<sys/vfs.h>" nogil:
    struct statfs_buffer "statfs":
        long f_type
    int fstatfs(int fd, statfs_buffer *buffer)

FLUSHES = ("unknown", "none", "clflush", "clflushopt", "clwb", "dc cvap")  # rnvm_flush_kind()
MEMORY_FILE_SYSTEMS = {0x01021994: "tmpfs", 0x858458f6: "ramfs", 0x958458f6: "hugetlbfs"}


def flush_instruction():
    """Return the processor's instruction to flush caches.

    One of "clwb", "clflushopt", "clflush", "dc cvap", "none".
    """
    return FLUSHES[flush_kind()]


def file_system(int fd):
    """Return the name of the in-memory file system that contains a file, or None for any other."""
    cdef statfs_buffer buffer
    if fstatfs(fd, &buffer):
        raise refused("fstatfs")
    return MEMORY_FILE_SYSTEMS.get(buffer.f_type & 0xffffffff)


def maps_synchronously(int fd):
    """Return whether a mapping of the file is the medium itself (MAP_SYNC).

    Only then do flushed cache lines persist.
    """
    cdef void *base = mmap(NULL, RNVM_PAGE, PROT_READ | PROT_WRITE,
                           MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0)
    if base == MAP_FAILED:
        return False
    munmap(base, RNVM_PAGE)
    return True


cdef object refused(str what, str hint=None):
    failure = FabricError(f"{what}: {os.strerror(errno)}", hint=hint)
    failure.errno = errno
    return failure


cdef void direct_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    store_flushed(m.base + offset, source, n)


cdef void direct_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    rfp_store64(m.base + offset, value)
    flush(m.base + offset, sizeof(value))


cdef void direct_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    flush(m.base + offset, n)


cdef int direct_drain(medium *m) noexcept nogil:
    flush_drain()
    return -1 if m.error else 0


cdef medium_operations direct_operations = medium_operations(direct_write, direct_write64,
                                                             direct_flush, direct_drain)


# The same verbs where no cache has to be flushed: there is nothing but the machine's memory, and
# only the process may crash.

cdef void plain_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    rfp_copy_out(m.base + offset, source, n)


cdef void plain_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    rfp_store64(m.base + offset, value)


cdef void plain_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    pass


cdef medium_operations plain_operations = medium_operations(plain_write, plain_write64, plain_flush,
                                                            direct_drain)


# The same verbs through libpmem2.

cdef void library_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    rfp_copy_out(m.base + offset, source, n)
    (<rnvm_pmem2 *> m.state).flush(m.base + offset, n)


cdef void library_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    rfp_store64(m.base + offset, value)
    (<rnvm_pmem2 *> m.state).flush(m.base + offset, sizeof(value))


cdef void library_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    (<rnvm_pmem2 *> m.state).flush(m.base + offset, n)


cdef int library_drain(medium *m) noexcept nogil:
    (<rnvm_pmem2 *> m.state).drain()
    return -1 if m.error else 0


cdef medium_operations library_operations = medium_operations(library_write, library_write64,
                                                              library_flush, library_drain)


cdef class Direct(Medium):
    """A mapping of the medium itself.

    Args:
        fd: A DAX device, or a file on a file system in memory or with DAX; the medium duplicates
            the descriptor.
        length: Bytes.
        flushing: "lines" (cache lines are flushed), "none" (file systems in memory), or "libpmem2".
        sync: Map with MAP_SYNC.

    Raises:
        FabricError: It cannot be mapped, or neither this processor nor libpmem2 can flush it.
    """

    def __cinit__(self):
        self.fd = -1
        memset(&self.library, 0, sizeof(rnvm_pmem2))

    def __init__(self, int fd, uint64_t length, str flushing="lines", bint sync=True):
        cdef void *base
        if self.fd >= 0 or flushing not in ("lines", "none", "libpmem2"):
            raise InvalidArgument(f"invalid flushing {flushing!r} (expected lines, none or "
                                  "libpmem2), or the medium is already open")
        self.fd = dup_private(fd)
        self.mapped = whole(self.fd, length)
        if flushing == "libpmem2":
            if rnvm_pmem2_open(&self.library, self.fd):
                trouble = (<char *> self.library.trouble).decode(errors="replace")
                raise FabricError(f"libpmem2 cannot map the file: {trouble}",
                                  hint="run `apt-get install libpmem2-1`, or use "
                                       'flushing="lines"')
            self.c.base = <char *> self.library.address(self.library.map)
            self.c.state = &self.library
            self.c.ops = &library_operations
            self.flushing = flushing
        else:
            if flushing == "lines" and flush_instruction() == "none":
                raise FabricError("this CPU has no instruction that flushes "
                                  "its caches to persistent memory",
                                  hint="use libpmem2, or a file on a disk")
            base = mmap(NULL, self.mapped, PROT_READ | PROT_WRITE,
                        MAP_SHARED_VALIDATE | MAP_SYNC if sync else MAP_SHARED, self.fd, 0)
            if base == MAP_FAILED:
                raise refused(f"cannot map {length} bytes")
            self.c.base = <char *> base
            self.c.ops = &direct_operations if flushing == "lines" else &plain_operations
            self.flushing = flush_instruction() if flushing == "lines" else flushing
        self.c.length = length
        self.direct = True
        # Devices may refuse it; then a forked child sees the pool, which it must not touch anyway.
        madvise(self.c.base, self.mapped, MADV_DONTFORK)
        live.add(self)

    def __dealloc__(self):
        self.release()

    cdef void release(self) noexcept:
        if self.library.library != NULL:
            rnvm_pmem2_close(&self.library)
        elif self.c.base != NULL:
            munmap(self.c.base, self.mapped)
        self.c.base = NULL
        if self.fd >= 0:
            close_fd(self.fd)
            self.fd = -1

    def _forget(self):
        Medium._forget(self)
        self.library.library = NULL
        self.release()

    cpdef int fileno(self):
        """Return the file's descriptor, which peers of this host map."""
        return self.fd

    cpdef close(self):
        """Release mapping and file; may be called again."""
        self.check_unserved()
        live.discard(self)
        self.release()
        Medium.close(self)


cdef uint64_t whole(int fd, uint64_t length) except 0:
    """Return the length rounded up to whole pages, which are large on a device."""
    cdef uint64_t page = RNVM_PAGE
    status = os.fstat(fd)
    if stat.S_ISCHR(status.st_mode):
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        with open(f"/sys/dev/char/{number}/align") as file:
            page = int(file.read())
    return (length + page - 1) // page * page


cdef int dup_private(int fd) except -1:
    cdef int own = os.dup(fd)
    return own
