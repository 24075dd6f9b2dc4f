"""Values too large for a slot.

Fetching
    The response is a reference: the server has pinned the value in its arena for the time of a
    lease.  The lease begins after the request was posted, so a READ that ends before now_ns + lease
    has ended before the memory can be reused.  A later one is discarded, and the call is made
    again.

Storing
    The client announces the value, WRITEs it piece by piece into its staging memory at the server,
    and sends a request for each piece.  The staging memory is used as a ring: while the server
    copies one piece, the client writes the next.  The value becomes visible with the last one.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_crc32c, rfp_now
from rfp.fabric.fabric cimport READ, WRITE, remote_region
from rfp.protocol.client.caller_memory cimport IoBuffer, open_io_buffer
from rfp.protocol.client.client_base cimport SIGNAL_POLL_NS, client_call
from rfp.protocol.client.client_ring cimport (
    DISCONNECTED, DONE, PROTOCOL_ERROR, RAISED, RETRY, TIMED_OUT, ClientRing, client_ring,
    client_ring_abandon, client_ring_flush, client_ring_pop, client_ring_release,
    client_ring_response, outcome,
)
from rfp.protocol.client.one_sided cimport client_ring_transfer
from rfp.protocol.client.remote_arena cimport (
    ARENA_HERE, ARENA_OUTSIDE, remote_arena, remote_arena_find,
)
from rfp.protocol.wire cimport rfp_reference, rfp_response_header
from rfp.store.client.client cimport choose_ring, refusal
from rfp.store.client.requests cimport kv_submit_number, kv_submit_piece
from rfp.store.messages cimport (
    KV_DEFERRED, KV_OK, KV_PIECE_CRC, KV_PUT_ABORT, KV_PUT_BEGIN, KV_UNSUPPORTED,
)

from rfp.errors import InvalidArgument

cdef enum:
    READ_BYTES = 16777216            # of one READ: between two, the deadline is checked
    READ_BYTES_NETWORK = 1048576     # the same over a network: READs of the heartbeat go between

cdef outcome late(uint64_t deadline) noexcept nogil:
    """Return the outcome of an attempt whose result came too late to be used."""
    return TIMED_OUT if rfp_now() > deadline else RETRY


cdef int close_if_lost(Channel owner, uint32_t worker, outcome result) except -1:
    """End the transfers that a failed server leaves: none reaches caller memory after the call."""
    cdef ClientRing ring
    if result == DISCONNECTED and not owner.c.rings[worker].one_sided_done:
        ring = owner.rings[worker]
        ring.pair.close()
    return 0


# Fetching


cdef object fetch_reference(Client client, Channel owner, get_call *get):
    cdef client_call *c = &get.k.c
    cdef rfp_reference *reference = &get.reference
    cdef remote_arena *arena = owner.c.arenas[c.worker]
    cdef remote_region *region
    cdef IoBuffer buffer
    cdef uint64_t read = 0
    cdef uint64_t place, size
    cdef uint64_t limit = c.now_ns + min(reference.lease, owner.c.lease)
    cdef char *target
    cdef object value = None
    if arena == NULL or reference.pin == 0 or \
            remote_arena_find(arena, reference.offset, reference.length, &region, &place,
                              &size) == ARENA_OUTSIDE:
        c.result = PROTOCOL_ERROR
        return None
    if get.view == NULL:
        value = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> reference.length)
        target = PyBytes_AS_STRING(value)
    else:
        if reference.length > <uint64_t> get.view.len:
            client_ring_release(c.ring, reference.pin)
            raise InvalidArgument(f"a value of {reference.length} bytes does "
                                  f"not fit into the buffer of {get.view.len}",
                                  hint="give a larger buffer")
        value = reference.length
        target = <char *> get.view.buf
    if not is_attached(arena, reference):
        # Attaching may take longer than the lease: make the call again once it is done.
        client_ring_release(c.ring, reference.pin)
        c.result = client.map_chunks(owner, c.worker, reference.offset, reference.length,
                                     c.deadline_ns)
        if c.result == DONE:
            c.result = late(c.deadline_ns)
        return None
    buffer = open_io_buffer(owner.connection, client.registrations, target, reference.length,
                            c.ring.pair.needs_registration)
    try:
        c.result = DONE
        try:
            while read < reference.length and c.result == DONE:
                client.poll_signals()
                with nogil:
                    c.result = read_pieces(c.ring, arena, reference, buffer, target, &read,
                                           c.deadline_ns)
        finally:
            client_ring_release(c.ring, reference.pin)
        if c.result == DONE and rfp_now() > limit:
            # The server may have reused the memory.
            c.result = late(c.deadline_ns)
        close_if_lost(owner, c.worker, c.result)
    finally:
        buffer.end()
    return value


cdef outcome read_pieces(client_ring *ring, remote_arena *arena, rfp_reference *reference,
                         IoBuffer buffer, char *target, uint64_t *read,
                         uint64_t deadline) noexcept nogil:
    """READ the value from *read on; return at its end, on a failure, or to poll for signals."""
    cdef uint64_t until = rfp_now() + SIGNAL_POLL_NS
    cdef remote_region *region
    cdef uint64_t place, size
    cdef uint64_t size_max = READ_BYTES_NETWORK if ring.pair.needs_registration else READ_BYTES
    cdef outcome result = DONE
    if buffer.bounce != NULL:
        size_max = buffer.bounce.length
    while read[0] < reference.length and result == DONE and rfp_now() < until:
        remote_arena_find(arena, reference.offset + read[0], reference.length - read[0], &region,
                          &place, &size)
        size = min(size, size_max)
        if buffer.bounce != NULL:
            result = client_ring_transfer(ring, READ, buffer.bounce, 0, region, place, size,
                                          deadline)
            if result == DONE:
                memcpy(target + read[0], buffer.bounce.base, size)
        else:
            result = client_ring_transfer(ring, READ, &buffer.direct, buffer.offset + read[0],
                                          region, place, size, deadline)
        read[0] += size
    return result


cdef bint is_attached(remote_arena *arena, rfp_reference *reference) noexcept nogil:
    """Return whether all chunks of a reference are attached."""
    cdef remote_region *region
    cdef uint64_t place, size
    cdef uint64_t at = 0
    while at < reference.length:
        if remote_arena_find(arena, reference.offset + at, reference.length - at, &region, &place,
                             &size) != ARENA_HERE:
            return False
        at += size
    return True


# Storing


cdef object attempt_upload(Client client, Channel owner, put_call *put):
    cdef client_call *c = &put.k.c
    cdef answer last
    cdef bint settled = False        # the server keeps nothing of the upload
    # Until the last piece is posted, the value cannot become visible: the call may be repeated.
    cdef bint all_posted = False
    choose_ring(&owner.c, &put.k)
    c.result = drain(client, owner, c.deadline_ns)
    if c.result != DONE:
        return None
    last.status = KV_OK
    try:
        c.result = announce(client, owner, put, &last)
        settled = c.result == DONE and last.status != KV_OK
        if c.result == DONE and last.status == KV_OK:
            c.result = stream(client, owner, put, last.result, &last, &all_posted)
            settled = c.result == DONE and last.status == KV_OK
    finally:
        c.submitted = all_posted
        if not settled and not c.ring.lost:
            # The server would free the memory itself, but much later.  stream() leaves a slot.
            client_ring_abandon(c.ring)
            if kv_submit_number(c.ring, KV_PUT_ABORT, 0, b"", 0, 0):
                client_ring_abandon(c.ring)
                client_ring_flush(c.ring)
    if c.result != DONE:
        return None
    if last.status != KV_OK:
        raise refusal(last.status, last.result, <bytes> put.k.key_object)
    return last.result


cdef outcome drain(Client client, Channel owner, uint64_t deadline) except RAISED:
    """Wait until no abandoned request can read this channel's staging memory any more."""
    cdef uint32_t i
    cdef outcome result
    for i in range(owner.c.count):
        while owner.c.rings[i].count:
            result = client.make_room(owner.c.rings[i], deadline)
            if result != RETRY:
                return result
    return DONE


