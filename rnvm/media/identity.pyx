"""Read and write the identity of a copy, twice; refuse a copy that is not whole."""

import os

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset
from rfp.core.core cimport rfp_copy_in, rfp_load64
from rnvm.format.layout cimport RNVM_NAMES, RNVM_PAGE
from rnvm.format.replication cimport (
    RNVM_CATCHING_UP, RNVM_IDENTITY, RNVM_IDENTITY_MAGIC, RNVM_IDENTITY_NONE, RNVM_REPLICATION,
    RNVM_WHOLE, rnvm_identity, rnvm_identity_crc,
)
from rnvm.media.medium cimport (
    Medium, medium, medium_drain, medium_write, medium_write64, raise_failed,
)
from rnvm.media.pool_header cimport FIRST_COPY, SECOND_COPY

from rfp.errors import InvalidArgument, PoolDamaged, PoolRefused

IDENTITY_STATES = {RNVM_IDENTITY_NONE: "none", RNVM_WHOLE: "whole", RNVM_CATCHING_UP: "catching up"}
# Begin and end of each copy of the record, bytes.
IDENTITY_RECORDS = tuple(
    (RNVM_IDENTITY + copy * RNVM_PAGE, RNVM_IDENTITY + copy * RNVM_PAGE + sizeof(rnvm_identity))
    for copy in range(2)
)
bugs = {"no epoch": IDENTITY_NO_EPOCH, "not refused": IDENTITY_NOT_REFUSED}
cdef uint32_t planted = 0


def plant(*which):
    """Plant these bugs (no name: none), which a test must find.  For tests alone."""
    global planted
    planted = 0
    for bug in which:
        planted |= <uint32_t> bugs[bug]


cdef inline uint64_t copy_at(int copy) noexcept nogil:
    return RNVM_IDENTITY + <uint64_t> copy * RNVM_PAGE


cdef int load(const medium *m, rnvm_identity *i, int *counts) noexcept nogil:
    """Read both copies; return which are whole, and the index of the one that counts."""
    cdef rnvm_identity each
    cdef int copy, whole = 0
    cdef bint damaged = False
    counts[0] = 0
    memset(i, 0, sizeof(rnvm_identity))
    if m.base == NULL or m.length < RNVM_NAMES:
        return 0
    for copy in range(2):
        rfp_copy_in(&each, m.base + copy_at(copy), sizeof(rnvm_identity))
        if each.magic != RNVM_IDENTITY_MAGIC:
            continue
        if each.crc != rnvm_identity_crc(copy_at(copy), &each):
            damaged = True
            continue
        if not whole or each.generation > i.generation:
            i[0] = each
            counts[0] = copy
        whole |= SECOND_COPY if copy else FIRST_COPY
    # The magic number becomes durable behind everything else, so this is damage, and not a first
    # record that was cut off.
    return IDENTITY_DAMAGED if damaged and not whole else whole


cdef int identity_read(const medium *m, rnvm_identity *i) noexcept nogil:
    cdef int counts
    return load(m, i, &counts)


cdef void put(medium *m, int copy, const rnvm_identity *i, bint magic) noexcept nogil:
    cdef rnvm_identity each = i[0]
    each.crc = rnvm_identity_crc(copy_at(copy), i)
    if magic:
        medium_write(m, copy_at(copy), &each, sizeof(rnvm_identity))
    else:
        medium_write(m, copy_at(copy) + sizeof(each.magic), <char *> &each + sizeof(each.magic),
                     sizeof(rnvm_identity) - sizeof(each.magic))


cdef int identity_write(medium *m, rnvm_identity *i) noexcept nogil:
    cdef rnvm_identity old
    cdef int counts, copy
    cdef int whole = load(m, &old, &counts)
    i.magic = RNVM_IDENTITY_MAGIC
    i.version = RNVM_REPLICATION
    i.generation = old.generation + 1
    # The highest epoch that was ever seen stays.
    i.epoch = 0 if planted & IDENTITY_NO_EPOCH else max(i.epoch, old.epoch)
    if whole & (FIRST_COPY | SECOND_COPY):
        # Overwrite the copy that counts only when the other one is durable.
        for copy in range(2):
            put(m, 1 - counts if copy == 0 else counts, i, True)
            if medium_drain(m):
                return -1
        return 0
    # Neither copy counts: no magic number before its record is durable.
    identity_forget(m)
    if medium_drain(m):
        return -1
    for copy in range(2):
        put(m, copy, i, False)
    if medium_drain(m):
        return -1
    for copy in range(2):
        medium_write64(m, copy_at(copy), RNVM_IDENTITY_MAGIC)
    return medium_drain(m)


