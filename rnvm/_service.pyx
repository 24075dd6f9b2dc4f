# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The service behind a pool (RFP's rings carry its calls, messages.h says what they are)."""

import threading

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from "<string.h>" nogil:
    size_t strnlen(const char *text, size_t most)

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void *bytes, size_t n, unsigned int flags)

from rfp._core cimport rfp_copy_out, rfp_load64, rfp_store64
from rfp._fabric cimport REMOTE_ATOMIC, REMOTE_READ, REMOTE_WRITE, Region
from rfp.protocol._service cimport Service, request, response, session
from rnvm._guests cimport (
    ABANDONED, GRANTED, guest, guest_fence, guest_seal, guests_begin, guests_settle, lock, lock_ask, lock_leave, lock_share,
    lock_word, locks_publish, locks_tend, seal, waiter)
from rnvm._layout cimport (
    RNVM_ATTACHED, RNVM_FENCED, RNVM_FREE, RNVM_GRANTED, RNVM_LIVE, RNVM_MOST_CODEC, RNVM_NO_BLOCK, rnvm_address, rnvm_block_at,
    RNVM_PAGE, rnvm_name, rnvm_name_at, rnvm_operation_ring_at, rnvm_session, rnvm_session_at, rnvm_structure_index, rnvm_up)
from rnvm._messages cimport *
from rnvm._persistence cimport medium_drain
from rnvm.pool._blocks cimport blocks_allocate, blocks_reclaim
from rnvm.pool._replay cimport pool_checkpoint, pool_collect, pool_pending, pool_replay, pool_settled
from rnvm.pool._sessions cimport NO_SESSION, session_attach, session_release
from rnvm.pool._state cimport pool

from rfp.errors import ConnectionFailed, InvalidArgument, OutOfMemory, RfpError, Unsupported

cdef enum:
    EVERYTHING = 0x7fffffffffffffff
    TURN = 256                 # transactions applied at once, before calls have their turn again
    CHECKPOINT = 20000000      # ns after which what was applied is made durable although there is still room in the logs
    NAP = 50000                # ns between two looks whether the holder of a lock is outside
    SWEEP = 100000000          # ns between two looks at sessions that have ended


cdef struct client:            # a front-end's connection
    const char *desk
    uint64_t process
    int64_t session            # -1: not attached
    uint64_t epoch
    bint own                   # it is the session's present one


