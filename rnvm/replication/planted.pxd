# Planted bugs of replication, which the tests must find.

from libc.stdint cimport uint32_t

cdef enum:
    SKIP_FRAME = 1             # some frames are acknowledged and not applied
    APPLY_OUT_OF_ORDER = 2     # some frames are applied behind the next one
    ACKNOWLEDGE_EARLY = 4      # before the drain
    DRAIN_SELDOM = 8           # two frames in one drain
    FORGET_JOINING = 16        # a joining mirror is not waited for
    REPLICATE_OWN_PARTS = 32   # live words and the write-ahead area are replicated and copied
    ANY_EPOCH = 64             # pieces of any epoch are applied
    ONE_PROMISE = 128          # the latest promise of a mirror counts, not the earliest

cdef uint32_t replication_bugs() noexcept nogil
