"""The base class of all media, and the volatile medium."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport ENXIO, errno
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap,
    munmap,
)
from posix.unistd cimport close as close_fd, lseek
from rfp.core.core cimport rfp_copy_in, rfp_copy_out, rfp_store64
from rfp.core.limits cimport system_page
from rfp.core.system cimport SEEK_DATA, SEEK_HOLE

from rfp.errors import CallerError, Closed, FabricError, InvalidArgument, StorageFailed

cdef enum:
    # of a file that are mapped one by one: a process has a limited number of mappings
    PIECES_MAX = 10000


cdef void closed_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    pass


cdef void closed_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    pass


cdef void closed_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    pass


cdef int closed_drain(medium *m) noexcept nogil:
    return -1


cdef medium_operations closed_operations = medium_operations(closed_write, closed_write64,
                                                             closed_flush, closed_drain)


cdef class Medium:
    """The medium of a pool.

    Its methods are for the cold path and for tests; the hot path uses the struct.
    """

    def __cinit__(self):
        self.c.ops = &closed_operations

    def _forget(self):
        """Detach in the child of a fork, which has no part in the pool.

        The child must not read, write back or unmap it.
        """
        self.c.ops = &closed_operations
        self.c.base = NULL
        self.served = False

    cdef int check_unserved(self) except -1:
        if self.served:
            raise CallerError("cannot close the pool: a back-end serves it",
                              hint="close the back-end, which closes its pool")
        return 0

    cpdef int fileno(self):
        """Return the descriptor that peers of this host can map to see base; -1: none."""
        return -1

    cpdef close(self):
        """Release the memory and the file; may be called again.

        Raises:
            CallerError: A back-end serves it.
        """
        self.check_unserved()
        self.c.ops = &closed_operations
        self.c.base = NULL

    @property
    def length(self):
        """Return the bytes that a pool may use."""
        return self.c.length

    @property
    def failed(self):
        """Return the errno of the failure that ended it, or 0."""
        return self.c.error

    cdef int check(self, uint64_t offset, uint64_t n) except -1:
        if self.c.base == NULL:
            raise Closed("the medium is closed")
        if offset > self.c.length or n > self.c.length - offset:
            raise InvalidArgument(f"{n} bytes at {offset} are not within "
                                  f"the medium of {self.c.length}")
        return 0

    def read(self, uint64_t offset, uint64_t n):
        """Return these bytes."""
        self.check(offset, n)
        result = PyBytes_FromStringAndSize(NULL, n)
        rfp_copy_in(PyBytes_AS_STRING(result), self.c.base + offset, n)
        return result

    def write(self, uint64_t offset, bytes data):
        """Store bytes, on their way to the medium."""
        self.check(offset, len(data))
        self.c.ops.write(&self.c, offset, PyBytes_AS_STRING(data), len(data))

    def write64(self, uint64_t offset, uint64_t value):
        """Store an aligned word, on its way to the medium."""
        self.check(offset, 8)
        if offset & 7:
            raise InvalidArgument(f"offset must be a multiple of 8, got {offset}")
        self.c.ops.write64(&self.c, offset, value)

    def flush(self, uint64_t offset, uint64_t n):
        """Start the write-back of bytes that were stored there."""
        self.check(offset, n)
        self.c.ops.flush(&self.c, offset, n)

    def drain(self):
        """Wait until everything on its way has become durable."""
        cdef int failed
        with nogil:
            failed = self.c.ops.drain(&self.c)
        if failed:
            raise_failed(&self.c)

    def poke(self, uint64_t offset, bytes data):
        """Store bytes behind the medium's back, as a peer does.

        flush() has to start their write-back.
        """
        self.check(offset, len(data))
        rfp_copy_out(self.c.base + offset, PyBytes_AS_STRING(data), len(data))


cdef int raise_failed(medium *m) except -1:
    failure = StorageFailed(
        f"the pool's medium failed: {os.strerror(m.error) if m.error else 'it is closed'}",
        hint="repair the device, then open the pool again: it recovers")
    failure.errno = m.error or None
    raise failure


# Volatile memory


cdef void put(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    rfp_copy_out(m.base + offset, source, n)


cdef void put64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    rfp_store64(m.base + offset, value)


cdef int drained(medium *m) noexcept nogil:
    return -1 if m.error else 0


cdef medium_operations private_operations = medium_operations(put, put64, closed_flush, drained)


cdef class VolatileMemory(Medium):
    """Memory of this process alone, without a medium: to inspect a pool without changing it.

    Only pages that are changed take memory.

    Args:
        length: Bytes.
        fd: A file with the initial content, of at least that length, which is never written;
            otherwise zeros.
    """

    def __cinit__(self):
        self.fd = -1

    def __init__(self, uint64_t length, int fd=-1):
        cdef void *base
        if self.c.base != NULL:
            raise InvalidArgument("the medium is already initialized")
        base = mmap(NULL, max(length, 1), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_NORESERVE | MAP_ANONYMOUS, -1, 0)
        if base == MAP_FAILED:
            raise self.refused(length)
        self.mapped = max(length, 1)
        self.c.length = length
        self.c.base = <char *> base
        self.c.ops = &private_operations
        if fd >= 0:
            self.fd = os.dup(fd)
            self.map_file()

    cdef object refused(self, uint64_t length):
        failure = FabricError(f"cannot map {length} bytes: {os.strerror(errno)}",
                              hint="free some memory")
        failure.errno = errno
        return failure

    cdef int map_file(self) except -1:
        """Map the ranges of the file that contain data; its holes remain zeroed memory.

        On a file system in memory, reading a hole takes a page, and kills the process (SIGBUS) if
        none is left.
        """
        cdef uint64_t at = 0, begin, end, pieces = 0
        cdef int64_t found
        while at < self.c.length:
            begin, end = at, self.c.length
            found = lseek(self.fd, at, SEEK_DATA)
            if found < 0 and errno == ENXIO:
                break
            if found >= 0:                     # else it is a device, which has no holes
                begin = <uint64_t> found // system_page * system_page
                found = lseek(self.fd, found, SEEK_HOLE) if pieces < PIECES_MAX else -1
                if found >= 0:
                    found += system_page - 1
                    end = min(end, <uint64_t> found // system_page * system_page)
            if begin >= end:
                break
            if mmap(self.c.base + begin, end - begin, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, self.fd, begin) == MAP_FAILED:
                raise self.refused(end - begin)
            pieces += 1
            at = end
        return 0

    def copy(self):
        """Return another medium with the same bytes.

        Ranges mapped from the file stay mapped from it.
        """
        cdef VolatileMemory other = VolatileMemory(self.c.length, self.fd)
        cdef uint64_t at = 0, n
        self.check(0, self.c.length)
        with nogil:
            while at < self.c.length:
                n = min(system_page, self.c.length - at)
                if memcmp(self.c.base + at, other.c.base + at, n):
                    memcpy(other.c.base + at, self.c.base + at, n)
                at += n
        return other

    def __dealloc__(self):
        self.unmap()

    cdef void unmap(self) noexcept:
        if self.c.base != NULL:
            munmap(self.c.base, self.mapped)
            self.c.base = NULL
        if self.fd >= 0:
            close_fd(self.fd)
            self.fd = -1

    cpdef close(self):
        """Release the memory; may be called again."""
        self.check_unserved()
        self.unmap()
        Medium.close(self)
