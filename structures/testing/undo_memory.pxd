# Plain memory in the place of a pool: nodes, and how to undo what operations have done to them.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    UNIT = 64                  # addresses are that far apart
    CHANGED = 1
    NEW = 2
    FREED = 3

cdef struct cell:              # a node
    char *bytes
    char *older                # what it was before the last operation that changed it, to mix with
    uint32_t length
    uint32_t older_length
    uint32_t structure
    uint64_t touched           # number of the operation that changed it last
    bint taken
    bint pending               # changed by a transaction that has not ended: its CRC is not of what it contains

cdef struct step:              # how to undo
    int what
    uint64_t number            # of the cell
    char *bytes                # what it was
    char *named                # a byte for each of it: was it named to node_change()?

cdef struct arena:
    cell *cells
    uint64_t count
    uint64_t room
    uint64_t *vacant
    uint64_t vacant_count
    uint64_t vacant_room
    step *steps
    uint64_t step_count
    uint64_t step_room
    char **copies              # that a query or walk was given
    uint64_t copy_count
    uint64_t copy_room
    uint64_t operation         # number
    uint64_t bytes             # of taken nodes
    uint64_t limit
    uint64_t record            # bytes that an operation may change
    char *answer
    uint64_t answer_length
    uint64_t answer_room
    uint64_t random
    # what goes wrong
    int64_t fail_reads         # this many more succeed; below 0: all
    int64_t fail_news
    int64_t fail_changes
    int fail_code
    bint failed
    uint32_t again             # of 2^16 reads
    bint mixing
    bint applying
    bint walking
    bint strict
    uint64_t reads
    uint64_t changes
    uint64_t news

cdef inline uint64_t draw(arena *a) noexcept nogil:
    a.random ^= a.random << 13
    a.random ^= a.random >> 7
    a.random ^= a.random << 17
    return a.random

cdef inline uint64_t address_of(uint64_t number) noexcept nogil:
    return (<uint64_t> 1 << 48) + (number + 1) * UNIT      # of the first back-end

# Room for one more.
cdef bint more(void **items, uint64_t *room, uint64_t count, uint64_t size) noexcept nogil
# The node at an address; NULL: none was ever there.
cdef cell *find(arena *a, uint64_t address) noexcept nogil
# Whether this is the call that has to fail.
cdef bint failing(arena *a, int64_t *left) noexcept nogil
# Bytes for who only reads: overwritten when they may no longer be used.
cdef const char *copy(arena *a, const char *bytes, uint32_t length) noexcept nogil
cdef void drop_copies(arena *a) noexcept nogil
# How to undo what now happens to a node.  bytes: they will be changed.
cdef bint remember(arena *a, int what, uint64_t number, bint bytes) noexcept nogil
cdef void roll_back(arena *a, uint64_t mark) noexcept nogil
# Whether an operation changed only what it said it would.
cdef bint all_named(arena *a, uint64_t mark) noexcept nogil
cdef void commit(arena *a) noexcept nogil
cdef void release(arena *a) noexcept nogil
