"""The base of structures: their nodes, kinds, codecs and calls (docs/rnvm-structures.md)."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from rfp.core.core cimport rfp_now
from rfp.protocol.client.client_base cimport wait_seconds_of
from rnvm.format.layout cimport (
    RNVM_OPERATION_HEAD_MAX, RNVM_OTHER_CHANGES_MAX, RNVM_PARTS_MAX, RNVM_VALUE_BYTES_MIN,
    rnvm_longest_record, rnvm_structure_index,
)
from rnvm.format.node cimport RNVM_NODE_BYTES_MAX, RNVM_NODE
from rnvm.frontend.leak_check cimport reach
from rnvm.frontend.byte_buffer cimport buffer_append
from rnvm.frontend.frontend cimport FrontEnd
from rnvm.frontend.log_writer cimport in_doubt_clear, log_record_room
from rnvm.frontend.moment cimport moment_query
from rnvm.frontend.node_cache cimport cache_follow, cache_get, cache_peek, cache_trim, node_bytes
from rnvm.frontend.operation cimport (
    operation_execute, scope_set_patient, scope_set_sparing, structure_acquire, structure_collect,
    structures_release)
from rnvm.frontend.query cimport query_execute, query_under_lock
from rnvm.frontend.promise cimport promise_await, promise_gone
from rnvm.frontend.remote cimport link_set_deadline
from rnvm.frontend.session cimport HOLDS
from rnvm.frontend.slab_allocator cimport slabs_cost, slabs_return, slabs_take
from rnvm.frontend.state cimport frontend, instance, kind, node
from rnvm.frontend.status cimport GONE
from rnvm.frontend.version_query cimport (
    query_newest, query_snapshot, snapshot_open, snapshots_give_back, snapshots_open)
from rnvm.frontend.version_root cimport version_find, version_store
from rnvm.frontend.version_use cimport version_renew
from rnvm.frontend.watch cimport Watch, watch_of
from rnvm.frontend.write_set cimport node_set_changed, node_set_new, write_set_undo
from rnvm.frontend.writer_lock cimport locks_poll_others

from rfp.core import clock
from rfp.protocol.client.client_base import TIME_S_MAX
from rfp.protocol.client.caller_memory import checked
from rfp.errors import (
    CallerError, Closed, ConnectionFailed, DeadlineExceeded, HandshakeFailed, InvalidArgument,
    NotFound, RfpError, SnapshotTooOld, Undecodable, WrongKind, WrongType, not_copied)
from rnvm.format.partitions import SEPARATOR, name_bytes

ROOT = 1                       # type of a root
ROOT_BYTES_MAX = 3072

cdef enum:
    CODEC_NAME_MAX = 16        # bytes, of a naming entry
    RENEW_LISTED = 256         # nodes that are listed before the back-end is asked again
    COLLECT_PER_LEASE = 4      # of a lease, the part for which a collector waits for a lock
    COLLECT_INTERVAL_NS = 100000000    # between two collections, if the first one has found nothing

cdef uint32_t NO_STRUCTURE = 0xffffffff        # in place of a structure's id: no structure has it
cdef uint64_t NO_MARK = ~<uint64_t> 0          # no transaction is open
cdef double QUERY_S_MIN = 0.02                 # that each query of a wait has, also at its end


# Nodes


cdef inline uint32_t rounded(uint32_t length) noexcept nogil:
    return (length + 7) & ~7


cdef const char *node_read(instance *s, uint64_t address, uint32_t length,
                           uint16_t type) noexcept nogil:
    cdef node *n = cache_follow(s, address, length, type)
    return NULL if n == NULL else node_bytes(n)


cdef const char *root_read(instance *s) noexcept nogil:
    return node_read(s, s.root, s.kind.root, 1)


cdef char *node_change(instance *s, uint64_t address, uint32_t length, uint16_t type,
                       uint32_t offset, uint32_t n) noexcept nogil:
    cdef node *changed = cache_get(s, address, length, type)
    if changed == NULL:
        return NULL
    if offset < RNVM_NODE or offset > changed.length or n > changed.length - offset:
        fault(s, address, "a change is outside its node")
        return NULL
    return node_set_changed(s, changed, offset, n)


cdef char *root_change(instance *s, uint32_t offset, uint32_t n) noexcept nogil:
    return node_change(s, s.root, s.kind.root, 1, offset, n)


cdef char *node_new(instance *s, uint32_t length, uint16_t type,
                    uint64_t *address) noexcept nogil:
    cdef node *added
    length = rounded(length)
    if length < RNVM_NODE or length > RNVM_NODE_BYTES_MAX:
        s.error = TOO_LONG
        return NULL
    address[0] = slabs_take(s, length)
    if not address[0]:
        return NULL
    added = node_set_new(s, address[0], length, type)
    return NULL if added == NULL else node_bytes(added)


cdef int node_free(instance *s, uint64_t address, uint32_t length) noexcept nogil:
    return slabs_return(s, address, rounded(length))


cdef char *node_renew(instance *s, uint64_t address, uint32_t length,
                      uint16_t type) noexcept nogil:
    cdef node *added = node_set_new(s, address, rounded(length), type)
    return NULL if added == NULL else node_bytes(added)


cdef int node_glimpse(instance *s, uint64_t address, void *to, uint32_t n) noexcept nogil:
    return cache_peek(s, address, to, n)


cdef void nodes_release(instance *s) noexcept nogil:
    cache_trim(s.fe)


cdef int answer_put(instance *s, const void *bytes, uint64_t n) noexcept nogil:
    if not buffer_append(&s.fe.answer, bytes, n):
        s.error = NO_MEMORY
        return NO_MEMORY
    return OK


cdef uint64_t record_room(const instance *s) noexcept nogil:
    return log_record_room(s.fe.g.memory_ring)


cdef bint room_for(const instance *s, uint64_t bytes) noexcept nogil:
    cdef uint64_t before = s.fe.write_set.record_bytes if s.fe.scope.transacting else 0
    return bytes + before <= record_room(s)


cdef uint64_t node_cost(const instance *s, uint32_t length) noexcept nogil:
    return slabs_cost(s, rounded(length))


cdef uint64_t pool_bytes(const instance *s) noexcept nogil:
    return s.fe.g.size


cdef uint64_t structure_identity(const instance *s) noexcept nogil:
    return <uint64_t> s.fe.g.seed << 32 | s.id


cdef int version_read(instance *s, rnvm_version *found) noexcept nogil:
    return version_find(s, found)


cdef int version_write(instance *s, rnvm_version *changed) noexcept nogil:
    return version_store(s, changed)


cdef uint64_t version_made(const instance *s) noexcept nogil:
    return s.number + 1


cdef uint64_t version_frozen(const instance *s) noexcept nogil:
    return s.frozen


cdef uint64_t oldest_retained(instance *s, uint64_t listed) noexcept nogil:
    if listed >= s.renew_at:
        # A failure shows later: the session's error stays, and nothing is freed without an answer.
        version_renew(s, False)
        s.renew_at = listed + RENEW_LISTED if listed < s.fe.g.size else RENEW_LISTED
    elif s.renew_at - listed > RENEW_LISTED:
        s.renew_at = listed + RENEW_LISTED
    return s.retained


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
        raise InvalidArgument(f"kind {k.number} is registered already")
    if k.root < RNVM_NODE or k.root > ROOT_BYTES_MAX or k.root & 7:
        raise InvalidArgument(f"the root of kind {k.number} must be a multiple of 8 between "
                              f"{RNVM_NODE} and {ROOT_BYTES_MAX} bytes, got {k.root}")
    if k.apply == NULL or k.walk == NULL:
        raise InvalidArgument(f"kind {k.number} must have the functions apply and walk")
    entry.c = k
    entry.cls = cls
    if cls.KIND != k.number:
        raise InvalidArgument(f"{cls.__name__}.KIND must be {k.number}, the kind's number, "
                              f"got {cls.KIND}")
    kinds[k.number] = entry
    return 0


cdef const kind *kind_of(uint32_t number) noexcept:
    cdef Registered entry = kinds.get(number)
    return entry.c if entry is not None else NULL


# Codecs


class Codec:
    """How values become bytes; name: as the naming entry contains it."""

    def __init__(self, name, encode, decode):
        self.name, self.encode, self.decode = name, encode, decode


def utf8_codec():
    return Codec("utf-8", lambda text: text.encode(), lambda data: data.decode())


def json_codec():
    import json  # here, because the import takes milliseconds
    return Codec("json",
                 lambda value: json.dumps(value, separators=(",", ":"), sort_keys=True).encode(),
                 json.loads)


# Only if the program requests it: nothing in a pool makes a process unpickle.
def pickle_codec():
    import pickle

    def encode(value):
        try:
            return pickle.dumps(value)
        except pickle.PicklingError as error:
            raise TypeError(str(error)) from error

    return Codec("pickle", encode, pickle.loads)


BUILT_IN_CODECS = {"utf-8": utf8_codec, "json": json_codec, "pickle": pickle_codec}
made = {}                      # name -> codec


def codec_of(codec):
    """Return the codec that a caller names.  None: bytes as they are."""
    if codec is None:
        return None
    if isinstance(codec, str):
        if codec not in BUILT_IN_CODECS:
            raise InvalidArgument(
                f"invalid codec {codec!r} (expected {', '.join(BUILT_IN_CODECS)}, or an object "
                "with encode and decode)")
        if codec not in made:
            made[codec] = BUILT_IN_CODECS[codec]()
        return made[codec]
    if not callable(getattr(codec, "encode", None)) or not callable(getattr(codec, "decode", None)):
        raise WrongType(f"invalid codec of type {type(codec).__name__} (expected an object with "
                        "encode(value) -> bytes and decode(bytes) -> value)")
    length = len(codec_name(codec))
    if length > CODEC_NAME_MAX:
        raise InvalidArgument(f"the name of a codec must be at most {CODEC_NAME_MAX} bytes of "
                              f"UTF-8, got {length}",
                              hint="shorten its attribute `name`; structures of earlier releases "
                                   f"have its first {CODEC_NAME_MAX} bytes")
    return codec


def codec_name(codec):
    """Return the codec's name in the naming entry: a structure is not opened with another one.

    All codecs without a name have one and the same.
    """
    if codec is None:
        return b""
    return str(getattr(codec, "name", "own")).encode(errors="replace")


cdef bytes exact_bytes(object value):
    # The functions that get it are compiled for bytes, not for its subclasses.
    if type(value) is bytes:
        return value
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))


# Waiting


cdef double seconds_until(object deadline):
    return (deadline - clock.now_ns()) / 1e9


cdef double query_seconds(FrontEnd fe, double left):
    """The seconds that a query of a wait may take: a last one must have a chance, too."""
    return min(max(left, QUERY_S_MIN), fe.timeout)


# The class


cdef FrontEnd front_of(Structure s):
    """The front-end, for a call that needs it.

    An object that was never opened has none; one whose opening failed has no id, and its instance
    may have no front-end.
    """
    if s.fe is None or not s.c.id:
        raise CallerError(f"this {type(s).__name__} was never opened",
                          hint="call super().__init__(fe, name) in its __init__")
    return <FrontEnd> s.fe


cdef int begin(Structure s, FrontEnd fe, bint is_query) except -1:
    """The session, and for a call within a transaction: that it includes the structure."""
    fe.ensure_session()
    if fe.c.moment.is_open:
        if not s.c.named:
            raise s.not_named()
        if not is_query:
            raise CallerError("a read transaction only reads",
                              hint="use fe.transaction() for changes and checks")
    elif fe.c.scope.transacting and not s.c.entered:
        raise s.not_named()
    return 0


cdef struct job:               # of one call
    query_function ask         # a query; NULL: an operation
    void *context
    bint under_lock            # of a query
    uint32_t code
    const char *bytes
    uint32_t length
    const rnvm_version *at     # a query of a snapshot
    uint64_t session           # that the snapshot belongs to
    rnvm_version *opened       # opens a snapshot
    uint64_t *opened_session   # the session that it belongs to


cdef inline int attempt(instance *s, const job *j) noexcept nogil:
    """Runs the job once: the result of the structure's function, or a status below 0."""
    cdef int status = locks_poll_others(s)
    if status != OK:
        in_doubt_clear(s.fe)                    # those records belong to other operations
        return status
    if j.opened != NULL:
        return snapshot_open(s, j.opened)
    if j.at != NULL:
        return query_snapshot(s, j.at, j.ask, j.context)
    if s.fe.moment.is_open:
        return moment_query(s, j.ask, j.context)
    if j.ask == NULL:
        return operation_execute(s, j.code, j.bytes, j.length)
    if j.under_lock:
        return query_under_lock(s, j.ask, j.context)
    if s.kind.collect != NULL:
        return query_newest(s, j.ask, j.context)
    return query_execute(s, j.ask, j.context)


