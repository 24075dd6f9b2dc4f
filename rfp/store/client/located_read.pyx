"""Located reads (the contract is in located_read.pxd)."""

from cpython.buffer cimport Py_buffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from rfp.core.core cimport (
    rfp_crc32c, rfp_fence_acquire, rfp_hash, rfp_load32, rfp_load64, rfp_now, rfp_pause,
)
from rfp.core.limits cimport RFP_LINE
from rfp.core.owner_word cimport RFP_OWNER_WORD, rfp_owner_alive
from rfp.fabric.fabric cimport READ, SIGNALED, RemoteRegion, work_request
from rfp.protocol.client.client_ring cimport LANDED, client_ring, client_ring_poll_completions
from rfp.protocol.client.remote_arena cimport (
    ARENA_HERE, ARENA_MISSING, RemoteArena, remote_arena_find,
)
from rfp.store.client.direct_read cimport (
    DIRECT_FOUND, DIRECT_UNSURE, direct_record, direct_result,
)
from rfp.store.client.location_cache cimport location, location_expires, location_slot
from rfp.store.client.recency cimport recency_note
from rfp.store.client.server_clock cimport (
    SERVER_CLOCK_MARGIN_NS, server_clock_is_before, server_clock_note,
)
from rfp.store.layout cimport (
    KV_ARENA_START, KV_EXPIRY_SHIFT, KV_MAX_SEALED, KV_STATE_KEY, kv_record, kv_record_size,
    kv_key_crc, kv_same, kv_seal_crc, kv_slot, kv_slot_length, kv_slot_offset, kv_slot_tag, kv_tag,
    kv_value_offset,
)
from rfp.store.messages cimport KV_MAX_KEY, KV_PLACE_EVICTS, KV_PLACE_EXPIRES

from rfp.errors import DeadlineExceeded

cdef enum:
    READS_MAX = 64                 # of a batch, with one doorbell for each worker
    CLOCK_OFFSET = 65536           # of the clock's word in the landing memory
    LANDING_NS_MAX = 50000000      # for READs to complete; then the server is asked
    LATE_MAX = 3                   # reads in a row that did not complete; then none for a while
    CHUNK_MISSES = 16              # places in a chunk that is not attached, before it is requested
    CHUNK_POLL_NS = 1000000        # between two polls for the response to that request
    WANTED_MAX = 4096              # chunks whose misses are counted

cdef uint64_t RETRY_NS = 10000000000           # after a refused chunk, or after late reads


cdef bint located_check(const char *copy, uint64_t length, uint64_t seed, const char *key,
                        uint32_t key_length, located_record *found) noexcept nogil:
    cdef const kv_record *record = <const kv_record *> copy
    cdef uint32_t crc
    if length < sizeof(kv_record) or not record.version:
        return False
    if (record.state & KV_STATE_KEY) != key_length or record.value_length > KV_MAX_SEALED:
        return False
    found.size = kv_record_size(key_length, record.value_length)
    if found.size > length or not kv_same(copy + sizeof(kv_record), key, key_length):
        return False
    found.value = copy + kv_value_offset(key_length)
    found.value_length = record.value_length
    found.version = record.version
    found.expiry = record.state >> KV_EXPIRY_SHIFT
    crc = kv_key_crc(seed, key, key_length)
    crc = rfp_crc32c(crc, found.value, found.value_length)
    return kv_seal_crc(crc, key_length, found.value_length, found.version) == record.crc


# READs


cdef bint post(client_ring *ring, work_request *works, int n, uint64_t until) noexcept nogil:
    """Post READs into the landing memory; return whether all were posted in time."""
    cdef int posted = 0, accepted
    while True:
        accepted = ring.pair.ops.post(ring.pair, works + posted, n - posted)
        posted += accepted
        ring.landing += accepted
        ring.reads += accepted
        if posted == n:
            return True
        client_ring_poll_completions(ring)      # makes room
        rfp_pause()
        if ring.lost or rfp_now() > until:
            return False


cdef bint complete(client_ring *ring, uint64_t until) noexcept nogil:
    """Wait for the READs into the landing memory; return whether all have completed in time."""
    cdef uint32_t polls = 0
    client_ring_poll_completions(ring)
    while ring.landing and not ring.lost:
        rfp_pause()
        client_ring_poll_completions(ring)
        polls += 1
        if polls % 64 == 0 and (rfp_now() > until or rfp_load32(ring.closing)):
            # The thread may not have run for that whole time.
            client_ring_poll_completions(ring)
            break
    return not ring.landing and not ring.lost