cdef void identity_forget(medium *m) noexcept nogil:
    cdef int copy
    for copy in range(2):
        if rfp_load64(m.base + copy_at(copy)):
            medium_write64(m, copy_at(copy), 0)


cdef int refuse_unwhole(const medium *m) except -1:
    cdef rnvm_identity i
    cdef int whole = identity_read(m, &i)
    if planted & IDENTITY_NOT_REFUSED:
        return 0
    if whole == IDENTITY_DAMAGED:
        raise PoolDamaged(
            "both copies of the pool's identity are damaged: it may be a copy in catch-up, and not "
            f"whole (offsets {copy_at(0)}, {copy_at(1)})",
            findings=["both copies of the identity"],
            hint="copy it again from the primary: rnvm mirror")
    if whole and i.state == RNVM_CATCHING_UP:
        raise PoolRefused("the pool is a copy in catch-up: something was being copied over it, and "
                          "it is not whole",
                          hint="let `rnvm mirror` complete it, or use another copy")
    if whole and i.version > RNVM_REPLICATION:
        raise PoolRefused(f"the pool's identity has format {i.version}, but this version supports "
                          f"{RNVM_REPLICATION}", hint="use the version that wrote it")
    return 0


# For Python: the cold path, and tests


def read(Medium on not None):
    """Return the identity of a copy as a dict, or None: the pool has none.

    Raises:
        PoolDamaged: Neither copy of the record is whole.
    """
    cdef rnvm_identity i
    cdef int whole
    on.check(0, 0)
    whole = identity_read(&on.c, &i)
    if whole == IDENTITY_DAMAGED:
        refuse_unwhole(&on.c)
    if not whole:
        return None
    return {"identity": bytes(i.identity[:16]), "group": bytes(i.group[:16]),
            "member": bytes(i.member[:sizeof(i.member)]).rstrip(b"\0").decode(errors="replace"),
            "epoch": i.epoch, "state": IDENTITY_STATES.get(i.state, str(i.state)),
            "opening": bytes(i.opening[:16])}


def write(Medium on not None, *, str state, bytes identity=bytes(16), bytes group=bytes(16),
          str member="", uint64_t epoch=0, bytes opening=bytes(16)):
    """Write the identity of a copy durably.

    Args:
        state: "whole", "catching up" or "none".
        identity, group, opening: 16 bytes each.
        member: A name of at most 32 bytes.
        epoch: The highest seen; a record with a higher one keeps it.

    Raises:
        StorageFailed: The medium fails.
    """
    cdef rnvm_identity i
    cdef bytes name = member.encode()
    cdef int failed
    on.check(0, RNVM_NAMES)
    if state not in IDENTITY_STATES.values() or len(name) > sizeof(i.member):
        raise InvalidArgument(f"invalid state {state!r} or member {member!r}")
    if not len(identity) == len(group) == len(opening) == 16:
        raise InvalidArgument("identity, group and opening must have 16 bytes each")
    memset(&i, 0, sizeof(i))
    memcpy(i.identity, <const char *> identity, 16)
    memcpy(i.group, <const char *> group, 16)
    memcpy(i.opening, <const char *> opening, 16)
    memcpy(i.member, <const char *> name, len(name))
    i.epoch = epoch
    i.state = next(number for number, text in IDENTITY_STATES.items() if text == state)
    with nogil:
        failed = identity_write(&on.c, &i)
    if failed:
        raise_failed(&on.c)


def erase(Medium on not None):
    """Make the copy durably one without identity; its epoch stays.

    Raises:
        StorageFailed: The medium fails.
    """
    if read(on) is not None:
        write(on, state="none")


def new():
    """Return a random identity."""
    return os.urandom(16)