cdef int await_replication(frontend *fe, const job *j, int status) noexcept nogil:
    """Before an answer: waits until what it depends on is replicated, if that was promised.

    An operation of a batch does not wait for its own records: the end of the batch does.
    """
    if status >= 0:
        return promise_await(fe, not fe.scope.batching or j.ask != NULL or j.opened != NULL)
    return promise_gone(fe) if status == GONE else OK


# Listed nodes of other structures


class _Listed:
    """A structure as the catalog names it."""

    def __init__(self, name, codec):
        self.entry, self.codec = name, codec
        self.name = name.decode(errors="replace")

    def _entry_name(self):
        return self.entry

    def _codec_bytes(self):
        return self.codec


cdef bint may_collect(FrontEnd fe, instance *s) except -1:
    """Whether there may be listed nodes that no reader uses, since the last time.

    No lock is needed to find that out: nodes that are listed later have a later number.
    """
    cdef int status
    with nogil:
        status = version_renew(s, False)
    if status != OK:
        fe.raise_for(status)
    if fe.collected.get(s.id) == s.retained:
        return False
    fe.collected[s.id] = s.retained
    return True


cdef bint collect_open(FrontEnd fe, instance *s) except -1:
    cdef uint64_t until = rfp_now() + fe.c.session.lease_ns // COLLECT_PER_LEASE
    cdef int status
    if not may_collect(fe, s):
        return False
    with nogil:
        status = structure_collect(s, until)
    if status:
        del fe.collected[s.id]                  # there may be more
        fe.raise_for(min(status, 0))
    return status > 0


