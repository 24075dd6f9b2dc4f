"""Repair: turn back the one bit that flipped; if there is more damage, lose the least.

Everything works on a private copy of the pool; the caller writes the changes to the pool itself
(rnvm.check.check).
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from rfp.core.core cimport rfp_fence_full, rfp_load64, rfp_store64
from rnvm.format.layout cimport (
    RNVM_DROPPING, RNVM_FREE, RNVM_HEADERS, RNVM_LIVE, RNVM_LOST, RNVM_MAJOR, RNVM_MEMORY,
    RNVM_NAMES, RNVM_NAME_LIVE, RNVM_NO_LIMIT, RNVM_OPERATIONS, RNVM_PAGE, RNVM_SESSION_LIVE,
    RNVM_SESSION_STATE, RNVM_SUPERBLOCKS, RNVM_UNKNOWN, rnvm_address, rnvm_geometry, rnvm_header,
    rnvm_memory_ring_at, rnvm_name, rnvm_name_at, rnvm_operation_ring_at, rnvm_parts_of,
    rnvm_record, rnvm_session, rnvm_session_at, rnvm_superblock, rnvm_word, rnvm_word_at,
    rnvm_word_value, rnvm_word_whole, rnvm_words,
)
from rnvm.format.node cimport RNVM_NODE, RNVM_NODE_BYTES_MAX, rnvm_node, rnvm_node_crc
from rnvm.media.medium cimport Medium, VolatileMemory, medium
from rnvm.media.pool_header cimport header_read, superblock_read
from rnvm.media.wal cimport wal, wal_find, wal_frame_whole, wal_headers
from rnvm.pool.catalog cimport catalog_entry_crc, catalog_entry_state
from rnvm.pool.dual_copy cimport dual_copy_format, dual_copy_read
from rnvm.pool.inspect cimport Inspection
from rnvm.pool.pool cimport Pool
from rnvm.pool.ring_log cimport ring_read
from rnvm.pool.state cimport ring

from rfp.errors import InvalidArgument

cdef uint64_t NO_EPOCH = ~<uint64_t> 0     # that no session ever had

cdef enum:                     # the kind of part to test
    PART_HEADER = 1
    PART_SUPERBLOCK = 2
    PART_REGISTER = 3
    PART_STATE = 4
    PART_NAME = 5
    PART_OWNERS = 6
    PART_RECORD = 7
    PART_AREA = 8
    PART_FRAME = 9
    PART_NODE = 10

cdef enum:
    RECORD_BYTES = 4096        # limits the search for the bit in a log record, a frame or a node
    AREA_BYTES = 64            # of the header of the write-ahead area

cdef struct subject:
    int what
    medium *m
    rnvm_header *header
    uint32_t seed
    uint64_t at
    ring *r
    wal *a
    char *buffer
    uint64_t capacity
    uint64_t address
    uint32_t owner


cdef bint node_whole(const medium *m, uint32_t seed, uint64_t at, uint64_t address,
                     uint32_t owner) noexcept nogil:
    cdef const rnvm_node *node = <const rnvm_node *> (m.base + at)
    return (node.address == address and node.structure == owner and node.length >= RNVM_NODE
            and node.length <= RNVM_NODE_BYTES_MAX
            and node.length <= m.length - at and rnvm_node_crc(seed, node) == node.crc)


cdef bint whole(const subject *s) noexcept nogil:
    """Return whether the part is whole as it is now."""
    cdef rnvm_header header
    cdef rnvm_superblock superblock
    cdef uint64_t[3] words
    cdef uint64_t word
    cdef rnvm_name *entry
    if s.what == PART_HEADER:
        return header_read(s.m, &header) != 0
    if s.what == PART_SUPERBLOCK:
        return superblock_read(s.m, s.header, &superblock) != 0
    if s.what == PART_REGISTER:
        return dual_copy_read(s.m, s.seed, s.at, words) != 0
    if s.what == PART_NAME:
        entry = <rnvm_name *> (s.m.base + s.at)
        return entry.crc == catalog_entry_crc(s.seed, s.at, entry)
    if s.what == PART_RECORD:
        return ring_read(s.r, s.r.tail, s.buffer, s.capacity) != 0
    if s.what == PART_FRAME:
        return wal_frame_whole(s.m, s.a, s.at, s.a.generation, s.a.frames)
    if s.what == PART_NODE:
        return node_whole(s.m, s.seed, s.at, s.address, s.owner)
    if s.what == PART_AREA:
        wal_headers(s.m, s.a)
        return s.a.headers != 0
    word = rfp_load64(s.m.base + s.at)
    if not rnvm_word_whole(s.seed, s.at, word):
        return False
    if s.what == PART_STATE:
        word = rnvm_word_value(word) & 0xff
        return word == RNVM_FREE or word == RNVM_LIVE or word == RNVM_DROPPING or word == RNVM_LOST
    return True


cdef int64_t turn_back(const subject *s, uint64_t begin, uint64_t length) noexcept nogil:
    """Turn back the one bit in this range that makes the part whole.

    Return its number, or -1: there is none, or more than one.
    """
    cdef uint64_t bit, found = ~<uint64_t> 0
    cdef char *bytes = s.m.base + begin
    # The offset comes from the pool's own content.
    if begin > s.m.length or length > s.m.length - begin:
        return -1
    for bit in range(8 * length):
        bytes[bit >> 3] ^= 1 << (bit & 7)
        if whole(s):
            if found != ~<uint64_t> 0:
                found = ~<uint64_t> 0
                bytes[bit >> 3] ^= 1 << (bit & 7)
                break
            found = bit
        bytes[bit >> 3] ^= 1 << (bit & 7)
    if found == ~<uint64_t> 0:
        return -1
    bytes[found >> 3] ^= 1 << (found & 7)
    return found


cdef bint one_whole(subject *s, uint64_t at, uint64_t length) noexcept:
    """Turn back a bit of a doubled structure, in either copy; return whether one is whole."""
    return turn_back(s, at, length) >= 0 or turn_back(s, at + RNVM_PAGE, length) >= 0


def header(VolatileMemory private not None):
    """Repair a header with both copies damaged; return whether one is whole again."""
    cdef subject s
    s.what = PART_HEADER
    s.m = &private.c
    if private.c.length < RNVM_NAMES:
        return False
    return one_whole(&s, RNVM_HEADERS, sizeof(rnvm_header))


def superblock(VolatileMemory private not None):
    """Repair a superblock with both copies damaged; return whether one is whole again."""
    cdef subject s
    cdef rnvm_header header
    s.what = PART_SUPERBLOCK
    s.m = &private.c
    s.header = &header
    if private.c.length < RNVM_NAMES or not header_read(s.m, &header):
        return False
    return one_whole(&s, RNVM_SUPERBLOCKS, sizeof(rnvm_superblock))


def area(VolatileMemory private not None):
    """Repair a write-ahead area's header with both copies damaged; return whether one is whole."""
    cdef subject s
    cdef wal a
    s.what = PART_AREA
    s.m = &private.c
    s.a = &a
    if not wal_find(s.m, s.m.length, &a):
        return False
    return one_whole(&s, a.at, AREA_BYTES)


