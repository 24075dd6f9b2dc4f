# The requests of a workload, drawn one by one, and the records that they write.
#
# A `workload` is constant and shared, `records` is shared by the threads of one phase, a `stream`
# belongs to one thread.
# A record of several fields is one value: for each field its length (u32, little-endian) and its
# bytes.  A record of one field is the field's bytes and nothing else, so that fieldcount=1
# fieldlength=32 stores exactly 32 bytes.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from bench._generators cimport KEY_ROOM_BYTES, generator, random_below, xoshiro, zipf, zipf_rank

cpdef enum:                    # kinds of requests
    KIND_READ = 0
    KIND_UPDATE = 1
    KIND_INSERT = 2
    KIND_READ_MODIFY_WRITE = 3
    KIND_SCAN = 4

cdef enum length_law:
    CONSTANT_LENGTH = 0
    UNIFORM_LENGTH = 1
    ZIPFIAN_LENGTH = 2

cpdef enum:
    ALL_FIELDS = -1
    UNACKNOWLEDGED = 1 << 20   # inserts that may wait for the acknowledgement of an older one

cdef struct request:           # 64 bytes
    uint64_t number            # of the record
    # the field to read or write, or ALL_FIELDS; KIND_SCAN: how many records
    int32_t field
    uint8_t kind
    uint8_t key_length
    char key[KEY_ROOM_BYTES]

cdef struct records:           # in memory that all threads of a phase write
    uint64_t next              # number of the next insert
    char apart[56]
    uint64_t acknowledged      # all records below this number exist
    uint32_t lock              # held by the thread that advances `acknowledged`
    char apart_too[52]
    uint64_t cursor            # of sequential requests
    uint8_t *flags             # number % UNACKNOWLEDGED: acknowledged out of order

cdef struct workload:
    double read                # the mix, cumulative: below this a read,
    double update              # below this an update,
    double insert              # below this an insert,
    double scan                # below this a scan, else a read-modify-write
    bint loading
    bint hashed
    bint read_all
    bint write_all
    bint verify                # dataintegrity
    int padding
    int32_t fields
    uint32_t shortest
    uint32_t longest
    int law                    # of field lengths
    zipf lengths
    uint32_t shortest_scan
    uint32_t longest_scan
    int scan_law
    zipf scans
    uint64_t record_size       # bytes of the largest record
    const char *pool           # POOL + longest random printable bytes

cdef struct stream:
    const workload *w
    records *shared
    xoshiro random
    generator numbers
    request *tape              # requests drawn in advance, or NULL
    uint64_t tape_length
    uint64_t tape_next

cdef void draw(stream *s, request *r) noexcept nogil
cdef void draw_now(stream *s, request *r) noexcept nogil
cdef void acknowledge(records *shared, uint64_t number) noexcept nogil

# Returns the length of the value to write for a whole record; `at` points into `room` (record_size
# bytes) or to constant memory.
cdef uint64_t build_record(stream *s, uint64_t number, char *room, const char **at) noexcept nogil
# Copies `old` with one new field into `room`; returns the length, or -1 if `old` is not a record of
# this workload.
cdef int64_t replace_field(stream *s, uint64_t number, int32_t field, const char *old,
                           uint64_t length, char *room) noexcept nogil
# Returns whether the record contains the bytes that dataintegrity wrote: of this number, all fields
# or one.
cdef bint record_is_intact(const workload *w, uint64_t number, int32_t field, const char *record,
                           uint64_t length) noexcept nogil


cdef class Workload:
    cdef workload c
    cdef records *shared
    cdef object pool
    cdef readonly object properties
    cdef readonly uint64_t operations
    cdef readonly uint64_t first
    cdef readonly uint64_t count


cdef class Stream:
    cdef stream c
    cdef Workload workload
