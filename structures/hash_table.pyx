"""HashTable: a persistent mapping that grows and shrinks by one bucket at a time."""

import contextlib
import os

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from rnvm.format.node cimport RNVM_NODE
from rnvm.frontend.state cimport instance, kind
from rnvm.frontend.structure cimport (
    ALIEN, OK, answer_put, fault, node_cost, node_free, node_new, nodes_release, record_room, register_kind, root_change,
    root_read, visitor,
)
from structures.hash_buckets cimport (
    CHAIN_MAX, answer_item, answer_value, bucket_read, buckets_grow, buckets_idle, buckets_short,
    buckets_shrink, entry_at, entry_insert, entry_remove, entry_replace, entry_value, hash_of,
    locate, node_of, place,
)
from structures.layout cimport (
    BUCKET_BYTES, BUCKET_FIRST, HASH_INSIDE, HASH_SHORT_KEY, KEY_OF, SIZES, TYPE_BUCKET, VALUE_NODE,
    VALUE_OF, hash_bits, hash_bucket, hash_bucket_of, hash_entry, hash_entry_size, hash_key_at,
    hash_outside, hash_reversed, hash_root,
)
from structures.mapping cimport (
    ANOTHER, CLEAR, DELETE, FOUND, MISSING, MORE, POP, POP_ITEM, POP_SAME, SET, SET_DEFAULT,
    Mapping, digest_is, lookup, pair, pair_of,
)
from structures.shared cimport directory_get, directory_set, directory_walk, value_bytes, value_free

from rfp.errors import OutOfMemory, StructureDamaged, TooLarge

cdef enum:
    # an operation without bytes: the split that had no room in the operation that required it
    GROW = 16

# maximum bytes that operations change, without nodes allocated or freed; the other parts of the
# operation must fit beside them
cdef enum:
    PUTTING = 4500
    REMOVING = 1200
    ENDING = 2500              # of a step of clear() or popitem()
    DROPPING = 200             # an entry or a bucket, without its node
    CLEARED_MAX = 65536        # bytes that one clear() changes, while other front-ends wait

cdef enum:
    # maximum bytes that one merge changes, without those of the last buckets' nodes
    SHRINKING = 9000
    SHRINKS = 2  # merges per removal: if some were left for later, more than one is due


cdef inline const hash_root *root_of(instance *s) noexcept nogil:
    return <const hash_root *> root_read(s)

cdef inline hash_root *change_root(instance *s) noexcept nogil:
    return <hash_root *> root_change(s, RNVM_NODE, sizeof(hash_root) - RNVM_NODE)


# Operations


cdef int grow(instance *s, uint64_t beside) noexcept nogil:
    """Add one bucket, if that is due.

    Return OK, or MORE: no room beside the operation's other changes.
    """
    cdef const hash_root *root = root_of(s)
    cdef hash_root *changed
    cdef bint done = False
    if root == NULL:
        return s.error
    if not buckets_short(root):
        return OK
    changed = change_root(s)
    if changed == NULL or buckets_grow(s, changed, beside, &done) != OK:
        return s.error
    return OK if done else MORE


cdef int put(instance *s, const pair *p, bint keep) noexcept nogil:
    cdef const hash_root *root = root_of(s)
    cdef hash_root *changed
    cdef hash_bucket *bucket
    cdef const hash_entry *entry
    cdef place where
    cdef uint64_t address, node
    cdef uint32_t sizes = SIZES(p.key_length, p.value_length), old = 0, before = 0, hash
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.buckets:
        changed = change_root(s)
        bucket = <hash_bucket *> node_new(s, BUCKET_BYTES, TYPE_BUCKET, &address)
        if changed == NULL or bucket == NULL:
            return s.error
        bucket.end = BUCKET_FIRST
        if not changed.seed:
            changed.seed = <uint64_t> 1 << 32 | p.salt
        changed.buckets = 1
        if directory_set(s, &changed.directory, &changed.depth, 0, address) != OK:
            return s.error
        root = changed
    hash = hash_of(root, p.key, p.key_length)
    outcome = locate(s, root, p.key, p.key_length, &where)
    if outcome < 0:
        return outcome
    if outcome == OK:
        entry = where.entry
        if keep:
            outcome = answer_value(s, entry)
            return FOUND if outcome == OK else outcome
        outcome = entry_replace(s, &where, entry, p, sizes)
        if outcome != MISSING:
            return outcome
        old = entry.sizes
        before = hash_entry_size(old)
        node = node_of(entry)
        if entry_remove(s, hash_bucket_of(hash, root.buckets), &where) != OK:
            return s.error
        if node and value_free(s, node, hash_outside(old)) != OK:
            return s.error
    if entry_insert(s, root, hash, p, sizes) != OK:
        return s.error
    if before == hash_entry_size(sizes):
        return OK
    changed = <hash_root *> root_change(s, RNVM_NODE, 16)
    if changed == NULL:
        return s.error
    changed.count += before == 0
    changed.bytes += <uint64_t> hash_entry_size(sizes) - before
    return grow(s, PUTTING + hash_outside(sizes) + 4 * node_cost(s, BUCKET_BYTES) + 2 * node_cost(s, VALUE_NODE(0)))