cdef bint collect_closed(FrontEnd fe, object entry) except -1:
    """The same for a structure that is not open here: opens it for that."""
    cdef instance *s = <instance *> calloc(1, sizeof(instance))
    if s == NULL:
        raise MemoryError()
    s.fe = &fe.c
    s.kind = kind_of(entry.kind)
    s.id = entry.id
    s.index = rnvm_structure_index(entry.id)
    try:
        if not may_collect(fe, s):
            free(s)
            return False
        del fe.collected[s.id]
        s.id = 0
        fe.find(_Listed(entry.name, entry.codec), s, False, False)
        fe.add_instance(s)
    except BaseException:
        free(s)
        raise
    fe.mark_gone(s)                             # closed at the end of the present call
    return s.number != 0 and collect_open(fe, s)


cdef bint collect_listed(FrontEnd fe, object entry, const instance *own) except -1:
    """The same for any structure of the pool but `own`."""
    cdef const kind *known = kind_of(entry.kind)
    cdef instance *s
    cdef uint32_t i
    if known == NULL or known.collect == NULL or known.format != entry.format:
        return False
    for i in range(fe.c.open.count):
        s = fe.c.open.items[i]
        if s.id == entry.id:
            return s != own and not s.gone and collect_open(fe, s)
    return collect_closed(fe, entry)


