# What the functions of a front-end and of the structures on it answer.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance

cdef enum:                     # from 1 on: the structure's own
    OK = 0
    AGAIN = -1                 # what was read does not fit together: a reader starts over; where nobody writes, it is damage
    DAMAGED = -2               # an invariant does not hold; fault() says which
    FULL = -3                  # no block is left in the pool
    TOO_LONG = -4              # a node over RNVM_NODE_BYTES_MAX, or a transaction that does not fit into the log
    NO_MEMORY = -5             # in this process
    LOST = -6                  # the connection; from here on they come from the driver
    LATE = -7                  # the deadline passed
    FENCED = -8                # the back-end took the session away
    STOPPED = -9               # the handle is being closed
    GONE = -10                 # the structure was dropped
    TOO_MANY = -11             # structures in one transaction
    ALIEN = -12                # apply: an operation that the kind does not know; whoever logged it was no front-end of ours

# DAMAGED, with the reason: a literal.
cdef inline int fault(instance *s, uint64_t address, const char *what) noexcept nogil:
    s.error = DAMAGED
    s.fault_at = address
    s.fault = what
    return DAMAGED