def frame(VolatileMemory private not None, uint64_t number, uint64_t at):
    """Turn back a bit of the frame with this number and offset, which is not whole."""
    cdef subject s
    cdef wal a
    s.what = PART_FRAME
    s.m = &private.c
    s.a = &a
    s.at = at
    if not wal_find(s.m, s.m.length, &a):
        return False
    wal_headers(s.m, &a)
    a.frames = number
    return turn_back(&s, at, min(<uint64_t> RECORD_BYTES, a.at + a.size - at)) >= 0


def bit(VolatileMemory private not None, Inspection inspection not None, str part, uint64_t at):
    """Turn back one bit of a part that an inspection found damaged; return whether it is whole."""
    cdef subject s
    cdef uint64_t length = 8
    s.m = &private.c
    s.seed = inspection.g.seed
    s.at = at
    if part == "state":
        s.what = PART_STATE
    elif part == "name":
        s.what = PART_NAME
        length = RNVM_NAME_LIVE
    else:
        s.what = PART_REGISTER
        length = 64
    private.check(at, length)
    return not whole(&s) and turn_back(&s, at, length) >= 0


def owners(VolatileMemory private not None, Inspection inspection not None, uint64_t first,
           uint64_t count, bint give_up=False):
    """Turn back a bit in each damaged word of these owner words.

    Return in how many one bit was turned back, and how many could not be repaired.  give_up: the
    blocks of the latter are not allocated again.
    """
    cdef subject s
    cdef uint64_t word, unknown, mended = 0, lost = 0
    cdef const rnvm_geometry *g = &inspection.g
    if first > rnvm_words(g) or count > rnvm_words(g) - first:
        raise InvalidArgument(f"{count} words from word {first} are not all in this pool")
    s.what = PART_OWNERS
    s.m = &private.c
    s.seed = g.seed
    private.check(0, g.size)
    with nogil:
        for word in range(first, first + count):
            s.at = rnvm_word_at(g, word)
            if whole(&s):
                continue
            if turn_back(&s, s.at, sizeof(uint64_t)) >= 0:
                mended += 1
                continue
            lost += 1
            if give_up:
                unknown = <uint64_t> RNVM_UNKNOWN << 32 | <uint64_t> RNVM_UNKNOWN << 16
                rfp_store64(s.m.base + s.at, rnvm_word(g.seed, s.at, unknown | RNVM_UNKNOWN))
    return mended, lost


