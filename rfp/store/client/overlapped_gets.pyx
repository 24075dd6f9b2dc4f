"""GETs of several keys whose requests overlap: post, take, and continue after a reconnection."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from rfp.core.core cimport rfp_now
from rfp.protocol.client.client_ring cimport (
    CLOSED, DONE, RETRY, TIMED_OUT, client_ring, client_ring_abandon, client_ring_flush,
    client_ring_step,
)
from rfp.store.client.client cimport choose_ring
from rfp.store.client.requests cimport kv_submit
from rfp.store.messages cimport KV_RELEASE


cdef class OverlappedGets:
    """The keys of a call, and how far it has come; it survives a reconnection."""

    cdef int prepare(self, Client client, Channel owner, client_call *c) except -1:
        return 0

    cdef bint post(self, Channel owner, client_call *c, key_call *k, uint64_t tag) except -1:
        raise NotImplementedError

    cdef outcome finish(self, Client client, Channel owner, client_call *c,
                        Py_ssize_t i) except RAISED:
        raise NotImplementedError

    cdef int set_key(self, key_call *k, Py_ssize_t i) except -1:
        cdef bytes name = self.names[self.positions[i]]
        k.key = PyBytes_AS_STRING(name)
        k.key_length = <uint32_t> PyBytes_GET_SIZE(name)
        k.key_object = <void *> name
        return 0

    cdef int describe(self, Channel owner, client_call *c, Py_ssize_t i, key_call *k) except -1:
        cdef flight *f = &self.flights[i % IN_FLIGHT_MAX]
        self.set_key(k, i)
        k.c.worker = f.worker
        k.c.ring = owner.c.rings[f.worker]
        k.c.now_ns = f.now_ns
        k.c.deadline_ns = c.deadline_ns
        k.c.result = DONE
        return 0

    cdef outcome submit(self, Channel owner, client_call *c, Py_ssize_t i) except RAISED:
        """Send request i, and note it; RETRY: no slot is free."""
        cdef key_call k
        cdef flight *f = &self.flights[i % IN_FLIGHT_MAX]
        self.set_key(&k, i)
        c.ring = choose_ring(&owner.c, &k)
        f.worker = k.c.worker
        f.now_ns = rfp_now()
        if not self.post(owner, c, &k, <uint64_t> i):
            return RETRY
        client_ring_flush(c.ring)
        return DONE

    cdef outcome take(self, Client client, Channel owner, client_call *c,
                      Py_ssize_t i) except RAISED:
        """Wait for the response of request i, and finish it."""
        cdef client_ring *ring = owner.c.rings[self.flights[i % IN_FLIGHT_MAX].worker]
        cdef outcome result = client_ring_step(ring)
        if result != DONE:
            result = client.wait(ring, c.deadline_ns)
        if result != DONE:
            return result
        # From here on this request is no longer under way, also if finish() raises.
        self.done = i + 1
        result = self.finish(client, owner, c, i)
        if result == RETRY:
            self.again.append(self.positions[i])
        elif result != DONE:
            self.done = i
            return result
        return DONE


cdef object attempt_gets(ClientBase base, Channel owner, client_call *c):
    cdef Client client = <Client> base
    cdef OverlappedGets gets = <OverlappedGets> (<gets_call *> c).gets
    cdef Py_ssize_t count = len(gets.positions)
    cdef Py_ssize_t sent = gets.done
    cdef uint32_t i
    c.result = DONE
    gets.prepare(client, owner, c)
    if c.result != DONE:
        return None
    try:
        while gets.done < count:
            client.poll_signals()
            if owner.c.closing:
                c.result = CLOSED
            elif rfp_now() > c.deadline_ns:
                c.result = TIMED_OUT
            if c.result != DONE:
                return None
            while sent < count and sent - gets.done < IN_FLIGHT_MAX:
                if gets.submit(owner, c, sent) != DONE:
                    break
                sent += 1
            if sent == gets.done:
                # All slots wait for the responses of calls that timed out.
                c.result = client.make_room(c.ring, c.deadline_ns)
                if c.result != RETRY:
                    return None
                c.result = DONE
                continue
            c.result = gets.take(client, owner, c, gets.done)
            if c.result != DONE:
                return None
    finally:
        for i in range(owner.c.count):
            if sent > gets.done and owner.c.rings[i].count:
                client_ring_abandon(owner.c.rings[i])
            release_pins(owner.c.rings[i])
    return None


cdef void release_pins(client_ring *ring) noexcept nogil:
    """Release all pins but one, which the next request releases anyway; wait for nothing."""
    cdef bint unsettled = ring.unsettled
    if ring.releases < 2 or ring.lost:
        return
    while ring.releases > 1 and kv_submit(ring, KV_RELEASE, b"", 0, 0):
        pass
    client_ring_flush(ring)
    client_ring_abandon(ring)
    ring.unsettled = unsettled             # these requests change no value
