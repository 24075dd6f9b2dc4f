"""The root of a multi-version structure: two halves, of which each transaction writes one."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from rfp.core.core cimport rfp_pause
from rnvm.format.layout cimport rnvm_offset
from rnvm.format.node cimport RNVM_NODE
from rnvm.format.version cimport (
    rnvm_version, rnvm_version_crc, rnvm_version_newest, rnvm_versions)
from rnvm.frontend.log_overlay cimport overlay_patch
from rnvm.frontend.node_cache cimport cache_get, node_bytes
from rnvm.frontend.remote cimport remote_read
from rnvm.frontend.state cimport frontend, instance, node
from rnvm.frontend.status cimport AGAIN, OK, fault
from rnvm.frontend.write_set cimport node_set_changed

cdef enum:
    ROOT_READS_MAX = 64        # of a root, until a half of it is whole

cdef uint64_t ANY_VERSION = ~<uint64_t> 0


cdef int read_newest(instance *s, uint64_t least, rnvm_version *found) noexcept nogil:
    # A newer version in the pool is not to be used: the log has older bytes for its nodes.
    cdef bint overlaid = s.pulled != NULL and s.pulled.number != 0
    return read_half(s, least, least if overlaid else ANY_VERSION, overlaid, found)


cdef int read_applied(instance *s, uint64_t least, rnvm_version *found) noexcept nogil:
    return read_half(s, least, ANY_VERSION, False, found)


cdef int read_half(instance *s, uint64_t least, uint64_t most, bint overlaid,
                   rnvm_version *found) noexcept nogil:
    cdef frontend *fe = s.fe
    cdef rnvm_versions read
    cdef uint32_t i
    cdef int which, status
    for i in range(ROOT_READS_MAX):
        status = remote_read(fe, rnvm_offset(s.root), &read, sizeof(read))
        if status != OK:
            return status
        if overlaid:
            overlay_patch(s, rnvm_offset(s.root), <char *> &read, sizeof(read))
        which = rnvm_version_newest(fe.g.seed, s.root, read.halves, most)
        # The READ may take longer than two transactions: then both halves may be torn.
        if which >= 0 and read.halves[which].version >= least:
            found[0] = read.halves[which]
            return OK
        rfp_pause()
    s.fault_at = s.root
    return AGAIN


cdef node *root_node(instance *s, int *newest) noexcept nogil:
    """Under the lock: the root, and which of its halves is the newest."""
    cdef node *n = cache_get(s, s.root, s.kind.root, 1)
    cdef uint64_t newest_version
    if n == NULL:
        return NULL
    newest[0] = rnvm_version_newest(s.fe.g.seed, s.root,
                                    (<rnvm_versions *> node_bytes(n)).halves, ANY_VERSION)
    if newest[0] < 0:
        s.error = fault(s, s.root, b"no version in the root is whole")
        return NULL
    newest_version = (<rnvm_versions *> node_bytes(n)).halves[newest[0]].version
    if newest_version > s.number and newest_version != s.written:
        s.error = fault(s, s.root, b"the root is of a later transaction than the structure")
        return NULL
    return n


cdef int version_find(instance *s, rnvm_version *found) noexcept nogil:
    cdef node *n
    cdef int newest = 0
    if s.at != NULL:
        found[0] = s.at[0]
        return OK
    if not s.entered:
        found[0] = s.newest
        return OK
    n = root_node(s, &newest)
    if n == NULL:
        return s.error
    found[0] = (<rnvm_versions *> node_bytes(n)).halves[newest]
    return OK


cdef int version_store(instance *s, rnvm_version *changed) noexcept nogil:
    cdef int newest = 0
    cdef node *n = root_node(s, &newest)
    cdef rnvm_versions *root
    cdef uint32_t at
    if n == NULL:
        return s.error
    root = <rnvm_versions *> node_bytes(n)
    # This transaction's own half again, or the older one: the version before stays whole.
    if root.halves[newest].version != s.number + 1:
        newest = 1 - newest
    at = RNVM_NODE + sizeof(rnvm_version) * <uint32_t> newest
    if node_set_changed(s, n, at, sizeof(rnvm_version)) == NULL:
        return s.error
    changed.version = s.written = s.number + 1
    changed.crc = rnvm_version_crc(s.fe.g.seed, s.root, changed)
    memcpy(node_bytes(n) + at, changed, sizeof(rnvm_version))
    return OK


cdef int version_touch(instance *s) noexcept nogil:
    cdef rnvm_version newest
    if version_find(s, &newest) != OK:
        return s.error
    return OK if newest.version == s.number + 1 else version_store(s, &newest)
