"""Dump the contents of a pool as written, part by part, for debugging."""

import uuid

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from rfp.core.core cimport rfp_load64
from rnvm.format.layout cimport (
    RNVM_ATTACHED, RNVM_CODEC_MAX, RNVM_DROPPING, RNVM_FENCED, RNVM_FREE, RNVM_GRANTED, RNVM_LIVE,
    RNVM_LOCK, RNVM_LOST, RNVM_MEMORY, RNVM_NOBODY, RNVM_NO_LIMIT, RNVM_OPERATION, RNVM_OPERATIONS,
    RNVM_OWNER_INDEX, RNVM_OWNER_KIND, RNVM_PAD, RNVM_PROGRESS, RNVM_RETURN, RNVM_SESSION_STATE,
    RNVM_TAKE, RNVM_TRANSACTION, RNVM_UNKNOWN, RNVM_WRITE, rnvm_entry, rnvm_entry_next,
    rnvm_geometry, rnvm_longest_record, rnvm_memory_ring_at, rnvm_name, rnvm_name_at,
    rnvm_operation_ring_at, rnvm_owner_shift, rnvm_owner_word_at, rnvm_part, rnvm_part_next,
    rnvm_record, rnvm_session_at, rnvm_word_value, rnvm_word_whole,
)
from rnvm.media.medium cimport medium
from rnvm.pool.dual_copy cimport dual_copy_read
from rnvm.pool.inspect cimport Inspection
from rnvm.pool.ring_log cimport ring_open, ring_read
from rnvm.pool.state cimport ring

RECORDS = {RNVM_PAD: "pad", RNVM_OPERATION: "operation", RNVM_TRANSACTION: "transaction"}
STATE_NAMES = {
    RNVM_FREE: "free", RNVM_LIVE: "live", RNVM_DROPPING: "being dropped", RNVM_LOST: "lost",
    RNVM_ATTACHED: "attached", RNVM_FENCED: "fenced",
}
ENTRIES = {RNVM_WRITE: "write", RNVM_TAKE: "take", RNVM_RETURN: "return"}


def description(Inspection i not None):
    """Return header and superblock."""
    return {"format": f"{i.header.major}.{i.header.minor}", "uuid": str(i.uuid),
            "created": i.header.created, "backend": i.header.backend,
            "assume_persistent": i.assume_persistent, "block": i.header.block,
            "names": i.header.names, "front_ends": max(1, i.header.sessions - 1),
            "operation_log": i.header.operation_ring, "memory_log": i.header.memory_ring,
            "group_map": i.header.group_map, "names_at": i.header.names_at,
            "sessions_at": i.header.sessions_at, "logs_at": i.header.rings_at,
            "write_ahead": i.header.wal, "write_ahead_at": i.header.wal_at,
            "groups_at": i.header.groups_at, "blocks": i.g.blocks, "size": i.superblock.size,
            "generation": i.superblock.generation, "opened": i.superblock.opened,
            "closed": i.clean}


cdef list words_of(Inspection i, uint64_t at):
    """Return the words of a dual-copy record, or None if it is damaged."""
    cdef uint64_t[3] words
    if not dual_copy_read(&i.medium.c, i.g.seed, at, words):
        return None
    return [words[0], words[1], words[2]]


def names(Inspection i not None):
    """Return the naming entries that are not free."""
    cdef uint32_t index
    cdef uint64_t at
    cdef rnvm_name *entry
    result = []
    for index in range(i.g.names):
        at = rnvm_name_at(&i.g, index)
        entry = <rnvm_name *> (i.medium.c.base + at)
        state = "damaged"
        if rnvm_word_whole(i.g.seed, at, entry.state):
            state = STATE_NAMES.get(rnvm_word_value(entry.state) & 0xff, "?")
        if state == "free":
            continue
        progress, lock = words_of(i, at + RNVM_PROGRESS), words_of(i, at + RNVM_LOCK)
        result.append({
            "entry": index, "at": at, "state": state,
            "incarnation": rnvm_word_value(entry.state) >> 8 & 0xffff,
            "name": entry.name[:min(entry.name_length, 160)], "kind": entry.kind,
            "format": entry.format,
            "codec": (<char *> entry.codec)[:RNVM_CODEC_MAX].rstrip(b"\0"),
            "uuid": str(uuid.UUID(bytes=(<char *> entry.uuid)[:16])), "root": entry.root,
            "root_blocks": entry.root_blocks, "created": entry.created,
            "transaction": progress and progress[0], "covers": progress and progress[1],
            "lock_epoch": lock and lock[0], "lock_holder": lock and lock[1],
        })
    return result


cdef positions(words):
    """Return the positions of a ring by name; None: both copies are damaged."""
    if words is None:
        return None
    return {"head": words[0], "limit": None if words[1] == RNVM_NO_LIMIT else words[1],
            "end": words[2]}


