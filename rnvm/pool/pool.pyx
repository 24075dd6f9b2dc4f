"""Create, open, recover, grow and close a pool.  docs/pool.md explains it."""

import time
import uuid

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from rnvm.format.layout cimport (
    RNVM_ASSUME_PERSISTENT, RNVM_CLEAN, RNVM_CODEC_MAX, RNVM_FREE, RNVM_GRANTED, RNVM_HEADERS,
    RNVM_MAGIC, RNVM_MAJOR, RNVM_MEMORY, RNVM_MINOR, RNVM_NAME_MAX, RNVM_NO_BLOCK, RNVM_NO_LIMIT,
    RNVM_OPEN, RNVM_OPERATIONS, RNVM_PAGE, RNVM_SESSION_STATE, RNVM_SUPERBLOCK_MAGIC,
    RNVM_WRITE_AHEAD, rnvm_address, rnvm_block_at, rnvm_first_lsn, rnvm_geometry, rnvm_geometry_of,
    rnvm_header, rnvm_longest_record, rnvm_name, rnvm_name_at, rnvm_session_at,
    rnvm_structure_index, rnvm_superblock,
)
from rnvm.format.replication cimport rnvm_identity
from rnvm.media.identity cimport identity_forget, identity_read
from rnvm.media.medium cimport (
    Medium, medium, medium_drain, medium_write, medium_write64, raise_failed,
)
from rnvm.media.pool_header cimport (
    header_read, header_write, superblock_read, superblock_write,
)
from rnvm.media.wal cimport wal_format
from rnvm.pool.blocks cimport block_owner, blocks_allocate, blocks_format, blocks_reclaim
from rnvm.pool.catalog cimport catalog_create, catalog_drop, catalog_entry_state
from rnvm.pool.dual_copy cimport dual_copy_format
from rnvm.pool.inspect cimport Inspection
from rnvm.pool.recovery cimport pool_load, pool_recover, pool_settle, recovery
from rnvm.pool.replay cimport pool_checkpoint, pool_collect, pool_replay
from rnvm.pool.ring_log cimport FAULT_END, ring_behind
from rnvm.pool.sessions cimport (
    NO_SESSION, session_attach, session_fence, session_release, session_set_fence_point,
)
from rnvm.pool.state cimport pool, ring, session as session_state, structure

from rfp import units
from rfp.errors import AlreadyExists, Closed, InvalidArgument, OutOfMemory, out_of_bounds
from rnvm.pool.findings import Finding
from rnvm.pool.inspect import damaged

ALL_RECORDS = (1 << 63) - 1
# By which the epoch of a copy is above its primary's, when it is served itself: more than the times
# that the other one was opened since.
HISTORY = 1 << 16
UNIX_EPOCH_NOW = None          # tests set it, so that the same history makes the same bytes


cdef uint64_t unix_time():
    return int(time.time()) if UNIX_EPOCH_NOW is None else UNIX_EPOCH_NOW


def format_medium(Medium target not None, sizes, *, backend=1, identity=None,
                  assume_persistent=False, size=None):
    """Make a pool of a medium with any content, using all that `sizes` can use (rnvm.sizes).

    Args:
        backend: ID of the logical back-end, 1 to 65535, which its addresses carry.
        identity: Its UUID.
        size: Bytes of the medium to use; default: all.

    Raises:
        StorageFailed: The medium fails.
    """
    cdef rnvm_header header
    cdef rnvm_superblock superblock
    cdef pool p
    cdef char[16] zeros
    cdef bytes name = (identity or uuid.uuid4()).bytes
    cdef uint64_t total = sizes.fit(target.length if size is None else min(size, target.length))
    cdef medium *m = &target.c
    if not 1 <= backend <= 0xffff:
        raise out_of_bounds("backend", backend, 1, 65535)
    memset(&header, 0, sizeof(header))
    memset(&superblock, 0, sizeof(superblock))
    memset(&p, 0, sizeof(p))
    memset(zeros, 0, sizeof(zeros))
    header.magic = RNVM_MAGIC
    header.major = RNVM_MAJOR
    header.minor = RNVM_MINOR
    header.length = sizeof(rnvm_header)
    memcpy(header.uuid, <const char *> name, 16)
    header.created = unix_time()
    header.backend = backend
    header.flags = RNVM_ASSUME_PERSISTENT if assume_persistent else 0
    (header.block, header.names, header.sessions, header.operation_ring, header.memory_ring,
     header.group_map, header.wal) = sizes
    header.incompatible = RNVM_WRITE_AHEAD if header.wal else 0
    header.names_at = 4 * RNVM_PAGE
    header.sessions_at = sizes.sessions_at
    header.rings_at = sizes.rings_at
    header.wal_at = sizes.wal_at if header.wal else 0
    header.groups_at = sizes.groups_at
    if not rnvm_geometry_of(&header, total, &p.g):
        raise InvalidArgument(f"cannot create a pool of {sizes}",
                              hint="choose sizes with rnvm.sizes")
    p.m = m
    with nogil:
        # Until everything else is durable there is no header.
        medium_write(m, RNVM_HEADERS, zeros, sizeof(zeros))
        medium_write(m, RNVM_HEADERS + RNVM_PAGE, zeros, sizeof(zeros))
        identity_forget(m)
    target.drain()
    with nogil:
        format_entries(&p)
        blocks_format(&p, 0)
        wal_format(m, &p.g, header.uuid)
    superblock.magic = RNVM_SUPERBLOCK_MAGIC
    superblock.size = total
    superblock.state = RNVM_CLEAN
    memcpy(superblock.uuid, <const char *> name, 16)
    if superblock_write(m, &superblock) or header_write(m, &header):
        raise_failed(m)


