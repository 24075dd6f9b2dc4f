# Direct reads: a GET that reads a mapped partition's index and record itself, without the server.
#
# For fabrics on which a one-sided READ is a load from mapped memory.  layout.h states the server's
# side: validity, absence, order.  The reader's side:
#
#   value    slot, then the record's header, then its value, each copied once; then the CRC, which
#            covers the version, confirms the copy.  A value that the CRC does not cover is
#            confirmed by its version and the rearrangement counter, read before and after the copy.
#   absence  the rearrangement counter (even) and the number of buckets, then the whole chain, then
#            both again.  A record with the key's tag must be proven to be of another key.
#   owner    after everything else: the server's incarnation line (rfp/core/owner_word.h).  So the
#            memory was the living server's when it was read.
#
# The memory may change, or contain anything, at any moment: the reader checks each offset and
# length before it follows it, and walks at most KV_MAX_LINES overflow lines.  It never waits:
# DIRECT_UNSURE sends the request to the server.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint32_t, uint64_t
from rfp.core.limits cimport RFP_WORKERS_MAX
from rfp.protocol.client.channel cimport channel
from rfp.store.client.recency cimport recency

cpdef enum direct_result:
    DIRECT_FOUND = 0
    DIRECT_ABSENT = 1          # the key has no value
    DIRECT_UNSURE = 2          # only the server can answer

cdef enum:
    # Direct reads between two system calls that detect a dead server, in case the kernel could not
    # mark its line.
    READS_PER_LIVENESS_CHECK = 4096
    # Keys of a batch whose cache lines are prefetched before the first of them is read.
    PREFETCHED = 16

cdef struct direct_arena:      # one partition, mapped
    const char *base
    uint64_t length            # as the region's; a multiple of 64
    uint64_t seed              # of the CRC
    const char *owner_word     # in the server's incarnation line
    uint32_t owner
    bint same_clock            # whether the server's monotonic clock is this process's

cdef struct direct_record:     # a copy of a record's header, and where it is
    uint64_t slot              # the word of the index that led to it
    uint64_t offset
    uint32_t key_length
    uint32_t value_length
    uint32_t crc
    uint64_t version
    uint64_t expiry            # ms; 0: never

# Returns whether the region contains a partition that this client can read.
cdef bint direct_open(direct_arena *a, const char *base, uint64_t length, const char *owner_word,
                      uint32_t owner, bint same_clock) noexcept nogil
# Finds the key's record.  DIRECT_FOUND: `found` describes it; direct_take() must prove it.
cdef direct_result direct_find(const direct_arena *a, const char *key, uint32_t key_length,
                               uint64_t hash, direct_record *found) noexcept nogil
# Describes the record of this key at the place of a slot word that led to the key before, if it is
# valid now.
cdef direct_result direct_at(const direct_arena *a, uint64_t slot, const char *key,
                             uint32_t key_length, direct_record *found) noexcept nogil
# Copies the value (found.value_length bytes) to `target` and proves it: DIRECT_FOUND or
# DIRECT_UNSURE.  After DIRECT_UNSURE the content of `target` is undefined.
cdef direct_result direct_take(const direct_arena *a, const char *key, uint64_t hash,
                               const direct_record *found, char *target) noexcept nogil
# The same for a part of the value, which must be inside it; a length of 0 proves the record alone.
cdef direct_result direct_take_part(const direct_arena *a, const char *key, uint64_t hash,
                                    const direct_record *found, uint32_t offset, uint32_t length,
                                    char *target) noexcept nogil
# Prefetch the key's line of the index; and then, once that is in the cache, its record.
cdef void direct_prefetch_line(const direct_arena *a, uint64_t hash) noexcept nogil
cdef void direct_prefetch_records(const direct_arena *a, uint64_t hash) noexcept nogil
# Notes the use of a record that direct_take() has proven (recency.pxd).
cdef void direct_use(const direct_arena *a, recency *uses, channel *ch, uint32_t worker,
                     uint64_t hash, const direct_record *found) noexcept nogil


cdef class DirectReads:
    """The mapped partitions of one connection, and the uses of their records to report."""
    cdef direct_arena arenas[RFP_WORKERS_MAX]
    cdef uint32_t count                # 0: no direct reads
    cdef uint64_t seed
    cdef recency uses
    cdef uint32_t until_liveness_check
    # counters
    cdef uint64_t found
    cdef uint64_t absent
    cdef uint64_t unsure

    # The value of a key: new bytes, or, with `view`, copied there, and then its length; None if the
    # key has none.  result is DIRECT_UNSURE if only the server can answer.
    # ch: the calling thread's channel, not busy.  May release the GIL: afterwards the connection
    # may be closed.
    cdef object get(self, channel *ch, bytes key, Py_buffer *view, uint64_t *version,
                    direct_result *result)
    # Sets the values of keys[begin:end] with the GIL held all the time, and appends the positions
    # that need the server to `rest`.  Returns where it stopped: after SLICE_BYTES of values.
    cdef Py_ssize_t get_many(self, channel *ch, list keys, Py_ssize_t begin, Py_ssize_t end,
                             list values, list rest) except -1
    # Reads without a value to take, as a measure of what a read costs; False: it failed.
    cdef bint probe(self, channel *ch) noexcept
    cdef uint64_t hash_of(self, bytes key) noexcept
    # Finds the record of a key, and sets the key's worker; counts a proven miss.
    # DIRECT_FOUND: `record` describes the record, and direct_take() must prove it.
    cdef direct_result locate(self, channel *ch, bytes key, uint64_t hash, uint32_t *worker,
                              direct_record *record) noexcept
    # Counts a use of a record that locate() has found, and that was proven since.
    cdef void used_record(self, channel *ch, uint32_t worker, uint64_t hash,
                          const direct_record *record) noexcept
    # Whether a key has a value; it is not a use of the record.
    cdef bint exists(self, channel *ch, bytes key, uint64_t hash, direct_result *result) noexcept
    # The same for some of keys[begin:end], as get_many; returns where it stopped.
    cdef Py_ssize_t exists_many(self, channel *ch, list keys, Py_ssize_t begin, Py_ssize_t end,
                                list values, list rest) except -1
    # A part of a value as bytes, as the server clips it; may release the GIL.
    cdef object get_range(self, channel *ch, bytes key, uint64_t offset, uint64_t length,
                          direct_result *result)
    cdef direct_result take_part(self, channel *ch, bytes key, uint64_t hash, uint32_t worker,
                                 const direct_record *found, uint32_t offset, uint32_t length,
                                 char *target) noexcept
    cdef uint32_t worker_of(self, uint64_t hash) noexcept
    cdef bint server_runs(self, channel *ch) noexcept
    cdef object read(self, channel *ch, const char *key, uint32_t length, uint64_t hash,
                     Py_buffer *view, bint may_release_gil, uint64_t *version,
                     direct_result *result)
