# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The base of structures (the contract is in _structure.pxd; docs/rnvm-structures.md explains it)."""


cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from rnvm.format.layout cimport rnvm_longest_record, rnvm_record
from rnvm.format.node cimport RNVM_NODE, RNVM_NODE_BYTES_MAX
from rnvm.frontend.node_cache cimport cache_forget, cache_get, cache_glimpse, node_bytes
from rnvm.frontend.write_set cimport change_add, change_node
from rnvm.frontend.state cimport frontend, instance, kind, node
from rnvm.frontend.frontend cimport FrontEnd
from rnvm.frontend.operation cimport operation_execute
from rnvm.frontend.query cimport query_alone, query_ask
from rnvm.frontend.slab_allocator cimport slabs_cost, slabs_return, slabs_take
from rnvm.frontend._turns cimport turn_enter, turn_leave
from rnvm.frontend.leak_check cimport reach

from rfp.errors import CallerError, InvalidArgument, NotFound, Undecodable, WrongKind, WrongType, not_copied
from rfp.protocol.client.caller_memory import checked

ROOT = 1                       # type of a root
MOST_ROOT = 3072

cdef enum:
    BESIDE = 8192              # bytes that an operation may change beside the value that it brings
    BEFORE = 2048              # and bytes of its own record before it
    LEAST = 256                # bytes of a value that fit in any case

cdef uint32_t NONE = 0xffffffff        # in place of a structure's number: none has it


# Nodes


