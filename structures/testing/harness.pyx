# cython: nonecheck=True
"""Run structures on plain memory, without a pool or a back-end: for tests and measurements.

It is stricter than the real front-end.  It detects changes in apply that were not announced,
pointers kept over nodes_release(), and nodes that leak, are freed twice or are read after that; and
it can fail at any step, show readers mixtures of old and new nodes, and flip bits.
tests/structures/memory.py loads the modules of the structures onto it.
"""

import contextlib
import json
import pickle

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from rnvm.format.node cimport RNVM_NODE, RNVM_NODE_BYTES_MAX, rnvm_node, rnvm_node_crc
from rnvm.format.version cimport (
    rnvm_version, rnvm_version_crc, rnvm_version_newest, rnvm_versions,
)
from rnvm.frontend.state cimport frontend, instance, kind
from structures.testing.undo_memory cimport (
    CELL_CHANGED, FREED, NEW, address_of, all_named, arena, cell, commit, copy, draw, drop_copies,
    failing, find, more, release, remember, roll_back,
)

from rfp.errors import WrongKind, WrongType

cdef enum:
    STEPS = 65536              # nodes that a query may read
    COST = 450                 # of a slab with blocks of 4096 bytes


cdef inline arena *arena_of(instance *s) noexcept nogil:
    return <arena *> s.fe


# The contract


cdef const char *read_cell(instance *s, uint64_t address, uint32_t length, uint16_t type,
                           bint copied) noexcept nogil:
    cdef arena *a = arena_of(s)
    cdef cell *c = find(a, address)
    cdef const char *bytes
    cdef const rnvm_node *header
    cdef uint32_t there
    if c == NULL:
        s.error = AGAIN
        return NULL
    bytes = c.bytes
    there = c.length
    if copied and a.mixing and not a.walking and c.older != NULL and draw(a) & 1:
        bytes = c.older
        there = c.older_length
    elif not c.taken:
        s.error = AGAIN
        return NULL
    header = <const rnvm_node *> bytes
    if (c.structure != s.id or header.length != there
            or (length and there != (length + 7) & ~<uint32_t> 7) or header.type != type
            or header.address != address or header.structure != s.id):
        s.error = AGAIN
        return NULL
    if a.strict and not c.pending and rnvm_node_crc(0, header) != header.crc:
        s.error = AGAIN
        return NULL
    if copied and a.strict:
        bytes = copy(a, bytes, there)
        if bytes == NULL:
            s.error = NO_MEMORY
    return bytes


cdef const char *node_read(instance *s, uint64_t address, uint32_t length,
                           uint16_t type) noexcept nogil:
    cdef arena *a = arena_of(s)
    a.reads += 1
    s.steps += 1
    if failing(a, &a.fail_reads):
        s.error = a.fail_code
        return NULL
    if not a.applying and not a.walking and (s.steps > STEPS or draw(a) & 0xffff < a.again):
        s.error = AGAIN
        return NULL
    return read_cell(s, address, length, type, not a.applying)


cdef const char *root_read(instance *s) noexcept nogil:
    return node_read(s, s.root, s.kind.root, 1)


cdef char *node_change(instance *s, uint64_t address, uint32_t length, uint16_t type,
                       uint32_t offset, uint32_t n) noexcept nogil:
    cdef arena *a = arena_of(s)
    cdef cell *c
    cdef uint64_t i, number
    a.changes += 1
    if not a.applying or offset < RNVM_NODE:
        s.error = fault(s, address, b"a change is not allowed here")
        return NULL
    if failing(a, &a.fail_changes):
        s.error = a.fail_code
        return NULL
    if read_cell(s, address, length, type, False) == NULL:
        return NULL
    c = find(a, address)
    number = c - a.cells
    if offset + <uint64_t> n > c.length:
        s.error = fault(s, address, b"a change is outside its node")
        return NULL
    if c.touched != a.operation:
        if not remember(a, CELL_CHANGED, number, True):
            s.error = NO_MEMORY
            return NULL
        c.touched = a.operation
        c.pending = True
    if a.strict:
        i = a.step_count
        while i:
            i -= 1
            if a.steps[i].number == number and a.steps[i].what != FREED:
                if a.steps[i].named != NULL:
                    memset(a.steps[i].named + offset, 1, n)
                break
    return c.bytes


