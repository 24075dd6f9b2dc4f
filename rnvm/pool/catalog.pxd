# The catalog: naming entries, created and dropped crash-atomically.  The class Pool (pool) keeps
# the table of names.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_name
from rnvm.pool.state cimport pool

# entry: kind, format, name, codec, UUID, time and root_blocks; state, CRC and root are filled in.
# The root is allocated and zeroed; all of it is durable.  Returns the structure's ID in logs; 0: no
# entry or memory is left, or the medium failed.
cdef uint32_t catalog_create(pool *p, rnvm_name *entry) noexcept nogil
# Frees all blocks of the structure, and its entry, durably.  Returns 0; -1: the medium failed.
cdef int catalog_drop(pool *p, uint32_t index) noexcept nogil
# Shows peers which structure is in an entry, if any.
cdef void catalog_publish(pool *p, uint32_t index) noexcept nogil
# Returns the CRC of an entry in private memory.
cdef uint32_t catalog_entry_crc(uint32_t seed, uint64_t at, const rnvm_name *entry) noexcept nogil
# Returns the state word of an entry: state, incarnation << 8.
cdef uint64_t catalog_entry_state(uint32_t seed, uint64_t at, uint32_t state,
                                  uint32_t incarnation) noexcept nogil