def grown(Inspection inspection not None, uint64_t size):
    """Return the size that a pool would have if grown to this size, rounded down to whole blocks.

    Raises:
        InvalidArgument: It would not grow.
    """
    cdef rnvm_geometry g
    cdef uint64_t whole = max(size, inspection.g.size)
    cdef uint64_t rest = (whole - inspection.g.groups_at) % inspection.g.group
    if rest >= inspection.g.group_map + inspection.g.block:
        rest = (rest - inspection.g.group_map) % inspection.g.block
    whole -= rest
    if whole <= inspection.g.size or not rnvm_geometry_of(&inspection.header, whole, &g):
        raise InvalidArgument(f"cannot grow the pool to {units.show_size(size)}: it already has "
                              f"{units.show_size(inspection.g.size)}",
                              hint="give a larger size (pools grow by "
                                   "whole blocks and cannot shrink)")
    return whole


def grow_medium(Medium target not None, uint64_t size):
    """Grow a pool that was closed in order; return its new size.

    The size is rounded down to whole blocks.  Until the superblock contains it, the pool is as it
    was.

    Raises:
        InvalidArgument: It would not grow.
    """
    cdef Inspection inspection = Inspection(target)
    cdef pool p
    size = grown(inspection, size)
    memset(&p, 0, sizeof(p))
    p.m = &target.c
    rnvm_geometry_of(&inspection.header, size, &p.g)
    with nogil:
        blocks_format(&p, inspection.g.size)
    target.drain()
    inspection.superblock.size = size
    if superblock_write(p.m, &inspection.superblock):
        raise_failed(p.m)
    return size


cdef void format_entries(pool *p) noexcept nogil:
    """Write free naming entries, unused sessions and empty rings."""
    cdef uint64_t[3] words
    cdef uint64_t at
    cdef uint32_t i
    for i in range(p.g.names):
        at = rnvm_name_at(&p.g, i)
        medium_write64(p.m, at, catalog_entry_state(p.g.seed, at, RNVM_FREE, 0))
    for i in range(p.g.sessions):
        at = rnvm_session_at(&p.g, i)
        words[0] = 0
        words[1] = RNVM_FREE
        words[2] = 0
        dual_copy_format(p.m, p.g.seed, at + RNVM_SESSION_STATE, words)
        words[0] = words[2] = rnvm_first_lsn(p.g.operation_ring)
        words[1] = RNVM_NO_LIMIT
        dual_copy_format(p.m, p.g.seed, at + RNVM_OPERATIONS, words)
        words[0] = words[2] = rnvm_first_lsn(p.g.memory_ring)
        dual_copy_format(p.m, p.g.seed, at + RNVM_MEMORY, words)


cdef bint was_copied(const medium *m, rnvm_superblock *superblock) noexcept:
    """Return whether a mirror or a backup wrote the pool last, or it has left a group.

    Its history goes on apart from that of the pool that it is a copy of.  Mirrors of that one
    follow the copy, and not the other way round, if its epoch is above all that they have seen.
    """
    cdef rnvm_identity found
    cdef uint32_t i
    if not identity_read(m, &found):
        return False
    for i in range(sizeof(found.group)):
        if found.group[i]:
            return False                   # the group's state decides
    superblock.opened = max(superblock.opened, found.epoch)
    return True


