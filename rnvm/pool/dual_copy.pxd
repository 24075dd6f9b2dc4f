# Registers (layout.h): three words that change together.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.media.medium cimport medium

cdef enum:                     # what dual_copy_read found
    FIRST_WHOLE = 1
    SECOND_WHOLE = 2
    ALIKE = 4                  # both are whole and the same

# Reads the register at this offset into words[3].  0: neither copy is whole.
cdef int dual_copy_read(medium *m, uint32_t seed, uint64_t at, uint64_t *words) noexcept nogil
# Writes the copy that does not count.  It holds from the next drain on.
cdef void dual_copy_begin(medium *m, uint32_t seed, uint64_t at, const uint64_t *words) noexcept nogil
# After that drain: makes the other copy like it.  From the next drain on no damage to one copy brings the old words back.
cdef void dual_copy_finish(medium *m, uint32_t seed, uint64_t at) noexcept nogil
# Both copies of a register that holds nothing worth keeping (a new pool, a repair).
cdef void dual_copy_format(medium *m, uint32_t seed, uint64_t at, const uint64_t *words) noexcept nogil

# After a crash what is read may not be durable yet: flush the register, drain, dual_copy_finish(), drain.
