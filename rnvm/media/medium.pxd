# The persistence contract: the only way in which any byte of a pool gets to its medium.
# docs/pool.md explains it.
#
# There are four verbs, the same on persistent memory (write = store and flush the lines, drain =
# fence) and on files (write = store and note, drain = log and fdatasync); so their users are right
# on both, and the crash model (crash_model) sees everything that happens.
#
#   write, write64   put bytes into the pool's memory, on their way to the medium
#   flush            starts the write-back of bytes that a peer stored there
#   drain            after it returned 0, everything on its way before survives any crash; until
#                    then, any 8 bytes (a file: any sector) of it may or may not have survived, in
#                    any order
#
# Reads use base and the loads of rfp/core.  Only these verbs store there, and peers into their own
# rings; words that mean nothing after a crash (marked live in layout.h) are stored as plain
# atomics.
#
# A drain that failed is final: error holds the errno, every later drain fails, and no call may be
# acknowledged any more.
#
# Threads: write, write64 and flush of different places, and drain, may run side by side; many
# drains share one.

from libc.stdint cimport uint64_t

cdef struct medium

cdef struct medium_operations:
    void (*write)(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil
    # atomic, also with respect to a crash
    void (*write64)(medium *m, uint64_t offset, uint64_t value) noexcept nogil
    void (*flush)(medium *m, uint64_t offset, uint64_t n) noexcept nogil
    int (*drain)(medium *m) noexcept nogil  # 0, or -1: it failed, for good

# Numbers of a pool that is replicated (rnvm/replication/replicator.pxd); only the thread that
# writes the pool uses them.
cdef struct replicated:
    uint64_t epoch
    uint64_t published         # number of the last frame: everything drained is in frames up to it
    uint64_t acked             # frames up to it are durable on all mirrors that count; never falls
    uint64_t in_sync           # number of mirrors in sync
    uint64_t min_mirrors       # with fewer of them nothing new is acknowledged as replicated

cdef struct medium:
    const medium_operations *ops
    char *base                 # where the pool is mapped
    uint64_t length            # usable bytes
    int error                  # errno of the failure that ended it, or 0
    void *state                # the implementation's
    replicated *replication    # NULL: no mirror can follow it


cdef class Medium:
    """A pool's medium; owns the mapping and the file."""
    cdef medium c
    cdef object __weakref__
    cdef bint served                   # a back-end uses it: it must not be closed
    # base is the medium itself: a process that maps it can persist stores by flushing cache lines
    cdef readonly bint direct
    # Returns the file whose bytes from 0 on are base, for peers of this host to map; -1: none.  The
    # medium keeps it.
    cpdef int fileno(self)
    cpdef close(self)
    cdef int check(self, uint64_t offset, uint64_t n) except -1   # within its length, and open
    cdef int check_unserved(self) except -1  # raises CallerError; the first step of close()

# Raises StorageFailed for a medium whose drain failed.
cdef int raise_failed(medium *m) except -1


cdef inline void medium_write(medium *m, uint64_t offset, const void *source,
                              uint64_t n) noexcept nogil:
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
    cdef int fd                # the file with its initial content, or -1
    cdef object refused(self, uint64_t length)
    cdef int map_file(self) except -1
    cdef void unmap(self) noexcept
