# cython: nonecheck=True
"""Snapshots of multi-version mappings: one version, read as often as needed.

A snapshot contains an object of the structure's own class, whose queries read the snapshot's
version.  So a snapshot has the methods of its kind, and no code of its own for them.
"""

from collections.abc import Mapping as AbstractMapping

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.layout cimport RNVM_OTHER_CHANGES_MAX, RNVM_PARTS_MAX, RNVM_VALUE_BYTES_MIN
from rnvm.format.version cimport rnvm_version
from rnvm.frontend.structure cimport (
    close_version, open_version, open_versions, query_function, query_version, record_room,
    transaction_mark, transaction_undo,
)
from structures.mapping cimport kind_class
from structures.mapping_operations cimport MORE
from structures.multi_version cimport COLLECT
from structures.ordered_mapping cimport OrderedMapping

from rfp.errors import CallerError, InvalidArgument, WrongType, not_copied
from structures.views import Items, Keys, Values

cdef enum:
    COPIED_BYTES_MAX = 20480   # of nodes that an operation copies beside a long value


cdef class VersionedMapping(OrderedMapping):
    """A persistent ordered mapping that keeps its earlier versions while they are read."""

    cdef int query(self, query_function ask, void *context, object timeout=None) except -1:
        if self.source is None:
            return OrderedMapping.query(self, ask, context, timeout)
        if self.closed:
            raise CallerError(f"this snapshot of {self.name!r} was closed", hint="take a new one")
        return query_version(self.source, &self.at, self.session, ask, context, timeout)

    cdef int execute(self, uint32_t code, const char *bytes, uint32_t length,
                     object timeout=None) except -1:
        if self.source is not None:
            raise CallerError("a snapshot cannot be changed", hint="change the structure itself")
        return OrderedMapping.execute(self, code, bytes, length, timeout)

    cdef uint64_t longest(self, uint64_t most) except? 0:
        cdef uint64_t n = OrderedMapping.longest(self, most), room = record_room(self.c)
        room -= min(room, <uint64_t> RNVM_OTHER_CHANGES_MAX + COPIED_BYTES_MAX)
        return min(n, max(room, <uint64_t> RNVM_VALUE_BYTES_MIN))

    def snapshot(self, *, timeout=None):
        """Return the present version as a read-only mapping that never changes.

        Reading it needs no lock, and no writer disturbs it.  It contains every operation that was
        acknowledged before the call, and the changes of this front-end's batch; of a mapping with
        partitions, all of them at one moment.  The back-end keeps
        its memory until it is closed, but not longer than `Backend(snapshot_lifetime=)` (60 s), and
        not if blocks run short.  It belongs to the front-end's session.

        Args:
            timeout: Seconds.

        Raises:
            CallerError: Within a transaction that has changed something.

        Cost:
            2 READs (over a network also 1 WRITE), and a call if operations are not applied yet.
            With partitions: 1 READ (and 1 WRITE) for each, and a call.

        >>> index = structures.MVBPlusTree(fe, "index")
        >>> index[b"k"] = b"1"
        >>> with index.snapshot() as before:
        ...     index[b"k"] = b"2"
        ...     before[b"k"], index[b"k"]
        (b'1', b'2')
        """
        cdef rnvm_version at
        cdef uint64_t session
        cdef Snapshot made
        if self.others is not None:
            return snapshots_of([self], timeout=timeout)[0]
        made = snapshot_of(self)
        open_version(self, &at, &session, timeout)
        made.mapping.opened(&at, session)
        return made

    def __del__(self):
        # Not the Snapshot does that: its iterators, which read this mapping, may outlive it.
        self.close()

    cdef int close(self) except -1:
        if self.source is not None and not self.closed:
            self.closed = True
            close_version(self.source, &self.at, self.session)
        return 0

    cdef int opened(self, const rnvm_version *at, uint64_t session) except -1:
        self.at = at[0]
        self.session = session
        self.closed = False
        return 0

    cdef VersionedMapping reader(self):
        cdef object cls = kind_class(self)
        cdef VersionedMapping mapping = cls.__new__(cls)
        mapping.closed = True
        mapping.source = self
        mapping.fe = self.fe
        mapping.c.fe = self.c.fe
        mapping.c.kind = self.c.kind
        mapping.name = self.name
        mapping.codec = self.codec
        mapping.place = self.place
        mapping.partitions = self.partitions
        return mapping

    def clear(self, *, timeout=None):
        """Remove all keys in one operation, then free the memory that no reader uses.

        Later operations free the rest.

        Args:
            timeout: Seconds, of each operation.
        """
        cdef uint64_t mark = transaction_mark(self)
        cdef VersionedMapping part
        try:
            OrderedMapping.clear(self, timeout=timeout)
            for part in self._parts():
                while part.execute(COLLECT, b"", 0, timeout) == MORE:
                    pass
        except BaseException:
            transaction_undo(self, mark)
            raise