cdef const char *node_read(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil:
    cdef node *n = cache_get(s, address, length, type)
    return NULL if n == NULL else node_bytes(n)


cdef const char *root_read(instance *s) noexcept nogil:
    return node_read(s, s.root, s.kind.root, 1)


cdef char *node_change(instance *s, uint64_t address, uint32_t length, uint16_t type, uint32_t offset, uint32_t n) noexcept nogil:
    cdef node *found = cache_get(s, address, length, type)
    if found == NULL:
        return NULL
    if offset < RNVM_NODE or offset > found.length or n > found.length - offset:
        fault(s, address, "a change lies outside its node")
        return NULL
    return change_node(s, found, offset, n)


cdef char *root_change(instance *s, uint32_t offset, uint32_t n) noexcept nogil:
    return node_change(s, s.root, s.kind.root, 1, offset, n)


cdef char *node_new(instance *s, uint32_t length, uint16_t type, uint64_t *address) noexcept nogil:
    cdef node *made
    length = (length + 7) & ~7
    if length < RNVM_NODE or length > RNVM_NODE_BYTES_MAX:
        s.error = TOO_LONG
        return NULL
    address[0] = slabs_take(s, length)
    if not address[0]:
        return NULL
    made = change_add(s, address[0], length, type)
    return NULL if made == NULL else node_bytes(made)


cdef int node_free(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    return slabs_return(s, address, (length + 7) & ~7)


cdef int node_glimpse(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil:
    return cache_glimpse(s, address, to, n)


cdef void nodes_release(instance *s) noexcept nogil:
    cache_forget(s.fe)


cdef int answer_put(instance *s, const void *bytes, uint64_t n) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t room = fe.answer_room
    cdef char *grown
    if n > room - fe.answer_length:
        while n > room - fe.answer_length:
            room = 2 * room if room else 4096
        grown = <char *> realloc(fe.answer, room)
        if grown == NULL:
            s.error = NO_MEMORY
            return NO_MEMORY
        fe.answer = grown
        fe.answer_room = room
    if n:
        memcpy(fe.answer + fe.answer_length, bytes, n)
    fe.answer_length += n
    return OK


cdef uint64_t record_room(const instance *s) noexcept nogil:
    return rnvm_longest_record(s.fe.g.memory_ring) - sizeof(rnvm_record)


cdef bint room_for(const instance *s, uint64_t bytes) noexcept nogil:
    return bytes + (s.fe.volume if s.fe.transacting else 0) <= record_room(s)


cdef uint64_t node_cost(const instance *s, uint32_t length) noexcept nogil:
    return slabs_cost(s, (length + 7) & ~7)


cdef uint64_t pool_bytes(const instance *s) noexcept nogil:
    return s.fe.g.size


cdef uint64_t structure_identity(const instance *s) noexcept nogil:
    return <uint64_t> s.fe.g.seed << 32 | s.id


# Kinds


kinds = {}                     # number -> Registered


cdef class Registered:
    """A kind of structure that this process knows."""
    cdef const kind *c
    cdef readonly object cls

    @property
    def format(self):
        return self.c.format if self.c != NULL else None


cdef int register_kind(const kind *k, object cls) except -1:
    cdef Registered entry = Registered.__new__(Registered)
    if not k.number or k.number in kinds:
        raise InvalidArgument(f"there is a kind of structure with the number {k.number} already")
    if k.root < RNVM_NODE or k.root > MOST_ROOT or k.root & 7 or k.apply == NULL or k.walk == NULL:
        raise InvalidArgument(f"kind {k.number} has a root of {k.root} bytes, or does not say what it does",
                              hint=f"a multiple of 8, from {RNVM_NODE} to {MOST_ROOT}; apply and walk")
    entry.c = k
    entry.cls = cls
    if cls.KIND != k.number:
        raise InvalidArgument(f"{cls.__name__}.KIND is {cls.KIND}, and the kind's number {k.number}")
    kinds[k.number] = entry
    return 0


cdef const kind *kind_of(uint32_t number) noexcept:
    cdef Registered entry = kinds.get(number)
    return entry.c if entry is not None else NULL


# Codecs


class Codec:
    """How values become bytes; name: what the naming entry says."""

    def __init__(self, name, encode, decode):
        self.name, self.encode, self.decode = name, encode, decode


def utf8_codec():
    return Codec("utf-8", lambda text: text.encode(), lambda data: data.decode())


def json_codec():
    import json  # here, because it takes milliseconds to import
    return Codec("json", lambda value: json.dumps(value, separators=(",", ":"), sort_keys=True).encode(), json.loads)


# Only where the program asks for it: what a pool says never makes anybody unpickle.
def pickle_codec():
    import pickle
    return Codec("pickle", pickle.dumps, pickle.loads)


CODECS = {"utf-8": utf8_codec, "json": json_codec, "pickle": pickle_codec}
made = {}                      # name -> codec


def codec_of(codec):
    """The codec that a caller means.  None: bytes as they are."""
    if codec is None:
        return None
    if isinstance(codec, str):
        if codec not in CODECS:
            raise InvalidArgument(f"codec={codec!r}", hint=f"{', '.join(CODECS)}, or an object with encode and decode")
        if codec not in made:
            made[codec] = CODECS[codec]()
        return made[codec]
    if not callable(getattr(codec, "encode", None)) or not callable(getattr(codec, "decode", None)):
        raise WrongType(f"a codec of type {type(codec).__name__}",
                        hint="an object with encode(value) -> bytes and decode(bytes) -> value")
    return codec


def codec_name(codec):
    """What stands in the naming entry: another codec than a structure was made with would read nonsense."""
    if codec is None:
        return b""
    return str(getattr(codec, "name", "own")).encode()[:16]


cdef FrontEnd front_of(Structure s):
    """The front-end, for a call that needs it: an object that was never opened has none.  One that could not be opened has no
    number, and its instance may have no front-end."""
    if s.fe is None or not s.c.id:
        raise CallerError(f"this {type(s).__name__} was never opened",
                          hint="its __init__ has to call super().__init__(fe, name)")
    return <FrontEnd> s.fe


@cython.no_gc_clear                     # its instance belongs to the front-end
cdef class Structure:
    """The base of all structures.

    fe: the front-end; name: 1 to 160 bytes of UTF-8; codec: "utf-8", "json", "pickle", or an object with encode and decode, for
    values that are no bytes; create: whether to make it, if there is none; timeout: seconds.

    Raises NotFound where there is none and create is False, WrongKind where the name is that of something else.
    Cost: one call, and a transaction if it is new.
    """
    KIND = 0

    def __cinit__(self, *arguments, **options):
        self.c = <instance *> calloc(1, sizeof(instance))
        if self.c == NULL:
            raise MemoryError()

    def __init__(self, FrontEnd fe not None, str name not None, *, codec=None, bint create=True, timeout=None):
        cdef const kind *known = kind_of(type(self).KIND)
        if known == NULL:
            raise InvalidArgument(f"{type(self).__name__} is no kind of structure that is registered")
        if self.fe is not None:
            raise InvalidArgument("a structure is opened once")
        self.codec = codec_of(codec)
        self.name = name
        self.c.kind = known
        self.fe = fe
        fe.open_structure(self, self.c, create, timeout)

    def __dealloc__(self):
        if self.fe is not None:
            (<FrontEnd> self.fe).forget(self.c)
        else:
            free(self.c)

    @property
    def codec_name(self):
        """The name of its codec, as the pool has it."""
        return codec_name(self.codec).decode()

    cdef int execute(self, uint32_t code, const char *bytes, uint32_t length, object timeout=None) except -1:
        cdef FrontEnd fe = front_of(self)
        cdef int found
        fe.enter(timeout)
        try:
            while True:
                fe.ready()
                if fe.c.transacting and not self.c.entered:
                    raise self.not_named()
                with nogil:
                    found = operation_execute(self.c, code, bytes, length)
                if found >= 0:
                    return found
                if fe.again(self.c, found, True):
                    return fe.settled
        finally:
            fe.leave()

    cdef int query(self, query_function ask, void *context, object timeout=None) except -1:
        cdef FrontEnd fe = front_of(self)
        cdef int found
        fe.enter(timeout)
        try:
            while True:
                fe.ready()
                if fe.c.transacting and not self.c.entered:
                    raise self.not_named()
                with nogil:
                    found = query_ask(self.c, ask, context)
                if found >= 0:
                    return found
                fe.again(self.c, found, False)
        finally:
            fe.leave()

    cdef bytes answer(self):
        cdef frontend *fe = self.c.fe
        return PyBytes_FromStringAndSize(fe.answer, fe.answer_length) if fe.answer_length else b""

    cdef const char *answer_bytes(self, uint64_t *n) noexcept:
        n[0] = self.c.fe.answer_length
        return self.c.fe.answer

    cdef bytes encode(self, object value):
        if self.codec is None:
            if isinstance(value, bytes):
                return value
            if isinstance(value, (bytearray, memoryview)):
                return bytes(checked(value, "values"))
            raise WrongType(f"{type(value).__name__} is no bytes",
                            hint='give bytes, or open the structure with codec="json" (say)')
        try:
            encoded = self.codec.encode(value)
        except (AttributeError, TypeError) as error:
            raise WrongType(f"the codec {self.codec_name!r} takes no {type(value).__name__}: {error}",
                            hint="what encode(value) of the codec takes") from error
        if not isinstance(encoded, bytes):
            raise WrongType(f"the codec made a {type(encoded).__name__}, not bytes")
        return encoded

    cdef object decode(self, bytes value, bytes key=None, bytes token=None):
        if self.codec is None:
            return value
        try:
            return self.codec.decode(value)
        except Exception as error:
            raise Undecodable(f"the codec {self.codec_name!r} cannot decode {len(value)} bytes of {self.name!r}:"
                              f" {type(error).__name__}: {error}", raw=value, key=key, token=token,
                              hint="nothing was lost: .raw has the bytes" + (", ack(.token) removes them" if token else "")
                              ) from error

    cdef uint64_t longest(self, uint64_t most) except? 0:
        cdef FrontEnd fe = front_of(self)
        cdef uint64_t memory = rnvm_longest_record(fe.c.g.memory_ring), operations = rnvm_longest_record(fe.c.g.operation_ring)
        return min(most, min(max(memory, BESIDE + LEAST) - BESIDE, max(operations, BEFORE + LEAST) - BEFORE))

    def check(self, *, timeout=None):
        """Verifies every invariant, and that what is allocated is what can be reached.

        Takes the writer lock meanwhile.  Raises StructureDamaged at the first that fails.  Cost: a READ for each node that is
        not in the cache.
        """
        cdef FrontEnd fe = front_of(self)
        cdef int found
        fe.enter(timeout)
        try:
            while True:
                fe.ready()
                if fe.c.transacting and not self.c.entered:
                    raise self.not_named()
                with nogil:
                    found = query_alone(self.c, reach, NULL)
                if found == OK:
                    return
                fe.again(self.c, found, False)
        finally:
            fe.leave()

    cdef object not_named(self):
        return CallerError(f"the transaction that is under way is not over {self!r}",
                           hint="name all structures that it reads or changes: fe.transaction(a, b); or end it first")

    # For the front-end

    def _reopen(self):
        try:
            front_of(self).find(self, self.c, False)
        except (NotFound, WrongKind):
            self.c.id = NONE               # in the backup of a pool another structure may have our number
            raise

    def _index(self):
        return self.c.index

    def _enter(self):
        cdef int found
        front_of(self)
        with nogil:
            found = turn_enter(self.c)
        return found

    def _take_lock(self):
        """Takes the writer lock, and thereby executes what a dead session of ours has left."""
        cdef int found
        front_of(self)
        with nogil:
            found = turn_enter(self.c)
            turn_leave(self.c.fe)
        return found

    def _was_entered(self):
        return bool(self.c.entered)

    def _mark(self):
        self.before = self.c.operations

    def _unmark(self):
        self.c.operations = max(self.before, self.c.covered)

    def __reduce__(self):
        raise not_copied(self, "open the structure again, at the front-end of the process that uses it")

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r}>"
