# The class Pool: create, open, recover, grow and close a pool.  Modules of the back-end share
# pool.c (state.pxd).

from libc.stdint cimport uint32_t, uint64_t
from rnvm.media.medium cimport Medium
from rnvm.pool.state cimport pool


cdef class Pool:
    """A pool that is open for writing."""
    cdef pool c
    cdef readonly Medium medium
    cdef readonly dict names           # bytes -> index of the entry, of all live structures
    cdef readonly list recovered       # actions of the opening, one text each
    cdef readonly list losses          # Findings: logs that were durable and are lost (accept_loss)
    cdef readonly list torn            # Findings: broken records with whole ones behind them
    cdef readonly bint clean           # it had been closed in order
    cdef bint closed
    cdef list lost(self)
    cdef list behind(self)
    cdef str place(self, str which, uint32_t i)
    cdef allocate(self)
    cdef uint64_t capacity(self)       # bytes of the longest record
    cdef recover(self)
    cpdef close(self)
    # raises InvalidArgument if there is no such session
    cdef int known(self, uint32_t session) except -1
    cdef int check(self) except -1     # raises Closed, or StorageFailed if the medium failed
