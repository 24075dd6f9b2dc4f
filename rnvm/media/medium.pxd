# The persistence contract: the one way in which anything of a pool reaches its medium.  docs/pool.md explains it.
#
# Four verbs, the same on memory that persists (write = store and flush the lines, drain = fence) and on files (write = store and
# note, drain = log and fdatasync); so whoever uses them is right on both, and the crash model (crash_model)
# sees all that happens.
#
#   write, write64   put bytes into the pool's memory, on their way to the medium
#   flush            sends on their way what already stands there: what a peer wrote
#   drain            after it returned 0, all that was on its way before survives any crash; until then, any 8 bytes (a file:
#                    any sector) of it may or may not have survived, in any order
#
# What is read is read from base, by the loads of rfp/core.  Nothing stores there but these verbs and peers into their own rings;
# words that mean nothing after a crash (those marked live in layout.h) are stored as plain atomics.
# A drain that failed is final: error holds the errno, every later drain fails, and nobody may be answered any more.
# Threads: write, write64 and flush of different places, and drain, may run side by side; many drains share one.

from libc.stdint cimport uint64_t

cdef struct medium

cdef struct medium_operations:
    void (*write)(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil
    void (*write64)(medium *m, uint64_t offset, uint64_t value) noexcept nogil   # atomic, also to a crash
    void (*flush)(medium *m, uint64_t offset, uint64_t n) noexcept nogil
    int (*drain)(medium *m) noexcept nogil                                        # 0, or -1: it failed, for good

cdef struct medium:
    const medium_operations *ops
    char *base                 # where the pool is mapped
    uint64_t length            # bytes of it that may be used
    int error                  # errno of the failure that ended it, or 0
    void *state                # the implementation's


cdef class Medium:
    """What a pool stands on; owns the mapping and the file."""
    cdef medium c
    cdef object __weakref__
    cdef bint served                   # a back-end uses it: what it stands on must not go
    cdef readonly bint direct          # base is the medium itself: who maps it can make stores durable by flushing cache lines
    # The file whose bytes from 0 on are base, for peers of this host to map; -1: there is none.  It stays the medium's.
    cpdef int fileno(self)
    cpdef close(self)
    cdef int check(self, uint64_t offset, uint64_t n) except -1   # within its length, and open
    cdef int check_unserved(self) except -1                       # raises CallerError; first of all in close()

# Raises StorageFailed for a medium whose drain failed.
cdef int raise_failed(medium *m) except -1


cdef inline void medium_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    m.ops.write(m, offset, source, n)

cdef inline void medium_write64(medium *m, uint64_t offset, uint64_t value) noexcept nogil:
    m.ops.write64(m, offset, value)

cdef inline void medium_flush(medium *m, uint64_t offset, uint64_t n) noexcept nogil:
    m.ops.flush(m, offset, n)

cdef inline int medium_drain(medium *m) noexcept nogil:
    return m.ops.drain(m)


cdef class VolatileMemory(Medium):
    """Memory of this process alone."""
    cdef uint64_t mapped
    cdef int fd                # the file that it began with, or -1
    cdef object refused(self, uint64_t length)
    cdef int map_file(self) except -1
    cdef void unmap(self) noexcept