cdef bint collect_others(FrontEnd fe, const instance *own) except -1:
    """Blocks have run short: frees listed nodes of all other multi-version structures of the pool
    that no reader uses; whether there were some.

    Under their locks, for which it waits with half of the time that is left, and for each with a
    part of the lease.  A session that keeps one for longer is not fenced for that.
    """
    cdef uint64_t deadline = fe.c.link.deadline_ns, now = rfp_now(), half
    cdef bint found = False, failed = False
    if fe.found_nothing_ns and now - fe.found_nothing_ns < COLLECT_INTERVAL_NS:
        return False
    half = now + (deadline - now) // 2 if deadline > now else deadline
    link_set_deadline(&fe.c, half)
    scope_set_patient(&fe.c, True)
    try:
        entries = fe.entries()
        for entry in entries:
            try:
                found |= collect_listed(fe, entry, own)
            except RfpError:
                failed = True                   # not what the caller must know
    except RfpError:
        failed = True
    finally:
        scope_set_patient(&fe.c, False)
        link_set_deadline(&fe.c, deadline)
    fe.found_nothing_ns = 0 if found or failed else rfp_now()
    return found


cdef int refuse_changed(FrontEnd fe) except -1:
    if fe.c.scope.transacting and fe.c.write_set.record_bytes:
        raise CallerError(
            "a snapshot cannot be taken within a transaction that has changed something",
            hint="take it before, or read the structure itself")
    return 0


