"""Read transactions: the queries of several structures see one moment, without a lock.

The moment
----------
The state of a structure is the sequence of its last transaction that counts.  It only rises, and
query_await_state() returns its value at an instant within the call.  All states are found again and
again, until one pass finds each as the pass before did: between the two passes the structures were
in these states together.  A record over several structures counts for all of them from one instant
on (it is whole in one log, or published with it; while the back-end applies it, all of their
sequences are odd), so a moment contains all of it or nothing.

A query at the moment
---------------------
uses cached nodes, and READs with the overlay that the last pass left: it is not pulled again, so
records that writers log meanwhile do not disturb.  If a node was READ, the sequence must not have
passed the state afterwards.  A structure whose lock this front-end keeps is entered for the query;
if the lock was taken away, the moment is determined again, since our own log may not be applied
yet.

Moving on
---------
If a sequence has passed the state, the query is forgotten and a later moment is determined.  It
replaces the first one if no node that earlier queries have read was changed in between: a query
follows pointers from the root, so from the same nodes it gives the same answer.  A node that was
changed, freed or reused has another header; a node that is not reachable any more had a parent that
was changed.  If one was changed, the read transaction ends with CONFLICT.

Multi-version structures
------------------------
Their version of the moment is read with the moment, and kept as that of a snapshot.  Queries read
this version, whatever writers do, so these structures never need a later moment.  For that, a
kept lock of such a structure is given back at the beginning: 1 call.  If another
structure needs one, they move on only if no query of theirs has answered, or if they have not
changed at all.

The bounds
----------
The headers are READ in groups of REMOTE_PIECES_MAX, each in one round trip, and kept locks of other
structures are polled in between.  At most NOTED_MAX nodes are noted (32 MiB); a read transaction
that reads more ends with CONFLICT if it needs a later moment.  So a comparison takes NOTED_MAX /
REMOTE_PIECES_MAX = 8192 round trips at most, also under the locks.

After PASSES_MAX passes, or EXTENSIONS_MAX later moments for one query, the locks of all structures
are acquired, in the order of all transactions.  If no node that was read has changed, all further
queries run under the locks.
"""

from libc.stdint cimport uint32_t, uint64_t

from rnvm.format.layout cimport rnvm_offset, rnvm_transaction_of
from rnvm.format.node cimport RNVM_NODE, rnvm_node
from rnvm.frontend.log_overlay cimport overlay_clear, overlay_patch
from rnvm.frontend.node_cache cimport cache_find, cache_trim, node_bytes
from rnvm.frontend.operation cimport (
    scope_set_transacting, structure_acquire, structures_release)
from rnvm.frontend.query cimport (
    query_await_state, query_run, query_run_and_release, query_still_in, query_under_lock)
from rnvm.frontend.read_set cimport read_set_noting, read_set_truncate
from rnvm.frontend.remote cimport REMOTE_PIECES_MAX, remote_read_pieces
from rnvm.frontend.state cimport frontend, instance, node, note
from rnvm.frontend.status cimport AGAIN, CONFLICT, LATE, NO_MEMORY, OK
from rnvm.frontend.version_query cimport session_still_valid
from rnvm.frontend.version_root cimport read_newest
from rnvm.frontend.version_use cimport (
    version_keep, version_publish_now, version_release, version_unpublish, versions_reserve)
from rnvm.frontend.writer_lock cimport (
    lock_acquire_kept, lock_release, lock_release_kept, locks_poll_others)

cdef enum:
    PASSES_MAX = 64            # over the states, before the locks are acquired
    EXTENSIONS_MAX = 8         # later moments for one query, before the same


cdef int moment_begin(frontend *fe, instance **named, uint32_t count, bint locked) noexcept nogil:
    cdef uint32_t i
    cdef int status = OK
    fe.moment.is_open = True
    fe.moment.settled = fe.moment.locked = False
    fe.moment.failed = OK
    fe.moment.named = named
    fe.moment.count = count
    for i in range(count):
        named[i].named = True
        named[i].lock_kept = False
        named[i].version_kept = 0
        named[i].moment = 0
        named[i].answered = False
    read_set_noting(fe, not locked)
    if locked:
        return acquire_all(fe)
    for i in range(count):
        # With a kept lock it would read the newest state, which ends when others get the lock.
        if status == OK and named[i].kind.collect != NULL:
            status = lock_release(named[i])
    return status


cdef int moment_end(frontend *fe) noexcept nogil:
    cdef instance *s
    cdef uint32_t i
    if not fe.moment.is_open:
        return OK
    for i in range(fe.moment.count):
        s = fe.moment.named[i]
        s.named = False
        if s.version_kept and not fe.link.error:
            forget_version(s)
            version_unpublish(s)        # if it fails, the session is lost, and its words with it
    leave_all(fe)
    fe.moment.is_open = False
    fe.moment.named = NULL
    fe.moment.count = 0
    read_set_noting(fe, False)
    return fe.moment.failed


