# Planted bugs of replication, which the tests must find.

from libc.stdint cimport uint32_t

cdef enum:
    SKIP_FRAME = 1             # some frames are acknowledged and not applied
    APPLY_OUT_OF_ORDER = 2     # some frames are applied behind the next one
    ACKNOWLEDGE_EARLY = 4      # before the drain
    DRAIN_SELDOM = 8           # two frames in one drain
    FORGET_JOINING = 16        # a joining mirror is not waited for
    REPLICATE_OWN_PARTS = 32   # live words and the write-ahead area are replicated and copied
    RESUME_ANYWHERE = 64       # a mirror goes on with the frames of another opening
    ACCEPT_UNWHOLE = 128       # a copy without identity, or in catch-up, goes on
    ANY_EPOCH = 256            # pieces of any epoch are applied

cdef uint32_t replication_bugs() noexcept nogil