cdef int run(Structure s, const job *j, object timeout) except -1:
    """Runs the job until it has a result, also over lost sessions."""
    cdef FrontEnd fe = front_of(s)
    cdef uint64_t records
    cdef int status, waited, result = 0
    cdef bint sparing = j.ask == NULL and j.opened == NULL
    fe.acquire_call(timeout)
    try:
        while True:
            if j.at == NULL:
                begin(s, fe, j.ask != NULL and not j.under_lock)
            else:
                fe.ensure_session()
                if fe.ticket != j.session:
                    raise SnapshotTooOld("the session of the snapshot was lost",
                                         hint="take a new one")
            if j.opened != NULL:
                refuse_changed(fe)
            scope_set_sparing(&fe.c, sparing and not fe.c.scope.transacting)
            records = fe.c.promise.records
            with nogil:
                status = attempt(s.c, j)
                waited = await_replication(&fe.c, j, status)
            if status == FULL and fe.c.scope.sparing:
                # First what nobody uses, of all structures; then readers may be given up.
                sparing = False
                if collect_others(fe, s.c) or s.c.kind.collect != NULL:
                    continue
            fe.crowded |= status == FULL and fe.c.scope.transacting
            if waited != OK:
                if j.opened != NULL and status >= 0:
                    with nogil:
                        snapshots_give_back(&s.c, 1, j.opened)
                # An operation counts here.  Whatever else was read is read again.
                result = status
                if fe.unreplicated(s.c, waited, j.ask == NULL and j.opened == NULL
                                   and fe.c.promise.records != records) == HOLDS:
                    return result
                continue
            if status >= 0:
                if j.opened != NULL:
                    j.opened_session[0] = fe.ticket
                return status
            if fe.raise_or_retry(s.c, status, j.ask == NULL and j.opened == NULL,
                                 &result) == HOLDS:
                return result
    finally:
        scope_set_sparing(&fe.c, False)
        fe.release_call()


cdef int open_version(object structure, rnvm_version *at, uint64_t *session,
                      object timeout) except -1:
    cdef job j = job(NULL, NULL, False, 0, NULL, 0, NULL, 0, at, session)
    return run(structure, &j, timeout)