cdef bint moment_begin_again(frontend *fe) noexcept nogil:
    cdef uint32_t i
    if fe.moment.locked or fe.moment.failed != OK or fe.read_set.count:
        return False
    for i in range(fe.moment.count):
        if fe.moment.named[i].answered:
            return False
    fe.moment.settled = False
    for i in range(fe.moment.count):
        fe.moment.named[i].moment = fe.moment.named[i].version_kept = 0
    return True


cdef int moment_query(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                      void *context) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint32_t mark = fe.read_set.count, attempts = 0
    cdef int result
    if fe.moment.failed != OK:
        return fe.moment.failed
    while True:
        result = OK
        if not fe.moment.settled and not fe.moment.locked:
            result = settle(fe) if attempts < EXTENSIONS_MAX else acquire_all(fe)
            attempts += 1
        if result == OK and fe.moment.locked:
            return query_under_lock(s, function, context)
        if result == OK:
            result = query_at_moment(s, function, context)
            if result >= 0:
                s.answered = True
                return result
            read_set_truncate(fe, mark)
        if result != AGAIN:
            if result == CONFLICT:
                fe.moment.failed = result
                fe.stats.conflicts += 1
            return result
        fe.moment.settled = False


cdef int query_at_moment(instance *s, int (*function)(instance *s, void *context) noexcept nogil,
                         void *context) noexcept nogil:
    """AGAIN: a later moment is needed."""
    cdef frontend *fe = s.fe
    cdef int result, status
    if s.lock_kept:
        status = lock_acquire_kept(s)
        if status != OK:
            return status
        if not s.holds:
            return AGAIN
        s.entered = True
        return query_run_and_release(s, function, context)
    s.version = s.newest.version if s.version_kept else 0
    result = query_run(s, function, context)
    s.version = 0
    if not s.fetched and result >= 0:
        cache_trim(fe)
        return result
    status = validate(s, result)
    if status != OK:
        # The nodes fetched may be of different states, also if there was no time to validate them.
        s.generation += 1
        fe.stats.restarts += status == AGAIN
    cache_trim(fe)
    return result if status == OK else status


cdef int validate(instance *s, int result) noexcept nogil:
    """Whether all nodes that the query fetched are of the moment.  AGAIN: a later one is needed."""
    if s.fe.link.error:
        return s.fe.link.error
    if result == LATE or result == NO_MEMORY:
        return result
    if not s.version_kept:
        return query_still_in(s, s.moment, result)
    return session_still_valid(s) if result >= 0 else AGAIN     # its memory was used again


# The moment


cdef int settle(frontend *fe) noexcept nogil:
    """Determines the moment, or a later one.  OK also if it has acquired the locks instead."""
    cdef bint again = True
    cdef uint32_t passes = 0
    cdef int status
    while passes < PASSES_MAX:
        status = pass_over(fe, passes == 0, &again)
        if status == AGAIN:
            break                       # operations of a dead writer are to be executed
        if status != OK:
            return status
        passes += 1
        if again:
            continue
        status = adopt(fe)
        if status != AGAIN:             # AGAIN: a structure moved on while its nodes were compared
            return status
    return acquire_all(fe)


cdef int pass_over(frontend *fe, bint first, bint *again) noexcept nogil:
    """Finds the state of each structure.  *again: another pass is needed."""
    cdef instance *s
    cdef uint64_t state = 0
    cdef uint32_t i
    cdef int status
    again[0] = first and fe.moment.count > 1
    for i in range(fe.moment.count):
        s = fe.moment.named[i]
        status = find_moment_state(s, &state)
        if status != OK:
            return status
        if state != s.found:
            s.found = state
            if fe.moment.count > 1:
                again[0] = True
    return OK


cdef int find_moment_state(instance *s, uint64_t *state) noexcept nogil:
    cdef int status = lock_acquire_kept(s)
    s.lock_kept = status == OK and s.holds
    if status != OK:
        return status
    if not s.lock_kept:
        return query_await_state(s, state)
    state[0] = s.seen                   # of the last transaction: it is our own, or we know of it
    overlay_clear(s)
    return lock_release_kept(s)


cdef int adopt(frontend *fe) noexcept nogil:
    """Makes the states found the moment's, unless noted nodes have changed: CONFLICT.  AGAIN: a
    state does not hold any more."""
    cdef instance *s
    cdef uint32_t i
    cdef int status
    for i in range(fe.moment.count):
        s = fe.moment.named[i]
        if s.found != s.seen:
            s.seen = s.found
            s.generation += 1
    for i in range(fe.moment.count):
        s = fe.moment.named[i]
        if s.kind.collect != NULL and not s.lock_kept \
                and (s.moment != s.found or not s.version_kept):
            status = keep_version(s)
            if status != OK:
                return status
    for i in range(fe.moment.count):
        s = fe.moment.named[i]
        if not s.moment or s.moment == s.found:
            continue
        status = unchanged(s)
        if status == OK and not s.lock_kept:
            status = query_still_in(s, s.found, OK)
        if status != OK:
            return status
    for i in range(fe.moment.count):
        s = fe.moment.named[i]
        if s.moment and s.moment != s.found:
            fe.stats.extensions += 1
        s.moment = s.found
    fe.moment.settled = True
    return OK


