"""What mappings, queues and stacks promise to code that was written for dict, deque and Queue.

The ideas are those of CPython's mapping tests, and of the tests of sortedcontainers, diskcache and
persist-queue, for what is claimed here. The models of the other files cover sequences of calls.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structure_kinds
from hypothesis import given, settings
from hypothesis import strategies as st
from structure_kinds import each_of

import rnvm
from rfp.errors import Empty, InvalidArgument, LeaseEnded, TooLarge, WrongType

from .backends import backend
from .memory import MAPPINGS, ORDERED, VERSIONED, Memory, Queue, Stack

EACH = pytest.mark.parametrize("kind", MAPPINGS, ids=lambda kind: kind.__name__)
IN_ORDER = pytest.mark.parametrize("kind", ORDERED, ids=lambda kind: kind.__name__)
SNAPSHOTS = pytest.mark.parametrize("kind", VERSIONED, ids=lambda kind: kind.__name__)
SEQUENCES = pytest.mark.parametrize("kind", [Queue, Stack], ids=lambda kind: kind.__name__)

REFERENCE = {b"a": b"1", b"b": b"22", b"c": b""}
ABSENT = b"absent"


class Planted(Exception):
    """An error of the caller's own object."""


@pytest.fixture
def memory() -> Memory:
    return Memory()


def filled(
    memory: Memory, kind: Any, items: Any = REFERENCE, name: str = "m", **options: Any
) -> Any:
    mapping = kind(memory, name, **options)
    for key, value in items.items():
        mapping[key] = value
    return mapping


# --- Reading


@EACH
@pytest.mark.parametrize("way", ["mapping", "snapshot"])
def test_reading_is_that_of_a_dict(memory: Memory, kind: Any, way: str) -> None:
    mapping, empty = filled(memory, kind), kind(memory, "empty")
    if way == "snapshot":
        if kind not in VERSIONED:
            return
        mapping, empty = mapping.snapshot(), empty.snapshot()
    assert (len(mapping), bool(mapping), len(empty), bool(empty)) == (3, True, 0, False)
    assert {key: mapping[key] for key in REFERENCE} == REFERENCE
    assert all(key in mapping for key in REFERENCE)
    assert ABSENT not in mapping and b"a" not in empty
    assert mapping.get(b"a", b"x") == b"1" and mapping.get(b"c", b"x") == b""
    assert (mapping.get(ABSENT), mapping.get(ABSENT, 909)) == (None, 909)
    with pytest.raises(KeyError) as caught:
        mapping[ABSENT]
    assert caught.value.args == (ABSENT,)
    for view, expected in (
        (mapping, REFERENCE),
        (mapping.keys(), REFERENCE),
        (mapping.values(), REFERENCE.values()),
        (mapping.items(), REFERENCE.items()),
    ):
        one, two = iter(view), iter(view)
        assert iter(one) is one
        assert next(one) in expected
        assert sorted(two) == sorted(expected)  # independent of the first one
        assert len(list(one)) == 2
        assert next(one, None) is None  # an exhausted iterator stays so
        assert len(view) == len(expected)
    assert list(empty.keys()) == list(empty.values()) == list(empty.items()) == list(empty) == []
    for call in (mapping.get, mapping.__getitem__, mapping.__contains__):
        with pytest.raises(TypeError):
            call()
    for call in (mapping.keys, mapping.values, mapping.items):
        with pytest.raises(TypeError):
            call(None)
    with pytest.raises(TypeError):
        mapping.get(b"a", None, None)


@EACH
def test_equality_is_that_of_a_dict(memory: Memory, kind: Any) -> None:
    mapping = filled(memory, kind)
    for other_kind in MAPPINGS:
        other = filled(memory, other_kind, name=f"other {other_kind.__name__}")
        assert (mapping == other, mapping != other) == (True, False)
        other[b"a"] = b"2"
        assert (mapping == other, mapping != other) == (False, True)
        del other[b"a"]
        assert mapping != other
        other[b"a"] = b"1"
        other[b"d"] = b""
        assert other != mapping
    assert (mapping == REFERENCE, REFERENCE == mapping) == (True, True)  # noqa: SIM300
    assert mapping != {} and mapping != {**REFERENCE, b"a": b"x"}
    for alien in (list(REFERENCE.items()), 7, None, "m"):
        assert mapping != alien


