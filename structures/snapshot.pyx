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
)
from structures.mapping_operations cimport MORE
from structures.multi_version cimport COLLECT
from structures.ordered_mapping cimport OrderedMapping

from rfp.errors import CallerError, InvalidArgument, RfpError, not_copied
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

    cdef int let_go(self, uint64_t version, uint64_t session) except -1:
        cdef rnvm_version at
        at.version = version
        return close_version(self, &at, session)

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
        if self.others is not None:
            return snapshots_of([self], timeout=timeout)[0]
        self.drop_lapsed()
        open_version(self, &at, &session, timeout)
        return snapshot_of(self, &at, session)

    cdef int drop_lapsed(self) except -1:
        while self.lapsed:
            version, session = self.lapsed.pop()
            self.let_go(version, session)
        return 0

    cdef VersionedMapping at_version(self, const rnvm_version *at, uint64_t session):
        cdef VersionedMapping mapping = type(self).__new__(type(self))
        mapping.at = at[0]
        mapping.session = session
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
        cdef VersionedMapping part
        OrderedMapping.clear(self, timeout=timeout)
        for part in self._parts():
            while part.execute(COLLECT, b"", 0, timeout) == MORE:
                pass


cdef Snapshot snapshot_of(VersionedMapping mapping, const rnvm_version *at, uint64_t session):
    """Return a snapshot of these versions, one for each partition."""
    cdef Snapshot made = Snapshot.__new__(Snapshot)
    cdef VersionedMapping read = mapping.at_version(at, session)
    cdef Py_ssize_t i
    if mapping.others is not None:
        read.others = tuple([(<VersionedMapping> mapping.others[i]).at_version(&at[i + 1], session)
                             for i in range(len(mapping.others))])
    made.mapping = read
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
    cdef VersionedMapping each
    cdef list parts = []
    cdef list opened = []
    cdef Py_ssize_t first = 0
    structures = list(structures)
    for each in structures:
        parts += each._parts()
    if not 1 <= len(parts) <= RNVM_PARTS_MAX:
        raise InvalidArgument(f"snapshots of one moment must be of 1 to {RNVM_PARTS_MAX} "
                              f"structures, each partition counted, got {len(parts)}")
    for each in parts:
        each.drop_lapsed()
    open_versions(parts, at, &session, timeout)
    for each in structures:
        opened.append(snapshot_of(each, &at[first], session))
        first += len(each._parts())
    return opened


cdef class Snapshot:
    """A version of a multi-version mapping: a read-only mapping in the order of its keys.

    Made by `snapshot()` of the structure.  Its iterations see one version, however long they take.

    Raises:
        SnapshotTooOld: By any method: it was given up and its memory was used again, or its session
            was lost.  It never returns wrong data.
    """

    def __init__(self):
        raise CallerError("cannot make a Snapshot directly", hint="call snapshot() of a structure")

    def __del__(self):
        cdef VersionedMapping mapping = self.mapping
        if mapping is None:
            return
        for mapping in mapping._parts():
            if not mapping.closed:
                mapping.closed = True
                # Not now: a finalizer may run inside another call.
                if mapping.source.lapsed is None:
                    mapping.source.lapsed = []
                mapping.source.lapsed.append((mapping.at.version, mapping.session))

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

        Cost:
            Over a network 1 WRITE for each partition.
        """
        cdef VersionedMapping mapping
        for mapping in self.mapping._parts():
            if mapping.closed:
                continue
            mapping.closed = True
            try:
                mapping.source.let_go(mapping.at.version, mapping.session)
            except RfpError:
                pass                       # the session has ended, or ends: nothing is kept for it

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
