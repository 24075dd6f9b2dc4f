"""Planted bugs of replication.  For tests alone."""

from libc.stdint cimport uint32_t

bugs = {
    "skip frame": SKIP_FRAME, "out of order": APPLY_OUT_OF_ORDER,
    "acknowledge early": ACKNOWLEDGE_EARLY, "drain seldom": DRAIN_SELDOM,
    "forget joining": FORGET_JOINING, "own parts": REPLICATE_OWN_PARTS,
    "any epoch": ANY_EPOCH, "one promise": ONE_PROMISE,
}
cdef uint32_t planted = 0


def plant(*which):
    """Plant these bugs (no name: none), which a test must find."""
    global planted
    planted = 0
    for bug in which:
        planted |= <uint32_t> bugs[bug]


cdef uint32_t replication_bugs() noexcept nogil:
    return planted
