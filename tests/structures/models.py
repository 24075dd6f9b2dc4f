"""State machines over plain Python models of the structures; subclasses choose the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rfp.errors import Empty, LeaseEnded

NEVER = 1e8
OVER = 1e-9  # a lease that has ended at once
TABLES_RECLAIMED = 8  # of reservations, by one operation
INLINE, LONGEST = 480, 1 << 20
queue_lengths = st.one_of(
    st.integers(0, 80), st.sampled_from([INLINE - 1, INLINE, INLINE + 1, 2000, 5000])
)


@dataclass
class Reserved:
    token: bytes
    value: bytes
    over: bool


class Model:
    """The contents that a queue must have.

    most: deliveries after which a value goes to `dead`; None: no limit.
    """

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.partial = False  # an operation has perhaps not taken all ended leases back
        self.moves = True  # values that were delivered so often; else they are delivered again
        self.waiting: list[bytes] = []
        self.returned: list[bytes] = []
        self.reserved: list[Reserved] = []
        self.delayed: list[Reserved] = []  # without tokens
        self.lost: list[bytes] = []  # tokens
        self.dead: list[bytes] = []
        self.deliveries: dict[bytes, int] = {}  # 0 if a value is missing

    def over(self) -> list[Reserved]:
        return [r for r in self.reserved + self.delayed if r.over]

    def exhausted(self, value: bytes) -> bool:
        if self.most is None or not self.moves:
            return False
        return self.deliveries.get(value, 0) >= self.most

    def reclaim(self, order: list[bytes]) -> None:
        """Do what get() does first; leases that end at the same moment come in any order."""
        for value in order:
            r = next(r for r in self.over() if r.value == value)
            if r in self.reserved:
                self.reserved.remove(r)
                self.lost.append(r.token)
            else:
                self.delayed.remove(r)
            self.returned.append(r.value)

    def bury(self) -> None:
        """Move values that were delivered too often, as get() and reserve() do."""
        while self.returned and self.exhausted(self.returned[0]):
            self.dead.append(self.returned.pop(0))


class QueueModel(RuleBasedStateMachine):
    """A queue against lists.

    queue, other: two handles of it.  dead: of its dead-letter queue, if it has one.  All values
    differ, so that the order can be seen.
    """

    most: ClassVar[int | None] = None
    queue: Any
    other: Any
    dead: Any = ()

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(self.most)
        self.serial = 0

    def value(self, length: int) -> bytes:
        self.serial += 1
        return b"%d:" % self.serial + bytes([self.serial % 256]) * length

    def expected(self) -> list[bytes]:
        """Return the expected order.

        The order of values whose leases have ended is read from the queue, after a check that they
        are the right ones. An operation takes a limited number of ended leases back: those that are
        left are among the ones that end later.
        """
        returned, ended = self.model.returned, [r.value for r in self.model.over()]
        given = list(self.queue)[: len(returned) + len(ended)]
        assert sorted(given) == sorted(returned + ended)
        if self.model.partial:
            known = set(returned)
            assert [value for value in given if value in known] == returned
        else:
            assert given[: len(returned)] == returned
        return given + self.model.waiting

    def begin_taking(self) -> bytes | None:
        order = self.expected()
        count = len(order) - len(self.model.waiting)
        ended = {r.value for r in self.model.over()}
        self.model.partial |= len(ended) > TABLES_RECLAIMED
        self.model.reclaim([value for value in order[:count] if value in ended])
        self.model.returned = order[:count]
        self.model.bury()
        return next(iter(self.model.returned + self.model.waiting), None)

    def pop(self) -> bytes:
        return (self.model.returned or self.model.waiting).pop(0)

    @rule(length=queue_lengths)
    def put(self, length: int) -> None:
        value = self.value(length)
        self.queue.put(value)
        self.model.waiting.append(value)

    @rule(n=st.integers(1, 60))
    def put_one_after_the_other(self, n: int) -> None:
        for _ in range(n):
            self.put(40)

    @rule(lengths=st.lists(queue_lengths, max_size=40))
    def put_many(self, lengths: list[int]) -> None:
        values = [self.value(length) for length in lengths]
        assert self.queue.put_many(iter(values)) == len(values)
        self.model.waiting += values

    @rule(length=queue_lengths, over=st.booleans())
    def put_with_a_delay(self, length: int, over: bool) -> None:
        value = self.value(length)
        self.queue.put(value, delay=OVER if over else NEVER)
        self.model.delayed.append(Reserved(b"", value, over))

    @rule(n=st.integers(20, 70), over=st.booleans())
    def put_many_with_a_delay(self, n: int, over: bool) -> None:
        for _ in range(n):
            self.put_with_a_delay(9, over)

    @rule()
    def get(self) -> None:
        first = self.begin_taking()
        if first is None:
            assert self.queue.get(None) is None
            with pytest.raises(Empty):
                self.queue.get()
        else:
            assert self.queue.get() == first
            assert self.pop() == first

    @rule(n=st.integers(1, 60))
    def get_many(self, n: int) -> None:
        for _ in range(n):
            self.get()

    @rule()
    def peek(self) -> None:
        order = self.expected()
        assert self.other.peek(None) == (order[0] if order else None)

    @rule(over=st.booleans())
    def reserve(self, over: bool) -> None:
        first = self.begin_taking()
        if first is None:
            with pytest.raises(Empty):
                self.queue.reserve()
            return
        token, value = self.queue.reserve(lease=OVER if over else NEVER)
        assert value == first == self.pop()
        assert token not in self.model.lost and token not in [r.token for r in self.model.reserved]
        self.model.reserved.append(Reserved(token, value, over))
        self.model.deliveries[value] = self.model.deliveries.get(value, 0) + 1

    @rule(n=st.integers(20, 70), over=st.booleans())
    def reserve_many(self, n: int, over: bool) -> None:
        for _ in range(n):
            self.reserve(over)

    @precondition(lambda self: self.model.reserved)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        r = self.model.reserved.pop(data.draw(st.integers(0, len(self.model.reserved) - 1)))
        self.queue.ack(r.token)
        self.model.lost.append(r.token)

    @precondition(lambda self: self.model.reserved)
    @rule(data=st.data())
    def nack(self, data: st.DataObject) -> None:
        r = self.model.reserved.pop(data.draw(st.integers(0, len(self.model.reserved) - 1)))
        self.queue.nack(r.token)
        self.model.lost.append(r.token)
        buried = self.model.exhausted(r.value)
        (self.model.dead if buried else self.model.returned).append(r.value)

    @precondition(lambda self: self.model.reserved)
    @rule(data=st.data(), over=st.booleans())
    def extend(self, data: st.DataObject, over: bool) -> None:
        r = data.draw(st.sampled_from(self.model.reserved))
        self.queue.extend(r.token, OVER if over else NEVER)
        r.over = over

    @precondition(lambda self: self.model.lost)
    @rule(data=st.data())
    def a_lost_reservation_cannot_be_settled(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.model.lost))
        for settle in (self.queue.ack, self.queue.nack, self.queue.extend):
            with pytest.raises(LeaseEnded):
                settle(token)

    @invariant()
    def its_values_are_those_of_the_model(self) -> None:
        order = self.expected()
        assert list(self.other) == order
        assert len(self.other) == len(order)
        assert self.other.reserved == sum(not r.over for r in self.model.reserved)
        assert self.other.delayed == sum(not r.over for r in self.model.delayed)
        assert {r.token: r.deliveries for r in self.other.reservations()} == {
            r.token: self.model.deliveries[r.value] for r in self.model.reserved
        }
        assert list(self.dead) == self.model.dead

    @invariant()
    def it_is_consistent(self) -> None:
        self.queue.check()

    def teardown(self) -> None:
        for r in self.model.reserved:
            self.queue.ack(r.token)
        while self.queue.get(None) is not None:
            pass
        self.queue.check()
        assert len(self.queue) == self.queue.reserved == 0
        assert self.queue.delayed == sum(not r.over for r in self.model.delayed)


class StackModel(RuleBasedStateMachine):
    """A stack against a list.  stack, other: two handles of it."""

    stack: Any
    other: Any

    def __init__(self) -> None:
        super().__init__()
        self.model: list[bytes] = []
        self.serial = 0

    def value(self, length: int) -> bytes:
        self.serial += 1
        return (b"%d:" % self.serial + bytes([self.serial % 256]) * length)[: max(length, 0)]

    @rule(length=queue_lengths)
    def push(self, length: int) -> None:
        value = self.value(length)
        self.stack.push(value)
        self.model.append(value)

    @rule(lengths=st.lists(queue_lengths, max_size=80))
    def push_many(self, lengths: list[int]) -> None:
        values = [self.value(length) for length in lengths]
        assert self.stack.push_many(values) == len(values)
        self.model += values

    @rule(n=st.sampled_from([1, 1, 2, 30, 200]))
    def pop(self, n: int) -> None:
        for _ in range(n):
            if not self.model:
                assert self.stack.pop(None) is None
                with pytest.raises(Empty):
                    self.stack.pop()
                return
            assert self.stack.pop() == self.model.pop()

    @rule()
    def peek(self) -> None:
        assert self.other.peek(None) == (self.model[-1] if self.model else None)

    @rule()
    def clear(self) -> None:
        self.stack.clear()
        self.model.clear()

    @invariant()
    def its_values_are_those_of_the_model(self) -> None:
        assert list(self.other) == self.model[::-1]
        assert len(self.other) == len(self.model)

    @invariant()
    def it_is_consistent(self) -> None:
        self.stack.check()

    def teardown(self) -> None:
        while self.model:
            assert self.stack.pop() == self.model.pop()
        self.stack.check()
        assert len(self.stack) == 0


# Few enough that they meet; of all lengths; with long common prefixes; with bytes at both ends
# of the order.
keys = st.one_of(
    st.integers(0, 300).map(lambda i: b"%d" % i),
    st.integers(0, 60).map(lambda i: b"prefix/" * 20 + b"%03d" % i),
    st.integers(0, 12).map(lambda i: b"long" * 250 + b"%d" % i),
    st.sampled_from([b"\0", b"\xff", b"\xff" * 1024, b"k" * 128, b"k" * 129, b"\0" * 1024]),
    st.binary(min_size=1, max_size=3),
)
lengths = st.one_of(st.integers(0, 60), st.sampled_from([64, 200, 248, 255, 256, 257, 600, 1500]))


class MappingModel(RuleBasedStateMachine):
    """A mapping against a dict.  mapping, other: two handles of it."""

    ordered = False
    mapping: Any
    other: Any

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[bytes, bytes] = {}
        self.serial = 0

    def value(self, length: int) -> bytes:
        self.serial += 1
        return (b"%d:" % self.serial * (length // 2 + 1))[:length]

    @initialize(n=st.sampled_from([0, 0, 10, 200]), length=st.sampled_from([10, 100]))
    def fill(self, n: int, length: int) -> None:
        for i in range(n):
            self.set(b"%d" % (i * 7919 % 1000), length)

    @rule(key=keys, length=lengths)
    def set(self, key: bytes, length: int) -> None:
        value = self.value(length)
        self.mapping[key] = value
        self.model[key] = value

    @rule(key=keys, length=lengths)
    def setdefault(self, key: bytes, length: int) -> None:
        value = self.value(length)
        assert self.mapping.setdefault(key, value) == self.model.setdefault(key, value)

    @rule(more=st.dictionaries(keys, lengths, max_size=40))
    def update(self, more: dict[bytes, int]) -> None:
        items = {key: self.value(length) for key, length in more.items()}
        self.mapping.update(items)
        self.model.update(items)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        if key in self.model:
            del self.mapping[key]
            del self.model[key]
        else:
            with pytest.raises(KeyError):
                del self.mapping[key]

    @precondition(lambda self: self.model)
    @rule(data=st.data(), most=st.sampled_from([1, 5, 100]))
    def pop(self, data: st.DataObject, most: int) -> None:
        for key in data.draw(
            st.lists(st.sampled_from(sorted(self.model)), max_size=most, unique=True)
        ):
            assert self.mapping.pop(key) == self.model.pop(key)
            assert self.mapping.pop(key, b"none") == b"none"

    @rule(n=st.sampled_from([1, 3, 100]))
    def popitem(self, n: int) -> None:
        for _ in range(n):
            if not self.model:
                with pytest.raises(KeyError):
                    self.mapping.popitem()
                return
            key, value = self.mapping.popitem()
            assert self.model.pop(key) == value
            assert not self.ordered or all(key < other for other in self.model)

    @rule()
    def clear(self) -> None:
        self.mapping.clear()
        self.model.clear()

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.other.get(key) == self.model.get(key)
        assert (key in self.other) == (key in self.model)
        if key in self.model:
            assert self.other[key] == self.model[key]
        else:
            with pytest.raises(KeyError):
                self.other[key]

    def order(self) -> list[tuple[bytes, bytes]]:
        return sorted(self.model.items())

    @invariant()
    def its_items_are_those_of_the_model(self) -> None:
        items = list(self.other.items())
        assert (items if self.ordered else sorted(items)) == self.order()
        assert len(self.other) == len(self.model)

    @invariant()
    def it_is_consistent(self) -> None:
        self.mapping.check()

    def teardown(self) -> None:
        for key in list(self.model):
            del self.mapping[key]
        self.mapping.check()
        assert len(self.mapping) == 0


class TreeModel(MappingModel):
    """An ordered mapping against a sorted dict."""

    ordered = True

    @rule(lo=st.none() | keys, hi=st.none() | keys, reverse=st.booleans())
    def range(self, lo: bytes | None, hi: bytes | None, reverse: bool) -> None:
        expected = [
            (k, v) for k, v in self.order() if (lo is None or k >= lo) and (hi is None or k < hi)
        ]
        if reverse:
            expected.reverse()
        assert list(self.other.range(lo, hi, reverse=reverse)) == expected

    @rule()
    def both_ends(self) -> None:
        order = self.order()
        assert list(reversed(self.other)) == [k for k, _ in reversed(order)]
        assert list(reversed(self.other.items())) == order[::-1]
        assert list(reversed(self.other.values())) == [v for _, v in reversed(order)]
        assert list(reversed(self.other.keys())) == [k for k, _ in reversed(order)]
        if order:
            assert self.other.first() == order[0]
            assert self.other.last() == order[-1]
        else:
            for end in (self.other.first, self.other.last):
                with pytest.raises(KeyError):
                    end()

    @rule(key=keys, other=keys)
    def neighbours(self, key: bytes, other: bytes) -> None:
        order = self.order()
        below = [item for item in order if item[0] < key]
        above = [item for item in order if item[0] > key]
        same = [item for item in order if item[0] == key]
        for ask, found in (
            (self.other.lower, below[-1:]),
            (self.other.floor, (below + same)[-1:]),
            (self.other.ceiling, (same + above)[:1]),
            (self.other.higher, above[:1]),
        ):
            try:
                assert [ask(key)] == found
            except KeyError:
                assert not found
        assert self.other.count(key) == len(same + above)
        assert self.other.count(key, other) == sum(key <= k < other for k, _ in order)
        assert list(self.other.prefix(key[:2])) == [i for i in order if i[0].startswith(key[:2])]

    @precondition(lambda self: self.model)
    @rule()
    def pop_last(self) -> None:
        key, value = self.mapping.popitem(last=True)
        assert key == max(self.model)
        assert self.model.pop(key) == value

    @rule(first=st.integers(0, 900), n=st.integers(0, 400), length=lengths, ascending=st.booleans())
    def bulk_load(self, first: int, n: int, length: int, ascending: bool) -> None:
        items = [(b"%d" % i, self.value(length)) for i in range(first, first + n)]
        items.sort(reverse=not ascending)
        assert self.mapping.bulk_load(items) == n
        self.model.update(items)
