# The status codes of a front-end's functions and of the structures on it.

from libc.stdint cimport uint64_t
from rnvm.frontend.state cimport instance

cdef enum:                     # from 1 on: the structure's own
    OK = 0
    AGAIN = -1                 # nodes contradict each other: restart; under the lock it is damage
    DAMAGED = -2               # an invariant does not hold; fault() recorded which
    FULL = -3                  # the pool has no free block
    TOO_LONG = -4              # a node over RNVM_NODE_BYTES_MAX, or a transaction over a log record
    NO_MEMORY = -5             # in this process
    LOST = -6                  # the connection is lost; from here on they come from the front-end
    LATE = -7                  # the deadline passed
    FENCED = -8                # the back-end has ended the session
    STOPPED = -9               # the handle is being closed
    GONE = -10                 # the structure was dropped
    TOO_MANY = -11             # structures in one transaction
    ALIEN = -12                # apply: an opcode that the kind does not know
    TOO_OLD = -13              # a snapshot whose version is not complete any more
    CONFLICT = -14             # a node that a read transaction has read was changed
    FEW_MIRRORS = -15          # in sync, fewer than required: nothing was logged
    UNREPLICATED = -16         # the call's deadline passed before its frame was replicated

# Records why a structure is damaged: address of the node, and a literal.  Returns DAMAGED.
cdef inline int fault(instance *s, uint64_t address, const char *what) noexcept nogil:
    s.error = DAMAGED
    s.fault_at = address
    s.fault = what
    return DAMAGED
