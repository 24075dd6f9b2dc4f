# The leaf that a path leads to: read its entries and answer with them.

from libc.stdint cimport uint32_t
from rnvm.frontend.state cimport instance
from rnvm.frontend.structure cimport OK, answer_put, fault, root_read
from structures.bptree_pages cimport child_of, page_read, path
from structures.layout cimport VALUE_OF, tree_root
from structures.mapping cimport told
from structures.page cimport PAGE_INLINE, page, page_entry, page_entry_at
from structures.shared cimport value_answer


cdef inline const tree_root *root_of(instance *s) noexcept nogil:
    return <const tree_root *> root_read(s)


cdef inline int leaf_of(instance *s, const path *p, const page **leaf) noexcept nogil:
    leaf[0] = page_read(s, p.pages[p.levels - 1], 0)
    return s.error if leaf[0] == NULL else OK


cdef inline int entry_in(instance *s, const path *p, page_entry *e) noexcept nogil:
    """Read the entry that a path leads to."""
    cdef const page *leaf
    if leaf_of(s, p, &leaf) != OK:
        return s.error
    if p.indexes[p.levels - 1] >= leaf.count or not page_entry_at(leaf, p.indexes[p.levels - 1], e):
        return fault(s, leaf.node.address, b"an entry goes beyond its page")
    return OK


cdef inline int answer_value(instance *s, const page_entry *e) noexcept nogil:
    if VALUE_OF(e.sizes) <= PAGE_INLINE:
        return answer_put(s, e.payload, e.payload_length)
    return value_answer(s, child_of(e), VALUE_OF(e.sizes))


cdef inline int answer_item(instance *s, const page_entry *e, bint value, bint outside) noexcept nogil:
    """Answer with an item, as `told`.

    value: with its value; outside: even if it has a node of its own.
    """
    cdef told header
    header.sizes = e.sizes
    header.bytes = VALUE_OF(e.sizes) if value and (outside or VALUE_OF(e.sizes) <= PAGE_INLINE) else 0
    if answer_put(s, &header, sizeof(header)) != OK or answer_put(s, e.key, e.key_length) != OK:
        return s.error
    return answer_value(s, e) if header.bytes else OK