def sessions(Inspection i not None):
    """Return the sessions, with the positions that their rings' dual-copy records hold."""
    cdef uint32_t index
    cdef uint64_t at
    result = []
    for index in range(i.g.sessions):
        at = rnvm_session_at(&i.g, index)
        state = words_of(i, at + RNVM_SESSION_STATE)
        result.append({
            "session": index, "at": at,
            "state": STATE_NAMES.get(state[1], "?") if state else "damaged",
            "epoch": state and state[0],
            "operations": positions(words_of(i, at + RNVM_OPERATIONS)),
            "memory": positions(words_of(i, at + RNVM_MEMORY)),
        })
    return result


def records(Inspection i not None, uint32_t session, str which):
    """Return the records of a ring ("operations" or "memory").

    From its head on, as long as they are whole.
    """
    cdef ring r
    cdef rnvm_record *record
    cdef const rnvm_part *part
    cdef uint64_t longer = max(i.g.operation_ring, i.g.memory_ring)
    cdef uint64_t length, at, capacity = rnvm_longest_record(longer)
    cdef uint64_t base = rnvm_session_at(&i.g, session)
    cdef char *buffer
    cdef int n
    state = words_of(i, base + RNVM_SESSION_STATE)
    result = []
    if state is None or state[1] == RNVM_FREE:
        return result
    if which == "operations":
        base += RNVM_OPERATIONS
        at = rnvm_operation_ring_at(&i.g, session)
        n = ring_open(&r, &i.medium.c, i.g.seed, at, i.g.operation_ring, base, state[0])
    else:
        base += RNVM_MEMORY
        at = rnvm_memory_ring_at(&i.g, session)
        n = ring_open(&r, &i.medium.c, i.g.seed, at, i.g.memory_ring, base, state[0])
    if not n:
        return result
    buffer = <char *> malloc(capacity)
    if buffer == NULL:
        raise MemoryError("cannot allocate memory for a log record")
    try:
        record = <rnvm_record *> buffer
        length = ring_read(&r, r.tail, buffer, capacity)
        while length:
            at = 0
            parts = []
            for n in range(record.parts):
                part = rnvm_part_next(buffer + sizeof(rnvm_record), record.payload, &at)
                if part == NULL:
                    break
                parts.append(describe(part, record.kind))
            result.append({
                "lsn": record.lsn, "at": r.at + r.tail % r.size, "length": record.length,
                "parts": parts, "kind": RECORDS[record.kind],
            })
            r.tail += length
            length = ring_read(&r, r.tail, buffer, capacity)
    finally:
        free(buffer)
    return result


cdef dict describe(const rnvm_part *part, int kind):
    cdef const rnvm_entry *entry
    cdef uint64_t at = 0
    if kind == RNVM_OPERATION:
        body = (<char *> (part + 1))[:part.length]
        return {"structure": part.structure, "code": part.code, "number": part.number,
                "bytes": body}
    entries = []
    while at < part.length:
        entry = rnvm_entry_next(part, &at)
        if entry == NULL:
            entries.append("malformed")
            break
        entries.append(f"{ENTRIES.get(entry.kind, entry.kind)} {entry.address:#x} {entry.length}")
    return {"structure": part.structure, "number": part.number, "covers": part.covers,
            "entries": entries}


def owners(Inspection i not None):
    """Yield the owners of blocks as runs: (first, how many, owner)."""
    cdef const medium *m = &i.medium.c
    cdef const rnvm_geometry *g = &i.g
    cdef uint64_t block = 0, first
    cdef uint32_t owner
    while block < i.g.blocks:
        first = block
        with nogil:
            owner = owner_of(m, g, first)
            while block < g.blocks and owner_of(m, g, block) == owner:
                block += 1
        yield first, block - first, whose(owner)


def counts(Inspection i not None):
    """Return how many blocks each owner has, named as by owners()."""
    cdef const medium *m = &i.medium.c
    cdef const rnvm_geometry *g = &i.g
    cdef uint64_t block
    cdef uint64_t *of = <uint64_t *> calloc(1 << 16, sizeof(uint64_t))
    if of == NULL:
        raise MemoryError("cannot allocate memory for counts")
    try:
        with nogil:
            for block in range(g.blocks):
                of[owner_of(m, g, block)] += 1
        result = {}
        for owner in range(1 << 16):
            if of[owner]:
                result[whose(owner)] = result.get(whose(owner), 0) + of[owner]
        return result
    finally:
        free(of)


cdef inline uint32_t owner_of(const medium *m, const rnvm_geometry *g,
                              uint64_t block) noexcept nogil:
    cdef uint64_t at = rnvm_owner_word_at(g, block)
    cdef uint64_t word = rfp_load64(m.base + at)
    if not rnvm_word_whole(g.seed, at, word):
        return RNVM_UNKNOWN
    return word >> rnvm_owner_shift(g, block) & 0xffff


cdef str whose(uint32_t owner):
    if owner == RNVM_NOBODY:
        return "free"
    if owner & RNVM_OWNER_KIND == RNVM_UNKNOWN:
        return "unknown"
    if owner & RNVM_OWNER_KIND == RNVM_GRANTED:
        return f"granted to session {owner & RNVM_OWNER_INDEX}"
    return f"used by entry {(owner & RNVM_OWNER_INDEX) - 1}"