cdef bint land_all(channel *ch, located *reads, int n, uint64_t until, bint *clock) noexcept nogil:
    """Do all READs, those of one worker with one doorbell; *clock: the server's clock as well."""
    cdef work_request works[READS_MAX + 1]
    cdef work_request *work
    cdef client_ring *ring
    cdef uint32_t worker
    cdef int first, i, m
    cdef bint all_landed = True, expires
    clock[0] = False
    for first in range(n):
        if reads[first].posted:
            continue
        worker = reads[first].worker
        ring = ch.rings[worker]
        m = 0
        expires = False
        for i in range(first, n):
            if reads[i].worker != worker:
                continue
            reads[i].posted = True
            work = works + m
            work.id = LANDED
            work.opcode = READ
            work.flags = SIGNALED
            work.length = reads[i].size
            work.local = ch.landing
            work.local_offset = reads[i].landing
            work.remote = reads[i].region
            work.remote_offset = reads[i].at
            m += 1
            expires = expires or reads[i].expires
        if expires and ring.heartbeat != NULL:
            clock[0] = True
            # Last: READs keep their order, so the clock is not older than the records.
            work = works + m
            work[0] = works[m - 1]
            work.length = 8
            work.local_offset = CLOCK_OFFSET
            work.remote = ring.heartbeat
            work.remote_offset = 0
            m += 1
        if not post(ring, works, m, until):
            all_landed = False
            break
    for first in range(n):
        if reads[first].posted and not complete(ch.rings[reads[first].worker], until):
            all_landed = False
    ch.landing_pending = not all_landed
    return all_landed


cdef bint settle(channel *ch) noexcept nogil:
    """Return whether the READs that were left alone have completed by now."""
    cdef uint32_t i
    for i in range(ch.count):
        if ch.rings[i].landing:
            client_ring_poll_completions(ch.rings[i])
            if ch.rings[i].landing:
                return False
    ch.landing_pending = False
    return True


