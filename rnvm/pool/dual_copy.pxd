# Dual-copy records (struct rnvm_register, layout.h): three words that change together.
#
#   64 bytes:  generation, crc, words[3]  |  generation, crc, words[3]
#              copy 0                     |  copy 1
#
#   begin   writes the older copy          drain: the new words count
#   finish  makes the other copy equal     drain: damage to one copy cannot bring the old words back

from libc.stdint cimport uint32_t, uint64_t
from rnvm.media.medium cimport medium

cdef enum:                     # result of dual_copy_read
    FIRST_WHOLE = 1
    SECOND_WHOLE = 2
    ALIKE = 4                  # both are whole and equal

# Reads the record at this offset into words[3].  Returns 0: neither copy is whole.
cdef int dual_copy_read(medium *m, uint32_t seed, uint64_t at, uint64_t *words) noexcept nogil
# Writes the copy that does not count.  It holds from the next drain on.
cdef void dual_copy_begin(medium *m, uint32_t seed, uint64_t at,
                          const uint64_t *words) noexcept nogil
# To be called after that drain: makes the other copy equal.  From the next drain on, damage to one
# copy cannot bring the old words back.
cdef void dual_copy_finish(medium *m, uint32_t seed, uint64_t at) noexcept nogil
# Writes both copies of a record that contains nothing worth keeping (a new pool, a repair).
cdef void dual_copy_format(medium *m, uint32_t seed, uint64_t at,
                           const uint64_t *words) noexcept nogil

# After a crash the words read may not be durable yet: flush the record, drain, dual_copy_finish(),
# drain.
