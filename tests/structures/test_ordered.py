"""Ordered mappings against a sorted list, on plain memory: neighbours, ranges, prefixes, counts.

What sortedcontainers and java.util.TreeMap do, under their names there: irange, bisect, peekitem,
floorKey, ceilingKey, lowerKey, higherKey, subMap, pollFirst, pollLast.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .memory import ORDERED, Fault, Memory
from .models import keys

KINDS = pytest.mark.parametrize("kind", ORDERED, ids=lambda kind: kind.__name__)
# Also empty, longer than any key, and neighbours of keys.
bounds = st.one_of(
    keys,
    st.just(b""),
    keys.map(lambda key: key + b"\0"),
    keys.map(lambda key: key[:-1]),
    st.sampled_from([b"\xff" * 1025, b"\xff" * 2000, b"long" * 300]),
)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def filled(memory: Memory, kind: Any, names: list[bytes]) -> Any:
    m = kind(memory, "m")
    for name in names:
        m[name] = b"=" + name[:20]
    return m


def items(names: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, b"=" + name[:20]) for name in names]


def one(ask: Any, *arguments: Any) -> tuple[bytes, bytes] | None:
    try:
        return ask(*arguments)  # type: ignore[no-any-return]
    except KeyError:
        return None


@KINDS
@settings(max_examples=40, deadline=None)
@given(names=st.lists(keys, max_size=120, unique=True), a=bounds, b=bounds)
def test_neighbours_ranges_and_counts_are_those_of_a_sorted_list(kind, names, a, b):
    m = filled(Memory(), kind, names)
    order = sorted(names)
    low, high = bisect_left(order, a), bisect_right(order, a)
    pairs = [*items(order), None]
    assert one(m.ceiling, a) == pairs[low]
    assert one(m.higher, a) == pairs[high]
    assert one(m.lower, a) == (pairs[low - 1] if low else None)
    assert one(m.floor, a) == (pairs[high - 1] if high else None)
    assert m.count(hi=a) == low
    assert m.count(a) == len(order) - low
    assert m.count(a, b) == max(0, bisect_left(order, b) - low)
    assert m.count() == len(order)
    between = items(order[low : bisect_left(order, b)])
    assert list(m.range(a, b)) == between
    assert list(m.range(a, b, reverse=True)) == between[::-1]
    for prefix in (a, a[:1], a[:2]):
        matching = items([name for name in order if name.startswith(prefix)])
        assert list(m.prefix(prefix)) == matching
        assert list(m.prefix(prefix, reverse=True)) == matching[::-1]


@KINDS
def test_an_empty_mapping_has_no_first_last_or_neighbours(memory, kind):
    m = kind(memory, "m")
    for ask in (m.first, m.last, m.popitem, lambda: m.popitem(last=True)):
        with pytest.raises(KeyError, match="empty"):
            ask()
    for ask in (m.floor, m.ceiling, m.lower, m.higher):
        with pytest.raises(KeyError, match="b'k'"):
            ask(b"k")
    assert list(m.range()) == list(m.prefix(b"")) == list(reversed(m)) == []
    assert m.count() == m.count(b"a") == m.count(hi=b"z") == 0


@KINDS
def test_both_ends_can_be_popped_until_the_mapping_is_empty(memory, kind):
    m = filled(memory, kind, [b"%03d" % i for i in range(100)])
    m[b"050"] = bytes(3000)
    for i in range(50):
        assert m.popitem()[0] == b"%03d" % i
        assert m.popitem(last=True)[0] == b"%03d" % (99 - i)
    assert not m
    m.check()


@KINDS
def test_a_count_of_many_keys_is_exact(memory, kind):
    m = kind(memory, "m")
    n = 12000
    m.bulk_load((b"%08d" % (7 * i), bytes(40)) for i in range(n))
    for lo, hi in [(0, 7 * n), (1, 7 * n), (7, 70), (14, 15), (15, 14), (6999, 77001), (7 * n, 0)]:
        expected = max(0, -(-hi // 7) - -(-lo // 7))
        assert m.count(b"%08d" % lo, b"%08d" % hi) == expected
    assert m.count(b"%08d" % 7) == n - 1
    assert m.count(hi=b"%08d" % 8) == 2


@KINDS
def test_a_reader_among_mixtures_counts_and_finds_neighbours(memory, kind, rng):
    m, other = kind(memory, "m"), kind(memory, "m")
    order = [b"%05d" % i for i in range(0, 3000, 3)]
    m.bulk_load((name, b"") for name in order)
    memory.disturb(0.02, True)
    for _ in range(200):
        key = b"%05d" % rng.randrange(2990)
        assert other.count(hi=key) == bisect_left(order, key)
        assert (one(other.ceiling, key) or (None,))[0] == next(
            (name for name in order if name >= key), None
        )
        changed = b"x%05d" % rng.randrange(3000)
        m[changed] = bytes(rng.randrange(300))
        m.pop(b"x%05d" % rng.randrange(3000), None)


@KINDS
def test_the_order_is_that_of_the_encoded_keys(memory, kind):
    m = kind(memory, "m", codec="utf-8")
    m.update({"bar": "1", "baz": "2", "béa": "3", "foo": "4"})
    assert list(m.prefix("ba")) == [("bar", "1"), ("baz", "2")]
    assert m.floor("bb") == ("baz", "2")
    assert m.ceiling("bb") == ("béa", "3")
    assert m.count("b", "c") == 3
    assert m.popitem(last=True) == ("foo", "4")


@KINDS
def test_bulk_loading_sets_all_items_also_existing_ones(memory, kind, rng):
    m = kind(memory, "m")
    model: dict[bytes, bytes] = {}
    for length in (0, 10, 300, 5000):
        loaded = {b"%d" % rng.randrange(2000): rng.randbytes(length) for _ in range(200)}
        assert m.bulk_load(loaded) == len(loaded)
        model.update(loaded)
        m.check()
    assert list(m.items()) == sorted(model.items())
    assert m.bulk_load([]) == 0
    assert m.bulk_load([(b"k", b"1"), (b"k", b"2")]) == 2
    assert m[b"k"] == b"2"


@KINDS
def test_a_load_that_fails_leaves_nothing_of_its_operation(kind):
    memory = Memory()
    m = kind(memory, "m")
    m[b"k"] = b"v"
    before = memory.nodes()
    for after in (0, 3, 17, 40):
        memory.fail("changes", after=after)
        with pytest.raises(Fault):
            m.bulk_load((b"%03d" % i, bytes(90)) for i in range(100))
        memory.fail()
        assert memory.nodes() == before


@KINDS
def test_iterations_in_both_directions_continue_by_key_while_others_change(memory, kind):
    m, other = kind(memory, "m"), kind(memory, "m")
    order = [b"%04d" % i for i in range(400)]
    m.bulk_load((name, bytes(100)) for name in order)
    up: Iterator[bytes] = iter(m)
    down: Iterator[bytes] = reversed(m)
    seen_up, seen_down = [next(up)], [next(down)]
    other.clear()
    other.bulk_load((name, b"") for name in order if int(name) % 2)
    seen_up += up
    seen_down += down
    assert seen_up == sorted(set(seen_up))
    assert seen_down == sorted(set(seen_down), reverse=True)
    assert set(order[1::2]) <= set(seen_up) and set(order[1::2]) <= set(seen_down)


@KINDS
def test_an_ordered_mapping_is_a_mutable_mapping_whose_views_reverse(memory, kind):
    m: MutableMapping[bytes, bytes] = filled(memory, kind, [b"b", b"a", b"c"])
    assert isinstance(m, MutableMapping)
    assert list(m) == list(m.keys()) == [b"a", b"b", b"c"]
    assert list(reversed(m.keys())) == [b"c", b"b", b"a"]
    assert list(reversed(m.values())) == [b"=c", b"=b", b"=a"]
    assert list(reversed(m.items())) == items([b"c", b"b", b"a"])