cdef outcome announce(Client client, Channel owner, put_call *put, answer *a) except RAISED:
    """Send KV_PUT_BEGIN until the server has made room; a.result is the number of the upload."""
    cdef outcome result
    put.k.opcode = KV_PUT_BEGIN
    while True:
        result = client.exchange(owner, &put.k.c)
        if result != DONE:
            return result
        take_answer(put.k.c.ring, a)
        if a.status != KV_DEFERRED:
            return DONE
        if rfp_now() > put.k.c.deadline_ns:
            return TIMED_OUT
        client.poll_signals()


cdef void take_answer(client_ring *ring, answer *a) noexcept nogil:
    """Take status and result of the oldest response, and free its slot."""
    cdef const rfp_response_header *response = client_ring_response(ring)
    a.status = response.status
    a.result = response.result
    client_ring_pop(ring)


cdef outcome stream(Client client, Channel owner, put_call *put, uint64_t id, answer *last,
                    bint *all_posted) except RAISED:
    """Send all pieces of upload `id`; `last` is the first refusal, or the last piece's answer."""
    cdef IoBuffer buffer = open_io_buffer(
        owner.connection, client.registrations, <char *> put.view.buf, <uint64_t> put.view.len,
        put.k.c.ring.pair.needs_registration)
    cdef outcome result
    try:
        result = stream_pieces(client, owner, put, buffer, id, last, all_posted)
        close_if_lost(owner, put.k.c.worker, result)
        return result
    finally:
        buffer.end()