cdef int remove_at(instance *s, const hash_root *root, uint32_t index, const place *where, uint64_t beside) noexcept nogil:
    """Remove the entry at this place.  beside: bytes that the operation has changed before."""
    cdef hash_root *changed
    cdef uint32_t sizes = where.entry.sizes, shrinks = 0
    cdef uint64_t node = node_of(where.entry)
    cdef bint done = True
    if entry_remove(s, index, where) != OK or (node and value_free(s, node, hash_outside(sizes)) != OK):
        return s.error
    changed = <hash_root *> root_change(s, RNVM_NODE, 16)
    if changed == NULL:
        return s.error
    changed.count -= 1
    changed.bytes -= hash_entry_size(sizes)
    beside += REMOVING + node_cost(s, BUCKET_BYTES) + node_cost(s, VALUE_NODE(hash_outside(sizes)))
    while done and shrinks < SHRINKS and buckets_idle(changed):
        # Shrinking is not part of the request: a step that does not fit is left for later.
        changed = change_root(s)
        if changed == NULL or buckets_shrink(s, changed, beside, &done) != OK:
            return s.error
        beside += SHRINKING
        shrinks += 1
    return OK


cdef int remove(instance *s, const pair *p, uint32_t code) noexcept nogil:
    cdef const hash_root *root = root_of(s)
    cdef place where
    cdef const char *value = NULL
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = locate(s, root, p.key, p.key_length, &where)
    if outcome != OK:
        return outcome
    if code != DELETE and entry_value(s, where.entry, &value) != OK:
        return s.error
    if code == POP_SAME and not digest_is(p, value, VALUE_OF(where.entry.sizes)):
        return ANOTHER
    if code == POP and answer_put(s, value, VALUE_OF(where.entry.sizes)) != OK:
        return s.error
    return remove_at(s, root, hash_bucket_of(hash_of(root, p.key, p.key_length), root.buckets), &where, 0)


cdef int last_item(instance *s, const hash_root *root, uint32_t last, place *where) noexcept nogil:
    """Find the first entry in a bucket: OK, or MISSING with `where` at the end of its chain."""
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef uint32_t links = 0
    where.previous = 0
    where.address = directory_get(s, root.directory, root.depth, last)
    if not where.address:
        return s.error
    while True:
        bucket = bucket_read(s, where.address, last)
        if bucket == NULL:
            return s.error
        where.at = BUCKET_FIRST
        while where.at < bucket.end:
            entry = entry_at(s, bucket, where.address, where.at)
            if entry == NULL:
                return s.error
            if KEY_OF(entry.sizes):
                where.entry = entry
                return OK
            where.at += hash_entry_size(entry.sizes)
        if not bucket.next:
            return MISSING
        links += 1
        if links > CHAIN_MAX:
            return fault(s, where.address, b"the chain of a bucket has a cycle")
        where.previous = where.address
        where.address = bucket.next


