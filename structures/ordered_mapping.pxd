# The Python interface of every ordered mapping: ranges, neighbours, counts, bulk loads.
# ordered_operations.pxd has the structs and operations.
#
# How to write a kind of ordered mapping:
#
#     cdef class MyTree(OrderedMapping):
#         KIND = ...
#         def __cinit__(self, *args, **options):
#             self.find = ...            # of Mapping
#             self.any_item = ...        # of Mapping: the item with the lowest key
#             self.read_items = ...      # of this class, as are the next two
#             self.next_bound = ...
#             self.count_keys = ...
#             self.split = ...           # optional
#
# The kind's apply passes all codes that it does not know itself to ordered_apply(), which executes
# LOAD with the kind's `put`.  The class below provides all methods, iteration and salvage from
# these functions; a kind overrides only what it can do better.
#
# Keys are in the order of their bytes.  A bound has 0 to KEY_MAX + 2 bytes, so it may be longer
# than any key, or empty.  All three queries may see any mixture of nodes, so their loops need an
# end, and no key that they answer may lead backwards: an iteration continues after the last one.
#
#   read_items   context: a stretch, which it does not change.  Answers (answer_entry) with the next
#                items of the range, in its order (reverse: descending): at least one and at most
#                `most`, as many as it can read cheaply, such as those of one page.  With their
#                values if `values`; a value may be left out (then the class fetches it), but is
#                inside if that costs no further READ.  OK; MISSING: the range has no item.
#                It must verify that each key is within both bounds and beyond the one before, and
#                fault() if one is not.  The items answered before a damage are used by salvage().
#   next_bound   context: a stretch; for salvage(), after read_items has found damage above `low`
#                (above it, not at it).  Answers with the lowest key above `low` from which on
#                reading may succeed again, according to nodes that can be read; MISSING: none.
#                From then on, `salvaging` is set in the stretches of this iteration.
#   count_keys   context: a tally.  Sets `count` to the number of keys in the range, OK; or counts
#                some of them, answers with the last key that it counted, and returns MORE: it is
#                called again, after this key.  It must do so after some hundred nodes, since it is
#                called again from its beginning while others write.  It verifies that the key that
#                it answers is above `low`.  NULL: the class counts what read_items answers.
#   split        opcode of an operation on a pair without its value, which prepares a SET that does
#                not fit into the log; MORE: it must be called again.  0: there is none.

from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.structure cimport query_function
from structures.mapping cimport Mapping


cdef class OrderedMapping(Mapping):
    # A kind of ordered mapping sets these.
    cdef query_function read_items
    cdef query_function next_bound
    cdef query_function count_keys
    cdef uint32_t split
    # Returns a bound that a caller names, as bytes; bytes beyond the longest key are cut off.
    cdef bytes bound_argument(self, object key)
    # Returns (key, value) of the first item of a range, or None.
    cdef object neighbour(self, bint reverse, bytes lo, bytes hi)
    # Sets the pairs (bytes, bytes) in one operation if it fits into the log, else in several, in
    # this partition.
    cdef int load(self, list pairs, object timeout) except -1
    cdef int load_all(self, list pairs, object timeout) except -1
    # Calls `split` until a SET of this pair fits into the log.
    cdef int split_for(self, bytes key, bytes value, object timeout) except -1
    # Returns the lowest or the highest item of this partition, as bytes, or None; a long value may
    # be None.
    cdef object end_item(self, bint last, object timeout)
    cdef uint64_t count_range(self, bytes low, bytes high) except? 0xffffffffffffffff
