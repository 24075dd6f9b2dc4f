# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The present transaction of a front-end (the contract is in _changes.pxd).

A node's changes are kept as 64 bits, one for each granule of it: a record carries whole granules, and neighbours in one piece.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from rnvm.format.layout cimport (
    RNVM_NO_BLOCK, RNVM_PARTS_MAX, RNVM_RETURN, RNVM_TAKE, RNVM_WRITE, rnvm_address, rnvm_block_at,
    rnvm_block_of, rnvm_entry, rnvm_offset, rnvm_part,
)
from rnvm.format.messages cimport RNVM_GOOD, RNVM_GRANT, RNVM_NO_SPACE
from rnvm.format.node cimport RNVM_NODE, rnvm_node, rnvm_node_crc
from rnvm.frontend.status cimport FULL, LOST, NO_MEMORY, OK, fault
from rnvm.frontend.node_cache cimport cache_add, cache_find, cache_remove, node_bytes
from rnvm.frontend.state cimport frontend, instance, node, run, runs, undo
from rnvm.frontend.remote cimport remote_call

cdef extern from *:
    int __builtin_popcountll(unsigned long long) nogil
    int __builtin_ctzll(unsigned long long) nogil

cdef enum:                     # undo.what
    CHANGED = 1                # bytes of a node
    LISTED = 2                 # a node came into the list
    ADDED = 3
    DROPPED = 4
    TOOK = 5
    RETURNED = 6
    TOUCHED = 7                # a structure came into the transaction
    REUSED = 8                 # of the blocks that the transaction returns

cdef enum:
    GRANULES = 64
    GRANT = 32                 # blocks that are asked for at once


