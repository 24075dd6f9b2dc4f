# cython: nonecheck=True
"""Write a pool's logs by hand, for tests and tools: the work of a front-end, without one."""

import struct
import uuid

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from rfp.core.core cimport rfp_copy_out, rfp_load64_acquire
from rnvm.format.layout cimport (
    RNVM_CODEC_MAX, RNVM_OPERATION, RNVM_RETURN, RNVM_TAKE, RNVM_TRANSACTION, RNVM_WRITE,
    rnvm_block_at, rnvm_block_of, rnvm_geometry, rnvm_name, rnvm_name_at, rnvm_offset, rnvm_session,
    rnvm_session_at,
)
from rnvm.media.medium cimport medium, medium_operations
from rnvm.pool.blocks cimport block_owner
from rnvm.pool.pool cimport Pool
from rnvm.pool.replay cimport pool_pending
from rnvm.pool.ring_log cimport ring_append
from rnvm.pool.state cimport ring, structure

from rnvm.pool import ring_log
from rnvm.pool.ring_log import CHECK_CRC, CHECK_EPOCH, CHECK_LSN  # no-cython-lint: for tests

ENTRY_WRITE, ENTRY_TAKE, ENTRY_RETURN = RNVM_WRITE, RNVM_TAKE, RNVM_RETURN

skip_checks = ring_log._skip_checks


def part(uint32_t of, uint64_t number, bytes body, uint32_t code=0, uint64_t covers=0):
    """Return a part of a record, of the structure with this ID in logs, as bytes."""
    header = struct.pack("<IIQQII", of, code, number, covers, len(body), 0)
    return header + body + bytes((8 - len(body) % 8) % 8)


def entry(kind, address, data):
    """Return an entry of a transaction, as bytes.

    data: The bytes that RNVM_WRITE writes, or how many blocks.
    """
    if kind == ENTRY_WRITE:
        return struct.pack("<QII", address, len(data), kind) + data
    return struct.pack("<QII", address, data, kind)


cdef class Writer:
    """A front-end's end of a session: it stores into its two rings, and does nothing else."""
    cdef Pool pool
    cdef medium m
    cdef ring rings[2]
    cdef rnvm_session *shown

    def __cinit__(self, Pool pool not None, uint32_t session):
        pool.known(session)
        self.pool = pool
        self.m = pool.c.m[0]
        self.m.ops = &peer_operations
        self.rings[0] = pool.c.operations[session]
        self.rings[1] = pool.c.memory[session]
        self.rings[0].m = self.rings[1].m = &self.m
        self.shown = <rnvm_session *> (self.m.base + rnvm_session_at(&pool.c.g, session))

    def operations(self, parts):
        """Write a record of the operation log; return its LSN, and that of the next.

        (0, 0): The ring is full.
        """
        self.pool.check()
        self.rings[0].head = rfp_load64_acquire(&self.shown.operations_head)
        return append(&self.rings[0], RNVM_OPERATION, parts)

    def transaction(self, parts):
        """Write a record of the memory log; return its LSN, and that of the next.

        (0, 0): The ring is full.
        """
        self.pool.check()
        self.rings[1].head = rfp_load64_acquire(&self.shown.memory_head)
        return append(&self.rings[1], RNVM_TRANSACTION, parts)

    @property
    def durable(self):
        """Return up to where the back-end publishes the two logs as durable.

        Works even if the medium has failed.
        """
        if self.pool.closed:
            self.pool.check()
        return (rfp_load64_acquire(&self.shown.operations_durable),
                rfp_load64_acquire(&self.shown.memory_durable))


cdef append(ring *r, uint16_t kind, parts):
    cdef bytes payload = b"".join(parts)
    cdef uint64_t lsn = ring_append(r, kind, len(parts), PyBytes_AS_STRING(payload), len(payload))
    return (lsn, r.tail if lsn else 0)


# A peer's change to the pool's memory: it stores, and the back-end has to flush.

cdef void peer_write(medium *m, uint64_t offset, const void *source, uint64_t n) noexcept nogil:
    rfp_copy_out(m.base + offset, source, n)


cdef medium_operations peer_operations = medium_operations(peer_write, NULL, NULL, NULL)


cdef bint found(void *context, uint32_t session, uint64_t lsn, uint32_t of, uint32_t code,
                uint64_t number, const char *body, uint32_t length) noexcept nogil:
    with gil:
        (<object> context).append((lsn, of, code, number, body[:length]))
    return True


def pending(Pool pool not None, uint32_t session):
    """Return the durable operations that no transaction covers.

    Each as (lsn, structure, code, number, bytes).
    """
    result = []
    pool.check()
    pool_pending(&pool.c, session, found, <void *> result)
    return result


def progress(Pool pool not None, bytes name not None):
    """Return a structure's ID in logs, its last applied transaction, and its covered operations."""
    cdef structure *each = &pool.c.structures[<uint32_t> pool.names[name]]
    return each.id, each.number, each.covers


def entry_of(Pool pool not None, bytes name not None):
    """Return the naming entry of a structure."""
    cdef rnvm_name *entry
    pool.check()
    entry = <rnvm_name *> (pool.c.m.base + rnvm_name_at(&pool.c.g, <uint32_t> pool.names[name]))
    return {"kind": entry.kind, "format": entry.format,
            "codec": (<char *> entry.codec)[:RNVM_CODEC_MAX].rstrip(b"\0"),
            "uuid": uuid.UUID(bytes=(<char *> entry.uuid)[:16]), "root": entry.root,
            "root_blocks": entry.root_blocks, "created": entry.created}


def session(Pool pool not None, uint32_t index):
    """Return state, epoch and detail of a session, and the positions of its rings.

    Positions: (head, replayed, durable, tail, faulty).
    """
    return {"state": pool.c.sessions[index].state, "epoch": pool.c.sessions[index].epoch,
            "operations": positions(&pool.c.operations[index]),
            "memory": positions(&pool.c.memory[index])}


cdef tuple positions(ring *r):
    return r.head, r.replayed, r.durable, r.tail, r.faulty


def owners(Pool pool not None):
    """Return the owner of each block."""
    cdef uint64_t block
    pool.check()
    return [block_owner(&pool.c, block) for block in range(pool.c.g.blocks)]


def is_free(Pool pool not None, uint64_t block):
    """Return whether a block may be allocated now."""
    return not pool.c.taken[block >> 6] >> (block & 63) & 1


def block_of(Pool pool not None, uint64_t address):
    """Return the number of the block at this address."""
    return rnvm_block_of(&pool.c.g, rnvm_offset(address))


def offset_of(Pool pool not None, uint64_t block):
    """Return the offset of a block."""
    return rnvm_block_at(&pool.c.g, block)


def places(Pool pool not None):
    """Return the offsets of the parts of a pool, for tests that plant bugs and corruption."""
    cdef rnvm_geometry *g = &pool.c.g
    return {"names": g.names_at, "sessions": g.sessions_at, "rings": g.rings_at,
            "groups": g.groups_at, "map": g.group_map, "group": g.group, "end": g.size}