cdef int pop_any(instance *s) noexcept nogil:
    """Pop an item of the last bucket.

    An empty last bucket is removed: its keys now belong to the bucket that it was split from.
    """
    cdef hash_root *root = <hash_root *> root_of(s)
    cdef place where
    cdef uint64_t spent = ENDING, each = DROPPING + node_cost(s, BUCKET_BYTES)
    cdef uint32_t last
    cdef int outcome
    if root == NULL:
        return s.error
    if not root.count:
        return MISSING
    while True:
        last = root.buckets - 1
        outcome = last_item(s, root, last, &where)
        if outcome < OK:
            return outcome
        if outcome == OK:
            if answer_item(s, where.entry, True, True) != OK:
                return s.error
            return remove_at(s, root, last, &where, spent)
        if last == 0 or where.previous:
            return fault(s, where.address, b"the table's key count exceeds the keys found")
        if spent > ENDING and spent + each > record_room(s):
            return MORE
        spent += each
        root = change_root(s)
        if root == NULL or node_free(s, where.address, BUCKET_BYTES) != OK:
            return s.error
        root.buckets = last
        if directory_set(s, &root.directory, &root.depth, last, 0) != OK:
            return s.error


cdef int clear_node(instance *s, uint32_t index, uint64_t address, uint64_t *spent, uint64_t most) noexcept nogil:
    """Free the nodes of a node's entries, and leave holes there.

    Return OK, or MORE: no room for the rest.
    """
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef hash_root *root
    cdef place where
    cdef uint64_t cost
    cdef uint32_t sizes
    where.previous = 0
    where.address = address
    where.at = BUCKET_FIRST
    while True:
        bucket = bucket_read(s, address, index)
        if bucket == NULL:
            return s.error
        if where.at >= bucket.end:
            return OK
        entry = entry_at(s, bucket, address, where.at)
        if entry == NULL:
            return s.error
        sizes = entry.sizes
        where.entry = entry
        if not KEY_OF(sizes) or HASH_INSIDE(sizes):
            where.at += hash_entry_size(sizes)
            continue
        cost = DROPPING + node_cost(s, VALUE_NODE(hash_outside(sizes)))
        if spent[0] > ENDING and spent[0] + cost > most:
            return MORE
        spent[0] += cost
        if value_free(s, node_of(entry), hash_outside(sizes)) != OK or entry_remove(s, index, &where) != OK:
            return s.error
        root = change_root(s)
        if root == NULL:
            return s.error
        root.count -= 1
        root.bytes -= hash_entry_size(sizes)


cdef int clear(instance *s) noexcept nogil:
    """Remove the last buckets, with their content, while the log has room; return OK, or MORE."""
    cdef hash_root *root = <hash_root *> root_of(s)
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef uint64_t most = min(record_room(s), <uint64_t> CLEARED_MAX), cost = DROPPING + node_cost(s, BUCKET_BYTES)
    cdef uint64_t spent = ENDING
    cdef uint64_t address, next
    cdef uint32_t at, last
    cdef int outcome
    if root == NULL:
        return s.error
    while root.buckets:
        if spent > ENDING and spent + cost > most:
            return MORE
        last = root.buckets - 1
        address = directory_get(s, root.directory, root.depth, last)
        if not address:
            return s.error
        outcome = clear_node(s, last, address, &spent, most)
        if outcome != OK:
            return outcome
        if spent > ENDING and spent + cost > most:
            return MORE
        spent += cost
        bucket = bucket_read(s, address, last)
        root = change_root(s)
        if bucket == NULL or root == NULL:
            return s.error
        at = BUCKET_FIRST
        while at < bucket.end:
            entry = entry_at(s, bucket, address, at)
            if entry == NULL:
                return s.error
            if KEY_OF(entry.sizes):
                root.count -= 1
                root.bytes -= hash_entry_size(entry.sizes)
            at += hash_entry_size(entry.sizes)
        next = bucket.next
        if node_free(s, address, BUCKET_BYTES) != OK:
            return s.error
        if not next:
            root.buckets = last
        if directory_set(s, &root.directory, &root.depth, last, next) != OK:
            return s.error
    return OK


cdef int apply(instance *s, uint32_t code, const char *bytes, uint32_t length) noexcept nogil:
    cdef pair p
    memset(&p, 0, sizeof(p))
    if code == POP_ITEM and length == 0:
        return pop_any(s)
    if code == CLEAR and length == 0:
        return clear(s)
    if code == GROW and length == 0:
        return grow(s, 0)
    if pair_of(bytes, length, &p) == length:
        if code == SET or code == SET_DEFAULT:
            return put(s, &p, code == SET_DEFAULT)
        if code == DELETE or code == POP or code == POP_SAME:
            return remove(s, &p, code)
    return ALIEN


# Queries