cdef char *root_change(instance *s, uint32_t offset, uint32_t n) noexcept nogil:
    return node_change(s, s.root, s.kind.root, 1, offset, n)


cdef char *make(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil:
    cdef arena *a = arena_of(s)
    cdef cell *c
    cdef rnvm_node *header
    cdef uint64_t number
    if a.bytes + length > a.limit:
        s.error = FULL
        return NULL
    if a.vacant_count:
        number = a.vacant[a.vacant_count - 1]
    else:
        if not more(<void **> &a.cells, &a.room, a.count, sizeof(cell)):
            s.error = NO_MEMORY
            return NULL
        number = a.count
        memset(&a.cells[number], 0, sizeof(cell))
    if not remember(a, NEW, number, False):
        s.error = NO_MEMORY
        return NULL
    c = &a.cells[number]
    header = <rnvm_node *> calloc(1, length)
    if header == NULL:
        a.step_count -= 1
        s.error = NO_MEMORY
        return NULL
    if a.vacant_count:
        a.vacant_count -= 1
    else:
        a.count += 1
    free(c.older)
    c.older = c.bytes          # of the previous node at this address
    c.older_length = c.length
    c.bytes = <char *> header
    c.length = length
    c.structure = s.id
    c.touched = a.operation
    c.taken = c.pending = True
    a.bytes += length
    address[0] = address_of(number)
    header.length = length
    header.structure = s.id
    header.type = type
    header.address = address[0]
    header.version = a.number + 1
    return c.bytes


cdef char *node_new(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil:
    cdef arena *a = arena_of(s)
    a.news += 1
    if not a.applying or type < 2 or length < RNVM_NODE:
        s.error = fault(s, 0, b"a new node is not allowed here")
        return NULL
    if failing(a, &a.fail_news):
        s.error = a.fail_code
        return NULL
    if length > RNVM_NODE_BYTES_MAX:
        s.error = TOO_LONG
        return NULL
    return make(s, (length + 7) & ~<uint32_t> 7, type, address)


cdef int node_free(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    cdef arena *a = arena_of(s)
    cdef cell *c = find(a, address)
    if (not a.applying or c == NULL or not c.taken or c.structure != s.id
            or c.length != (length + 7) & ~<uint32_t> 7):
        s.error = fault(s, address, b"a freed node does not exist")
        return s.error
    if failing(a, &a.fail_changes):
        s.error = a.fail_code
        return s.error
    if not remember(a, FREED, c - a.cells, False):
        s.error = NO_MEMORY
        return s.error
    c.taken = False
    a.bytes -= c.length
    return OK


cdef char *node_renew(instance *s, uint64_t address, uint32_t length,
                      uint16_t type) noexcept nogil:
    cdef arena *a = arena_of(s)
    cdef cell *c = find(a, address)
    cdef char *bytes
    cdef rnvm_node *header
    cdef uint32_t rounded = (length + 7) & ~<uint32_t> 7
    a.news += 1
    if not a.applying or c == NULL or not c.taken or c.length != rounded \
            or (<rnvm_node *> c.bytes).version == a.number + 1:
        s.error = fault(s, address, b"a node in this place is not allowed here")
        return NULL
    if failing(a, &a.fail_news):
        s.error = a.fail_code
        return NULL
    # For the undo it is a change of all bytes.  The old ones need not be whole.
    if failing(a, &a.fail_changes):
        s.error = a.fail_code
        return NULL
    if not remember(a, CELL_CHANGED, c - a.cells, True):
        s.error = NO_MEMORY
        return NULL
    memset(a.steps[a.step_count - 1].named, 1, rounded)
    c.touched = a.operation
    c.pending = True
    bytes = c.bytes
    header = <rnvm_node *> bytes
    header.type = type
    header.version = a.number + 1
    memset(bytes + RNVM_NODE, 0, rounded - RNVM_NODE)
    return bytes


cdef int node_glimpse(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil:
    cdef cell *c = find(arena_of(s), address)
    if c == NULL or not c.taken or n > c.length:
        return AGAIN
    memcpy(to, c.bytes, n)
    return OK


cdef void nodes_release(instance *s) noexcept nogil:
    drop_copies(arena_of(s))


cdef int answer_put(instance *s, const void *bytes, uint64_t n) noexcept nogil:
    cdef arena *a = arena_of(s)
    cdef char *grown
    if a.answer_length + n > a.answer_room:
        grown = <char *> realloc(a.answer, 2 * (a.answer_length + n))
        if grown == NULL:
            s.error = NO_MEMORY
            return s.error
        a.answer = grown
        a.answer_room = 2 * (a.answer_length + n)
    if n:
        memcpy(a.answer + a.answer_length, bytes, n)
    a.answer_length += n
    return OK


cdef uint64_t record_room(const instance *s) noexcept nogil:
    return (<arena *> s.fe).record


cdef bint room_for(const instance *s, uint64_t bytes) noexcept nogil:
    return bytes <= record_room(s)


cdef uint64_t node_cost(const instance *s, uint32_t length) noexcept nogil:
    return COST


cdef uint64_t pool_bytes(const instance *s) noexcept nogil:
    return (<arena *> s.fe).limit


cdef uint64_t structure_identity(const instance *s) noexcept nogil:
    return s.id


cdef uint64_t version_made(const instance *s) noexcept nogil:
    return (<arena *> s.fe).number + 1


cdef uint64_t version_frozen(const instance *s) noexcept nogil:
    cdef const arena *a = <const arena *> s.fe
    # retain(): a snapshot may be of any version from there on.
    return 0 if a.alone and a.retained == ~<uint64_t> 0 else a.number


cdef uint64_t oldest_retained(instance *s, uint64_t listed) noexcept nogil:
    return min(arena_of(s).retained, arena_of(s).number)


cdef int newest_half(const rnvm_versions *root) noexcept nogil:
    return rnvm_version_newest(0, root.node.address, root.halves, ~<uint64_t> 0)


cdef int version_read(instance *s, rnvm_version *found) noexcept nogil:
    cdef const rnvm_versions *root
    cdef int newest
    if s.at != NULL:
        found[0] = s.at[0]
        return OK
    root = <const rnvm_versions *> root_read(s)
    if root == NULL:
        return s.error
    newest = newest_half(root)
    if newest < 0:
        s.error = fault(s, s.root, b"no version in the root is whole")
        return s.error
    found[0] = root.halves[newest]
    return OK


cdef int version_write(instance *s, rnvm_version *changed) noexcept nogil:
    cdef const rnvm_versions *root = <const rnvm_versions *> root_read(s)
    cdef rnvm_versions *written
    cdef int half
    if root == NULL:
        return s.error
    half = newest_half(root)
    if half < 0:
        return fault(s, s.root, b"no version in the root is whole")
    if root.halves[half].version != version_made(s):
        half = 1 - half
    written = <rnvm_versions *> root_change(
        s, RNVM_NODE + sizeof(rnvm_version) * <uint32_t> half, sizeof(rnvm_version))
    if written == NULL:
        return s.error
    changed.version = version_made(s)
    changed.crc = rnvm_version_crc(0, s.root, changed)
    written.halves[half] = changed[0]
    return OK


class Fault(Exception):
    """An operation or query returned an error.  code: the number in the contract."""

    def __init__(self, code, what):
        super().__init__(what)
        self.code = code


cdef int open_version(object structure, rnvm_version *at, uint64_t *session,
                      object timeout) except -1:
    cdef Structure s = structure
    cdef int outcome
    session[0] = 0
    with nogil:
        outcome = version_read(s.c, at)
    drop_copies(arena_of(s.c))
    if outcome != OK:
        failure(s.c, outcome)
    return 0


cdef int open_versions(list structures, rnvm_version *at, uint64_t *session,
                       object timeout) except -1:
    cdef Py_ssize_t i
    for i in range(len(structures)):
        open_version(structures[i], &at[i], session, timeout)
    return 0


cdef void close_version(object structure, const rnvm_version *at, uint64_t session) noexcept:
    pass


cdef int query_version(object structure, const rnvm_version *at, uint64_t session,
                       int (*ask)(instance *s, void *context) noexcept nogil, void *context,
                       object timeout) except -1:
    cdef Structure s = structure
    s.c.at = at
    try:
        return s.query(ask, context, timeout)
    finally:
        s.c.at = NULL


cdef uint64_t transaction_mark(object structure) except? 0xffffffffffffffff:
    return (<Memory> (<Structure> structure).fe).a.step_count


cdef int transaction_undo(object structure, uint64_t mark) except -1:
    cdef Memory fe = (<Structure> structure).fe
    if fe.depth:
        roll_back(&fe.a, mark)
    return 0


cdef bytes exact_bytes(object value):
    return bytes(memoryview(value))


cdef dict kinds = {}
cdef dict CODES = {AGAIN: "again", DAMAGED: "damaged", FULL: "full", TOO_LONG: "too long",
                   NO_MEMORY: "no memory"}


cdef class Memory:
    """Replaces a front-end: holds structures in plain memory.

    Args:
        limit: Bytes of nodes.
        record: Bytes of nodes that an operation may change.
        strict: Detect breaches of the contract, at some cost.
        seed: Of the pseudo-random numbers.

    >>> with Memory().transaction():
    ...     pass
    """
    cdef arena a
    cdef dict names
    cdef list recorded
    cdef uint32_t depth

    def __init__(self, *, uint64_t limit=1 << 40, uint64_t record=1 << 22, bint strict=True,
                 uint64_t seed=1):
        self.a.record = record
        self.a.limit = limit
        self.a.retained = ~<uint64_t> 0
        self.a.strict = strict
        self.a.random = seed * 2 + 1
        self.a.fail_reads = self.a.fail_news = self.a.fail_changes = -1
        self.names = {}
        self.recorded = []

    def __dealloc__(self):
        release(&self.a)

    timeout = 5.0

    @contextlib.contextmanager
    def transaction(self, *structures, timeout=None):
        """A transaction: all of it or, after an exception, nothing."""
        self.depth += 1
        try:
            yield
        except BaseException:
            roll_back(&self.a, 0)
            raise
        finally:
            self.depth -= 1
            commit(&self.a)

    def batch(self):
        return contextlib.nullcontext()

    def fail(self, str what=None, *, int64_t after=0, int code=NO_MEMORY):
        """Let this many calls of a kind succeed, then one fail with this code.

        what: "reads", "news", "changes"; None: all succeed.
        """
        self.a.fail_reads = after if what == "reads" else -1
        self.a.fail_news = after if what == "news" else -1
        self.a.fail_changes = after if what == "changes" else -1
        self.a.fail_code = code
        self.a.failed = False

    @property
    def failed(self):
        """Return whether the failure requested by fail() has happened."""
        return bool(self.a.failed)

    def disturb(self, double again=0, bint mixing=False):
        """Make readers start over with this probability at each node.

        mixing: Show them old nodes among the new.
        """
        self.a.again = <uint32_t> (again * 65536)
        self.a.mixing = mixing

    def retain(self, version=None):
        """Keep the nodes of this version and of later ones; None: of no version but the last."""
        self.a.retained = ~<uint64_t> 0 if version is None else version

    def alone(self, bint alone=True):
        """Let multi-version structures change their nodes in place while no version is retained."""
        self.a.alone = alone

    def limit(self, uint64_t nbytes):
        """Set the limit in bytes; allocations beyond it return FULL."""
        self.a.limit = nbytes

    @property
    def used(self):
        """Return the bytes of all nodes."""
        return self.a.bytes

    @property
    def counts(self):
        """Return the nodes read, changes announced, and nodes created so far."""
        return self.a.reads, self.a.changes, self.a.news

    def operations(self):
        """Return all (name, code, bytes) executed since the last call."""
        done = self.recorded
        self.recorded = []
        return done

    def nodes(self):
        """Return (address, type, bytes behind the header) of every node."""
        cdef uint64_t i
        cdef cell *c
        found = []
        for i in range(self.a.count):
            c = &self.a.cells[i]
            if c.taken:
                found.append((address_of(i), (<rnvm_node *> c.bytes).type,
                              PyBytes_FromStringAndSize(c.bytes + RNVM_NODE, c.length - RNVM_NODE)))
        return found

    def damage(self, uint64_t address, uint32_t offset, const uint8_t[:] written,
               bint sealed=False):
        """Overwrite bytes of a node.  sealed: its CRC is made valid again."""
        cdef cell *c = find(&self.a, address)
        cdef uint32_t i
        if c == NULL or not c.taken or offset + written.shape[0] > c.length:
            raise ValueError("no such node")
        for i in range(<uint32_t> written.shape[0]):
            c.bytes[offset + i] = <char> written[i]
        if sealed:
            (<rnvm_node *> c.bytes).crc = rnvm_node_crc(0, <rnvm_node *> c.bytes)

    def again(self, Structure structure not None, uint32_t code, bytes operation):
        """Execute an operation as a successor of its writer would."""
        return structure.execute(code, operation, <uint32_t> len(operation))


cdef int register_kind(const kind *k, object cls) except -1:
    kinds[k.number] = (<uint64_t> k, cls)
    return 0


class Codec:
    """A codec for codec=: how other values become bytes."""

    def __init__(self, encode, decode):
        self.encode = encode
        self.decode = decode


CODECS = {
    "utf-8": Codec(str.encode, bytes.decode),
    "json": Codec(lambda value: json.dumps(value).encode(), json.loads),
    "pickle": Codec(pickle.dumps, pickle.loads),
}


cdef struct shown:             # nodes that a walk has visited
    arena *a
    instance *s
    uint8_t *seen

cdef int show(void *context, uint64_t address, uint32_t length) noexcept nogil:
    cdef shown *w = <shown *> context
    cdef cell *c = find(w.a, address)
    if (c == NULL or not c.taken or c.structure != w.s.id
            or c.length != (length + 7) & ~<uint32_t> 7):
        return fault(w.s, address, b"a used node does not exist")
    if w.seen[c - w.a.cells]:
        return fault(w.s, address, b"a node is used twice")
    w.seen[c - w.a.cells] = 1
    return OK


cdef int failure(instance *s, int outcome) except -1:
    what = CODES.get(outcome, str(outcome))
    if s.fault != NULL:
        what = f"{what}: {s.fault.decode()} ({s.fault_at:#x})"
    raise Fault(outcome, what)


cdef class Structure:
    """The base class of structures, on a Memory."""

    def __cinit__(self, *arguments, **options):
        self.c = <instance *> calloc(1, sizeof(instance))
        if self.c == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.c)

    def __init__(self, Memory fe not None, str name, *, codec=None, create=True, timeout=None):
        cdef uint64_t found
        cdef arena *a = &fe.a
        self.fe = fe
        self.name = name
        self.codec = CODECS.get(codec, codec)
        found, _ = kinds[self.KIND]
        self.c.fe = <frontend *> a
        self.c.kind = <const kind *> found
        known = fe.names.get(name)
        if known is None:
            self.c.id = len(fe.names) + 1
            a.operation += 1
            if make(self.c, self.c.kind.root, 1, &self.c.root) == NULL:
                raise Fault(self.c.error, CODES[self.c.error])
            fe.names[name] = (self.KIND, self.c.id, self.c.root)
            if not fe.depth:
                commit(a)
        elif known[0] != self.KIND:
            raise WrongKind(f"{name!r} has another kind")
        else:
            self.c.id, self.c.root = known[1:]

    cdef int execute(self, uint32_t code, const char *bytes, uint32_t length,
                     object timeout=None) except -1:
        cdef Memory fe = self.fe
        cdef arena *a = &fe.a
        cdef uint64_t mark = a.step_count
        cdef int outcome
        # a private copy, so that reading beyond it is detected
        cdef char *private = <char *> malloc(length + 1)
        if private == NULL:
            raise MemoryError
        memcpy(private, bytes, length)
        a.operation += 1
        a.answer_length = 0
        a.applying = True
        self.c.error = OK
        self.c.steps = 0
        self.c.fault = NULL
        with nogil:
            outcome = self.c.kind.apply(self.c, code, private, length)
        a.applying = False
        if a.strict:
            fe.recorded.append((self.name, code, private[:length]))
        free(private)
        if outcome >= 0 and a.strict and not all_named(a, mark):
            roll_back(a, mark)
            raise Fault(DAMAGED, "the operation changed data that it did not name")
        if outcome < 0:
            roll_back(a, mark)
            failure(self.c, outcome)
        if not fe.depth:
            commit(a)
        return outcome

    cdef int query(self, query_function ask, void *context, object timeout=None) except -1:
        cdef Memory fe = self.fe
        cdef arena *a = &fe.a
        cdef bint mixing = a.mixing
        cdef int outcome, attempt = 0
        while True:
            attempt += 1
            a.mixing = mixing and attempt <= 3
            if attempt > 20 and not a.failed:
                a.again = 0
            a.answer_length = 0
            self.c.error = OK
            self.c.steps = 0
            self.c.fault = NULL
            with nogil:
                outcome = ask(self.c, context)
            drop_copies(a)
            if a.mixing or (outcome == AGAIN and a.again):
                continue
            a.mixing = mixing
            if outcome < 0:
                failure(self.c, outcome)
            return outcome

    cdef bytes answer(self):
        cdef Memory fe = self.fe
        return fe.a.answer[:fe.a.answer_length]

    cdef const char *answer_bytes(self, uint64_t *n) noexcept:
        cdef Memory fe = self.fe
        n[0] = fe.a.answer_length
        return fe.a.answer

    cdef bytes encode(self, object value):
        if self.codec is not None:
            return self.codec.encode(value)
        if isinstance(value, str):
            raise WrongType(f"a value must be bytes, not a str: {value!r}",
                            hint="use value.encode(), or a codec=")
        try:
            return bytes(memoryview(value))
        except TypeError:
            raise WrongType(f"a value must be bytes, not {type(value).__name__}",
                            hint="use a codec=") from None

    cdef object decode(self, bytes value, bytes key=None, bytes token=None):
        return value if self.codec is None else self.codec.decode(value)

    cdef uint64_t longest(self, uint64_t most) except? 0:
        return most

    def _in_scope(self):
        return (<Memory> self.fe).depth > 0

    def _was_entered(self):
        return True

    def _in_transaction(self):
        return self._in_scope()

    def _wait(self, steps):
        """Run a call that would wait for other front-ends: nobody else changes this memory."""
        try:
            next(steps)
        except StopIteration as end:
            return end.value
        raise AssertionError("a structure on plain memory cannot wait")

    def _waiting(self, due, attempt, timeout, caller=None):
        if due(timeout) >= 0:
            return None
        found = attempt()
        if found is None:
            yield                              # never: this makes it a generator
        return found or None

    cdef object not_named(self):
        return None                            # there are no transactions

    def check(self):
        """Verify all invariants; raise on the first that does not hold."""
        cdef Memory fe = self.fe
        cdef shown w
        cdef int outcome
        cdef uint64_t i
        if fe is None:
            raise ValueError("a structure that was never opened")
        w.a = &fe.a
        w.s = self.c
        w.seen = <uint8_t *> calloc(1, fe.a.count)
        if w.seen == NULL:
            raise MemoryError
        try:
            self.c.error = OK
            self.c.steps = 0
            self.c.fault = NULL
            fe.a.walking = True
            with nogil:
                outcome = show(&w, self.c.root, self.c.kind.root)
                if outcome == OK:
                    outcome = self.c.kind.walk(self.c, show, &w)
            fe.a.walking = False
            drop_copies(&fe.a)
            if outcome != OK:
                failure(self.c, outcome)
            for i in range(fe.a.count):
                if fe.a.cells[i].taken and fe.a.cells[i].structure == self.c.id and not w.seen[i]:
                    raise Fault(DAMAGED, f"the node at {address_of(i):#x} has leaked")
        finally:
            free(w.seen)
