# The identity of a copy of a pool (struct rnvm_identity, replication.h): who it is, and whether it
# is whole.

from rnvm.format.replication cimport rnvm_identity
from rnvm.media.medium cimport medium

cdef enum:                     # result of identity_read(), beside FIRST_COPY and SECOND_COPY
    IDENTITY_DAMAGED = 4       # there was one, and neither copy is whole

cdef enum:                     # planted bugs
    IDENTITY_NO_EPOCH = 1      # the epoch is not kept
    IDENTITY_NOT_REFUSED = 2   # a copy that is not whole is opened

# Reads both copies; returns which of them are whole (FIRST_COPY | SECOND_COPY).  0: the pool has
# none, and *i is zeros.  Works on a medium whose header is zeros.
cdef int identity_read(const medium *m, rnvm_identity *i) noexcept nogil
# Writes the next generation, one copy after the other.  Returns 0, or -1: the medium failed.
cdef int identity_write(medium *m, rnvm_identity *i) noexcept nogil
# For a new pool: both copies are void with the next drain.
cdef void identity_forget(medium *m) noexcept nogil
# Raises PoolRefused for a copy in catch-up, and PoolDamaged for an identity of which neither copy
# is whole; every opener calls it first.
cdef int refuse_unwhole(const medium *m) except -1
