# cython: nonecheck=True
"""Inspect a pool without changing it: header, superblock, and everything doubled or checksummed."""

import uuid

from libc.stdint cimport uint32_t, uint64_t
from rfp.core.core cimport rfp_copy_in, rfp_load64
from rnvm.format.layout cimport (
    RNVM_ASSUME_PERSISTENT, RNVM_CLEAN, RNVM_DROPPING, RNVM_FREE, RNVM_HEADERS, RNVM_LIVE,
    RNVM_LOCK, RNVM_LOST, RNVM_MAGIC, RNVM_MAJOR, RNVM_MEMORY, RNVM_MINOR, RNVM_NAMES,
    RNVM_NAME_MAX, RNVM_NO_BLOCK, RNVM_OPEN, RNVM_OPERATIONS, RNVM_OWNERS, RNVM_PAGE, RNVM_PROGRESS,
    RNVM_SESSION_STATE, RNVM_SUPERBLOCKS, RNVM_WRITE_AHEAD, rnvm_backend, rnvm_block_at,
    rnvm_block_of, rnvm_geometry, rnvm_geometry_of, rnvm_name, rnvm_name_at, rnvm_offset,
    rnvm_session_at, rnvm_word_at, rnvm_word_value, rnvm_word_whole, rnvm_words,
)
from rnvm.media.identity cimport refuse_unwhole
from rnvm.media.medium cimport medium
from rnvm.media.pool_header cimport FIRST_COPY, SECOND_COPY, header_read, superblock_read
from rnvm.media.wal cimport wal, wal_scan
from rnvm.pool.catalog cimport catalog_entry_crc
from rnvm.pool.dual_copy cimport ALIKE, FIRST_WHOLE, SECOND_WHOLE, dual_copy_read

from rfp import units
from rfp.errors import NotAPool, PoolDamaged, PoolTooNew, PoolTooOld
from rnvm.pool.findings import Finding

cdef enum:
    RUNS_MAX = 1000            # runs of damaged words that are findings of their own

REPAIR = "restore a copy from before the damage, or run `rnvm check --repair`"
ONE_COPY = "this copy is damaged, the other is intact"
# Repair's action if the old content cannot be restored.
LOSSES = {
    "session": "session ended; records that only its logs contain are lost",
    "progress": "structure closed permanently, blocks kept: its progress is unknown",
    "lock": "lock released",
    "state": "entry closed permanently, blocks kept",
    "name": "structure closed permanently, blocks kept",
    "owners": "blocks never allocated again",
    "ahead": "intact frames of the area applied",
    "frame": "this frame and all later ones dropped; operations acknowledged with them are lost",
}
FROM_THE_OTHER = "restored from the other copy"


def damaged(findings):
    """Return the exception that opening a pool with these findings raises."""
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return PoolDamaged(f"the pool is damaged: {findings[0].where}: {findings[0].what}{more}",
                       findings=[str(finding) for finding in findings], hint=REPAIR)


cdef uint64_t next_word(const medium *m, const rnvm_geometry *g, uint64_t word,
                        bint whole) noexcept nogil:
    """Return the first owner word from this one on that is whole (or is not).

    Return the number of words if there is none.
    """
    cdef uint64_t at, last = rnvm_words(g)
    while word < last:
        at = rnvm_word_at(g, word)
        if rnvm_word_whole(g.seed, at, rfp_load64(m.base + at)) == whole:
            break
        word += 1
    return word


