"""Uses of records by direct reads (the contract is in recency.pxd)."""

from libc.string cimport memcpy

from rfp.protocol.client.client_ring cimport (
    client_ring, client_ring_flush, client_ring_payload, client_ring_room, client_ring_submit,
)
from rfp.protocol.wire cimport RFP_REQUEST_HEADER
from rfp.store.messages cimport KV_REFER

cdef enum:
    SAMPLE_INTERVAL = 16
    # Reports in a row without another request of this client, after which it samples the uses.
    REPORTS_ALONE_MAX = 8
    # Uses of one worker's records that are worth a request before one that is sent anyway.
    REPORTED_MIN = 8


cdef void send_report(recency *r, channel *ch, uint32_t worker) noexcept nogil:
    """Sends a worker's uses, and waits for nothing: they are lost if the ring is half full."""
    cdef client_ring *ring = ch.rings[worker]
    cdef uint32_t room = (ring.slot_size - RFP_REQUEST_HEADER) // sizeof(kv_use)
    cdef uint32_t n = min(<uint32_t> r.used[worker], room)
    cdef uint32_t index
    cdef char *payload = NULL
    # The other half is for requests: a stopped server answers none of these.
    if n and client_ring_room(ring) > ring.slots // 2:
        payload = client_ring_payload(ring)
    r.used_in_all -= r.used[worker]
    r.used[worker] = 0
    if payload == NULL:
        return
    memcpy(payload, r.uses[worker], n * sizeof(kv_use))
    index = ring.head
    client_ring_submit(ring, KV_REFER, n, 0, n * sizeof(kv_use), 0)
    ring.slot[index].abandoned = True          # no call waits for it
    client_ring_flush(ring)


cdef void recency_note(recency *r, channel *ch, uint32_t worker, uint64_t hash,
                       uint64_t slot) noexcept nogil:
    cdef kv_use *use
    if r.reports_alone >= REPORTS_ALONE_MAX:
        r.skipped += 1
        if r.skipped < SAMPLE_INTERVAL:
            return
        r.skipped = 0
    use = &r.uses[worker][r.used[worker]]
    use.hash = hash
    use.slot = slot
    r.used[worker] += 1
    r.used_in_all += 1
    if r.used[worker] == USES_REPORTED:
        send_report(r, ch, worker)
        r.reports_alone += 1


cdef void recency_before_request(recency *r, channel *ch) noexcept nogil:
    cdef uint32_t i, worker
    r.reports_alone = 0
    if r.used_in_all < REPORTED_MIN or ch == NULL:
        return
    # One report at most: the others accompany the next requests.
    for i in range(ch.count):
        worker = r.next_report
        r.next_report = worker + 1 if worker + 1 < ch.count else 0
        if r.used[worker] >= REPORTED_MIN:
            send_report(r, ch, worker)
            return
