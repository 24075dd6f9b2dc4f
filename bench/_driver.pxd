# The driver's loop and what it asks of a database: asynchronous operations with a window.
#
# A database hands each thread a `database` struct of its own: function pointers that the thread calls without the GIL, one
# at a time.  The class `Connection` owns what stands behind it; opening and closing are its cold path, in Python.

from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum opcode:
    GET = 0
    PUT = 1                    # inserts or overwrites

cdef enum taken:               # what submit() answers
    TAKEN = 0
    WINDOW_FULL = 1            # reap first, then submit the same operation again
    LOST = -1                  # the database is gone: nothing more can be asked of it

cdef struct operation:         # key and value stay as they are until the operation has been reaped
    uint64_t id                # comes back in `finished`
    uint32_t opcode
    uint32_t key_length
    const char *key
    const char *value          # PUT
    uint64_t value_length

cdef struct finished:
    uint64_t id
    int32_t status             # bench._tally.status
    const char *value          # GET, if OK: stays until the next call of any of these functions
    uint64_t value_length

cdef struct database:
    void *self
    # Starts an operation.
    int (*submit)(void *self, operation *op) noexcept nogil
    # Takes up to n operations that are finished, in any order; 0 if none is; LOST.  Never waits.
    int (*reap)(void *self, finished *done, int n) noexcept nogil
    # Waits until an operation may be finished, at most ns nanoseconds.  NULL: the driver spins.
    void (*wait)(void *self, uint64_t ns) noexcept nogil


cdef class Connection:
    """One thread's way to a database."""
    cdef database c
    cdef readonly uint32_t window      # operations that it can have in flight
    cpdef str failure(self)            # why it answered LOST
    cpdef close(self)
