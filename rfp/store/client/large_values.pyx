"""Values too large for a slot (the contract is in large_values.pxd)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from rfp.core.core cimport rfp_crc32c, rfp_now
from rfp.fabric.fabric cimport READ, WRITE, remote_region
from rfp.protocol.client.caller_memory cimport IoBuffer, open_io_buffer
from rfp.protocol.client.client_base cimport FULL, RETRY, SIGNAL_POLL_NS
from rfp.protocol.client.client_ring cimport (
    DISCONNECTED, DONE, PROTOCOL_ERROR, TIMED_OUT, ClientRing, client_ring_abandon,
    client_ring_discard, client_ring_flush, client_ring_pop, client_ring_release,
    client_ring_response,
)
from rfp.protocol.client.one_sided cimport client_ring_transfer
from rfp.protocol.client.remote_arena cimport (
    ARENA_HERE, ARENA_OUTSIDE, remote_arena, remote_arena_find,
)
from rfp.protocol.wire cimport rfp_response_header
from rfp.store.client.requests cimport kv_submit_number, kv_submit_piece, kv_submit_put
from rfp.store.messages cimport (
    KV_DEFERRED, KV_OK, KV_PIECE_CRC, KV_PUT_ABORT, KV_PUT_BEGIN, KV_UNSUPPORTED,
)

from rfp.errors import InvalidArgument

cdef enum:
    PIECE = 131072            # bytes of an upload that travel with one request
    READ_PIECE = 16777216     # bytes of one READ: between two the deadline is looked at
    PIECE_OVER_NETWORK = 1048576    # the same where the server's beat has to come through between two


cdef object fetch_reference(Client client, Channel owner, uint32_t worker, rfp_reference *reference, uint64_t started,
                            uint64_t deadline, Py_buffer *view, int *found):
    """READs a value from where it stands in the server's arena; found: DONE, or why not (then to be asked for again).

    started: when the request was posted.  The server grants the lease after that, so a READ that ends before started + lease
    has ended before the memory can be reused; a later one is discarded.
    """
    cdef client_ring *ring = owner.c.rings[worker]
    cdef remote_arena *arena = owner.c.arenas[worker]
    cdef remote_region *region
    cdef IoBuffer buffer
    cdef uint64_t at = 0
    cdef uint64_t place, size
    cdef uint64_t piece = PIECE_OVER_NETWORK if ring.pair.needs_registration else READ_PIECE
    cdef uint64_t limit = started + min(reference.lease, owner.c.lease)
    cdef char *target
    cdef object value = None
    if arena == NULL or reference.pin == 0 or \
            remote_arena_find(arena, reference.offset, reference.length, &region, &place, &size) == ARENA_OUTSIDE:
        found[0] = PROTOCOL_ERROR
        return None
    if view == NULL:
        value = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> reference.length)
        target = PyBytes_AS_STRING(value)
    else:
        if reference.length > <uint64_t> view.len:
            client_ring_release(ring, reference.pin)
            raise InvalidArgument(f"a value of {reference.length} bytes does "
                                  f"not fit into the buffer of {view.len}",
                                  hint="give a larger buffer")
        value = reference.length
        target = <char *> view.buf
    if not whole(arena, reference):
        # Attaching may take longer than the lease: ask again, and find it attached.
        client_ring_release(ring, reference.pin)
        found[0] = client.map_chunks(owner, worker, reference.offset, reference.length, deadline)
        if found[0] == DONE:
            found[0] = TIMED_OUT if rfp_now() > deadline else RETRY
        return None
    buffer = open_io_buffer(owner.connection, client.registrations, target, reference.length, ring.pair.needs_registration)
    try:
        if buffer.bounce != NULL:
            piece = buffer.bounce.length
        found[0] = DONE
        try:
            while at < reference.length and found[0] == DONE:
                client.signals()
                with nogil:
                    found[0] = fetch_pieces(ring, arena, reference, buffer, target, piece, &at, deadline)
        finally:
            client_ring_release(ring, reference.pin)
        if found[0] == DONE and rfp_now() > limit:
            # Too late to be sure: the caller asks again.
            found[0] = TIMED_OUT if rfp_now() > deadline else RETRY
        settle(owner, worker, found[0])
    finally:
        buffer.end()
    return value


cdef int fetch_pieces(client_ring *ring, remote_arena *arena, rfp_reference *reference, IoBuffer buffer, char *target,
                      uint64_t piece, uint64_t *at, uint64_t deadline) noexcept nogil:
    """READs from `at` on, until all is there, something fails, or signals are to be polled."""
    cdef uint64_t until = rfp_now() + SIGNAL_POLL_NS
    cdef remote_region *region
    cdef uint64_t place, size
    cdef int found = DONE
    while at[0] < reference.length and found == DONE and rfp_now() < until:
        remote_arena_find(arena, reference.offset + at[0], reference.length - at[0], &region, &place, &size)
        size = min(size, piece)
        if buffer.bounce != NULL:
            found = client_ring_transfer(ring, READ, buffer.bounce, 0, region, place, size, deadline)
            if found == DONE:
                memcpy(target + at[0], buffer.bounce.base, size)
        else:
            found = client_ring_transfer(ring, READ, &buffer.direct, buffer.offset + at[0], region, place, size, deadline)
        at[0] += size
    return found


cdef bint whole(remote_arena *arena, rfp_reference *reference) noexcept nogil:
    """Whether all that a reference names is attached."""
    cdef remote_region *region
    cdef uint64_t place, size
    cdef uint64_t at = 0
    while at < reference.length:
        if remote_arena_find(arena, reference.offset + at, reference.length - at, &region, &place, &size) != ARENA_HERE:
            return False
        at += size
    return True


cdef int settle(Channel owner, uint32_t worker, int found) except -1:
    """What a server that is gone may leave under way ends here: nothing touches the caller's memory after the call."""
    cdef ClientRing ring
    if found == DISCONNECTED and not owner.c.rings[worker].one_sided_done:
        ring = owner.rings[worker]
        ring.pair.close()
    return 0