@SNAPSHOTS
def test_a_snapshot_equals_what_its_mapping_was(memory: Memory, kind: Any) -> None:
    mapping = filled(memory, kind)
    with mapping.snapshot() as before:
        assert before == REFERENCE and before == mapping and mapping == before
        mapping[b"d"] = b"4"
        assert before == REFERENCE and before != mapping
        for change in ("pop", "popitem", "clear", "update", "setdefault", "__setitem__"):
            assert not hasattr(before, change)
        with pytest.raises(TypeError):
            hash(before)


@EACH
def test_an_error_of_a_value_passes_through_a_comparison(memory: Memory, kind: Any) -> None:
    mapping = filled(memory, kind)

    class BadValue:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise Planted

    for compare in (
        lambda: mapping == {**REFERENCE, b"a": BadValue()},
        lambda: BadValue() in mapping.values(),
        lambda: (b"a", BadValue()) in mapping.items(),
    ):
        with pytest.raises(Planted):
            compare()


@each_of(structure_kinds.KINDS)
def test_a_structure_and_its_views_are_shown_by_their_kind_and_name(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address) as fe:
        structure = kind(fe, "orders")
        assert repr(structure) == f"<{kind.__name__} 'orders'>"
        if kind in structure_kinds.MAPPINGS:
            for view in (structure.keys(), structure.values(), structure.items()):
                assert repr(structure) in repr(view)


@each_of(structure_kinds.KINDS)
def test_a_negative_timeout_is_refused_also_if_there_is_a_value(kind: Any) -> None:
    with backend("8MiB") as served, rnvm.connect(served.address) as fe:
        structure = kind(fe, "s")
        if kind is structure_kinds.Queue:
            calls = [
                lambda timeout: structure.put(b"v", timeout=timeout),
                lambda timeout: structure.get(timeout=timeout),
                lambda timeout: structure.peek(timeout=timeout),
                lambda timeout: structure.reserve(timeout=timeout),
            ]
        elif kind is structure_kinds.Stack:
            calls = [
                lambda timeout: structure.push(b"v", timeout=timeout),
                lambda timeout: structure.pop(timeout=timeout),
                lambda timeout: structure.peek(timeout=timeout),
            ]
        else:
            calls = [
                lambda timeout: structure.set(b"k", b"v", timeout=timeout),
                lambda timeout: structure.get(b"k", timeout=timeout),
                lambda timeout: structure.pop(b"k", timeout=timeout),
                lambda timeout: structure.popitem(timeout=timeout),
                lambda timeout: structure.clear(timeout=timeout),
            ]
        for _ in range(2):
            for call in calls:
                for timeout in (-1, float("nan")):
                    with pytest.raises(InvalidArgument):
                        call(timeout)
                with pytest.raises(TypeError):
                    call("1")
            assert len(structure) <= 1
            structure_kinds.add(structure, b"k", b"v")


# --- Writing


class WithKeys:
    """Not a mapping, but what update() accepts as one."""

    def __init__(self, keys: Callable[[], Any], value: Callable[[Any], Any]) -> None:
        self.keys, self.value = keys, value

    def __getitem__(self, key: bytes) -> bytes:
        return self.value(key)


def planted(*arguments: Any) -> Any:
    raise Planted


def broken_after(*items: Any) -> Iterator[Any]:
    yield from items
    raise Planted


@EACH
def test_update_takes_what_that_of_a_dict_takes(memory: Memory, kind: Any) -> None:
    mapping = kind(memory, "m")
    mapping.update()
    assert mapping == {}
    mapping.update({b"a": b"x"})
    mapping.update([(b"b", b"x"), [b"c", b"x"]])
    mapping.update(pair for pair in REFERENCE.items())
    assert mapping == REFERENCE
    mapping.update({})
    mapping.update(filled(memory, kind, {b"b": b"2", b"d": b"4"}, "other"))
    mapping.update(WithKeys(lambda: [b"e"], lambda key: key * 3))
    assert mapping == {**REFERENCE, b"b": b"2", b"d": b"4", b"e": b"eee"}
    mapping.update(mapping)
    mapping.update(mapping.items())
    assert len(mapping) == 5
    text = kind(memory, "text", codec="utf-8")
    text.update([("x", "1")], x="2", y="3")
    text.update(y="4")
    assert text == {"x": "2", "y": "4"}


