# Sessions of front-ends: attach, fence, release.  A session owns its two rings and the blocks
# granted to it.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.pool.state cimport pool

cdef enum:                     # results of session_attach other than a session
    NO_SESSION = -1            # all are taken, or wait for the re-execution of their operations
    SESSION_FAILED = -2        # the medium failed

# Attaches a session with a new epoch, durably; returns its index.  detail is kept with it.
cdef int64_t session_attach(pool *p, uint64_t detail) noexcept nogil
# First step of fencing: the new epoch, durable and then visible, and a full fence.  All that the
# session acknowledges after it was written before; the caller now cuts the session off (destroys
# its queue pair), if possible.  Returns 0, or -1: the medium failed.
cdef int session_fence(pool *p, uint32_t session) noexcept nogil
# Second step: records that are whole in its rings by now count, and nothing behind them ever will.
# Returns 0, or -1.
cdef int session_set_fence_point(pool *p, uint32_t session) noexcept nogil
# Last step, after a replay, when everything has been applied and executed, and a checkpoint has
# been made since: its grants return and the session is free.  Returns 1: done; 0: not yet; -1: the
# medium failed.
cdef int session_release(pool *p, uint32_t session) noexcept nogil
