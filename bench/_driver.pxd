# The interface between the driver's loop and a database: asynchronous operations with a window.
#
# A database gives each thread a `database` struct of its own: function pointers that the thread
# calls without the GIL, one at a time.  The class `Connection` owns the memory behind it; opening
# and closing are its cold path, in Python.

from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum opcode:
    DRIVER_GET = 0
    DRIVER_PUT = 1             # inserts or overwrites

cdef enum taken:               # results of submit()
    DRIVER_TAKEN = 0
    WINDOW_FULL = 1            # reap first, then submit the same operation again
    DRIVER_LOST = -1           # the database is lost: no more calls

cdef enum:
    REAPED_AT_ONCE = 64        # completions taken at once

cdef struct operation:         # key and value stay unchanged until the operation has been reaped
    uint64_t id                # comes back in `finished`
    uint32_t opcode
    uint32_t key_length
    const char *key
    const char *value          # DRIVER_PUT
    uint64_t value_length

cdef struct finished:
    uint64_t id
    int32_t status             # bench._tally.status
    # DRIVER_GET, if STATUS_OK: valid until the next call of any of these functions
    const char *value
    uint64_t value_length

cdef struct database:
    void *self
    # Starts an operation.
    int (*submit)(void *self, operation *op) noexcept nogil
    # Takes up to n completed operations, in any order; returns their number, or DRIVER_LOST.
    # Never waits.
    int (*reap)(void *self, finished *done, int n) noexcept nogil
    # Waits until an operation may be finished, at most ns nanoseconds.  NULL: the driver spins.
    void (*wait)(void *self, uint64_t ns) noexcept nogil


cdef class Connection:
    """One thread's connection to a database."""
    cdef database c
    cdef readonly uint32_t window      # the most operations in flight
    cpdef str failure(self)            # the reason of DRIVER_LOST
    cpdef close(self)