cdef class Inspection:
    """The content of header and superblock, and the damage found in the rest.

    Args:
        on: The medium.

    Raises:
        NotAPool, PoolTooNew, PoolTooOld, PoolDamaged: Header or superblock cannot be used at all.
        PoolRefused: It is a copy in catch-up.
    """

    def __cinit__(self, Medium on not None):
        on.check(0, 0)
        refuse_unwhole(&on.c)
        self.medium = on
        self.findings = []
        self.names = {}
        if on.length < RNVM_NAMES:
            raise NotAPool(f"a file of {on.length} bytes is too small to be a pool",
                           hint="create a pool: rnvm create")
        self.headers = header_read(&on.c, &self.header)
        if not self.headers:
            self.refuse()
        if self.header.major < RNVM_MAJOR:
            raise PoolTooOld(
                f"the pool has format {self.header.major}.{self.header.minor}, but this version "
                f"supports {RNVM_MAJOR}.{RNVM_MINOR}",
                hint="open it with the version that created it, and "
                     "copy its structures into a new pool")
        if self.header.major > RNVM_MAJOR:
            raise PoolTooNew(
                f"the pool has format {self.header.major}.{self.header.minor}, but this version "
                f"supports {RNVM_MAJOR}.{RNVM_MINOR}",
                hint="use the version that created it")
        if self.header.incompatible & ~<uint64_t> RNVM_WRITE_AHEAD or self.header.read_compatible:
            raise PoolTooNew(
                "the pool uses features that this version does not support "
                f"({self.header.incompatible:#x},"
                f" {self.header.read_compatible:#x})", hint="use the version that created it")
        self.superblocks = superblock_read(&on.c, &self.header, &self.superblock)
        if not self.superblocks:
            raise PoolDamaged(
                f"both copies of the superblock are damaged (offsets {RNVM_SUPERBLOCKS}, "
                f"{RNVM_SUPERBLOCKS + RNVM_PAGE})",
                findings=["both copies of the superblock"], hint="restore the pool from a copy")
        if self.superblock.size > on.length:
            raise PoolDamaged(
                f"the pool is truncated: it has {units.show_size(on.length)} of "
                f"{units.show_size(self.superblock.size)}",
                findings=["truncated"], hint="restore the pool from a copy")
        if (not rnvm_geometry_of(&self.header, self.superblock.size, &self.g)
                or self.superblock.state not in (RNVM_CLEAN, RNVM_OPEN)):
            raise PoolDamaged("header and superblock are intact, but contain impossible sizes",
                              findings=["impossible sizes"],
                              hint="restore the pool from a copy: a faulty program wrote them")
        self.copies("header", RNVM_HEADERS, self.headers)
        self.copies("superblock", RNVM_SUPERBLOCKS, self.superblocks)

    def refuse(self):
        """Raise the reason why there is no usable header."""
        words = {self.medium.read(at, 8) for at in (RNVM_HEADERS, RNVM_HEADERS + RNVM_PAGE)}
        if (<uint64_t> RNVM_MAGIC).to_bytes(8, "little") in words:
            raise PoolDamaged(f"both copies of the header are damaged (offsets {RNVM_HEADERS}, "
                              f"{RNVM_HEADERS + RNVM_PAGE})",
                              findings=["both copies of the header"],
                              hint="restore the pool from a copy")
        if words == {bytes(8)}:
            raise NotAPool("the file has no header: it is not a pool, "
                           "or its creation did not complete",
                           hint="remove it and create the pool again: rnvm create")
        raise NotAPool("the file is not a pool: its magic number is wrong",
                       hint="check the path, or create a pool: rnvm create")

    @property
    def uuid(self):
        """Return the pool's UUID."""
        return uuid.UUID(bytes=(<char *> self.header.uuid)[:16])

    @property
    def size(self):
        """Return the bytes that the pool takes."""
        return self.g.size

    @property
    def clean(self):
        """Return whether it was closed in order."""
        return self.superblock.state == RNVM_CLEAN

    @property
    def assume_persistent(self):
        """Return whether the pool's creator accepted a volatile medium."""
        return bool(self.header.flags & RNVM_ASSUME_PERSISTENT)

    def run(self):
        """Check everything that is doubled or checksummed, except the logs; return the findings."""
        cdef uint32_t i
        for i in range(self.g.names):
            self.name(i)
        for i in range(self.g.sessions):
            at = rnvm_session_at(&self.g, i)
            self.register("session", i, f"state of session {i}", at + RNVM_SESSION_STATE)
            self.register("session", i, f"operation ring of session {i}", at + RNVM_OPERATIONS)
            self.register("session", i, f"memory ring of session {i}", at + RNVM_MEMORY)
        self.map()
        self.write_ahead()
        return self.findings

    @property
    def fatal(self):
        """Return the findings that forbid to open the pool."""
        return [finding for finding in self.findings if finding.kind == "damage"]

    def copies(self, str what, at, int whole):
        """Add a finding for each copy of a doubled structure that is not whole."""
        for bit, place in ((FIRST_COPY, at), (SECOND_COPY, at + RNVM_PAGE)):
            if not whole & bit:
                self.findings.append(Finding("doubt", f"{what} at {place}", ONE_COPY,
                                             FROM_THE_OTHER, "copy", place))

    cdef register(self, str part, uint32_t index, str what, at):
        cdef uint64_t[3] words
        cdef int whole = dual_copy_read(&self.medium.c, self.g.seed, at, words)
        if whole & ALIKE:
            return
        if not whole:
            self.findings.append(Finding("damage", f"{what} at {at}", "both copies are damaged",
                                         LOSSES[part], part, at, index))
            return
        for bit, place in ((FIRST_WHOLE, at), (SECOND_WHOLE, at + 32)):
            if not whole & bit:
                self.findings.append(Finding("doubt", f"{what} at {place}", ONE_COPY,
                                             FROM_THE_OTHER, "copy", place))
        if whole == FIRST_WHOLE | SECOND_WHOLE and self.superblock.state == RNVM_CLEAN:
            self.findings.append(Finding("doubt", f"{what} at {at}", "its copies differ",
                                         "later copy used", "copy", at))

    def name(self, uint32_t i):
        """Check one naming entry."""
        cdef rnvm_name entry
        cdef uint64_t at = rnvm_name_at(&self.g, i), root
        cdef uint64_t[3] words
        rfp_copy_in(&entry, self.medium.c.base + at, sizeof(rnvm_name))
        where = f"naming entry {i} at {at}"
        state = rnvm_word_value(entry.state) & 0xff
        whole = (rnvm_word_whole(self.g.seed, at, entry.state)
                 and state in (RNVM_FREE, RNVM_LIVE, RNVM_DROPPING, RNVM_LOST))
        body = (entry.crc == catalog_entry_crc(self.g.seed, at, &entry)
                and 0 < entry.name_length <= RNVM_NAME_MAX)
        if not whole:
            self.findings.append(Finding("damage", where, "its state is damaged",
                                         LOSSES["state"], "state", at, i))
        if whole and state == RNVM_FREE:
            return
        for part, offset in (("progress", RNVM_PROGRESS), ("lock", RNVM_LOCK)):
            # An entry with a damaged state may never have been used, and then has neither.
            if whole or dual_copy_read(&self.medium.c, self.g.seed, at + <uint64_t> offset, words):
                self.register(part, i, f"{part} of naming entry {i}", at + <uint64_t> offset)
        if not whole or state != RNVM_LIVE:
            return
        root = rnvm_block_of(&self.g, rnvm_offset(entry.root))
        if not body:
            self.findings.append(Finding("damage", where, "name, kind and root are damaged",
                                         LOSSES["name"], "name", at, i))
        elif root == RNVM_NO_BLOCK or rnvm_backend(entry.root) != self.g.backend \
                or rnvm_offset(entry.root) != rnvm_block_at(&self.g, root):
            self.findings.append(Finding("damage", where,
                                         f"its root {entry.root:#x} is not a block of this pool",
                                         LOSSES["name"], "name", at, i))
        else:
            name = entry.name[:entry.name_length]
            if name in self.names:
                self.findings.append(Finding("damage", where,
                                             f"entry {self.names[name]} also has its name {name!r}",
                                             LOSSES["name"], "name", at, i))
            self.names[name] = i

    def map(self):
        """Check the owner words."""
        cdef uint64_t word = 0, first, last = rnvm_words(&self.g), runs = 0
        # Adjacent words are one finding, and the number of findings is bounded: a hole of a file
        # may be a map of millions of words.
        while word < last:
            with nogil:
                first = next_word(&self.medium.c, &self.g, word, False)
                word = next_word(&self.medium.c, &self.g, first, True)
            if first == last:
                break
            runs += 1
            what = "the word is damaged"
            if word - first > 1:
                what = f"{word - first} words are damaged"
            if runs > RUNS_MAX:
                word = last
                what = "more words are damaged, here and after it"
            at = rnvm_word_at(&self.g, first)
            self.findings.append(Finding(
                "damage",
                f"owners of blocks {first * RNVM_OWNERS} to {word * RNVM_OWNERS - 1} at {at}",
                what, LOSSES["owners"], "owners", at, first, word - first))

    def write_ahead(self):
        """Check the write-ahead area, as it was when the pool was opened."""
        cdef wal a
        wal_scan(&self.medium.c, self.medium.c.length, &a)
        if not a.at:
            return
        if not a.headers:
            self.findings.append(Finding("damage", f"write-ahead area at {a.at}",
                                         "both copies of its header are damaged",
                                         LOSSES["ahead"], "ahead", a.at))
        else:
            self.copies("header of the write-ahead area", a.at, a.headers)
        if a.behind:
            self.findings.append(Finding(
                "damage", f"write-ahead area at {a.end}",
                f"frame {a.frames} is damaged, but a later frame is intact ({a.behind})",
                LOSSES["frame"], "frame", a.end))