@EACH
def test_an_error_of_the_argument_of_update_passes_through(memory: Memory, kind: Any) -> None:
    mapping = filled(memory, kind)
    for argument in (
        WithKeys(planted, planted),
        WithKeys(lambda: [b"a"], planted),
        WithKeys(lambda: broken_after(b"a"), lambda key: b"1"),
        broken_after((b"a", b"1")),
        broken_after(),
    ):
        with pytest.raises(Planted):
            mapping.update(argument)
    assert mapping == REFERENCE  # of those before the error: they are set already
    for argument, error in (
        (42, TypeError),
        ([(b"k", b"v", b"w")], ValueError),
        ([(b"k",)], ValueError),
        ([7], TypeError),
    ):
        with pytest.raises(error):
            mapping.update(argument)
    with pytest.raises(TypeError):
        mapping.update({}, {})
    assert mapping == REFERENCE
    mapping.check()


@EACH
def test_removing_and_setting_defaults_is_that_of_a_dict(memory: Memory, kind: Any) -> None:
    mapping = filled(memory, kind)
    assert mapping.setdefault(b"a", b"x") == b"1" and mapping[b"a"] == b"1"
    assert mapping.setdefault(b"d", b"4") == b"4" and mapping[b"d"] == b"4"
    assert mapping.pop(b"d") == b"4" and b"d" not in mapping
    assert mapping.pop(b"d", 909) == 909 and mapping.pop(b"d", None) is None
    for call in (lambda: mapping.pop(b"d"), lambda: mapping.__delitem__(b"d")):
        with pytest.raises(KeyError) as caught:
            call()
        assert caught.value.args == (b"d",)
    with pytest.raises(WrongType):
        mapping.setdefault(b"d")  # None is no bytes
    assert b"d" not in mapping and mapping.setdefault(b"a", b"") == b"1"
    for call, *arguments in (
        (mapping.setdefault,),
        (mapping.pop,),
        (mapping.pop, b"a", b"", b""),
        (mapping.popitem, 42),
        (mapping.clear, None),
        (mapping.__setitem__, b"a"),
        (mapping.__delitem__,),
    ):
        with pytest.raises(TypeError):
            call(*arguments)
    assert mapping == REFERENCE
    mapping.clear()
    mapping.clear()
    assert mapping == {}
    with pytest.raises(KeyError):
        mapping.popitem()


@EACH
@pytest.mark.parametrize("codec", [None, "json"])
def test_every_item_is_popped_once_whatever_the_size(
    memory: Memory, kind: Any, codec: str | None
) -> None:
    mapping = kind(memory, "m", codec=codec)
    for power in range(9):
        size = 2**power
        items = (
            {str(i): i for i in range(size)}
            if codec
            else {b"%d" % i: b"%d" % i for i in range(size)}
        )
        mapping.update(items)
        popped = [mapping.popitem() for _ in range(size)]
        assert sorted(popped) == sorted(items.items())
        assert not mapping
    mapping.check()


@EACH
@pytest.mark.parametrize(
    ("codec", "values"),
    [("json", [0, False, None, "", [], {}]), ("pickle", [0, None, (), b""]), (None, [b""])],
)
def test_a_value_that_is_false_is_a_value(
    memory: Memory, kind: Any, codec: str | None, values: list[Any]
) -> None:
    mapping = kind(memory, "m", codec=codec)
    key = b"k" if codec is None else "k"
    for value in values:
        mapping[key] = value
        assert key in mapping and len(mapping) == 1
        assert mapping[key] == mapping.get(key, "default") == value
        assert mapping.setdefault(key, value) == value
        assert list(mapping.values()) == [value] and value in mapping.values()
        assert mapping.popitem() == (key, value)
        mapping[key] = value
        assert mapping.pop(key, "default") == value
        assert key not in mapping and mapping.get(key, "default") == "default"


# --- Views