cdef int find(instance *s, void *context) noexcept nogil:
    cdef const lookup *wanted = <const lookup *> context
    cdef const hash_root *root = root_of(s)
    cdef place where
    cdef int outcome
    if root == NULL:
        return s.error
    outcome = locate(s, root, wanted.key, wanted.length, &where)
    if outcome != OK or not wanted.answer:
        return outcome
    return answer_value(s, where.entry)


cdef int find_any(instance *s, void *context) noexcept nogil:
    """Answer with the item that pop_any() would remove."""
    cdef const hash_root *root = root_of(s)
    cdef place where
    cdef uint32_t last
    cdef int outcome = MISSING
    if root == NULL:
        return s.error
    last = root.buckets if root.count else 0
    while last and outcome == MISSING:
        last -= 1
        outcome = last_item(s, root, last, &where)
    return answer_item(s, where.entry, True, True) if outcome == OK else outcome


# position in the order of bit-reversed hashes, in which each bucket is one interval
cdef struct cursor:
    uint64_t next
    uint64_t then
    bint values

cdef int read_bucket(instance *s, void *context) noexcept nogil:
    cdef cursor *c = <cursor *> context
    cdef const hash_root *root = root_of(s)
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef uint64_t address
    cdef uint32_t index, at, links = 0
    if root == NULL:
        return s.error
    if not root.buckets:
        return MISSING
    index = hash_bucket_of(hash_reversed(<uint32_t> c.next), root.buckets)
    c.then = hash_reversed(index) + (<uint64_t> 1 << (32 - hash_bits(index, root.buckets)))
    address = directory_get(s, root.directory, root.depth, index)
    if not address:
        return s.error
    while address:
        bucket = bucket_read(s, address, index)
        if bucket == NULL:
            return s.error
        at = BUCKET_FIRST
        while at < bucket.end:
            entry = entry_at(s, bucket, address, at)
            if entry == NULL:
                return s.error
            if KEY_OF(entry.sizes) and hash_reversed(entry.hash) >= c.next and answer_item(s, entry, c.values, False) != OK:
                return s.error
            at += hash_entry_size(entry.sizes)
        links += 1
        if links > CHAIN_MAX:
            return fault(s, address, b"the chain of a bucket has a cycle")
        address = bucket.next
    return OK


# Checking


cdef int walk_entry(instance *s, const hash_root *root, uint32_t index, uint64_t address, uint32_t at, const hash_entry *entry,
                    visitor visit, void *context) noexcept nogil:
    cdef const char *own = NULL
    cdef const char *key = <const char *> entry + hash_key_at(entry.sizes)
    cdef place first
    cdef int outcome
    if not HASH_INSIDE(entry.sizes):
        own = value_bytes(s, node_of(entry), hash_outside(entry.sizes))
        if own == NULL:
            return s.error
        outcome = visit(context, node_of(entry), VALUE_NODE(hash_outside(entry.sizes)))
        if outcome != OK:
            return outcome
        if not HASH_SHORT_KEY(entry.sizes):
            key = own
    if hash_of(root, key, KEY_OF(entry.sizes)) != entry.hash or hash_bucket_of(entry.hash, root.buckets) != index:
        return fault(s, address, b"an entry is in the wrong bucket for its key")
    outcome = locate(s, root, key, KEY_OF(entry.sizes), &first)
    if outcome < 0:
        return outcome
    if outcome == MISSING or first.address != address or first.at != at:
        return fault(s, address, b"a key is in the table twice")
    return OK