cdef int open_versions(list structures, rnvm_version *at, uint64_t *session,
                       object timeout) except -1:
    cdef instance *all[RNVM_PARTS_MAX]
    cdef uint32_t count = <uint32_t> len(structures), i
    cdef Structure first = structures[0]
    cdef FrontEnd fe = front_of(first)
    cdef int status, unused = 0
    for i in range(count):
        if front_of(structures[i]) is not fe:
            raise InvalidArgument("the structures must be of one front-end")
        all[i] = (<Structure> structures[i]).c
    fe.acquire_call(timeout)
    try:
        while True:
            for each in structures:
                begin(each, fe, False)
            refuse_changed(fe)
            with nogil:
                status = locks_poll_others(first.c)
                if status == OK:
                    status = snapshots_open(&fe.c, all, count, at)
                if status == OK:
                    status = promise_await(&fe.c, True)
                    if status != OK:
                        snapshots_give_back(all, count, at)
            if status == OK:
                session[0] = fe.ticket
                return 0
            fe.raise_or_retry(first.c, status, False, &unused)
    finally:
        fe.release_call()


cdef void close_version(object structure, const rnvm_version *at, uint64_t session) noexcept:
    cdef Structure s = structure
    (<FrontEnd> s.fe).end_snapshot(s.c, at.version, session)


cdef int query_version(object structure, const rnvm_version *at, uint64_t session,
                       int (*ask)(instance *s, void *context) noexcept nogil, void *context,
                       object timeout) except -1:
    cdef Structure s = structure
    cdef job j = job(ask, context, False, 0, NULL, 0, at, session, NULL, NULL)
    return run(s, &j, timeout)


cdef uint64_t transaction_mark(object structure) except? 0xffffffffffffffff:
    cdef FrontEnd fe = front_of(structure)
    return fe.c.write_set.undo_count if structure._in_transaction() else NO_MARK


cdef int transaction_undo(object structure, uint64_t mark) except -1:
    cdef FrontEnd fe = front_of(structure)
    # Without an open front-end or session there is no transaction any more.
    if mark == NO_MARK or fe.is_closed or fe.c.link.error:
        return 0
    fe.acquire_call(None)
    try:
        if fe.c.scope.transacting and mark <= fe.c.write_set.undo_count:
            write_set_undo(&fe.c, mark)
        return 0
    finally:
        fe.release_call()


