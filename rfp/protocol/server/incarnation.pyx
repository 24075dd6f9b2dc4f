# cython: boundscheck=True, wraparound=True, cdivision=False
"""The line by which clients know that the server that they READ from still runs.

rfp/core/owner_word.h explains it.  The control thread owns the line, from before the first client
is welcomed until the server closes.
"""

import os

from libc.stdint cimport uint32_t

from rfp.fabric.fabric cimport Region
from rfp.errors import FabricError

cdef extern from "rfp/core/owner_word.h" nogil:
    enum:
        RFP_OWNER_LINE
    int rfp_owner_hold(void *line, uint32_t *offset, uint32_t *owner)
    void rfp_owner_release(void *line)
    bint rfp_owner_alive(const void *word, uint32_t owner)
    bint rfp_owner_supported(void *line)

OWNER_LINE = RFP_OWNER_LINE


cdef class Incarnation:
    """Holds the owner's line at the beginning of a region, which peers may read."""
    cdef readonly Region region
    cdef readonly uint32_t offset      # of the word within the line
    cdef readonly uint32_t owner       # its content while the owner runs
    cdef bint held

    def __cinit__(self, Region region not None):
        if region.c.length < RFP_OWNER_LINE:
            raise ValueError(f"the region must have at least {RFP_OWNER_LINE} bytes")
        self.region = region

    def hold(self):
        """Make the current thread the owner.

        Raises:
            FabricError: this kernel or its sandbox does not support robust futexes.
        """
        cdef int error = rfp_owner_hold(self.region.c.base, &self.offset, &self.owner)
        if error:
            raise FabricError(f"cannot hold the incarnation line: {os.strerror(error)}")
        self.held = True

    def release(self):
        """End the incarnation; only the owner's thread may call this.  Safe to call again."""
        if self.held:
            self.held = False
            rfp_owner_release(self.region.c.base)

    @property
    def alive(self):
        """Whether the owner holds the line and runs, as a client determines it."""
        return rfp_owner_alive(self.region.c.base + self.offset, self.owner)


def kernel_marks_dead_owners(Region region not None):
    """Return whether the kernel marks the line of a thread that has ended without releasing it.

    Cost:
        Starts a thread and waits for its end.
    """
    if region.c.length < RFP_OWNER_LINE:
        raise ValueError(f"the region must have at least {RFP_OWNER_LINE} bytes")
    return rfp_owner_supported(region.c.base)