def record(VolatileMemory private not None, Pool pool not None, str which, uint32_t session):
    """Turn back a bit of the log record at which a ring's scan ended.

    The pool is opened on a copy of `private`.
    """
    cdef subject s
    cdef ring r = pool.c.operations[session] if which == "operations" else pool.c.memory[session]
    cdef uint64_t place = r.tail % r.size
    r.m = &private.c
    r.limit = RNVM_NO_LIMIT
    s.what = PART_RECORD
    s.m = &private.c
    s.r = &r
    s.buffer = pool.c.scratch
    s.capacity = r.size // 2
    return turn_back(&s, r.at + place, min(<uint64_t> RECORD_BYTES, r.size - place)) >= 0


def node(VolatileMemory private not None, Pool pool not None, uint32_t index, uint64_t at):
    """Turn back a bit of a node at this offset, of the structure with this naming entry.

    The pool is opened on a copy of `private`, and its logs contain nothing that would change the
    node.
    """
    cdef subject s
    s.what = PART_NODE
    s.m = &private.c
    s.seed = pool.c.g.seed
    s.at = at
    s.address = rnvm_address(pool.c.g.backend, at)
    s.owner = pool.c.structures[index].id
    # A pointer led there, and may lead anywhere.
    if at & 7 or at >= private.c.length or private.c.length - at < sizeof(rnvm_node):
        return False
    return (not whole(&s)
            and turn_back(&s, at, min(<uint64_t> RECORD_BYTES, private.c.length - at)) >= 0)


def session_table(VolatileMemory private not None, uint64_t length):
    """Find the sessions by the header, if necessary with one bit of it turned back.

    Args:
        private: The pool's first pages.
        length: Of the whole pool.

    Returns:
        Offset and number.  (0, 0): there is no such header, and therefore no way to open this as a
        pool.
    """
    cdef rnvm_header found
    cdef rnvm_geometry g
    if private.c.length < RNVM_NAMES:
        return 0, 0
    if (not header_read(&private.c, &found)
            and not (header(private) and header_read(&private.c, &found))):
        return 0, 0
    if found.major != RNVM_MAJOR or not rnvm_parts_of(&found, &g) or g.rings_at > length:
        return 0, 0
    return g.sessions_at, g.sessions


def end_sessions(Medium on not None, uint64_t at, uint32_t count):
    """Give each session another epoch.

    A front-end that still has this memory mapped acknowledges nothing from then on.
    """
    cdef uint32_t i
    on.check(at, count * sizeof(rnvm_session))
    for i in range(count):
        rfp_store64(on.c.base + at + i * sizeof(rnvm_session) + RNVM_SESSION_LIVE, NO_EPOCH)
    # A front-end stores its record, then checks its epoch: one that still sees the old epoch has
    # stored the record before the reads that follow.
    rfp_fence_full()


def lose(VolatileMemory private not None, Inspection inspection not None, str part, uint64_t at,
         uint32_t index):
    """Give up a part that cannot be restored, so that the rest can be used (inspect.LOSSES)."""
    cdef uint64_t[3] words
    cdef uint64_t entry
    cdef uint32_t seed = inspection.g.seed
    cdef medium *m = &private.c
    words[0] = words[1] = words[2] = 0
    private.check(at, 64)
    if part == "lock":
        # No epoch that was ever given may be given again.
        words[0] = <uint64_t> 1 << 48
        dual_copy_format(m, seed, at, words)
    elif part == "session":
        forget_session(inspection, m, index)
    else:
        entry = rnvm_name_at(&inspection.g, index)
        private.write64(entry, catalog_entry_state(seed, entry, RNVM_LOST, 0xffff))
        if part == "progress":
            dual_copy_format(m, seed, at, words)


cdef void forget_session(Inspection inspection, medium *m, uint32_t index) noexcept:
    """Reset a session to free, with rings whose next LSNs are beyond everything in them."""
    cdef uint64_t[3] words
    cdef uint64_t at = rnvm_session_at(&inspection.g, index)
    cdef uint32_t seed = inspection.g.seed
    words[0] = <uint64_t> 1 << 48        # an epoch that no record carries
    words[1] = RNVM_FREE
    words[2] = 0
    dual_copy_format(m, seed, at + RNVM_SESSION_STATE, words)
    words[1] = RNVM_NO_LIMIT
    words[0] = words[2] = beyond(m, rnvm_operation_ring_at(&inspection.g, index),
                                 inspection.g.operation_ring)
    dual_copy_format(m, seed, at + RNVM_OPERATIONS, words)
    words[0] = words[2] = beyond(m, rnvm_memory_ring_at(&inspection.g, index),
                                 inspection.g.memory_ring)
    dual_copy_format(m, seed, at + RNVM_MEMORY, words)


cdef uint64_t beyond(medium *m, uint64_t ring_at, uint64_t size) noexcept nogil:
    """Return the beginning of a lap beyond every plausible LSN in a ring.

    An LSN is plausible if it matches its place.
    """
    cdef uint64_t place, lsn, last = size
    for place in range(0, size, 64):
        lsn = (<rnvm_record *> (m.base + ring_at + place)).lsn
        if lsn % size == place and lsn < <uint64_t> 1 << 60:
            last = max(last, lsn)
    return (last // size + 2) * size