OPERATORS = [operator.and_, operator.or_, operator.sub, operator.xor]
COMPARISONS = [operator.le, operator.lt, operator.ge, operator.gt, operator.eq, operator.ne]
few_keys = st.dictionaries(
    st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), st.sampled_from([b"1", b"2"]), max_size=5
)


@EACH
@settings(max_examples=25, deadline=None)
@given(mine=few_keys, theirs=few_keys)
def test_views_of_keys_and_items_are_sets(
    kind: Any, mine: dict[bytes, bytes], theirs: dict[bytes, bytes]
) -> None:
    mapping = filled(Memory(), kind, mine)
    for view, expected, other in (
        (mapping.keys(), mine.keys(), theirs.keys()),
        (mapping.items(), mine.items(), theirs.items()),
    ):
        for act in OPERATORS:
            assert act(view, other) == act(set(expected), set(other))
            assert act(other, view) == act(set(other), set(expected))
        for compare in COMPARISONS:
            assert compare(view, other) == compare(set(expected), set(other))
        assert view.isdisjoint(other) == set(expected).isdisjoint(other)
        assert all((each in view) == (each in expected) for each in other)


@EACH
def test_views_show_later_changes(memory: Memory, kind: Any) -> None:
    mapping = filled(memory, kind)
    keys, values, items = mapping.keys(), mapping.values(), mapping.items()
    mapping[b"d"] = b"4"
    del mapping[b"a"]
    expected = {b"b": b"22", b"c": b"", b"d": b"4"}
    assert set(keys) == set(expected) and sorted(values) == sorted(expected.values())
    assert dict(items) == expected
    assert (len(keys), len(values), len(items)) == (3, 3, 3)
    assert b"a" not in keys and b"d" in keys and (b"d", b"4") in items and b"4" in values
    for compare in (operator.lt, operator.and_, operator.sub):
        with pytest.raises(TypeError):
            compare(values, values)  # as those of a dict
    for alien in (7, b"", (b"d",), None):
        assert alien not in items


@EACH
def test_an_iteration_may_change_its_mapping(memory: Memory, kind: Any) -> None:
    """A dict would raise RuntimeError."""
    mapping = filled(memory, kind, {b"%03d" % i: b"" for i in range(200)})
    for key in mapping:
        del mapping[key]
    assert not mapping
    mapping[b"a"] = b""
    for count, key in enumerate(mapping.keys()):
        if count < 50:
            mapping[key + b"a"] = b""  # it may meet it, if that is later in its order
    assert 1 < len(mapping) <= 51
    for key, _ in mapping.items():
        mapping[key] = b"changed"
    assert set(mapping.values()) == {b"changed"}
    mapping.check()


@IN_ORDER
def test_ends_are_popped_in_order_also_while_items_are_added(memory: Memory, kind: Any) -> None:
    mapping = filled(memory, kind, {b"%03d" % i: b"%d" % i for i in range(0, 100, 2)})
    assert mapping.popitem() == (b"000", b"0")
    assert mapping.popitem(last=True) == (b"098", b"98")
    mapping[b"001"] = b"1"
    assert mapping.popitem() == (b"001", b"1")
    assert [mapping.popitem()[0] for _ in range(10)] == [b"%03d" % i for i in range(2, 22, 2)]
    assert [mapping.popitem(last=True)[0] for _ in range(5)] == [
        b"%03d" % i for i in range(96, 86, -2)
    ]
    with pytest.raises(TypeError):
        mapping.popitem(True)


@EACH
def test_a_class_of_the_user_is_such_a_mapping(memory: Memory, kind: Any) -> None:
    class Counted(kind):  # type: ignore[misc]
        def add(self, key: bytes) -> None:
            self[key] = b"%d" % (int(self.get(key, b"0")) + 1)

    counted = Counted(memory, "m")
    for key in (b"a", b"b", b"a"):
        counted.add(key)
    assert counted == {b"a": b"2", b"b": b"1"}


# --- Queues and stacks


def puts(sequence: Any) -> tuple[Callable[..., None], Callable[..., Any], int]:
    """Return how to add a value and to take one, and the place of the next one in a list."""
    if isinstance(sequence, Queue):
        return sequence.put, sequence.get, 0
    return sequence.push, sequence.pop, -1