cdef class PoolService(Service):
    """Serves a pool.

    lease: seconds after which who keeps a lock that others wait for is fenced; flushed: on its medium stores persist when their
    cache
    lines are flushed; forgetful: it does not survive the machine; revoking: what a front-end may write can be taken away from it.
    """

    def __cinit__(self, Pool opened not None, double lease, bint flushed=False, bint forgetful=False, bint revoking=False):
        self.pool = opened
        self.giving = threading.Lock()
        self.rings = {}
        memset(&self.b, 0, sizeof(self.b))
        self.b.g.p = &opened.c
        self.b.g.lease = <uint64_t> (lease * 1e9)
        self.b.g.each = <guest *> calloc(opened.c.g.sessions, sizeof(guest))
        self.b.g.locks = <lock *> calloc(opened.c.g.names, sizeof(lock))
        self.b.g.waiters = <waiter *> calloc(opened.c.g.sessions + 1, sizeof(waiter))
        if self.b.g.each == NULL or self.b.g.locks == NULL or self.b.g.waiters == NULL:
            raise MemoryError()
        self.b.flags = RNVM_DIRECT if opened.medium.direct else 0
        self.b.flags |= RNVM_FLUSHED if flushed else 0
        self.b.flags |= RNVM_FORGETFUL if forgetful else 0
        self.b.owner = self.b.g.owner = <void *> self
        if revoking:
            self.b.g.cut_off = cut_off
        self.c.context = &self.b
        self.c.opened = began
        self.c.closed = ended
        self.c.prepare = NULL
        self.c.execute = execute
        self.c.tend = tend
        self.c.watchful = True
        self.b.nap = &self.c.nap
        self.b.collecting = self.b.replaying = True
        if guests_begin(&self.b.g):
            self.b.stopped = True

    def __dealloc__(self):
        free(self.b.g.each)
        free(self.b.g.locks)
        free(self.b.g.waiters)

    @property
    def names(self):
        """How many structures there may be."""
        return self.b.g.p.g.names

    def reserve(self, fabric):
        """The whole pool, for front-ends to read."""
        cdef pool *p = self.b.g.p
        return fabric.reserve_file(self.pool.medium, <uint64_t> p.m.base, self.pool.medium.fileno(), 0,
                                   rnvm_up(p.g.size, RNVM_PAGE), REMOTE_READ)

    def keep_words(self, Region words not None):
        """Memory of zeros in which front-ends settle by compare-and-swap who has a lock: 8 bytes for each structure."""
        self.words = words
        self.b.g.words = words.c.base

    def share(self, uint64_t number, fabric):
        """What a front-end writes: a session's rings, number: its ticket; or the words of locks.

        Raises ConnectionFailed; Unsupported where a device has no atomic operations.
        """
        cdef pool *p = self.b.g.p
        cdef uint64_t offset
        cdef uint32_t index
        if number == RNVM_LOCK_WORDS and self.words is not None:
            try:
                return fabric.share(self.words, 0, self.words.length, REMOTE_READ | REMOTE_ATOMIC)
            except InvalidArgument as error:
                raise Unsupported(f"locks cannot be settled by compare-and-swap here: {Exception.__str__(error)}",
                                  hint='lock="sticky"') from error
        with self.giving:                       # or it might be cut off while it is given what it is to lose
            for index in range(p.g.sessions):
                if number and rfp_load64(&self.b.g.each[index].ticket) == number:
                    break
            else:
                raise ConnectionFailed("the session has ended, or there never was such a one")
            offset = rnvm_operation_ring_at(&p.g, index)
            region = fabric.share_file(self.pool.medium, <uint64_t> (p.m.base + offset), self.pool.medium.fileno(), offset,
                                       p.g.operation_ring + p.g.memory_ring, REMOTE_WRITE)
            if self.b.g.cut_off != NULL:
                self.rings.setdefault(index, []).append(region)
            return region

    cdef void take_back(self, uint32_t index) noexcept:
        with self.giving:
            for region in self.rings.pop(index, ()):
                region.close()

    @property
    def failed(self):
        """Whether the pool's medium has failed: nothing is answered any more."""
        return self.b.stopped

    @property
    def counters(self):
        """What it has done, as a dict."""
        cdef uint32_t i
        states = [self.b.g.p.sessions[i].state for i in range(self.b.g.p.g.sessions)]
        return {"transactions": self.b.transactions, "collected": self.b.collected, "checkpoints": self.b.checkpoints,
                "granted": self.b.g.granted, "stolen": self.b.g.stolen, "fenced": self.b.g.fenced, "waiting": self.b.g.waiting,
                "attached": states.count(RNVM_ATTACHED), "ending": states.count(RNVM_FENCED),
                "free_blocks": self.b.g.p.free, "blocks": self.b.g.p.g.blocks}

    def _go_slow(self, *, bint collecting=False, bint replaying=False):
        """From now on looks at logs, and applies them, only where somebody asks for it.  For tests alone."""
        self.b.collecting = collecting
        self.b.replaying = replaying

    # Cold calls, with the GIL

    cdef int open(self, const request *asked, response *answer) except -1:
        cdef rnvm_open question
        cdef rnvm_opened found
        cdef const rnvm_name *entry
        cdef uint32_t index
        if asked.length <= sizeof(question):
            answer.status = RNVM_BAD_REQUEST
            return 0
        memcpy(&question, asked.payload, sizeof(question))
        name = PyBytes_FromStringAndSize(asked.payload + sizeof(question), asked.length - sizeof(question))
        codec = PyBytes_FromStringAndSize(question.codec, strnlen(question.codec, RNVM_MOST_CODEC))
        if name not in self.pool.names:
            if not question.create:
                answer.status = RNVM_ABSENT
                return 0
            try:
                self.pool.create(name, question.kind, question.format, codec,
                                 (question.root + self.b.g.p.g.block - 1) // self.b.g.p.g.block)
            except OutOfMemory:
                answer.status = RNVM_NO_SPACE
                return 0
            except InvalidArgument:
                answer.status = RNVM_BAD_REQUEST
                return 0
        index = self.pool.names[name]
        entry = <const rnvm_name *> (self.b.g.p.m.base + rnvm_name_at(&self.b.g.p.g, index))
        # Nobody but this thread changes an entry.
        if question.kind and (entry.kind != question.kind or entry.format != question.format):
            answer.status = RNVM_OTHER_KIND
            answer.result = <uint64_t> entry.kind << 32 | entry.format
            return 0
        theirs = PyBytes_FromStringAndSize(entry.codec, strnlen(entry.codec, RNVM_MOST_CODEC))
        if question.kind and theirs != codec:
            answer.status = RNVM_OTHER_CODEC
            answer.length = len(theirs)
            rfp_copy_out(answer.payload, PyBytes_AS_STRING(theirs), len(theirs))
            return 0
        found.structure = self.b.g.p.structures[index].id
        found.kind = entry.kind
        found.root = entry.root
        found.blocks = entry.root_blocks
        found.number = self.b.g.p.structures[index].number
        reply(answer, &found, sizeof(found))
        return 0

    cdef int drop(self, const request *asked, response *answer, int64_t user) except -1:
        name = PyBytes_FromStringAndSize(asked.payload, asked.length)
        if name not in self.pool.names:
            answer.status = RNVM_ABSENT
            return 0
        index = self.pool.names[name]
        if lock_ask(&self.b.g, index, <uint32_t> user) != GRANTED:
            lock_leave(&self.b.g, index, <uint32_t> user)
            answer.status = RNVM_IN_USE
            return 0
        if lock_leave(&self.b.g, index, <uint32_t> user):
            return fail(&self.b, answer)
        self.pool.drop(name)
        self.b.g.locks[index].orphans = 0
        locks_publish(&self.b.g)
        return 0

    cdef int list(self, const request *asked, response *answer) except -1:
        cdef rnvm_listed item
        cdef const rnvm_name *entry
        cdef uint64_t first = 0, room
        cdef char[8] zeros
        memset(zeros, 0, sizeof(zeros))
        if asked.length == sizeof(first):
            memcpy(&first, asked.payload, sizeof(first))
        for index in sorted(self.pool.names.values()):
            if index < first:
                continue
            entry = <const rnvm_name *> (self.b.g.p.m.base + rnvm_name_at(&self.b.g.p.g, index))
            room = rnvm_up(entry.name_length, 8)
            if answer.length + sizeof(item) + room > answer.capacity:
                answer.result = index
                return 0
            item.structure = self.b.g.p.structures[<uint32_t> index].id
            item.kind = entry.kind
            item.format = entry.format
            item.name_length = entry.name_length
            item.created = entry.created
            memcpy(item.uuid, entry.uuid, 16)
            memcpy(item.codec, entry.codec, RNVM_MOST_CODEC)
            rfp_copy_out(answer.payload + answer.length, &item, sizeof(item))
            rfp_copy_out(answer.payload + answer.length + sizeof(item), entry.name, entry.name_length)
            rfp_copy_out(answer.payload + answer.length + sizeof(item) + entry.name_length, zeros, room - entry.name_length)
            answer.length += sizeof(item) + room
        return 0


cdef void reply(response *answer, const void *bytes, uint32_t n) noexcept nogil:
    rfp_copy_out(answer.payload, bytes, n)
    answer.length = n


cdef int fail(backend *s, response *answer) noexcept nogil:
    """The medium failed: nobody is told that anything was done."""
    s.stopped = True
    answer.status = RNVM_STOPPED
    answer.length = 0
    return 0


cdef void cold(backend *s, const request *asked, response *answer, int64_t user) noexcept with gil:
    try:
        if asked.opcode == RNVM_FIND:
            (<PoolService> s.owner).open(asked, answer)
        elif asked.opcode == RNVM_DROP:
            (<PoolService> s.owner).drop(asked, answer, user)
        else:
            (<PoolService> s.owner).list(asked, answer)
    except RfpError:
        fail(s, answer)


cdef void cut_off(void *owner, uint32_t index) noexcept with gil:
    (<PoolService> owner).take_back(index)


# Sessions


cdef void began(void *context, session *connection) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef client *c = <client *> calloc(1, sizeof(client))
    connection.state = c
    if c != NULL:
        c.session = -1
        c.desk = connection.staging if connection.staging_length >= 8 * <uint64_t> s.g.p.g.names else NULL


cdef bint present(backend *s, const client *c) noexcept nogil:
    """Whether the client's session is still its own."""
    return c.session >= 0 and s.g.p.sessions[c.session].epoch == c.epoch and s.g.p.sessions[c.session].state == RNVM_ATTACHED


cdef void ended(void *context, session *connection) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef client *c = <client *> connection.state
    connection.state = NULL
    if c == NULL:
        return
    if c.session >= 0 and s.g.p.sessions[c.session].epoch == c.epoch:
        s.g.each[c.session].attached = False
        s.g.each[c.session].desk = NULL
        if not s.stopped and guest_fence(&s.g, <uint32_t> c.session):
            s.stopped = True
        locks(s)
    free(c)


cdef void locks(backend *s) noexcept nogil:
    if not s.stopped and locks_tend(&s.g):
        s.stopped = True


cdef uint32_t in_state(const backend *s, uint32_t state) noexcept nogil:
    """How many sessions are."""
    cdef uint32_t i, count = 0
    for i in range(s.g.p.g.sessions):
        count += s.g.p.sessions[i].state == state
    return count


cdef void attach(backend *s, const request *asked, response *answer, client *c) noexcept nogil:
    cdef rnvm_attach question
    cdef rnvm_attached done
    cdef guest *each
    cdef int64_t index
    cdef uint64_t ticket = 0
    if asked.length != sizeof(question) or present(s, c):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    if question.previous_epoch and question.previous < s.g.p.g.sessions \
            and s.g.p.sessions[question.previous].epoch == question.previous_epoch:
        # It says that its old rings are no longer written.
        if guest_fence(&s.g, question.previous):
            fail(s, answer)
            return
        s.g.each[question.previous].quiet = True
        sweep(s)
    # A dead front-end's session stays until another front-end has executed its operations.  For that one there is a session more
    # than front-ends.  It logs no operations, so it is free again as soon as its front-end is gone, whatever happens.
    if in_state(s, RNVM_ATTACHED) >= max(s.g.p.g.sessions - 1, <uint32_t> 1):
        answer.status = RNVM_NO_SESSION_LEFT
        return
    if s.g.cut_off != NULL:
        question.process = 0                    # no process of this host, and nothing of it has to be waited for
    if in_state(s, RNVM_FREE) < 2:
        sweep(s)
    index = session_attach(s.g.p, question.process)
    if index == NO_SESSION:
        answer.status = RNVM_NO_SESSION_LEFT
        return
    if index < 0:
        fail(s, answer)
        return
    # Before anybody can read that it holds a lock.  Who maps a log that is itself persistent makes it durable without us.
    rfp_store64(&(<rnvm_session *> (s.g.p.m.base + rnvm_session_at(&s.g.p.g, <uint32_t> index))).awaits,
                question.flags & RNVM_WAITS and not (question.flags & RNVM_MAPS and s.flags & RNVM_DIRECT))
    each = &s.g.each[index]
    each.desk = c.desk
    each.process = question.process
    each.attached = True
    each.quiet = False
    while getrandom(&ticket, sizeof(ticket), 0) != sizeof(ticket) or ticket <= RNVM_LOCK_WORDS:
        pass
    rfp_store64(&each.ticket, ticket)
    c.session = index
    c.process = question.process
    c.epoch = s.g.p.sessions[index].epoch
    done.session = <uint32_t> index
    done.flags = s.flags if in_state(s, RNVM_FREE) else s.flags | RNVM_LAST
    done.epoch = c.epoch
    done.operations = s.g.p.operations[index].tail
    done.memory = s.g.p.memory[index].tail
    done.lease = s.g.lease
    done.size = s.g.p.g.size
    done.ticket = ticket
    reply(answer, &done, sizeof(done))


cdef void detach(backend *s, response *answer, client *c) noexcept nogil:
    if guest_fence(&s.g, <uint32_t> c.session):
        fail(s, answer)
        return
    s.g.each[c.session].quiet = True
    s.g.each[c.session].attached = False
    s.g.each[c.session].desk = NULL
    c.session = -1
    sweep(s)
    locks(s)


cdef bint gone(uint64_t process) noexcept with gil:
    """Whether the process that once said this of itself has ended."""
    try:
        with open(f"/proc/{process & 0x3fffff}/stat", "rb") as file:
            return int(file.read().rsplit(b")", 1)[1].split()[19]) & 0x3ffffffffff != process >> 22
    except (FileNotFoundError, ProcessLookupError):
        return True
    except Exception:
        return False


cdef int checkpoint(backend *s) noexcept nogil:
    if pool_checkpoint(s.g.p):
        s.stopped = True
        return -1
    s.checkpointed = s.g.now
    s.applied = 0
    s.checkpoints += 1
    # Readers of structures that are validated by their sequence see nothing of a block that was given back: whatever is written
    # there
    # next comes after a transaction that moved the sequence.
    s.g.p.moment += 1
    blocks_reclaim(s.g.p, s.g.p.moment)
    return 0


cdef void sweep(backend *s) noexcept nogil:
    """Frees the sessions that have ended, as far as nothing of them is needed any more."""
    cdef uint32_t i
    cdef bint due = False
    s.swept = s.g.now
    for i in range(s.g.p.g.sessions):
        if s.g.p.sessions[i].state == RNVM_FENCED:
            if not s.g.each[i].quiet and not s.g.each[i].attached and gone(s.g.each[i].process):
                s.g.each[i].quiet = True
            due |= s.g.each[i].quiet
    if not due or s.stopped or checkpoint(s):
        return
    for i in range(s.g.p.g.sessions):
        if s.g.p.sessions[i].state == RNVM_FENCED and s.g.each[i].quiet and session_release(s.g.p, i) < 0:
            s.stopped = True
            return


# Calls


cdef void grant_blocks(backend *s, uint64_t count, response *answer, const client *c) noexcept nogil:
    cdef rnvm_number done
    cdef uint64_t block = blocks_allocate(s.g.p, count, RNVM_GRANTED | <uint32_t> c.session)
    if block == RNVM_NO_BLOCK and not checkpoint(s):
        # What was given back may be free by now.
        block = blocks_allocate(s.g.p, count, RNVM_GRANTED | <uint32_t> c.session)
    if block == RNVM_NO_BLOCK:
        answer.status = RNVM_NO_SPACE
        return
    if medium_drain(s.g.p.m):
        fail(s, answer)
        return
    done.number = rnvm_address(s.g.p.g.backend, rnvm_block_at(&s.g.p.g, block))
    reply(answer, &done, sizeof(done))


cdef int64_t index_of(backend *s, uint64_t structure) noexcept nogil:
    cdef uint32_t index = rnvm_structure_index(<uint32_t> structure)
    if index >= s.g.p.g.names or s.g.p.structures[index].id != structure or s.g.p.structures[index].state != RNVM_LIVE:
        return -1
    return index


cdef void say_granted(backend *s, uint32_t index, response *answer) noexcept nogil:
    cdef rnvm_locked done
    done.word = lock_word(&s.g, index)
    done.number = s.g.p.structures[index].number
    done.covered = s.g.p.structures[index].covers
    done.operations = max(s.g.locks[index].orphans, done.covered)
    reply(answer, &done, sizeof(done))


cdef void take_lock(backend *s, uint64_t structure, response *answer, const client *c) noexcept nogil:
    cdef int64_t index = index_of(s, structure)
    cdef int found
    if index < 0:
        answer.status = RNVM_ABSENT
        return
    found = lock_ask(&s.g, <uint32_t> index, <uint32_t> c.session)
    if found < 0:
        fail(s, answer)
        return
    if found != GRANTED:
        answer.status = RNVM_QUEUED
        return
    say_granted(s, <uint32_t> index, answer)


cdef void share_lock(backend *s, const request *asked, response *answer, const client *c) noexcept nogil:
    cdef rnvm_share question
    cdef rnvm_number dead
    cdef int64_t index
    cdef int found
    if asked.length != sizeof(question) or s.g.words == NULL:
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    index = index_of(s, question.structure)
    if index < 0:
        answer.status = RNVM_ABSENT
        return
    found = lock_share(&s.g, <uint32_t> index, <uint32_t> c.session, question.word, &dead.number)
    if found < 0:
        fail(s, answer)
    elif found == GRANTED:
        say_granted(s, <uint32_t> index, answer)
    elif found == ABANDONED:
        answer.status = RNVM_ABANDONED
        reply(answer, &dead, sizeof(dead))
    else:
        answer.status = RNVM_QUEUED


cdef struct search:
    uint64_t structure
    uint64_t after
    rnvm_pending found
    const char *scratch


cdef bint nearer(void *context, uint32_t writer, uint64_t lsn, uint32_t structure, uint32_t code, uint64_t number,
                 const char *bytes, uint32_t length) noexcept nogil:
    cdef search *s = <search *> context
    if structure == s.structure and number > s.after and (not s.found.number or number < s.found.number):
        s.found.number = number
        s.found.lsn = lsn
        s.found.session = writer
        s.found.code = code
        s.found.at = <uint32_t> (bytes - s.scratch)
        s.found.length = length
    return True


cdef void next_pending(backend *s, const request *asked, response *answer) noexcept nogil:
    cdef rnvm_after question
    cdef search looked
    cdef uint32_t i
    if asked.length != sizeof(question):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    memset(&looked, 0, sizeof(looked))
    looked.structure = question.structure
    looked.after = question.number
    looked.scratch = s.g.p.scratch
    for i in range(s.g.p.g.sessions):
        if s.g.p.sessions[i].state == RNVM_FENCED:
            pool_pending(s.g.p, i, nearer, &looked)
    if not looked.found.number:
        answer.status = RNVM_ABSENT
        return
    looked.found.epoch = s.g.p.sessions[looked.found.session].epoch
    reply(answer, &looked.found, sizeof(looked.found))


cdef void outcome(backend *s, const request *asked, response *answer) noexcept nogil:
    cdef rnvm_outcome question
    cdef const seal *end
    if asked.length != sizeof(question):
        answer.status = RNVM_BAD_REQUEST
        return
    memcpy(&question, asked.payload, sizeof(question))
    if question.session >= s.g.p.g.sessions:
        answer.status = RNVM_BAD_REQUEST
        return
    end = guest_seal(&s.g, question.session, question.epoch)
    if end == NULL:
        answer.status = RNVM_FORGOTTEN
    elif question.lsn >= (end.memory if question.ring else end.operations):
        answer.status = RNVM_ABSENT


cdef void execute(void *context, request *asked, response *answer) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef client *c = <client *> asked.session.state
    cdef uint64_t number = 0
    if s.stopped or c == NULL:
        answer.status = RNVM_STOPPED
        return
    if asked.opcode == RNVM_ATTACH:
        attach(s, asked, answer, c)
        return
    if asked.opcode == RNVM_OUTCOME:
        outcome(s, asked, answer)
        return
    if not present(s, c):
        answer.status = RNVM_NOT_ATTACHED
        return
    if asked.opcode == RNVM_FIND or asked.opcode == RNVM_DROP or asked.opcode == RNVM_LIST:
        cold(s, asked, answer, c.session)
        return
    if asked.opcode == RNVM_PENDING:
        next_pending(s, asked, answer)
        return
    if asked.opcode == RNVM_GRANT or asked.opcode == RNVM_ACQUIRE or asked.opcode == RNVM_LEAVE:
        if asked.length != sizeof(number):
            answer.status = RNVM_BAD_REQUEST
            return
        memcpy(&number, asked.payload, sizeof(number))
        if asked.opcode == RNVM_GRANT:
            grant_blocks(s, number, answer, c)
        elif asked.opcode == RNVM_ACQUIRE:
            take_lock(s, number, answer, c)
        elif index_of(s, number) >= 0 and lock_leave(&s.g, <uint32_t> index_of(s, number), <uint32_t> c.session):
            fail(s, answer)
    elif asked.opcode == RNVM_SHARE:
        share_lock(s, asked, answer, c)
    elif asked.opcode == RNVM_DETACH:
        detach(s, answer, c)
    elif asked.opcode == RNVM_SYNC:
        # Who waited for the last sync is answered before the next one, which is for all who have written by then.
        answer.later = not pool_settled(s.g.p, <uint32_t> c.session)
        s.asked |= answer.later
    elif asked.opcode == RNVM_APPLY or asked.opcode == RNVM_ROOM:
        if guests_settle(&s.g) or asked.opcode == RNVM_ROOM and checkpoint(s):
            fail(s, answer)
    else:
        answer.status = RNVM_BAD_REQUEST
    if not s.stopped and not present(s, c) and asked.opcode != RNVM_DETACH:
        answer.status = RNVM_NOT_ATTACHED          # cut off while we were at it
        answer.length = 0


cdef bint crowded(const pool *p) noexcept nogil:
    """Whether a ring has used half of its space."""
    cdef uint32_t i
    for i in range(p.g.sessions):
        if (p.operations[i].tail - p.operations[i].head) * 2 > p.operations[i].size:
            return True
        if (p.memory[i].tail - p.memory[i].head) * 2 > p.memory[i].size:
            return True
    return False


cdef bint tend(void *context, uint64_t now) noexcept nogil:
    cdef backend *s = <backend *> context
    cdef int64_t bytes, applied
    s.g.now = now
    if s.stopped:
        return False
    applied = pool_replay(s.g.p, TURN) if s.replaying else 0
    if applied:
        s.applied += <uint64_t> applied
        s.transactions += <uint64_t> applied
        locks_publish(&s.g)
    locks(s)
    if s.stopped or s.applied and (now - s.checkpointed > CHECKPOINT or crowded(s.g.p)) and checkpoint(s):
        return False
    if now - s.swept > SWEEP:
        sweep(s)
    # Last, so that who waits for it is answered at once; and those who were answered before may have written again by now, and
    # share the sync.
    bytes = pool_collect(s.g.p) if s.collecting or s.asked else 0
    s.asked = False
    if bytes < 0:
        s.stopped = True
        return False
    s.collected += <uint64_t> bytes
    # A holder says nothing when it is outside: while others wait for it, somebody has to look.
    s.nap[0] = NAP if s.g.waiting else 0
    return bytes != 0 or applied != 0