cdef inline uint32_t granule_of(uint32_t length) noexcept nogil:
    return ((length + GRANULES - 1) // GRANULES + 7) & ~7


cdef inline uint64_t mask_of(uint32_t length, uint32_t offset, uint32_t n) noexcept nogil:
    cdef uint32_t granule = granule_of(length)
    cdef uint32_t first = offset // granule
    cdef uint32_t last = (offset + n - 1) // granule
    cdef uint64_t upto = ~<uint64_t> 0 if last == GRANULES - 1 else (<uint64_t> 1 << (last + 1)) - 1
    return upto & ~((<uint64_t> 1 << first) - 1)


cdef inline uint64_t volume_of(uint64_t mask, uint32_t length) noexcept nogil:
    return <uint64_t> __builtin_popcountll(mask) * (granule_of(length) + sizeof(rnvm_entry))


cdef uint64_t change_whole(uint32_t length) noexcept nogil:
    return volume_of(mask_of(length, 0, length), length)


cdef undo *note(instance *s, uint32_t what, node *subject, uint64_t first, uint64_t count) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef undo *u
    cdef uint64_t room
    if fe.undo_count == fe.undo_room:
        room = 2 * fe.undo_room if fe.undo_room else 64
        u = <undo *> realloc(fe.undone, room * sizeof(undo))
        if u == NULL:
            s.error = NO_MEMORY
            return NULL
        fe.undone = u
        fe.undo_room = room
    u = &fe.undone[fe.undo_count]
    u.what = what
    u.subject = subject
    u.owner = s
    u.first = first
    u.count = count
    u.mask = 0
    u.bytes = fe.before_length
    u.volume = fe.volume
    fe.undo_count += 1
    return u


cdef bint touch(instance *s) noexcept nogil:
    if not s.touched:
        if note(s, TOUCHED, NULL, 0, 0) == NULL:
            return False
        s.touched = True
        s.fe.touched += 1
        s.fe.volume += sizeof(rnvm_part)
    return True


cdef bint enlist(instance *s, node *n) noexcept nogil:
    if n.listed:
        return True
    if not touch(s) or note(s, LISTED, n, 0, 0) == NULL:
        return False
    n.listed = True
    n.later = s.fe.changed
    s.fe.changed = n
    return True


cdef bint set_aside(instance *s, const char *bytes, uint64_t n) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t room = fe.before_room
    cdef char *grown
    if n > room - fe.before_length:
        while n > room - fe.before_length:
            room = 2 * room if room else 4096
        grown = <char *> realloc(fe.before, room)
        if grown == NULL:
            s.error = NO_MEMORY
            return False
        fe.before = grown
        fe.before_room = room
    if n:
        memcpy(fe.before + fe.before_length, bytes, n)
    fe.before_length += n
    return True


cdef bint reserve(instance *s, runs *r, uint64_t count) noexcept nogil:
    cdef run *grown
    if count > r.room:
        grown = <run *> realloc(r.items, 2 * count * sizeof(run))
        if grown == NULL:
            s.error = NO_MEMORY
            return False
        r.items = grown
        r.room = 2 * count
    return True


# Nodes


cdef char *change_node(instance *s, node *n, uint32_t offset, uint32_t length) noexcept nogil:
    cdef uint64_t mask
    cdef undo *u
    if not length or n.born == s.fe.operation:
        return node_bytes(n)                    # born with this operation: it is taken back as a whole
    if not enlist(s, n):
        return NULL
    u = note(s, CHANGED, n, offset, length)
    if u == NULL:
        return NULL
    u.mask = n.changed
    if not set_aside(s, node_bytes(n) + offset, length):
        s.fe.undo_count -= 1
        return NULL
    mask = mask_of(n.length, offset, length) | mask_of(n.length, 0, RNVM_NODE)
    s.fe.volume += volume_of(mask & ~n.changed, n.length)
    n.changed |= mask
    return node_bytes(n)


cdef node *change_add(instance *s, uint64_t address, uint32_t length, uint16_t type) noexcept nogil:
    cdef node *n = cache_find(s.fe, address)
    cdef rnvm_node *header
    if n != NULL:
        if n.listed:
            fault(s, address, "the memory of a node was given to another one")
            return NULL
        cache_remove(s.fe, n)                   # of what stood there before
    n = cache_add(s, address, length)
    if n == NULL:
        s.error = NO_MEMORY
        return NULL
    memset(node_bytes(n), 0, length)
    header = <rnvm_node *> node_bytes(n)
    header.length = length
    header.structure = s.id
    header.type = type
    header.address = address
    if not touch(s) or note(s, ADDED, n, 0, 0) == NULL:
        cache_remove(s.fe, n)
        return NULL
    n.born = s.fe.operation
    n.changed = ~<uint64_t> 0
    n.listed = True
    n.later = s.fe.changed
    s.fe.changed = n
    s.fe.volume += length + 2 * sizeof(rnvm_entry)
    return n


cdef int change_drop(instance *s, node *n) noexcept nogil:
    if not enlist(s, n) or note(s, DROPPED, n, 0, 0) == NULL:
        return s.error
    n.freed = True
    return OK


# Blocks


cdef int ask(instance *s, uint64_t count) noexcept nogil:
    """More blocks from the back-end, in a row."""
    cdef frontend *fe = s.fe
    cdef uint64_t wanted = max(count, <uint64_t> GRANT), address = 0
    cdef uint32_t got = 0
    cdef int found
    while True:
        found = remote_call(fe, RNVM_GRANT, &wanted, sizeof(wanted), &address, sizeof(address), &got)
        if found != OK:
            return found
        if fe.refusal == RNVM_GOOD and got == sizeof(address):
            break
        if fe.refusal != RNVM_NO_SPACE:
            fe.trouble = LOST
            return LOST
        if wanted == count:
            fe.lacking = count
            return FULL
        wanted = count
    if rnvm_block_of(&fe.g, rnvm_offset(address)) == RNVM_NO_BLOCK:
        fe.trouble = LOST
        return LOST
    if not reserve(s, &fe.granted, fe.granted.count + fe.taken.count + 2):
        return s.error
    fe.granted.items[fe.granted.count] = run(NULL, rnvm_block_of(&fe.g, rnvm_offset(address)), wanted)
    fe.granted.count += 1
    return OK


cdef uint64_t take_again(instance *s, uint64_t count) noexcept nogil:
    """Of the blocks that this transaction returns: they are the structure's until then, so no record has to say anything."""
    cdef runs *returned = &s.fe.returned
    cdef uint64_t i
    for i in range(returned.count):
        if returned.items[i].owner == s and returned.items[i].count >= count:
            if note(s, REUSED, NULL, i, count) == NULL:
                return RNVM_NO_BLOCK
            returned.items[i].count -= count
            return returned.items[i].first + returned.items[i].count
    s.error = FULL
    return RNVM_NO_BLOCK


cdef uint64_t change_take(instance *s, uint64_t count) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef uint64_t i = 0, first
    cdef int found
    while i < fe.granted.count and fe.granted.items[i].count < count:
        i += 1
    if i == fe.granted.count:
        found = ask(s, count)
        if found == FULL:
            return take_again(s, count)
        if found != OK:
            s.error = found
            return RNVM_NO_BLOCK
    # Room for what undo puts back, so that it cannot fail.
    if not reserve(s, &fe.granted, fe.granted.count + fe.taken.count + 2) or not reserve(s, &fe.taken,
                                                                                         fe.taken.count + 1) or not touch(s):
        return RNVM_NO_BLOCK
    first = fe.granted.items[i].first + fe.granted.items[i].count - count
    if note(s, TOOK, NULL, first, count) == NULL:
        return RNVM_NO_BLOCK
    fe.granted.items[i].count -= count
    if not fe.granted.items[i].count:
        fe.granted.count -= 1
        fe.granted.items[i] = fe.granted.items[fe.granted.count]
    fe.taken.items[fe.taken.count] = run(s, first, count)
    fe.taken.count += 1
    fe.volume += sizeof(rnvm_entry)
    return first


cdef int change_return(instance *s, uint64_t first, uint64_t count) noexcept nogil:
    cdef frontend *fe = s.fe
    if not reserve(s, &fe.returned, fe.returned.count + 1) or not touch(s) or note(s, RETURNED, NULL, first, count) == NULL:
        return s.error
    fe.returned.items[fe.returned.count] = run(s, first, count)
    fe.returned.count += 1
    fe.volume += sizeof(rnvm_entry)
    return OK


cdef int change_touch(instance *s) noexcept nogil:
    return OK if touch(s) else s.error


cdef void put_back(frontend *fe, uint64_t first, uint64_t count) noexcept nogil:
    cdef uint64_t i
    for i in range(fe.granted.count):
        if fe.granted.items[i].first + fe.granted.items[i].count == first:
            fe.granted.items[i].count += count
            return
    fe.granted.items[fe.granted.count] = run(NULL, first, count)
    fe.granted.count += 1


# Taking back


cdef void changes_undo(frontend *fe, uint64_t to) noexcept nogil:
    cdef undo *u
    while fe.undo_count > to:
        fe.undo_count -= 1
        u = &fe.undone[fe.undo_count]
        fe.volume = u.volume
        fe.before_length = u.bytes
        if u.what == CHANGED:
            memcpy(node_bytes(u.subject) + u.first, fe.before + u.bytes, u.count)
            u.subject.changed = u.mask
        elif u.what == LISTED or u.what == ADDED:
            fe.changed = u.subject.later        # it came last, so it is the first
            u.subject.listed = False
            if u.what == ADDED:
                cache_remove(fe, u.subject)
        elif u.what == DROPPED:
            u.subject.freed = False
        elif u.what == TOOK:
            fe.taken.count -= 1
            put_back(fe, u.first, u.count)
        elif u.what == RETURNED:
            fe.returned.count -= 1
        elif u.what == REUSED:
            fe.returned.items[u.first].count += u.count
        else:
            u.owner.touched = False
            fe.touched -= 1


cdef void changes_keep(frontend *fe) noexcept nogil:
    fe.undo_count = 0
    fe.before_length = 0


# The record


cdef struct writer:
    char *at
    char *end


cdef bint put(writer *w, uint64_t address, uint32_t length, uint32_t kind, const char *bytes) noexcept nogil:
    cdef rnvm_entry *entry = <rnvm_entry *> w.at
    cdef uint64_t n = length if kind == RNVM_WRITE else 0
    if sizeof(rnvm_entry) + n > <uint64_t> (w.end - w.at):
        return False
    entry.address = address
    entry.length = length
    entry.kind = kind
    if n:
        memcpy(entry + 1, bytes, n)
    w.at += sizeof(rnvm_entry) + n
    return True


cdef bint put_node(writer *w, node *n) noexcept nogil:
    cdef uint32_t granule = granule_of(n.length), first, last, offset
    cdef uint64_t mask = n.changed
    while mask:
        first = __builtin_ctzll(mask)
        mask >>= first
        last = first + (__builtin_ctzll(~mask) if ~mask else GRANULES)
        mask = n.changed & ~((<uint64_t> 1 << (last - 1) << 1) - 1)
        offset = first * granule
        if offset >= n.length:
            return True
        if not put(w, n.address + offset, min(last * granule, n.length) - offset, RNVM_WRITE, node_bytes(n) + offset):
            return False
    return True


cdef bint put_blocks(writer *w, instance *s, const runs *r, uint32_t kind) noexcept nogil:
    cdef uint64_t i
    for i in range(r.count):
        if r.items[i].owner == s and r.items[i].count \
                and not put(w, rnvm_address(s.fe.g.backend, rnvm_block_at(&s.fe.g, r.items[i].first)),
                            <uint32_t> r.items[i].count, kind, NULL):
            return False
    return True


cdef bint put_part(writer *w, instance *s) noexcept nogil:
    cdef rnvm_part *part = <rnvm_part *> w.at
    cdef rnvm_node *header
    cdef node *n = s.fe.changed
    if sizeof(rnvm_part) > <uint64_t> (w.end - w.at):
        return False
    memset(part, 0, sizeof(rnvm_part))
    part.structure = s.id
    part.number = s.number + 1
    part.covers = s.operations
    w.at += sizeof(rnvm_part)
    # Blocks are taken before anything is written into them, and returned when nothing more is.
    if not put_blocks(w, s, &s.fe.taken, RNVM_TAKE):
        return False
    while n != NULL:
        if n.owner == s and not n.freed and n.changed:
            header = <rnvm_node *> node_bytes(n)
            header.version = s.number + 1
            header.crc = rnvm_node_crc(s.fe.g.seed, header)
            if not put_node(w, n):
                return False
        n = n.later
    if not put_blocks(w, s, &s.fe.returned, RNVM_RETURN):
        return False
    part.length = <uint32_t> (w.at - <char *> (part + 1))
    return True


cdef uint32_t changes_record(frontend *fe, char *payload, uint64_t room, uint16_t *parts) noexcept nogil:
    cdef writer w
    cdef uint32_t i
    w.at = payload
    w.end = payload + room
    parts[0] = 0
    for i in range(fe.instance_count):
        if fe.instances[i].touched:
            if parts[0] == RNVM_PARTS_MAX or not put_part(&w, fe.instances[i]):
                return 0
            parts[0] += 1
    return <uint32_t> (w.at - payload)


cdef void finish(frontend *fe, bint written) noexcept nogil:
    cdef node *n = fe.changed
    cdef node *later
    cdef uint32_t i
    while n != NULL:
        later = n.later
        n.later = NULL
        n.listed = False
        n.changed = 0
        n.born = 0
        if n.freed or not written:
            cache_remove(fe, n)
        else:
            n.pinned = n.owner.number + 1
            n.generation = n.owner.generation
        n = later
    fe.changed = NULL
    fe.volume = 0
    fe.touched = 0
    fe.taken.count = 0
    fe.returned.count = 0
    changes_keep(fe)
    for i in range(fe.instance_count):
        if fe.instances[i].touched:
            fe.instances[i].touched = False
            if written:
                fe.instances[i].number += 1
                fe.instances[i].covered = fe.instances[i].operations
                fe.instances[i].seen = 2 * fe.instances[i].number


cdef void changes_written(frontend *fe) noexcept nogil:
    finish(fe, True)


cdef void changes_abandon(frontend *fe) noexcept nogil:
    finish(fe, False)