@cython.no_gc_clear                     # its instance belongs to the front-end
cdef class Structure:
    """The base of all structures.

    Args:
        fe: the front-end
        name: 1 to 160 bytes of UTF-8
        codec: "utf-8", "json", "pickle", or an object with encode and decode, for values that are
            not bytes [default: bytes]
        create: whether to make it if there is none
        timeout: seconds [default: the front-end's]

    Raises:
        NotFound: there is none, and create is False
        WrongKind: the name is that of another kind of structure

    Cost: one call, and a transaction if it is new
    """
    KIND = 0

    def __cinit__(self, *arguments, **options):
        self.c = <instance *> calloc(1, sizeof(instance))
        if self.c == NULL:
            raise MemoryError()

    def __init__(self, FrontEnd fe not None, str name not None, *, codec=None, bint create=True,
                 timeout=None):
        cdef const kind *known = kind_of(type(self).KIND)
        if known == NULL:
            raise InvalidArgument(f"{type(self).__name__} is not a registered kind of structure")
        if self.fe is not None:
            raise InvalidArgument("a structure must be opened only once")
        name_bytes(name)
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
        """The name of its codec, as the pool contains it."""
        return codec_name(self.codec).decode()

    cdef int execute(self, uint32_t code, const char *bytes, uint32_t length,
                     object timeout=None) except -1:
        cdef job j = job(NULL, NULL, False, code, bytes, length, NULL, 0, NULL, NULL)
        return run(self, &j, timeout)

    cdef int query(self, query_function ask, void *context, object timeout=None) except -1:
        cdef job j = job(ask, context, False, 0, NULL, 0, NULL, 0, NULL, NULL)
        return run(self, &j, timeout)

    cdef bytes answer(self):
        cdef frontend *fe = self.c.fe
        if not fe.answer.length:
            return b""
        return PyBytes_FromStringAndSize(fe.answer.bytes, fe.answer.length)

    cdef const char *answer_bytes(self, uint64_t *n) noexcept:
        n[0] = self.c.fe.answer.length
        return self.c.fe.answer.bytes

    cdef bytes encode(self, object value):
        if self.codec is None:
            if isinstance(value, bytes):
                return exact_bytes(value)
            if isinstance(value, (bytearray, memoryview)):
                return bytes(checked(value, "values"))
            nouns = "keys and values" if hasattr(self, "keys") else "values"
            raise WrongType(f"{nouns} must be bytes, got {type(value).__name__}",
                            hint='convert it, or open the structure with a codec such as "json"')
        try:
            encoded = self.codec.encode(value)
        except (AttributeError, TypeError, ValueError) as error:
            raise WrongType(
                f"the codec {self.codec_name!r} cannot encode {type(value).__name__}: {error}",
                hint="pass a value that encode(value) of the codec accepts") from error
        if not isinstance(encoded, bytes):
            raise WrongType(f"the codec's encode must return bytes, got {type(encoded).__name__}")
        return exact_bytes(encoded)

    cdef object decode(self, bytes value, bytes key=None, bytes token=None):
        if self.codec is None:
            return value
        try:
            return self.codec.decode(value)
        except Exception as error:
            raise Undecodable(
                f"the codec {self.codec_name!r} cannot decode {len(value)} bytes of {self.name!r}: "
                f"{type(error).__name__}: {error}", raw=value, key=key, token=token,
                hint="nothing was lost: read the bytes from .raw"
                     + ("; remove them with ack(.token)" if token else "")) from error

    cdef uint64_t longest(self, uint64_t most) except? 0:
        cdef FrontEnd fe = front_of(self)
        cdef uint64_t redo = rnvm_longest_record(fe.c.g.memory_ring)
        cdef uint64_t operations = rnvm_longest_record(fe.c.g.operation_ring)
        redo = max(redo, RNVM_OTHER_CHANGES_MAX + RNVM_VALUE_BYTES_MIN)
        operations = max(operations, RNVM_OPERATION_HEAD_MAX + RNVM_VALUE_BYTES_MIN)
        return min(most, min(redo - RNVM_OTHER_CHANGES_MAX, operations - RNVM_OPERATION_HEAD_MAX))

    def check(self, *, timeout=None):
        """Verify every invariant, and that exactly the allocated nodes can be reached.

        Holds the writer lock during the check.

        Args:
            timeout: seconds [default: the front-end's]

        Raises:
            StructureDamaged: at the first invariant that does not hold

        Cost: a READ for each node that is not in the cache
        """
        cdef job j = job(reach, NULL, True, 0, NULL, 0, NULL, 0, NULL, NULL)
        run(self, &j, timeout)

    # Waiting

    def _in_scope(self):
        """Whether this thread has a batch or a transaction open."""
        cdef FrontEnd fe = front_of(self)
        return fe.lock.owner != 0 and fe.lock.owner == <uint64_t> PyThread_get_thread_ident()

    def _in_transaction(self):
        """Whether this thread has a transaction open."""
        return self._in_scope() and front_of(self).c.scope.transacting

    def _wait(self, steps):
        """The result of a generator that yields as _waiting() does; its sleeps take place here."""
        try:
            while True:
                watch, ahead, left = next(steps)
                watch.wait(min(ahead, left))
        except StopIteration as end:
            return end.value
        finally:
            steps.close()

    def _waiting(self, due, attempt, timeout, caller=None):
        """A generator: repeats an attempt until it succeeds or the time is over.

        Yields (watch, ahead, left) when its caller must sleep until the structure changes, for at
        most so many seconds: `ahead`, after which an attempt may succeed without a change, or
        `left`, of the time.  The time limits the sleeps and the queries.  It does not limit an
        attempt: one that is given up may have taken something, which nobody has then.

        Args:
            due: a query: due(timeout) returns -1 if an attempt may succeed now, else the seconds
                after which it may without a change of the structure
            attempt: attempt() returns a tuple (result,), or a false value: not now
            timeout: seconds; infinite: no limit
            caller: its attribute `cancelled` is checked before each attempt; or None

        Returns: the tuple, or None: the time is over

        Raises:
            ConnectionFailed: the back-end cannot be reached at the end of the time
            Closed: the front-end is being closed
        """
        cdef FrontEnd fe = front_of(self)
        cdef double seconds = wait_seconds_of(timeout), left = seconds, ahead = 0
        cdef bint begun = False
        cdef Watch watch = watch_of(self, fe, self.c)
        deadline = clock.deadline_in(seconds)
        try:
            while True:
                error = None
                try:
                    ahead = due(query_seconds(fe, left))
                    left = seconds_until(deadline)
                    if ahead >= 0 and left > 0 and not begun:
                        watch.begin(query_seconds(fe, left))
                        begun = True
                        if not watch.polls:
                            ahead = due(query_seconds(fe, left))
                except (ConnectionFailed, DeadlineExceeded) as failed:
                    if not fe.reconnect or isinstance(failed, HandshakeFailed):
                        raise
                    error = failed
                    ahead = TIME_S_MAX
                    watch.rest()
                if error is None and ahead < 0:
                    if caller is not None and caller.cancelled:
                        watch.leave()
                        return None
                    found = attempt()
                    if found:
                        return found
                    ahead = 0
                left = seconds_until(deadline)
                if left <= 0:
                    if isinstance(error, ConnectionFailed):
                        raise error
                    return None
                yield watch, ahead, left
                if fe.waits_ended:
                    raise Closed("this front-end is being closed")
                begun = False
                left = seconds_until(deadline)
        except BaseException:
            watch.leave()
            raise

    cdef object not_named(self):
        return CallerError(
            f"the transaction that is under way is not over {self!r}",
            hint="name all structures that it reads or changes, as in fe.transaction(a, b), or end "
                 "it first")

    # For mappings with partitions

    def _confirm_opened(self, timeout):
        """Raises NotFound if the structure was dropped after it was opened."""
        front_of(self).confirm(self, self.c, timeout)

    def _give_up(self):
        """Closes the structure: the object is as one that was never opened."""
        cdef FrontEnd fe = front_of(self)
        cdef instance *opened = self.c
        cdef instance *unused = <instance *> calloc(1, sizeof(instance))
        if unused == NULL:
            raise MemoryError()
        self.c = unused
        fe.give_up(self, opened)

    # For the front-end

    def _reopen(self):
        try:
            front_of(self).find(self, self.c, False)
        except (NotFound, WrongKind):
            # In a pool's backup another structure may have our id.
            self.c.id = NO_STRUCTURE
            raise

    def _index(self):
        return self.c.index

    def _instance(self):
        return <size_t> self.c

    def _parts(self):
        """The structures with logs' names of their own that it consists of: itself."""
        return (self,)

    def _entry_name(self):
        """Its name in the catalog."""
        if SEPARATOR in self.name:
            raise InvalidArgument("a structure's name must not contain U+001F",
                                  hint="to open a mapping with partitions, give its name and "
                                       "partitions=")
        return name_bytes(self.name)

    def _codec_bytes(self):
        return codec_name(self.codec)

    def _acquire(self):
        cdef int status
        front_of(self)
        with nogil:
            status = structure_acquire(self.c)
        return status

    def _take_lock(self):
        """Acquires the writer lock, and thereby executes our last session's pending operations."""
        cdef int status
        front_of(self)
        with nogil:
            status = structure_acquire(self.c)
            structures_release(self.c.fe)
        return status

    def _was_entered(self):
        return bool(self.c.entered)

    def _make_room(self):
        """Free what other structures list and no reader uses; return whether there was any."""
        # Also while it is being opened: it has its front-end then.
        return self.fe is not None and collect_others(<FrontEnd> self.fe, NULL)

    def _mark(self):
        self.before = self.c.operations

    def _unmark(self):
        self.c.operations = max(self.before, self.c.covered)

    def __reduce__(self):
        raise not_copied(self,
                         "open the structure again, at the front-end of the process that uses it")

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r}>"