cdef int walk(instance *s, visitor visit, void *context) noexcept nogil:
    cdef const hash_root *root = root_of(s)
    cdef const hash_bucket *bucket
    cdef const hash_entry *entry
    cdef uint64_t address, count = 0, bytes = 0
    cdef uint32_t index, at, size, holes, buckets, links
    cdef int outcome
    if root == NULL:
        return s.error
    buckets = root.buckets
    if root.depth and not root.directory:
        return fault(s, 0, b"the table has no directory")
    outcome = directory_walk(s, root.directory, root.depth, visit, context)
    if outcome != OK:
        return outcome
    for index in range(buckets):
        nodes_release(s)
        root = root_of(s)
        if root == NULL:
            return s.error
        address = directory_get(s, root.directory, root.depth, index)
        if not address:
            return s.error
        links = 0
        while address:
            bucket = bucket_read(s, address, index)
            if bucket == NULL:
                return s.error
            if links and bucket.end == BUCKET_FIRST:
                return fault(s, address, b"a node in the chain of a bucket is empty")
            at = BUCKET_FIRST
            holes = 0
            while at < bucket.end:
                entry = entry_at(s, bucket, address, at)
                if entry == NULL:
                    return s.error
                size = hash_entry_size(entry.sizes)
                if not KEY_OF(entry.sizes):
                    holes += size
                else:
                    count += 1
                    bytes += size
                    outcome = walk_entry(s, root, index, address, at, entry, visit, context)
                    if outcome != OK:
                        return outcome
                at += size
            if holes != bucket.holes:
                return fault(s, address, b"a bucket's holes do not match its header")
            outcome = visit(context, address, BUCKET_BYTES)
            if outcome != OK:
                return outcome
            links += 1
            if links > CHAIN_MAX:
                return fault(s, address, b"the chain of a bucket has a cycle")
            address = bucket.next
    root = root_of(s)
    if root == NULL:
        return s.error
    if count != root.count or bytes != root.bytes:
        return fault(s, s.root, b"the table's key count does not match the keys found")
    return OK


cdef kind hash_kind
hash_kind.number, hash_kind.format, hash_kind.root = 2, 1, sizeof(hash_root)
hash_kind.apply, hash_kind.walk = apply, walk


cdef class HashTable(Mapping):
    """A persistent hash table: a MutableMapping that any number of front-ends share.

    An iteration yields each key that is there from its beginning to its end exactly once, in no
    order, and a key added or removed during the iteration at most once.  This is the hash table of
    the paper (rNVM, section 5), but it grows one bucket at a time.

    Keys have 1 to 1024 bytes, values 0 bytes to `largest_value`, which is 1 MiB or what the pool's
    logs take.

    Args:
        fe: The front-end, from rnvm.connect().
        name: Name of the table in the pool; created if it does not exist.
        codec: How keys and values other than bytes are stored: "utf-8", "json", "pickle", or an
            object with encode() and decode().

    Raises:
        WrongKind: The name belongs to another kind of structure.

    Cost:
        - `table[key] = value`, `del`: 2 WRITEs (the operation, and its changes).
        - Lookup: no round trip while this front-end has the writer lock; else 1 READ.  1 READ more
          for each node that is not in its cache: root, directory, bucket, and the value if it is
          long.
        - len(): O(1).

    >>> users = structures.HashTable(fe, "users")
    >>> users[b"ada"] = b"1815"
    >>> users[b"ada"], b"bob" in users, len(users)
    (b'1815', False, 1)
    """
    KIND = 2

    def __cinit__(self, *args, **options):
        self.find = find
        self.any_item = find_any
        self.salt = int.from_bytes(os.urandom(4), "little")

    cdef int change(self, uint32_t code, bytes key, bytes value, object timeout) except -1:
        cdef int outcome = Mapping.change(self, code, key, value, timeout)
        if outcome != MORE:
            return outcome
        # the pair is there; the table grows when there is room
        with contextlib.suppress(OutOfMemory, TooLarge):
            self.execute(GROW, b"", 0, timeout)
        return OK

    def _each(self, bint values, *, bint reverse=False):
        cdef cursor c
        if reverse:
            raise TypeError("cannot reverse a hash table: it is not ordered")
        c.next = 0
        c.values = values
        while c.next < <uint64_t> 1 << 32 and self.query(read_bucket, &c) == OK:
            c.next = c.then
            for key, value in self.items_told():
                if not values:
                    yield self.decode(key, key)
                    continue
                if value is None:
                    value = self.fetch(key, None)
                if value is not None:
                    yield self.decode(key, key), self.decode(value, key)

    def _salvage(self, list damages not None):
        cdef cursor c
        c.next = 0
        c.values = True
        while c.next < <uint64_t> 1 << 32:
            c.then = 0
            try:
                if self.query(read_bucket, &c) != OK:
                    return
            except StructureDamaged as error:
                damages.append(error)
                if c.then <= c.next:
                    return                 # even the root is damaged: nothing can be found
            c.next = c.then
            yield from self.salvaged(self.items_told(), damages)


register_kind(&hash_kind, HashTable)