cdef outcome stream_pieces(Client client, Channel owner, put_call *put, IoBuffer buffer,
                           uint64_t id, answer *last, bint *all_posted) except RAISED:
    cdef client_ring *ring = put.k.c.ring
    cdef uint64_t deadline = put.k.c.deadline_ns
    cdef uint64_t length = <uint64_t> put.view.len
    cdef uint64_t staged = 0               # bytes of staging memory that are used
    cdef uint64_t posted = 0               # bytes of the value
    cdef uint64_t piece
    cdef uint32_t in_flight = 0
    cdef uint32_t in_flight_max
    cdef outcome result
    cdef answer a
    cdef uint64_t polled = rfp_now()
    cdef uint64_t now
    if owner.c.staging != NULL:
        staged = owner.c.staging.length // PIECE_BYTES * PIECE_BYTES
    in_flight_max = min(<uint32_t> (staged // PIECE_BYTES), ring.slots - 1)
    if in_flight_max == 0:
        last.status = KV_UNSUPPORTED
        return DONE
    while posted < length or in_flight:
        now = rfp_now()
        if now - polled >= SIGNAL_POLL_NS:
            polled = now
            client.poll_signals()
        if posted < length and in_flight < in_flight_max:
            piece = min(<uint64_t> PIECE_BYTES, length - posted)
            with nogil:
                result = post_piece(ring, owner.c.staging, posted % staged, buffer, id, posted,
                                    <uint32_t> piece, deadline)
            if result != DONE:
                return result
            posted += piece
            in_flight += 1
            all_posted[0] = posted == length
            continue
        result = client.wait(ring, deadline)
        if result != DONE:
            return result
        take_answer(ring, &a)
        in_flight -= 1
        if last.status == KV_OK:
            last[0] = a
        if last.status != KV_OK:
            # Stop posting: the server refuses further pieces too, since it has ended the upload.
            # Only the first refusal contains the cause.
            posted = length
    return DONE


cdef outcome post_piece(client_ring *ring, remote_region *staging, uint64_t place, IoBuffer buffer,
                        uint64_t id, uint64_t offset, uint32_t size,
                        uint64_t deadline) noexcept nogil:
    """WRITE one piece into the staging memory and post the request for it."""
    cdef const char *source = buffer.base + offset
    cdef uint32_t crc = 0
    cdef outcome result
    if buffer.bounce != NULL:
        memcpy(buffer.bounce.base, source, size)
        source = buffer.bounce.base
        result = client_ring_transfer(ring, WRITE, buffer.bounce, 0, staging, place, size, deadline)
    else:
        result = client_ring_transfer(ring, WRITE, &buffer.direct, buffer.offset + offset, staging,
                                      place, size, deadline)
    if result != DONE:
        return result
    # If the fabric keeps no order between cache lines, only a checksum proves that the whole piece
    # has arrived.
    if ring.checked:
        crc = rfp_crc32c(0, source, size)
    if not kv_submit_piece(ring, KV_PIECE_CRC if ring.checked else 0, id, offset, size, crc, place,
                           0):
        return DISCONNECTED
    client_ring_flush(ring)
    return DONE
