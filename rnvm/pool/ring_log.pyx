"""Read, collect, append and scan the records of a ring."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from rfp.core.core cimport RFP_ASSERT, rfp_copy_in
from rnvm.format.layout cimport (
    RNVM_LINE, rnvm_longest_record, rnvm_pad_before, rnvm_pad_seal, rnvm_record, rnvm_record_crc,
    rnvm_record_fits, rnvm_record_length, rnvm_record_seal, rnvm_ring_seed,
)
from rnvm.media.medium cimport medium, medium_flush, medium_write
from rnvm.pool.dual_copy cimport dual_copy_begin, dual_copy_finish, dual_copy_read

checks = CHECK_CRC | CHECK_LSN | CHECK_EPOCH
cdef uint32_t log_checks = CHECK_CRC | CHECK_LSN | CHECK_EPOCH


def _skip_checks(uint32_t skipped):
    """Accept records without these checks, which the crash model must find.  For tests alone."""
    global log_checks
    log_checks = <uint32_t> checks & ~skipped


cdef bint ring_open(ring *r, medium *m, uint32_t pool_seed, uint64_t at, uint64_t size,
                    uint64_t dual_copy_at, uint64_t epoch) noexcept nogil:
    cdef uint64_t[3] words
    RFP_ASSERT(size > 0)
    RFP_ASSERT(size % RNVM_LINE == 0)
    RFP_ASSERT(at + size <= m.length)
    memset(r, 0, sizeof(ring))
    r.m = m
    r.at = at
    r.size = size
    r.dual_copy_at = dual_copy_at
    r.pool_seed = pool_seed
    r.seed = rnvm_ring_seed(pool_seed, at)
    r.epoch = epoch
    if not dual_copy_read(m, pool_seed, dual_copy_at, words):
        return False
    r.head = r.replayed = r.durable = r.tail = words[0]
    r.limit = words[1]
    r.end = words[2]
    return True


cdef uint64_t ring_read(const ring *r, uint64_t lsn, char *buffer,
                        uint64_t capacity) noexcept nogil:
    cdef rnvm_record *record = <rnvm_record *> buffer
    cdef uint64_t place = lsn % r.size
    cdef uint64_t expected = lsn, epoch = r.epoch
    if lsn >= r.limit or lsn - r.head >= r.size:
        return 0
    RFP_ASSERT(r.size - place >= sizeof(rnvm_record))
    # Copy the header once: the checked bytes are the used ones.
    rfp_copy_in(record, r.m.base + r.at + place, sizeof(rnvm_record))
    if not log_checks & CHECK_LSN:
        expected = record.lsn
    if not log_checks & CHECK_EPOCH:
        epoch = record.epoch
    if not rnvm_record_fits(record, expected, epoch, r.size - place, rnvm_longest_record(r.size)):
        return 0
    if (record.payload > capacity - sizeof(rnvm_record) or record.length > r.limit - lsn
            or lsn + record.length - r.head > r.size):
        return 0
    rfp_copy_in(record + 1, r.m.base + r.at + place + sizeof(rnvm_record), record.payload)
    if log_checks & CHECK_CRC and rnvm_record_crc(r.seed, record, record + 1) != record.crc:
        return 0
    return record.length


cdef uint64_t ring_collect(ring *r, char *buffer, uint64_t capacity) noexcept nogil:
    cdef uint64_t found = 0, length, n
    if r.faulty:
        return 0
    while True:
        length = ring_read(r, r.tail, buffer, capacity)
        if not length:
            return found
        # Of a pad only the header counts.
        n = sizeof(rnvm_record) + (<rnvm_record *> buffer).payload
        medium_flush(r.m, r.at + r.tail % r.size, n)
        RFP_ASSERT(length >= n)
        r.tail += length
        found += length


cdef uint64_t ring_append(ring *r, uint16_t kind, uint16_t parts, const char *payload,
                          uint32_t length) noexcept nogil:
    cdef rnvm_record record
    cdef uint64_t size = rnvm_record_length(length)
    cdef uint64_t pad = rnvm_pad_before(r.tail, size, r.size)
    cdef uint64_t lsn
    if (size > rnvm_longest_record(r.size) or r.tail + pad + size - r.head > r.size
            or r.tail + pad + size > r.limit):
        return 0
    RFP_ASSERT(r.head <= r.tail)
    RFP_ASSERT(pad < r.size)
    if pad:
        rnvm_pad_seal(&record, r.seed, r.tail, r.epoch, <uint32_t> pad)
        medium_write(r.m, r.at + r.tail % r.size, &record, sizeof(rnvm_record))
    lsn = r.tail + pad
    rnvm_record_seal(&record, r.seed, lsn, r.epoch, kind, parts, payload, length)
    medium_write(r.m, r.at + lsn % r.size + sizeof(rnvm_record), payload, length)
    medium_write(r.m, r.at + lsn % r.size, &record, sizeof(rnvm_record))
    RFP_ASSERT(lsn % r.size + size <= r.size)
    r.tail = lsn + size
    return lsn


cdef void ring_scan(ring *r, char *buffer, uint64_t capacity) noexcept nogil:
    cdef uint64_t length = ring_read(r, r.tail, buffer, capacity)
    while length:
        r.tail += length
        length = ring_read(r, r.tail, buffer, capacity)


cdef uint64_t ring_behind(const ring *r, char *buffer, uint64_t capacity) noexcept nogil:
    cdef uint64_t lsn = r.tail + RNVM_LINE
    while lsn < r.head + r.size:
        if ring_read(r, lsn, buffer, capacity):
            return lsn
        lsn += RNVM_LINE
    return 0


cdef void ring_begin(ring *r, uint64_t head) noexcept nogil:
    cdef uint64_t[3] words
    RFP_ASSERT(head >= r.head)
    RFP_ASSERT(r.durable <= r.tail)
    words[0] = head
    words[1] = r.limit
    words[2] = r.durable
    dual_copy_begin(r.m, r.pool_seed, r.dual_copy_at, words)
    r.end = r.durable
    r.begun = True


cdef void ring_finish(ring *r) noexcept nogil:
    RFP_ASSERT(r.begun)
    dual_copy_finish(r.m, r.pool_seed, r.dual_copy_at)
    r.begun = False