cdef Snapshot snapshot_of(VersionedMapping mapping):
    """Return a snapshot whose versions, one for each partition, are still to be opened."""
    cdef Snapshot made = Snapshot.__new__(Snapshot)
    cdef VersionedMapping part
    cdef list others = []
    made.mapping = mapping.reader()
    if mapping.others is not None:
        for part in mapping.others:
            others.append(part.reader())
        made.mapping.others = tuple(others)
    return made


def snapshots_of(structures, *, timeout=None):
    """Return snapshots of several structures of one front-end, all of one moment.

    No transaction over them is in one of the snapshots and not in another.

    Args:
        structures: Multi-version structures; up to 64, each partition counted.
        timeout: Seconds.

    Cost:
        1 READ for each structure and partition (over a network also 1 WRITE), and a call.
    """
    cdef rnvm_version at[RNVM_PARTS_MAX]
    cdef uint64_t session
    cdef VersionedMapping part
    cdef Snapshot made
    cdef list parts = [], snapshots = []
    cdef Py_ssize_t number = 0
    for each in structures:
        if not isinstance(each, VersionedMapping):
            raise WrongType("snapshots of one moment must be of multi-version structures, got "
                            f"{type(each).__name__}")
        parts += each._parts()
        snapshots.append(snapshot_of(each))
    if not 1 <= len(parts) <= RNVM_PARTS_MAX:
        raise InvalidArgument(f"snapshots of one moment must be of 1 to {RNVM_PARTS_MAX} "
                              f"structures, each partition counted, got {len(parts)}")
    open_versions(parts, at, &session, timeout)
    for made in snapshots:
        for part in made.mapping._parts():
            part.opened(&at[number], session)
            number += 1
    return snapshots


cdef class Snapshot:
    """A version of a multi-version mapping: a read-only mapping in the order of its keys.

    Made by `snapshot()` of the structure.  Its iterations see one version, however long they take.

    Raises:
        SnapshotTooOld: By any method: it was given up and its memory was used again, or its session
            was lost.  It never returns wrong data.
    """

    def __init__(self):
        raise CallerError("cannot make a Snapshot directly", hint="call snapshot() of a structure")

    @property
    def version(self):
        """Return the number of the transaction that wrote this version of the structure.

        Of a mapping with partitions, the sum of their numbers: it grows with each transaction.
        """
        cdef VersionedMapping part
        cdef uint64_t total = 0
        for part in self.mapping._parts():
            total += part.at.version
        return total

    @property
    def structure(self):
        """Return the structure; a name is open only once at a front-end."""
        return self.mapping.source

    @property
    def closed(self):
        """Return whether it was closed."""
        return bool(self.mapping.closed)

    def close(self):
        """Let the memory of the version go.  May be called again, also after its front-end closed.

        It waits for no other thread.  A snapshot without a reference, also from an iterator, is
        closed by itself.

        Cost:
            Over a network 1 WRITE for each partition.
        """
        cdef VersionedMapping part
        for part in self.mapping._parts():
            part.close()

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.close()

    def __getitem__(self, key):
        return self.mapping[key]

    def __contains__(self, key):
        return key in self.mapping

    def __len__(self):
        return len(self.mapping)

    def __iter__(self):
        return iter(self.mapping)

    def __reversed__(self):
        return reversed(self.mapping)

    def __eq__(self, other):
        return AbstractMapping.__eq__(self, other)

    def get(self, key, default=None, *, timeout=None):
        """Return the value of a key, or the default."""
        return self.mapping.get(key, default, timeout=timeout)

    def keys(self):
        """Return a set-like view of the keys."""
        return Keys(self)

    def values(self):
        """Return a view of the values."""
        return Values(self)

    def items(self):
        """Return a set-like view of the items: (key, value)."""
        return Items(self)

    def _each(self, bint values, **options):
        return self.mapping._each(values, **options)

    def range(self, lo=None, hi=None, *, bint reverse=False):
        """Iterate over (key, value) with lo <= key < hi, as range() of the structure."""
        return self.mapping.range(lo, hi, reverse=reverse)

    def prefix(self, p, *, bint reverse=False):
        """Iterate over (key, value) of all keys that begin with a prefix."""
        return self.mapping.prefix(p, reverse=reverse)

    def first(self):
        """Return (key, value) of the lowest key; KeyError if there is none."""
        return self.mapping.first()

    def last(self):
        """Return (key, value) of the highest key; KeyError if there is none."""
        return self.mapping.last()

    def floor(self, key):
        """Return (key, value) of the highest key that is not above this one."""
        return self.mapping.floor(key)

    def ceiling(self, key):
        """Return (key, value) of the lowest key that is not below this one."""
        return self.mapping.ceiling(key)

    def lower(self, key):
        """Return (key, value) of the highest key below this one."""
        return self.mapping.lower(key)

    def higher(self, key):
        """Return (key, value) of the lowest key above this one."""
        return self.mapping.higher(key)

    def count(self, lo=None, hi=None):
        """Return the number of keys with lo <= key < hi."""
        return self.mapping.count(lo, hi)

    def __reduce__(self):
        raise not_copied(self, "take a snapshot in the process that uses it")

    def __repr__(self):
        return f"<Snapshot of {self.mapping.name!r}, version {self.version}>"


AbstractMapping.register(Snapshot)
