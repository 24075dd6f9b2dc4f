# Whether exactly the allocated nodes of a structure can be reached from its root.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance

cdef struct reachable:         # the result of a walk
    uint64_t nodes
    uint64_t bytes             # of them
    uint64_t blocks            # that contain them, those of the root included
    uint64_t lost_slots        # taken, and not reached
    uint64_t lost_blocks
    uint64_t lost_at           # address of the first of either

# A query under the writer lock: OK, or DAMAGED with the reason.  context: a reachable, all zeros,
# in which leaks are counted; if it is NULL the first leak is damage.
cdef int reach(instance *s, void *context) noexcept nogil
