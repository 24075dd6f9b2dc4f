# cython: boundscheck=True, wraparound=True, cdivision=False
"""The line by which clients know that the server whose memory they read still runs.

rfp/core/owner_word.h explains it.  The control thread owns the line, from before the first client
is welcomed until the server closes.
"""

import os

from libc.stdint cimport uint32_t

from rfp.core.limits cimport RFP_LINE
from rfp.core.owner_word cimport (
    RFP_OWNER_WORD, rfp_owner_alive, rfp_owner_before, rfp_owner_hold, rfp_owner_release,
    rfp_owner_supported,
)
from rfp.fabric.fabric cimport Region

from rfp.errors import FabricError, InvalidArgument


cdef class Incarnation:
    """Holds the owner's line at the beginning of a region, which peers may read.

    Raises:
        InvalidArgument: the region is shorter than a line.
    """
    cdef readonly Region region
    cdef readonly uint32_t owner       # the content of the word while the owner runs
    cdef rfp_owner_before before
    cdef bint held

    def __cinit__(self, Region region not None):
        if region.c.length < RFP_LINE:
            raise InvalidArgument(f"the region must have at least {RFP_LINE} bytes, got "
                                  f"{region.c.length}")
        self.region = region

    def hold(self):
        """Make the current thread the owner.

        Raises:
            FabricError: the kernel or its sandbox refuses robust futexes.
        """
        cdef int error = rfp_owner_hold(self.region.c.base, &self.owner, &self.before)
        if error:
            raise FabricError(f"cannot hold the incarnation line: {os.strerror(error)}")
        self.held = True

    def release(self):
        """End the incarnation; only the owner's thread may call this.  Safe to call again."""
        if self.held:
            self.held = False
            rfp_owner_release(self.region.c.base, &self.before)

    @property
    def alive(self):
        """Whether the owner holds the line and runs, as a client determines it."""
        return rfp_owner_alive(self.region.c.base + RFP_OWNER_WORD, self.owner)


def kernel_marks_dead_owners(Region region not None):
    """Return whether the kernel marks the line of a thread that ends without releasing it.

    Raises:
        InvalidArgument: the region is shorter than a line.

    Cost:
        Starts a thread and waits for its end.
    """
    if region.c.length < RFP_LINE:
        raise InvalidArgument(f"the region must have at least {RFP_LINE} bytes, got "
                              f"{region.c.length}")
    return rfp_owner_supported(region.c.base)