cdef class Pool:
    """A pool that is open for writing; one thread at a time may use it.

    Opening recovers it, unless it was closed in order.

    Args:
        on: Its medium, which is closed with the pool.
        accept_loss: Open it even if durable logs are lost (for repair).

    Raises:
        NotAPool, PoolTooNew, PoolTooOld, PoolDamaged: It cannot be opened; nothing has been
            changed.
        StorageFailed: The medium fails.
    """

    def __cinit__(self):
        self.closed = True
        memset(&self.c, 0, sizeof(pool))

    def __init__(self, Medium on not None, *, bint accept_loss=False):
        cdef Inspection inspection = Inspection(on)
        inspection.run()
        if self.medium is not None:
            raise InvalidArgument("the pool is already open")
        if inspection.fatal:
            raise damaged(inspection.fatal)
        self.medium = on
        self.c.m = &on.c
        self.c.g = inspection.g
        self.allocate()
        with nogil:
            pool_load(&self.c)
        lost = self.lost()
        if lost and not accept_loss:
            raise damaged(lost)
        self.names = dict(inspection.names)
        self.losses = lost
        self.torn = [] if inspection.clean else self.behind()
        self.recovered = [str(finding) for finding in inspection.findings + lost + self.torn]
        self.clean = inspection.clean
        # Everything was read and is valid; changes begin here.
        inspection.superblock.state = RNVM_OPEN
        copied = was_copied(self.c.m, &inspection.superblock)
        inspection.superblock.opened += HISTORY if copied else 1
        if superblock_write(self.c.m, &inspection.superblock):
            raise_failed(self.c.m)
        if copied:
            # Only now: a crash before makes the next opening skip numbers again.
            identity_forget(self.c.m)
            if medium_drain(self.c.m):
                raise_failed(self.c.m)
        if inspection.headers != 3 and header_write(self.c.m, &inspection.header):
            raise_failed(self.c.m)
        self.closed = False
        self.recover()

    def __dealloc__(self):
        free(self.c.taken)
        free(self.c.operations)
        free(self.c.memory)
        free(self.c.sessions)
        free(self.c.structures)
        free(self.c.scratch)
        free(self.c.limbo)
        free(self.c.frames.shown)
        free(self.c.frames.waiting)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.close()

    cdef allocate(self):
        cdef pool *p = &self.c
        p.taken = <uint64_t *> calloc((p.g.blocks + 63) // 64, sizeof(uint64_t))
        p.operations = <ring *> calloc(p.g.sessions, sizeof(ring))
        p.memory = <ring *> calloc(p.g.sessions, sizeof(ring))
        p.sessions = <session_state *> calloc(p.g.sessions, sizeof(session_state))
        p.structures = <structure *> calloc(p.g.names, sizeof(structure))
        p.scratch = <char *> malloc(self.capacity())
        if (not p.taken or not p.operations or not p.memory or not p.sessions or not p.structures
                or not p.scratch):
            raise MemoryError("cannot allocate memory for the state of a pool")

    cdef list lost(self):
        """Return findings about logs that are shorter than they were once."""
        cdef uint32_t i
        cdef ring *r
        findings = []
        for i in range(self.c.g.sessions):
            for which in ("operations", "memory"):
                r = &self.c.operations[i] if which == "operations" else &self.c.memory[i]
                if r.faulty == FAULT_END:
                    findings.append(Finding(
                        "damage", self.place(which, i),
                        f"the record with LSN {r.tail} is damaged; operations acknowledged from "
                        f"there to LSN {r.end} are lost",
                        "log truncated before it; later records are lost", which,
                        r.at + r.tail % r.size, i))
                    r.faulty = 0
        return findings

    cdef list behind(self):
        """Return findings about records that are not whole and have whole ones behind them."""
        cdef uint32_t i
        cdef ring *r
        cdef uint64_t lsn
        findings = []
        for i in range(self.c.g.sessions):
            for which in ("operations", "memory"):
                r = &self.c.operations[i] if which == "operations" else &self.c.memory[i]
                lsn = 0
                if r.epoch and r.tail >= r.end:
                    lsn = ring_behind(r, self.c.scratch, self.capacity())
                if lsn:
                    findings.append(Finding(
                        "doubt", self.place(which, i),
                        f"the record with LSN {r.tail} is torn or damaged, "
                        f"but a later record is intact ({lsn})",
                        "one flipped bit corrected", which, r.at + r.tail % r.size, i))
        return findings

    cdef str place(self, str which, uint32_t i):
        """Return where the scan of a ring ended, in words."""
        cdef ring *r = &self.c.operations[i] if which == "operations" else &self.c.memory[i]
        name = "operation" if which == "operations" else "memory"
        return f"{name} ring of session {i} at {r.at + r.tail % r.size}"

    cdef uint64_t capacity(self):
        return rnvm_longest_record(max(self.c.g.operation_ring, self.c.g.memory_ring))

    cdef recover(self):
        cdef recovery done
        cdef int failed
        with nogil:
            failed = pool_settle(&self.c) or pool_recover(&self.c, &done)
        if failed:
            raise_failed(self.c.m)
        for number, what in (
            (done.applied, "transactions were applied from the memory logs"),
            (done.fenced, "sessions had written invalid records; their logs were truncated there"),
            (done.dropped, "structures that were being dropped have been removed"),
            (done.freed, "allocated but unused blocks were freed"),
            (done.pending, "operations wait for the next writer of their structure"),
        ):
            if number:
                self.recovered.append(f"{number} {what}")
        if not self.clean:
            self.recovered.append("the pool had not been closed")

    cdef int check(self) except -1:
        if self.closed or self.c.m.base == NULL:  # or its medium is closed, e.g. in a forked child
            raise Closed("the pool is closed")
        if self.c.m.error:
            raise_failed(self.c.m)
        return 0

    cpdef close(self):
        """Apply the logs, mark the pool as closed in order, and close the medium.

        May be called again.  If the medium has failed, nothing more is written, and the next
        opening recovers the pool.

        Raises:
            CallerError: A back-end serves it.
        """
        cdef Inspection inspection
        if self.closed:
            return
        self.medium.check_unserved()
        self.closed = True
        try:
            if self.c.m.error or self.c.m.base == NULL:
                return
            with nogil:
                failed = close_logs(&self.c)
            if failed:
                raise_failed(self.c.m)
            inspection = Inspection(self.medium)
            inspection.superblock.state = RNVM_CLEAN
            if superblock_write(self.c.m, &inspection.superblock):
                raise_failed(self.c.m)
        finally:
            self.medium.close()

    # Structures

    def create(self, bytes name not None, uint32_t kind, uint32_t format=1, bytes codec=b"",
               uint64_t root_blocks=1, identity=None):
        """Create a structure, durably; return its ID in logs.

        Args:
            name: 1 to 160 bytes.
            kind, format: The structure's own numbers.
            root_blocks: How many blocks its root takes; they contain zeros.

        Raises:
            AlreadyExists: The name is taken.
            InvalidArgument: An argument is out of range.
            OutOfMemory: No entry or no memory is left.
        """
        cdef rnvm_name entry
        cdef uint32_t made
        cdef bytes unique = (identity or uuid.uuid4()).bytes
        self.check()
        if not 1 <= len(name) <= RNVM_NAME_MAX or len(codec) > RNVM_CODEC_MAX or not root_blocks:
            raise InvalidArgument(f"invalid name of {len(name)} bytes "
                                  f"or codec of {len(codec)} bytes",
                                  hint=f"give a name of 1 to {RNVM_NAME_MAX} bytes and "
                                       f"a codec of at most {RNVM_CODEC_MAX}")
        if name in self.names:
            raise AlreadyExists(f"the structure {name!r} already exists",
                                hint="open it, or drop it")
        memset(&entry, 0, sizeof(entry))
        entry.kind = kind
        entry.format = format
        entry.name_length = len(name)
        entry.root_blocks = root_blocks
        entry.created = unix_time()
        memcpy(entry.uuid, <const char *> unique, 16)
        memcpy(entry.codec, <const char *> codec, len(codec))
        memcpy(entry.name, <const char *> name, len(name))
        with nogil:
            made = catalog_create(&self.c, &entry)
        if not made:
            self.check()
            raise OutOfMemory(f"no room for the structure {name!r}",
                              hint="drop another structure, or grow the pool (rnvm grow)")
        self.names[name] = rnvm_structure_index(made)
        return made

    def drop(self, bytes name not None):
        """Drop a structure and free all its blocks, durably.

        Raises:
            KeyError: No such structure.
        """
        cdef uint32_t index
        cdef int failed
        self.check()
        index = self.names.pop(name)
        with nogil:
            failed = catalog_drop(&self.c, index)
        if failed:
            raise_failed(self.c.m)

    # Sessions

    @property
    def opened(self):
        """Return the number of this opening: the epoch of a pool without a group."""
        cdef rnvm_header header
        cdef rnvm_superblock superblock
        self.check()
        if not header_read(self.c.m, &header) \
                or not superblock_read(self.c.m, &header, &superblock):
            return 0
        return superblock.opened

    def attach(self, uint64_t detail=0):
        """Attach a session for a front-end; return its index and its epoch.

        Raises:
            OutOfMemory: All are taken.
        """
        cdef int64_t index
        self.check()
        with nogil:
            index = session_attach(&self.c, detail)
        if index == NO_SESSION:
            raise OutOfMemory(f"all {self.c.g.sessions} sessions of the pool are taken",
                              hint="close a front-end, or create a pool for more front-ends")
        if index < 0:
            raise_failed(self.c.m)
        return index, self.c.sessions[index].epoch

    def fence(self, uint32_t session):
        """End a session: records that are whole in its rings count, later ones do not."""
        self.known(session)
        if session_fence(&self.c, session) or session_set_fence_point(&self.c, session):
            raise_failed(self.c.m)

    def release(self, uint32_t session):
        """Free a fenced session, whose blocks return.

        Return False if operations in its log must still be executed.
        """
        cdef int done
        self.known(session)
        done = -1 if pool_checkpoint(&self.c) else session_release(&self.c, session)
        if done < 0:
            raise_failed(self.c.m)
        return bool(done)

    cdef int known(self, uint32_t session) except -1:
        self.check()
        if session >= self.c.g.sessions or self.c.sessions[session].state == RNVM_FREE:
            raise InvalidArgument(f"there is no session {session}")
        return 0

    def grant(self, uint32_t session, uint64_t count=1):
        """Grant consecutive blocks to a session, durably; return the address of the first.

        Raises:
            OutOfMemory: There are not that many in a row.
        """
        cdef uint64_t block
        self.known(session)
        block = blocks_allocate(&self.c, count, RNVM_GRANTED | session)
        if block == RNVM_NO_BLOCK:
            raise OutOfMemory(f"no {count} blocks in a row are free",
                              hint="free some blocks, or grow the pool (rnvm grow)")
        if medium_drain(self.c.m):
            raise_failed(self.c.m)
        return rnvm_address(self.c.g.backend, rnvm_block_at(&self.c.g, block))

    # Regular work

    def collect(self):
        """Make the sessions' new records durable; return how many bytes."""
        cdef int64_t found
        self.check()
        with nogil:
            found = pool_collect(&self.c)
        if found < 0:
            raise_failed(self.c.m)
        return found

    def replay(self, int64_t most=ALL_RECORDS):
        """Apply durable transactions; return how many."""
        self.check()
        with nogil:
            most = pool_replay(&self.c, most)
        return most

    def checkpoint(self):
        """Make the applied transactions durable, and free the space of their log."""
        cdef int failed
        self.check()
        with nogil:
            failed = pool_checkpoint(&self.c)
        if failed:
            raise_failed(self.c.m)

    def reclaim(self):
        """Make returned blocks allocatable; return how many.

        They must have been returned before the last checkpoint, and no reader may see them any
        more.
        """
        self.check()
        self.c.reclaim_epoch += 1
        return blocks_reclaim(&self.c, self.c.reclaim_epoch)

    def blocks_by_owner(self):
        """Return how many blocks each owner has: owner -> count."""
        cdef uint64_t block
        cdef uint64_t *counts = <uint64_t *> calloc(1 << 16, sizeof(uint64_t))
        if counts == NULL:
            raise MemoryError()
        try:
            self.check()
            with nogil:
                for block in range(self.c.g.blocks):
                    counts[block_owner(&self.c, block)] += 1
            return {owner: counts[owner] for owner in range(1 << 16) if counts[owner]}
        finally:
            free(counts)

    @property
    def free_blocks(self):
        """Return the blocks that can be allocated now."""
        return self.c.free


cdef int close_logs(pool *p) noexcept nogil:
    if pool_collect(p) < 0 or pool_replay(p, <int64_t> (<uint64_t> -1 >> 1)) < 0:
        return -1
    return pool_checkpoint(p)
