"""Stack: push on top and pop from there.

This file has the class.  stack_operations has its operations and queries, stack_layers the nodes,
stack_walk the checks.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from rnvm.frontend.state cimport kind
from rnvm.frontend.structure cimport OK, register_kind, transaction_mark, transaction_undo
from structures.arguments cimport RAISE, RAISE, value_argument
from structures.layout cimport stack_root
from structures.stack_operations cimport (
    CLEAR_TOP, POP_TOP, PUSH, PUSH_MANY, REMAINING, descent, pass_layer,
    read_layers, read_top, stack_apply, stack_count, top_value,
)
from structures.stack_walk cimport stack_walk
from structures.value_structure cimport ValueStructure
from structures.values cimport values_in

from rfp.errors import StructureDamaged

cdef kind stack_kind
stack_kind.number, stack_kind.format, stack_kind.root = 4, 1, sizeof(stack_root)
stack_kind.apply, stack_kind.walk = stack_apply, stack_walk

cdef uint64_t FROM_TOP = 0xffffffffffffffff


cdef class Stack(ValueStructure):
    """A persistent stack of values, shared by any number of processes: last in, first out.

    This is the stack of the paper (rNVM, section 5).  Values have 0 bytes to `largest_value`, which
    is 1 MiB or less if the pool's logs take less.

    Args:
        fe: The front-end, from rnvm.connect().
        name: Name of the stack in the pool; created if it does not exist.
        codec: How values other than bytes are stored: "utf-8", "json", "pickle", or an object with
            encode() and decode().

    Raises:
        WrongKind: The name belongs to another kind of structure.

    Cost:
        - The methods state round trips while this front-end has the stack's writer lock and the
          nodes in its cache, outside a batch.
        - After another front-end used the stack: one READ for each node that it changed.

    >>> undo = structures.Stack(fe, "undo")
    >>> undo.push(b"first")
    >>> undo.push(b"second")
    >>> len(undo), list(undo), undo.pop()
    (2, [b'second', b'first'], b'second')
    """
    KIND = 4

    def __cinit__(self, *arguments, **options):
        self.noun = "stack"

    def push(self, value, *, timeout=None):
        """Put a value on top.

        Args:
            value: 0 bytes to `largest_value`, or a type of the codec.
            timeout: Seconds.

        Raises:
            TooLarge: The value is longer than `largest_value`.

        Cost:
            2 WRITEs: the operation, and its changes (rNVM, section 4.2).

        >>> undo = structures.Stack(fe, "undo")
        >>> undo.push(b"step")
        """
        cdef bytes raw = value_argument(self, value)
        self.execute(PUSH, PyBytes_AS_STRING(raw), <uint32_t> PyBytes_GET_SIZE(raw), timeout)

    def push_many(self, values, *, timeout=None):
        """Push many values, some hundred in one operation; return how many.

        The last of them is on top.  Each operation is atomic, all of them together only in a
        transaction.

        Args:
            values: An iterable of values.
            timeout: Seconds, of each operation.

        Raises:
            TooLarge: A value is longer than `largest_value`; values before it may have been pushed.

        Cost:
            2 WRITEs for each 16 KiB, or for as much as the pool's logs take.

        >>> undo = structures.Stack(fe, "undo")
        >>> undo.push_many(b"%d" % i for i in range(1000)), undo.pop()
        (1000, b'999')
        """
        return self.add_values(values, PUSH, PUSH_MANY, timeout)

    def pop(self, default=RAISE, *, timeout=None):
        """Remove the value on top and return it.

        Args:
            default: Returned if the stack is empty.
            timeout: Seconds.

        Raises:
            Empty: The stack is empty, and there is no default.
            Undecodable: The codec cannot decode the value; nothing is removed.

        Cost:
            2 WRITEs (rNVM, section 4.2).

        >>> undo = structures.Stack(fe, "undo")
        >>> undo.pop(None) is None
        True
        """
        cdef top_value top
        if self.codec is None:
            if self.execute(POP_TOP, b"", 0, timeout) == OK:
                return self.answer()
            return self.default_or_raise(default)
        # Decode the value before it is removed: an undecodable one stays.
        while self.query(read_top, &top, timeout) == OK:
            value = self.decode(self.answer())
            if self.execute(POP_TOP, <const char *> &top, sizeof(top), timeout) == OK:
                return value
        return self.default_or_raise(default)

    def peek(self, default=RAISE, *, timeout=None):
        """Return the value on top, which pop() would remove now.

        Args:
            default: Returned if the stack is empty.
            timeout: Seconds.

        Raises:
            Empty: The stack is empty, and there is no default.

        Cost:
            No round trip; 1 READ if another front-end has the writer lock.

        >>> undo = structures.Stack(fe, "undo")
        >>> undo.push(b"step")
        >>> undo.peek(), len(undo)
        (b'step', 1)
        """
        cdef top_value top
        if self.query(read_top, &top, timeout) == OK:
            return self.decode(self.answer())
        return self.default_or_raise(default)

    def clear(self, *, timeout=None):
        """Remove all values.

        Each operation removes as many as the pool's logs have room for: readers see them vanish.

        Args:
            timeout: Seconds, of each operation.

        >>> undo = structures.Stack(fe, "undo")
        >>> undo.push(b"step")
        >>> undo.clear()
        >>> len(undo)
        0
        """
        cdef uint64_t mark = transaction_mark(self)
        try:
            while self.execute(CLEAR_TOP, b"", 0, timeout) == REMAINING:
                pass
        except BaseException:
            transaction_undo(self, mark)
            raise

    def __len__(self):
        """Return how many values there are.

        Cost:
            No round trip; 1 READ if another front-end has the writer lock.
        """
        cdef uint64_t n
        self.query(stack_count, &n)
        return n

    def __iter__(self):
        """Iterate over the values from the top, without removing them.

        During concurrent pushes and pops it yields each value that stays in the stack exactly
        once, and values that are pushed meanwhile only in place of popped ones.

        Cost:
            A READ for each layer (2 KB of short values) that is not in the cache.
        """
        cdef descent c
        c.next = FROM_TOP
        c.salvaging = False
        while self.query(read_layers, &c) == OK:
            c.next = c.then
            for value in values_in(self.answer()):
                yield self.decode(value)

    def salvage(self, list damages=None):
        """Iterate over all values that are still readable, if the stack is damaged.

        From the top.  To continue working, push these values onto another stack in reverse, and
        drop this one.

        Args:
            damages: A list, to which StructureDamaged or Undecodable is appended for each place
                skipped.

        Cost:
            As an iteration.

        >>> undo = structures.Stack(fe, "undo")
        >>> undo.push(b"step")
        >>> damages = []
        >>> list(undo.salvage(damages)), damages
        ([b'step'], [])
        """
        return self._salvage([] if damages is None else damages)

    def _salvage(self, list damages not None):
        cdef descent c
        cdef bytes step
        cdef bint over = False
        c.next = FROM_TOP
        c.salvaging = False
        while not over:
            try:
                if self.query(read_layers, &c) != OK:
                    return
                step = self.answer()
            except StructureDamaged as error:
                if not damages or str(damages[len(damages) - 1]) != str(error):
                    damages.append(error)
                step = self.answer()
                c.salvaging = True
                if c.then >= c.next:       # not a value in a node of its own: the layer itself
                    try:
                        over = self.query(pass_layer, &c) != OK
                    except StructureDamaged:
                        over = True
            c.next = c.then
            yield from self.decodable(values_in(step), damages)


register_kind(&stack_kind, Stack)
