# cython: boundscheck=True, wraparound=True, cdivision=False
"""A channel: one client thread's rings to all workers of a server."""

from libc.string cimport memset

from rfp.core.core cimport rfp_store32
from rfp.core.limits cimport RFP_WORKERS_MAX
from rfp.fabric.fabric cimport EventChannel, Region, RemoteRegion
from rfp.protocol.client.client_ring cimport ClientRing
from rfp.protocol.client.remote_arena cimport RemoteArena

from rfp.errors import InvalidArgument


cdef class Channel:
    """One client thread's rings, one to each worker of a server.

    Args:
        number: the server's number for this channel.
        rings: one ClientRing per worker.
        arenas: one RemoteArena per worker, or None if the worker has none.
        staging: the server's region for large values, or None.
        reply, scratch, requests, responses, events: the objects that the rings use.
        lease: ns for which a reference is valid.
        seed: of the hash that chooses a key's worker.

    Raises:
        InvalidArgument: the numbers of rings and arenas differ, or are out of range.
    """

    def __cinit__(self, number, list rings not None, list arenas not None, RemoteRegion staging,
                  Region reply not None, Region scratch not None, RemoteRegion requests not None,
                  RemoteRegion responses not None, EventChannel events not None, uint64_t lease,
                  uint64_t seed):
        cdef ClientRing ring
        cdef RemoteArena arena
        memset(&self.c, 0, sizeof(self.c))
        if not 1 <= len(rings) <= RFP_WORKERS_MAX or len(arenas) != len(rings):
            raise InvalidArgument(f"invalid channel: {len(rings)} rings and {len(arenas)} arenas "
                                  f"(expected one each per worker, at most {RFP_WORKERS_MAX})")
        self.number = number
        self.rings = rings
        self.arenas = arenas
        self.reply = reply
        self.scratch = scratch
        self.requests = requests
        self.responses = responses
        self.staging = staging
        self.events = events
        self.c.lease = lease
        self.c.seed = seed
        self.c.count = len(rings)
        self.c.staging = NULL if staging is None else &staging.c
        for i, ring in enumerate(rings):
            self.c.rings[i] = &ring.c
            ring.c.closing = &self.c.closing
            arena = arenas[i]
            self.c.arenas[i] = NULL if arena is None else &arena.c

    def land_in(self, Region region not None):
        """Set the memory for READs beside the requests, which the channel then owns."""
        self.landing = region
        self.c.landing = &region.c

    def interrupt(self):
        """Make a call that waits on this channel return; safe from any thread."""
        rfp_store32(&self.c.closing, 1)
        if not self.closed:
            self.events.c.ops.notify(&self.events.c)

    def spare(self, list spares not None):
        """Append the channel to `spares`, for the next thread: its own thread has ended."""
        self.c.owner = NULL
        spares.append(self)

    @property
    def busy(self):
        """Return whether a call is in progress."""
        return self.c.busy != 0

    def close(self):
        """Close all that it owns; the caller made sure that no call is in progress."""
        if self.closed:
            return
        self.closed = True
        rfp_store32(&self.c.closing, 1)
        for ring in self.rings:
            ring.pair.close()
        self.events.close()
        for region in (self.reply, self.scratch, self.requests, self.responses, self.staging,
                       self.landing):
            if region is not None:
                region.close()

    @property
    def counters(self):
        """Return the sums of the rings' counters; lists of their modes and first READs."""
        total = {}
        for ring in self.rings:
            for name, value in ring.counters.items():
                if name not in ("mode", "fetch", "slot_size"):
                    total[name] = total.get(name, 0) + value
        total["fetch"] = [ring.counters["fetch"] for ring in self.rings]
        total["mode"] = [ring.counters["mode"] for ring in self.rings]
        return total