cdef int keep_version(instance *s) noexcept nogil:
    """Reads the root of the state found, for all queries of the moment.  AGAIN: it is over."""
    cdef uint64_t number = rnvm_transaction_of(s.found)
    cdef int status
    forget_version(s)
    if not versions_reserve(s):
        return NO_MEMORY
    version_keep(s, number)
    s.version_kept = number
    status = version_publish_now(s, number)     # before the root is read
    if status == OK:
        status = read_newest(s, number, &s.newest)
    s.newest_of = s.found if status == OK else 0
    return AGAIN if status == OK and s.newest.version != number else status


cdef void forget_version(instance *s) noexcept nogil:
    if s.version_kept:
        version_release(s, s.version_kept)
        s.version_kept = 0


cdef int unchanged(instance *s) noexcept nogil:
    """Whether the noted nodes of this structure are unchanged in its present generation: OK,
    CONFLICT, or a READ's status.

    Without the lock the sequence must be validated afterwards.
    """
    cdef frontend *fe = s.fe
    cdef note each
    cdef note[REMOTE_PIECES_MAX] unknown
    cdef node *n
    cdef uint32_t i, count = 0
    cdef int status = OK
    if s.kind.collect != NULL:
        # Its nodes stay whole when others replace them, and some answers need no node.
        return CONFLICT if s.answered else OK
    if fe.read_set.over:
        return CONFLICT                 # it has read more nodes than are noted
    for i in range(fe.read_set.count):
        each = fe.read_set.items[i]
        if each.owner != s:
            continue
        # Under the lock the pool may lack changes of our own, such as operations of a dead writer
        # that were just executed: the cache has those nodes.
        n = cache_find(fe, each.address)
        if n != NULL and n.owner == s and n.generation == s.generation:
            if not same_node(&each, <const rnvm_node *> node_bytes(n), s.id):
                return CONFLICT
            continue
        unknown[count] = each
        count += 1
        if count == REMOTE_PIECES_MAX:
            status = unchanged_in_pool(s, unknown, count)
            count = 0
        if status != OK:
            return status
    return unchanged_in_pool(s, unknown, count)


cdef int unchanged_in_pool(instance *s, const note *notes, uint32_t count) noexcept nogil:
    """The same for a group of nodes, whose headers are READ in one round trip."""
    cdef rnvm_node[REMOTE_PIECES_MAX] headers
    cdef uint64_t[REMOTE_PIECES_MAX] offsets
    cdef uint32_t i
    # Thousands of groups may take longer than a lease.
    cdef int status = locks_poll_others(s)
    for i in range(count):
        offsets[i] = rnvm_offset(notes[i].address)
    if status == OK:
        status = remote_read_pieces(s.fe, offsets, count, headers, RNVM_NODE)
    if status != OK:
        return status
    for i in range(count):
        if not s.entered:
            overlay_patch(s, offsets[i], <char *> &headers[i], RNVM_NODE)
        if not same_node(&notes[i], &headers[i], s.id):
            return CONFLICT
    return OK


cdef bint same_node(const note *noted, const rnvm_node *header, uint32_t id) noexcept nogil:
    # A node that was changed once never has its former version again, so a torn header, which the
    # validation would find, is no false alarm either.
    return header.version == noted.version and header.crc == noted.crc \
        and header.length == noted.length and header.structure == id \
        and header.address == noted.address


# Under the locks


cdef int acquire_all(frontend *fe) noexcept nogil:
    """The locks of all structures, unless noted nodes have changed: CONFLICT."""
    cdef instance *s
    cdef uint32_t i, noted = fe.read_set.count
    cdef int status = OK
    scope_set_transacting(fe, True)     # so that a wait for one lock does not release the others
    fe.moment.locked = True
    for i in range(fe.moment.count):
        if status == OK:
            status = structure_acquire(fe.moment.named[i])
    # It may have executed operations of a dead writer, whose nodes are no answers of ours.
    read_set_truncate(fe, noted)
    for i in range(fe.moment.count):
        s = fe.moment.named[i]
        if status == OK and s.moment and s.moment != s.seen:
            status = unchanged(s)
    if status == OK:
        read_set_noting(fe, False)
    else:
        leave_all(fe)
    return status


cdef void leave_all(frontend *fe) noexcept nogil:
    if fe.moment.locked:
        fe.moment.locked = fe.moment.settled = False
        scope_set_transacting(fe, False)
        structures_release(fe)