cdef int drain(Client client, Channel owner, uint64_t deadline) except -1:
    """Waits until nothing that was abandoned may still be reading this channel's staging memory."""
    cdef client_ring *ring
    cdef uint32_t i
    cdef int found
    for i in range(owner.c.count):
        ring = owner.c.rings[i]
        while ring.count:
            ring.slot[ring.tail].abandoned = False
            found = client.wait(owner, ring, deadline)
            if found != DONE:
                client_ring_abandon(ring)
                return FULL if found == TIMED_OUT else found
            client_ring_discard(ring)
    return DONE


cdef int upload(Client client, Channel owner, client_ring *ring, bytes key, Py_buffer *view, uint64_t ttl, uint32_t flags,
                uint64_t version, uint64_t deadline, answer *out, bint *sent) except -1:
    """Announces a value, streams it through the staging memory, and takes the answer to the last piece.

    sent: whether the last piece was posted, so that the value may become visible whatever happens to us.
    """
    cdef int found = drain(client, owner, deadline)
    cdef bint settled = False        # nothing of it is left at the server
    sent[0] = False
    if found != DONE:
        return found
    try:
        found = announce(client, owner, ring, key, view, ttl, flags, version, deadline, out)
        settled = found == DONE and out.status != KV_OK
        if found == DONE and out.status == KV_OK:
            found = stream(client, owner, ring, view, out.result, deadline, out, sent)
            settled = found == DONE and out.status == KV_OK
        return found
    finally:
        if not settled and not ring.lost:
            # The server would give its memory back by itself, but much later.  There is a slot: stream() leaves one.
            client_ring_abandon(ring)
            if kv_submit_number(ring, KV_PUT_ABORT, 0, b"", 0, 0):
                client_ring_abandon(ring)
                client_ring_flush(ring)