@SEQUENCES
def test_a_sequence_is_that_of_a_list(memory: Memory, kind: Any, rng: Any) -> None:
    """A thousand values, then random additions and removals."""
    sequence, other, model = kind(memory, "s"), kind(memory, "s"), []
    add, take, place = puts(sequence)
    for i in range(1000):
        add(b"%d" % i)
        model.append(b"%d" % i)
    assert (len(other), bool(other)) == (1000, True)
    for turn in range(2000):
        if rng.random() < 0.6:
            if model:
                assert take() == model.pop(place)
            else:
                with pytest.raises(Empty):
                    take()
        else:
            add(b"new %d" % turn)
            model.append(b"new %d" % turn)
        assert len(other) == len(model)
    assert list(other) == model[:: 1 if place == 0 else -1]
    while model:
        assert take() == model.pop(place)
    assert not other and list(other) == []
    sequence.check()


@SEQUENCES
def test_an_empty_sequence_raises_empty_or_returns_the_default(memory: Memory, kind: Any) -> None:
    sequence = kind(memory, "s")
    add, take, _ = puts(sequence)
    add(b"first")
    assert take() == b"first"
    for call in (take, sequence.peek):
        with pytest.raises(Empty):
            call()
        assert (call(None), call(909)) == (None, 909)
    with pytest.raises(TypeError):
        take(1, 2)


@SEQUENCES
@pytest.mark.parametrize(
    ("codec", "values"),
    [("json", [0, False, None, ""]), ("pickle", [0, None, b""]), (None, [b""])],
)
def test_a_value_of_a_sequence_that_is_false_is_a_value(
    memory: Memory, kind: Any, codec: str | None, values: list[Any]
) -> None:
    sequence = kind(memory, "s", codec=codec)
    add, take, _ = puts(sequence)
    for value in values:
        add(value)
        assert len(sequence) == 1 and list(sequence) == [value]
        assert sequence.peek("default") == take("default") == value
        assert take("default") == "default"
        if kind is Queue:
            add(value)
            token, given = sequence.reserve()
            assert given == value
            sequence.ack(token)
    if codec is None:
        for alien in (None, "text", 1):
            with pytest.raises(WrongType):
                add(alien)
        with pytest.raises(TooLarge):
            add(bytes((1 << 20) + 1))
        assert not sequence


@SEQUENCES
def test_an_error_of_many_values_passes_through(memory: Memory, kind: Any) -> None:
    sequence = kind(memory, "s")
    many = sequence.put_many if kind is Queue else sequence.push_many
    assert many([]) == 0 and many(iter([b"a", b"b"])) == 2
    with pytest.raises(Planted):
        many(broken_after(b"c"))
    with pytest.raises(WrongType):
        many([b"d", 7])
    with pytest.raises(TypeError):
        many(42)
    left = sorted(sequence)
    assert left[:2] == [b"a", b"b"] and set(left[2:]) <= {b"c", b"d"}
    sequence.check()


def test_a_reserved_value_is_counted_settled_once_and_given_again(memory: Memory) -> None:
    queue = Queue(memory, "q")
    for value in (b"1", b"2", b"3"):
        queue.put(value)
    tokens = {value: token for token, value in (queue.reserve() for _ in range(3))}
    assert (len(queue), queue.reserved, list(queue)) == (0, 3, [])
    with pytest.raises(Empty):
        queue.reserve()
    queue.nack(tokens[b"1"])
    assert (len(queue), queue.reserved, list(queue)) == (1, 2, [b"1"])
    queue.ack(tokens[b"2"])
    for settle in (queue.ack, queue.nack, queue.extend):
        for token in (tokens[b"1"], tokens[b"2"]):
            with pytest.raises(LeaseEnded):
                settle(token)
        for alien in (b"", b"unknown", bytes(16), bytes(24), bytes(200)):
            with pytest.raises((InvalidArgument, LeaseEnded)):
                settle(alien)
        with pytest.raises(TypeError):
            settle(None)
    assert (len(queue), queue.reserved) == (1, 1)
    again = Queue(memory, "q")  # as another program finds it
    assert [each.token for each in again.reservations()] == [tokens[b"3"]]
    again.ack(tokens[b"3"])
    assert again.get() == b"1"
    assert (len(queue), queue.reserved) == (0, 0)
    queue.check()
