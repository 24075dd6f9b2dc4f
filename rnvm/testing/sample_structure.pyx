"""The smallest structure that uses the whole contract, for tests.

It is a counter, and a shelf of numbered places for values.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from rnvm.format.node cimport RNVM_NODE, rnvm_node
from rnvm.frontend.state cimport instance, kind
from rnvm.frontend.structure cimport (
    ALIEN, OK, Structure, answer_put, fault, node_free, node_new, node_read, register_kind,
    root_change, root_read, visitor,
)

from rfp.errors import InvalidArgument

cdef enum:
    PLACES = 32
    SAMPLE_VALUE = 2           # type of a node

cdef enum:                     # operations
    SAMPLE_ADD = 1
    SAMPLE_PUT = 2
    SAMPLE_TAKE = 3
    FAIL = 4                   # changes something, then finds a broken invariant
    LOSE = 5                   # a mistake that structures make: a node is unlinked, not freed
    DANGLE = 6                 # another one: a node is freed, not unlinked
    SEE = 7                    # changes nothing: reads two places, runs Python code between
    FORGE = 8                  # known only to a process that called forge()

cdef enum:
    NOTHING = 1                # apply and query: the place is empty


cdef struct shelf:
    rnvm_node node
    int64_t counter
    uint64_t changes
    uint64_t places[PLACES]
    uint32_t lengths[PLACES]   # of the nodes


cdef int clear(instance *s, shelf *root, uint32_t place) noexcept nogil:
    cdef int found = OK
    if root.places[place]:
        found = node_free(s, root.places[place], root.lengths[place])
        root.places[place] = 0
        root.lengths[place] = 0
    return found


cdef int value_of(instance *s, const shelf *root, uint32_t place) noexcept nogil:
    cdef const char *value
    if not root.places[place]:
        return NOTHING
    value = node_read(s, root.places[place], 0, SAMPLE_VALUE)
    if value == NULL:
        return s.error
    return answer_put(s, value + RNVM_NODE + 8, (<const uint64_t *> (value + RNVM_NODE))[0])


cdef object between = None     # a callable that is called, once, between the two
cdef bint forging = False


cdef void pause() noexcept with gil:
    global between
    hook, between = between, None
    if hook is not None:
        hook()


cdef int both(instance *s, const uint64_t *places) noexcept nogil:
    cdef shelf root
    cdef const char *node = root_read(s)
    cdef int found
    if node == NULL:
        return s.error
    root = (<const shelf *> node)[0]
    found = value_of(s, &root, <uint32_t> places[0])
    if found == OK:
        pause()
        found = answer_put(s, b"|", 1)
    return value_of(s, &root, <uint32_t> places[1]) if found == OK else found


cdef int see(instance *s, void *context) noexcept nogil:
    return both(s, <const uint64_t *> context)


cdef int apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef shelf *root
    cdef char *value
    cdef uint64_t place = (<const uint64_t *> bytes)[0], address = 0
    cdef int found
    if code == SEE:
        return both(s, <const uint64_t *> bytes)
    if code == SAMPLE_TAKE and not (<const shelf *> root_read(s)).places[place]:
        return NOTHING
    root = <shelf *> root_change(s, RNVM_NODE, sizeof(shelf) - RNVM_NODE)
    if root == NULL:
        return s.error
    root.changes += 1
    if code == SAMPLE_ADD:
        root.counter += (<const int64_t *> bytes)[0]
        return answer_put(s, &root.counter, 8)
    if code == FAIL:
        clear(s, root, <uint32_t> place)
        return fault(s, s.root, "damage as requested")
    if code == LOSE:
        root.places[place] = root.lengths[place] = 0
        return OK
    if code == DANGLE:
        return node_free(s, root.places[place], root.lengths[place])
    if code == SAMPLE_TAKE:
        found = value_of(s, root, <uint32_t> place)
        return clear(s, root, <uint32_t> place) if found == OK else found
    if code == FORGE and forging:
        return OK
    if code != SAMPLE_PUT:
        return ALIEN
    found = clear(s, root, <uint32_t> place)
    if found != OK:
        return found
    value = node_new(s, RNVM_NODE + length, SAMPLE_VALUE, &address)
    if value == NULL:
        return s.error
    (<uint64_t *> (value + RNVM_NODE))[0] = length - 8
    memcpy(value + RNVM_NODE + 8, bytes + 8, length - 8)
    root.places[place] = address
    root.lengths[place] = (<rnvm_node *> value).length
    return OK


cdef int find(instance *s, void *context) noexcept nogil:
    cdef const shelf *root = <const shelf *> root_read(s)
    cdef uint64_t place = (<uint64_t *> context)[0]
    if root == NULL:
        return s.error
    if place < PLACES:
        return value_of(s, root, <uint32_t> place)
    return answer_put(s, &root.counter, 16)


cdef int walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef const shelf *root = <const shelf *> root_read(s)
    cdef uint32_t i
    cdef int found
    if root == NULL:
        return s.error
    for i in range(PLACES):
        if not root.places[i] != (not root.lengths[i]):
            return fault(s, s.root,
                         "a place has a node without a length, or a length without a node")
        if root.places[i]:
            if node_read(s, root.places[i], root.lengths[i], SAMPLE_VALUE) == NULL:
                return s.error
            found = visit(context, root.places[i], root.lengths[i])
            if found != OK:
                return found
    return OK


cdef kind sample
sample.number = 65000
sample.format = 1
sample.root = sizeof(shelf)
sample.apply = apply
sample.walk = walk


cdef class Sample(Structure):
    """A counter and a shelf with 32 places."""
    KIND = 65000

    def add(self, int64_t n, *, timeout=None):
        """Add to the counter; return its value."""
        cdef uint64_t length
        self.execute(SAMPLE_ADD, <const char *> &n, 8, timeout)
        return (<const int64_t *> self.answer_bytes(&length))[0]

    def numbers(self, *, timeout=None):
        """Return the counter, and how many operations have changed anything."""
        cdef uint64_t place = PLACES, length
        self.query(find, &place, timeout)
        return ((<const int64_t *> self.answer_bytes(&length))[0],
                (<const uint64_t *> self.answer_bytes(&length))[1])

    def put(self, uint64_t place, value, *, timeout=None):
        """Put a value into a place, instead of the present one."""
        cdef bytes data = self.encode(value)
        if place >= PLACES:
            raise InvalidArgument(f"invalid place {place}")
        data = place.to_bytes(8, "little") + data
        self.execute(SAMPLE_PUT, data, <uint32_t> len(data), timeout)

    def get(self, uint64_t place, *, timeout=None):
        """Return the value of a place, or None."""
        return None if self.query(find, &place, timeout) == NOTHING else self.decode(self.answer())

    def take(self, uint64_t place, *, timeout=None):
        """Remove the value of a place, and return it, or None."""
        if place >= PLACES:
            raise InvalidArgument(f"invalid place {place}")
        if self.execute(SAMPLE_TAKE, <const char *> &place, 8, timeout) == NOTHING:
            return None
        return self.decode(self.answer())

    def fail(self, uint64_t place):
        """Execute an operation that finds damage half way."""
        self.execute(FAIL, <const char *> &place, 8)

    def see(self, uint64_t first, uint64_t second, hook, *, bint operation=False, timeout=None):
        """Return the values of two places, with b"|" between.

        The hook is called after the first one was read.

        Args:
            operation: Execute an operation instead of a query.
        """
        global between
        cdef uint64_t[2] places
        cdef int found
        if first >= PLACES or second >= PLACES:
            raise InvalidArgument(f"invalid places {first} and {second}")
        places[0], places[1] = first, second
        between = hook
        if operation:
            found = self.execute(SEE, <const char *> places, sizeof(places), timeout)
        else:
            found = self.query(see, places, timeout)
        return None if found == NOTHING else self.answer()

    def forge(self):
        """Execute an operation that no other process knows."""
        global forging
        cdef uint64_t place = 0
        forging = True
        self.execute(FORGE, <const char *> &place, 8)

    def lose(self, uint64_t place):
        """A mistake: unlink the value of a place without freeing it."""
        self.execute(LOSE, <const char *> &place, 8)

    def dangle(self, uint64_t place):
        """A mistake: free the value of a place without unlinking it."""
        self.execute(DANGLE, <const char *> &place, 8)


register_kind(&sample, Sample)
