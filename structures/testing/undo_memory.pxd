# Plain memory instead of a pool: nodes, and how to undo changes that operations made to them.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    UNIT = 64                  # distance of addresses
    CELL_CHANGED = 1
    NEW = 2
    FREED = 3

cdef struct cell:              # a node
    char *bytes
    char *older                # its bytes before the last operation that changed it, to mix with
    uint32_t length
    uint32_t older_length
    uint32_t structure
    uint64_t touched           # number of the operation that changed it last
    bint taken
    bint pending               # changed by an open transaction: its CRC does not match

cdef struct step:              # how to undo
    int what
    uint64_t number            # of the cell
    char *bytes                # its old bytes
    char *named                # a flag per byte: was it announced to node_change()?

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
    char **copies              # given to a query or walk
    uint64_t copy_count
    uint64_t copy_room
    uint64_t operation         # number
    uint64_t number            # of the last transaction
    uint64_t retained          # no reader uses a version below it
    bint alone                 # no other session has opened its structures
    uint64_t bytes             # of taken nodes
    uint64_t limit
    uint64_t record            # bytes that an operation may change
    char *answer
    uint64_t answer_length
    uint64_t answer_room
    uint64_t random
    # failures to inject
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

# Makes room for one more.
cdef bint more(void **items, uint64_t *room, uint64_t count, uint64_t size) noexcept nogil
# Returns the node at an address; NULL: none was ever there.
cdef cell *find(arena *a, uint64_t address) noexcept nogil
# Returns whether this is the call that must fail.
cdef bint failing(arena *a, int64_t *left) noexcept nogil
# Returns a copy for a reader, which is overwritten when it may no longer be used.
cdef const char *copy(arena *a, const char *bytes, uint32_t length) noexcept nogil
cdef void drop_copies(arena *a) noexcept nogil
# Records how to undo the coming change of a node.  bytes: they will be changed.
cdef bint remember(arena *a, int what, uint64_t number, bint bytes) noexcept nogil
cdef void roll_back(arena *a, uint64_t mark) noexcept nogil
# Returns whether an operation changed only the bytes that it announced.
cdef bint all_named(arena *a, uint64_t mark) noexcept nogil
cdef void commit(arena *a) noexcept nogil
cdef void release(arena *a) noexcept nogil
