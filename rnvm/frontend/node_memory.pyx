"""The memory of local copies of nodes.

    region   [ next | chunk of class 4 | chunk of class 65 | chunk of class 4 | free ... ]
    chunk    [ slot | slot | slot ... ]               of 64 bytes for each class number
    vacant   class 4 -> slot -> slot -> ...

A slot is never cut again, so that a pointer to a node that was freed still points to a node; its
address shows that it is another one (node_cache.pyx: successors).  Long nodes, and those beyond the
bound, have memory of their own.  With assertions all have, so that a sanitizer sees wrong uses.

If the nodes of a front-end become longer or shorter, most slots may be vacant while new nodes find
none: the bound is reached.  Then the cache gives all copies in slots up, and the regions are freed.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from rfp.core.core cimport RFP_ASSERT, RFP_ASSERTS
from rfp.core.limits cimport RFP_LINE
from rnvm.frontend.state cimport NODE_CLASSES, frontend, node, node_region

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *at, size_t n, int advice)
    enum:
        MADV_HUGEPAGE

cdef enum:
    SLOTS_BYTES = 16384        # of classes up to ...
    CHUNK_CLASS_MAX = 16
    LONG_SLOTS_BYTES = 65536   # of the others
    SMALL_REGION_BYTES = 131072        # a front-end with few copies takes little memory
    SMALL_REGIONS_BYTES = 1048576      # in total, before regions are large pages
    LARGE_PAGE_BYTES = 2097152
    BOUND_BYTES = 2097152      # of all regions, beside one and a half times the budget
    VACANT_SHARE = 2           # of the regions, a part; less of them in use: the slots do not fit


cdef void *aligned(uint64_t bytes, uint64_t alignment) noexcept nogil:
    cdef void *memory = NULL
    return NULL if posix_memalign(&memory, alignment, bytes) else memory


cdef void *large_zeros(uint64_t bytes) noexcept nogil:
    cdef void *memory
    if bytes < LARGE_PAGE_BYTES:
        return calloc(1, bytes)
    memory = aligned(bytes, LARGE_PAGE_BYTES)
    if memory != NULL:
        madvise(memory, bytes, MADV_HUGEPAGE)   # before the first use; it may fail
        memset(memory, 0, bytes)
    return memory


cdef bint add_region(frontend *fe) noexcept nogil:
    cdef uint64_t bytes = SMALL_REGION_BYTES
    cdef node_region *region
    if fe.memory.bytes >= SMALL_REGIONS_BYTES:
        bytes = LARGE_PAGE_BYTES
    if fe.memory.bytes + bytes > fe.cache.budget_bytes // 2 * 3 + BOUND_BYTES:
        return False
    region = <node_region *> aligned(bytes, bytes if bytes == LARGE_PAGE_BYTES else RFP_LINE)
    if region == NULL:
        return False
    if bytes == LARGE_PAGE_BYTES:
        madvise(region, bytes, MADV_HUGEPAGE)
    region.next = fe.memory.regions
    fe.memory.regions = region
    fe.memory.bytes += bytes
    fe.memory.at = <char *> region + RFP_LINE
    fe.memory.left = bytes - RFP_LINE
    return True


cdef bint add_chunk(frontend *fe, uint32_t sort) noexcept nogil:
    """Cuts a chunk into slots; what is left of a region that is too short for it is lost."""
    cdef uint64_t bytes = SLOTS_BYTES if sort <= CHUNK_CLASS_MAX else LONG_SLOTS_BYTES
    cdef uint64_t slot = <uint64_t> sort * RFP_LINE, at = 0
    cdef node *n
    if fe.memory.left < bytes and fe.memory.left < LONG_SLOTS_BYTES and not add_region(fe):
        return False
    if fe.memory.left < bytes:
        return False
    bytes = bytes // slot * slot
    while at < bytes:
        n = <node *> (fe.memory.at + at)
        memset(n, 0, sizeof(node))
        n.next = fe.memory.vacant[sort]
        fe.memory.vacant[sort] = n
        at += slot
    fe.memory.at += bytes
    fe.memory.left -= bytes
    return True


cdef node *node_allocate(frontend *fe, uint32_t length) noexcept nogil:
    cdef uint64_t bytes = sizeof(node) + length
    cdef uint64_t sort = (bytes + RFP_LINE - 1) // RFP_LINE
    cdef node *n
    if not RFP_ASSERTS and sort < NODE_CLASSES \
            and (fe.memory.vacant[sort] != NULL or add_chunk(fe, <uint32_t> sort)):
        n = fe.memory.vacant[sort]
        fe.memory.vacant[sort] = n.next
        fe.memory.used += sort * RFP_LINE
        n.pooled = True
        return n
    if sort < NODE_CLASSES:
        fe.memory.refused = True
    n = <node *> malloc(bytes)
    if n != NULL:
        n.pooled = False
    return n


cdef void node_release(frontend *fe, node *n) noexcept nogil:
    cdef uint64_t sort
    if not n.pooled:
        free(n)
        return
    sort = (sizeof(node) + n.length + RFP_LINE - 1) // RFP_LINE
    RFP_ASSERT(fe.memory.used >= sort * RFP_LINE)
    fe.memory.used -= sort * RFP_LINE
    n.address = 0
    n.next = fe.memory.vacant[sort]
    fe.memory.vacant[sort] = n


cdef bint node_memory_misfits(const frontend *fe) noexcept nogil:
    return fe.memory.refused and fe.memory.bytes > VACANT_SHARE * fe.memory.used


cdef void node_memory_free(frontend *fe) noexcept nogil:
    cdef node_region *region
    RFP_ASSERT(fe.memory.used == 0)
    while fe.memory.regions != NULL:
        region = fe.memory.regions
        fe.memory.regions = region.next
        free(region)
    memset(&fe.memory, 0, sizeof(fe.memory))