cdef int announce(Client client, Channel owner, client_ring *ring, bytes key, Py_buffer *view, uint64_t ttl, uint32_t flags,
                  uint64_t version, uint64_t deadline, answer *out) except -1:
    """KV_PUT_BEGIN, until the server has made room; the result is the upload's number."""
    cdef int found
    cdef bint taken
    while True:
        taken = kv_submit_put(ring, KV_PUT_BEGIN, flags, PyBytes_AS_STRING(key), <uint32_t> PyBytes_GET_SIZE(key), NULL,
                              <uint32_t> view.len, ttl, version, 0)
        found = client.send_and_wait(owner, ring, taken, deadline, out)
        if found != DONE or out.status != KV_DEFERRED:
            return found
        if rfp_now() > deadline:
            return TIMED_OUT
        client.signals()


cdef int stream(Client client, Channel owner, client_ring *ring, Py_buffer *view, uint64_t id, uint64_t deadline, answer *out,
                bint *sent) except -1:
    """The pieces.  The staging memory is used as a ring of them: while the server copies one, the next is written."""
    cdef IoBuffer buffer = open_io_buffer(owner.connection, client.registrations, <char *> view.buf, <uint64_t> view.len,
                                          ring.pair.needs_registration)
    cdef uint32_t worker = 0
    cdef int found
    while owner.c.rings[worker] != ring:
        worker += 1
    try:
        found = stream_through(client, owner, ring, buffer, <uint64_t> view.len, id, deadline, out, sent)
        settle(owner, worker, found)
        return found
    finally:
        buffer.end()


cdef int stream_through(Client client, Channel owner, client_ring *ring, IoBuffer buffer, uint64_t length, uint64_t id,
                        uint64_t deadline, answer *out, bint *sent) except -1:
    cdef const rfp_response_header *header
    cdef const char *source
    cdef uint64_t staged = owner.c.staging.length // PIECE * PIECE if owner.c.staging != NULL else 0
    cdef uint64_t at = 0          # bytes posted
    cdef uint64_t place
    cdef uint32_t size
    cdef uint32_t crc
    cdef uint32_t under_way = 0
    cdef uint32_t most = min(<uint32_t> (staged // PIECE), ring.slots - 1)
    cdef int found = DONE
    cdef uint64_t polled = rfp_now()
    cdef uint64_t now
    if most == 0:
        out.status = KV_UNSUPPORTED
        return DONE
    while at < length or under_way:
        now = rfp_now()
        if now - polled >= SIGNAL_POLL_NS:
            polled = now
            client.signals()
        if at < length and under_way < most:
            size = <uint32_t> min(<uint64_t> PIECE, length - at)
            place = at % staged
            with nogil:
                source = buffer.base + at
                if buffer.bounce != NULL:
                    memcpy(buffer.bounce.base, source, size)
                    source = buffer.bounce.base
                    found = client_ring_transfer(ring, WRITE, buffer.bounce, 0, owner.c.staging, place, size, deadline)
                else:
                    found = client_ring_transfer(ring, WRITE, &buffer.direct, buffer.offset + at, owner.c.staging, place, size,
                                                 deadline)
                # Where the fabric keeps no order between lines, only a checksum tells that all of the piece has arrived.
                crc = rfp_crc32c(0, source, size) if ring.checked else 0
                if found == DONE and not kv_submit_piece(ring, KV_PIECE_CRC if ring.checked else 0, id, at, size, crc, place, 0):
                    found = DISCONNECTED
                if found == DONE:
                    client_ring_flush(ring)
            if found != DONE:
                return found
            at += size
            under_way += 1
            sent[0] = at == length
            continue
        found = client.wait(owner, ring, deadline)
        if found != DONE:
            return found
        header = client_ring_response(ring)
        if out.status == KV_OK:
            out.status = header.status
            out.result = header.result
        client_ring_pop(ring)
        under_way -= 1
        if out.status != KV_OK:
            # What follows is refused as well, for want of the upload: the first answer tells the cause.
            at = length
    return DONE