cdef class LocatedReads(DirectReads):
    """Reads of records at the places where they were last.

    Args:
        connection: with the server's arenas.
        limit: places to remember.
    """

    def __cinit__(self, connection, object limit):
        cdef RemoteArena arena
        cdef RemoteRegion line = connection.owner_line
        self.connection = connection
        self.cache = LocationCache(limit)
        self.wanted = {}
        self.same_clock = connection.same_clock
        self.count = 0
        if not connection.needs_registration:
            if line is None or not connection.owner:
                return
            self.owner_word = line.c.base + RFP_OWNER_WORD
            self.owner = connection.owner
        for i, arena in enumerate(connection.arenas):
            if arena is None:
                return
            self.remote[i] = &arena.c
        self.count = len(connection.arenas)

    @property
    def counters(self):
        """Return how many reads found a value and had to be sent to the server, and why."""
        return {"found": self.found, "absent": self.absent, "unsure": self.unsure,
                "hits": self.found, "misses": self.misses, "stale": self.stale,
                "entries": self.cache.used, "bytes": self.cache.bytes,
                "read_bytes": self.read_bytes, "chunks": self.chunks}

    cdef direct_result locate(self, channel *ch, bytes key, uint64_t hash, uint32_t *worker,
                              direct_record *record) noexcept:
        return DIRECT_UNSURE                    # no record is mapped

    cdef Py_ssize_t exists_many(self, channel *ch, list keys, Py_ssize_t begin, Py_ssize_t end,
                                list values, list rest) except -1:
        rest.extend(range(begin, end))
        return end

    cdef bint probe(self, channel *ch) noexcept:
        cdef located r
        r.worker = 0
        r.region = ch.rings[0].responses
        r.at = ch.rings[0].response_offset
        r.size = RFP_LINE
        r.landing = 0
        r.expires = r.posted = False
        return ch.landing != NULL and self.land(ch, &r, 1)

    # Places

    cdef int learn(self, uint64_t hash, const kv_place *place) except -1:
        self.evicting[self.worker_of(hash)] = place.flags & KV_PLACE_EVICTS != 0
        return self.remember(hash, place.slot, place.flags & KV_PLACE_EXPIRES != 0)

    cdef int learn_reference(self, uint64_t hash, uint32_t key_length, uint64_t offset,
                             uint64_t length) except -1:
        if length > KV_MAX_SEALED or offset < kv_value_offset(key_length):
            return 0
        return self.remember(hash, kv_slot(kv_tag(hash), offset - kv_value_offset(key_length),
                                           kv_record_size(key_length, length)), False)

    cdef int remember(self, uint64_t hash, uint64_t slot, bint expires) except -1:
        cdef uint32_t worker = self.worker_of(hash)
        cdef uint64_t offset = kv_slot_offset(slot), size = kv_slot_length(slot)
        cdef uint64_t at, room
        cdef remote_region *region
        cdef int where
        if kv_slot_tag(slot) != kv_tag(hash) or offset < KV_ARENA_START or \
                size <= sizeof(kv_record) or size > kv_record_size(KV_MAX_KEY, KV_MAX_SEALED):
            return 0
        where = remote_arena_find(self.remote[worker], offset, size, &region, &at, &room)
        if (where != ARENA_HERE and where != ARENA_MISSING) or room < size:
            return 0                            # outside, or across two chunks
        self.cache.put(hash, slot, expires)
        if where == ARENA_MISSING:
            self.want(worker, offset)
        return 0

    cdef int want(self, uint32_t worker, uint64_t offset) except -1:
        """Count a miss of a chunk; request the chunk after some, or attach the requested one."""
        cdef uint64_t now = rfp_now()
        cdef object chunk, number, requested = None
        if self.requesting or now - self.polled < CHUNK_POLL_NS and self.requested is not None:
            return 0
        chunk = (worker, offset // self.remote[worker].chunk)
        self.requesting = True
        try:
            if self.requested is not None:
                self.polled = now
                # First: after an exception of a signal handler the response may be gone.
                requested, self.requested = self.requested, None
                if self.connection.finish_chunk(*requested):
                    self.wanted.pop(requested[:2], None)
                    self.chunks += 1
                else:
                    self.requested = requested
                return 0
            if now < self.request_after:
                return 0
            if len(self.wanted) >= WANTED_MAX:
                self.wanted.clear()
            self.wanted[chunk] = self.wanted.get(chunk, 0) + 1
            if self.wanted[chunk] >= CHUNK_MISSES:
                number = self.connection.begin_chunk(*chunk)
                self.requested = (*chunk, number)
        except DeadlineExceeded:
            self.requested = requested          # another thread uses the control channel
        except Exception:
            # Refused, or the connection is lost: that is for a request to find.  A call that has
            # its value must not fail here.
            self.request_after = now + RETRY_NS
        finally:
            self.requesting = False
        return 0

    # Reading

    cdef bint find(self, channel *ch, uint64_t hash, located *r) noexcept:
        """Find the place of a key that can be read now."""
        cdef location *entry
        cdef client_ring *ring
        cdef uint64_t room
        if self.paused_until:
            if rfp_now() < self.paused_until:
                self.unsure += 1
                return False
            self.paused_until = 0
        r.worker = self.worker_of(hash)
        ring = ch.rings[r.worker]
        # A request whose call timed out may change this key yet (direct_read.pyx).
        if ch.landing == NULL or ring.lost or ring.unsettled or \
                ch.landing_pending and not settle(ch):
            self.unsure += 1
            return False
        entry = self.cache.find(hash)
        if entry == NULL:
            self.misses += 1
            return False
        r.hash = hash
        r.slot = location_slot(entry, kv_tag(hash))
        r.size = kv_slot_length(r.slot)
        r.expires = location_expires(entry)
        r.posted = False
        r.landing = 0
        if remote_arena_find(self.remote[r.worker], kv_slot_offset(r.slot), r.size, &r.region,
                             &r.at, &room) != ARENA_HERE:
            self.misses += 1
            return False
        return True

    cdef bint land(self, channel *ch, located *reads, int n) noexcept:
        """Do READs without the GIL; the caller has made the channel busy."""
        cdef bint clock = False, landed
        cdef uint64_t posted = rfp_now()
        with nogil:
            landed = land_all(ch, reads, n, posted + LANDING_NS_MAX, &clock)
        self.late = 0 if landed else self.late + 1
        if self.late == LATE_MAX:
            self.late = 0
            self.paused_until = rfp_now() + RETRY_NS
        if landed and clock:
            server_clock_note(&self.clock, rfp_load64(ch.landing.base + CLOCK_OFFSET), posted,
                              rfp_now())
        return landed

    cdef bint lives_on(self, channel *ch, const located *r, uint64_t expiry) noexcept:
        """Return whether an expiry (ms of the server's clock) is certainly in the future."""
        cdef uint64_t now = rfp_now()
        if ch.rings[r.worker].heartbeat != NULL:
            return r.expires and server_clock_is_before(&self.clock, expiry * 1000000, now)
        return self.same_clock and expiry * 1000000 > now + SERVER_CLOCK_MARGIN_NS

    cdef bint check(self, channel *ch, located *r, const char *key, uint32_t key_length,
                    located_record *found) noexcept:
        """Return whether a READ has brought the key's value; forget the place if it has not."""
        cdef location *entry
        cdef uint64_t slot
        cdef bint whole = located_check(ch.landing.base + r.landing, r.size, self.seed, key,
                                        key_length, found)
        rfp_fence_acquire()
        if self.owner_word != NULL and not rfp_owner_alive(self.owner_word, self.owner):
            self.unsure += 1
            return False
        self.read_bytes += r.size
        if not whole:
            self.stale += 1
            entry = self.cache.find(r.hash)
            if entry != NULL and location_slot(entry, kv_tag(r.hash)) == r.slot:
                self.cache.drop(entry)
            return False
        slot = kv_slot(kv_tag(r.hash), kv_slot_offset(r.slot), found.size)
        if slot != r.slot or r.expires != (found.expiry != 0):
            self.cache.put(r.hash, slot, found.expiry != 0)
        r.slot = slot
        if found.expiry and not self.lives_on(ch, r, found.expiry):
            self.unsure += 1
            return False
        return True

    cdef void note_hit(self, channel *ch, const located *r) noexcept:
        self.found += 1
        if self.evicting[r.worker]:
            recency_note(&self.uses, ch, r.worker, r.hash, r.slot)

    cdef object get(self, channel *ch, bytes key, Py_buffer *view, uint64_t *version,
                    direct_result *result):
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef uint32_t length = <uint32_t> PyBytes_GET_SIZE(key)
        cdef located_record found
        cdef located r
        cdef uint32_t busy
        cdef object value = None
        result[0] = DIRECT_UNSURE
        if not self.find(ch, rfp_hash(text, length, self.seed), &r):
            return None
        busy = ch.busy
        ch.busy = 1
        try:
            if self.land(ch, &r, 1) and self.check(ch, &r, text, length, &found):
                if view == NULL:
                    value = PyBytes_FromStringAndSize(found.value, found.value_length)
                elif found.value_length <= <uint64_t> view.len:
                    memcpy(view.buf, found.value, found.value_length)
                    value = found.value_length
                else:          # the server decides that the buffer is too short
                    return None
                version[0] = found.version
                result[0] = DIRECT_FOUND
        finally:
            ch.busy = busy     # an event loop's rings may be in use
        if result[0] == DIRECT_FOUND:
            self.note_hit(ch, &r)
        return value

    cdef Py_ssize_t get_many(self, channel *ch, list keys, Py_ssize_t begin, Py_ssize_t end,
                             list values, list rest) except -1:
        cdef located reads[READS_MAX]
        cdef located_record found
        cdef const char *text
        cdef uint32_t length, busy
        cdef uint64_t landing = 0
        cdef int n = 0, i
        cdef bint landed
        while begin < end and n < READS_MAX and \
                landing + kv_record_size(KV_MAX_KEY, KV_MAX_SEALED) <= CLOCK_OFFSET:
            key = keys[begin]
            if self.find(ch, rfp_hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), self.seed),
                         &reads[n]):
                reads[n].position = begin
                reads[n].landing = landing
                landing += reads[n].size
                n += 1
            else:
                rest.append(begin)
            begin += 1
        if not n:
            return begin
        busy = ch.busy
        ch.busy = 1
        try:
            landed = self.land(ch, reads, n)
            for i in range(n):
                key = keys[reads[i].position]
                text = PyBytes_AS_STRING(key)
                length = <uint32_t> PyBytes_GET_SIZE(key)
                if landed and self.check(ch, &reads[i], text, length, &found):
                    values[reads[i].position] = PyBytes_FromStringAndSize(found.value,
                                                                          found.value_length)
                    self.note_hit(ch, &reads[i])
                else:
                    rest.append(reads[i].position)
        finally:
            ch.busy = busy
        return begin
