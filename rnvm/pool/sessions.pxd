# Sessions of front-ends: attach, fence, release.  A session owns its two rings and the blocks granted to it.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rnvm.pool.state cimport pool

cdef enum:                     # what session_attach answers beside a session
    NO_SESSION = -1            # all are taken, or wait for their operations to be executed
    SESSION_FAILED = -2        # the medium failed

# A session of its own epoch, durable: its index.  detail is kept beside it.
cdef int64_t session_attach(pool *p, uint64_t detail) noexcept nogil
# First step of fencing: the new epoch, durable and then visible, and a full fence.  After it what the session acknowledges was
# written before; the caller now cuts it off (destroys its queue pair), where that is possible.  0, or -1: the medium failed.
cdef int session_fence(pool *p, uint32_t session) noexcept nogil
# Second step: what is whole in its rings by now counts, and nothing behind it ever will.  0, or -1.
cdef int session_set_fence_point(pool *p, uint32_t session) noexcept nogil
# Last step, after a replay, when all of it has been applied and executed, and a checkpoint has been made since: its grants return
# and the session is free.  1: done; 0: not yet; -1: the medium failed.
cdef int session_release(pool *p, uint32_t session) noexcept nogil
