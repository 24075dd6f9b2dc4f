"""Walk structures without a back-end, in the memory of a pool that this process has open."""

from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from rfp.fabric.fabric cimport remote_region
from rnvm.format.layout cimport rnvm_name, rnvm_name_at, rnvm_offset
from rnvm.format.node cimport rnvm_slabs
from rnvm.frontend.byte_buffer cimport buffer_free
from rnvm.frontend.status cimport AGAIN, DAMAGED, NO_MEMORY, OK
from rnvm.frontend.node_cache cimport cache_free, cache_init
from rnvm.frontend.remote cimport link_set_geometry, link_set_mapped, link_set_pool
from rnvm.frontend.state cimport frontend, instance, kind
from rnvm.frontend.structure cimport kind_of
from rnvm.frontend.leak_check cimport reach, reachable
from rnvm.pool.pool cimport Pool

from rnvm.format import partitions

cdef enum:
    BUDGET = 16 << 20          # bytes of nodes that are cached


def known(Pool pool not None, bytes name not None):
    """Return whether this process knows the kind and the format of a structure."""
    cdef const rnvm_name *entry = <const rnvm_name *> (pool.c.m.base
                                                       + rnvm_name_at(&pool.c.g, pool.names[name]))
    cdef const kind *k = kind_of(entry.kind)
    return k != NULL and k.format == entry.format


def examine(Pool pool not None, bytes name not None):
    """Verify every invariant of a known structure, and that its reachable nodes are the allocated.

    No other thread may change the pool during the walk.

    Returns:
        The first problem, or None; the offset of the node that is not whole (0: it is another
        problem); and the counts of reachable and of leaked nodes and blocks.
    """
    cdef uint32_t index = pool.names[name]
    cdef const rnvm_name *entry = <const rnvm_name *> (pool.c.m.base
                                                       + rnvm_name_at(&pool.c.g, index))
    cdef frontend *fe
    cdef instance *s
    cdef remote_region region
    cdef reachable counted
    cdef int found
    memset(&counted, 0, sizeof(counted))
    if not pool.c.structures[index].number:
        return None, 0, counted  # its first transaction never arrived: there is nothing yet
    fe = <frontend *> calloc(1, sizeof(frontend))
    s = <instance *> calloc(1, sizeof(instance))
    if fe == NULL or s == NULL:
        free(fe)
        free(s)
        raise MemoryError()
    region = remote_region(base=pool.c.m.base, length=pool.c.g.size, key=0, rights=0)
    link_set_geometry(fe, &pool.c.g)
    link_set_mapped(fe, True)
    link_set_pool(fe, NULL, &region)
    cache_init(fe, BUDGET, 1)
    s.fe = fe
    s.kind = kind_of(entry.kind)
    s.id = pool.c.structures[index].id
    s.index = index
    s.slabs = entry.root
    s.root = entry.root + sizeof(rnvm_slabs)
    s.number = pool.c.structures[index].number
    _, s.partition, s.partitions = partitions.parsed(name)
    s.holds = s.entered = True
    with nogil:
        found = reach(s, &counted)
    what, at = None, 0
    if found == DAMAGED:
        what = f"{(<bytes> s.fault).decode()} (at {s.fault_at:#x})"
    elif found == AGAIN and s.fault_at:
        what = f"the data at {s.fault_at:#x} is damaged, or is another node than the one linked"
        at = rnvm_offset(s.fault_at)
    elif found != OK:
        what = "nodes are inconsistent"
    cache_free(fe)
    buffer_free(&fe.answer)
    free(fe)
    free(s)
    if found == NO_MEMORY:
        raise MemoryError()
    return what, at, counted
