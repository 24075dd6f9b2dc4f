"""The balance of a binary search tree: its depth in any order of insertion, what a change touches.

The other suites have its contents, by parametrisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from .memory import BST, Fault, Memory

N = 4000
ORDERS: dict[str, Callable[[Any], list[int]]] = {
    "ascending": lambda rng: list(range(N)),
    "descending": lambda rng: list(range(N, 0, -1)),
    "inwards": lambda rng: [i if i & 1 else N - i for i in range(N)],
    "random": lambda rng: rng.sample(range(N), N),
}


def key(i: int) -> bytes:
    return b"%08d" % i


def levels(memory: Memory, tree: Any, keys: list[bytes]) -> int:
    """Return the most nodes that a lookup reads, without the root."""
    most = 0
    for k in keys:
        before = memory.counts[0]
        assert k in tree
        most = max(most, memory.counts[0] - before - 1)
    return most


@pytest.mark.parametrize("order", ORDERS)
def test_the_depth_is_that_of_an_avl_tree_in_any_order_of_insertions_and_deletions(order, rng):
    memory = Memory()
    tree = BST(memory, "t")
    numbers = ORDERS[order](rng)
    for i in numbers:
        tree[key(i)] = b"v"
    tree.check()
    assert levels(memory, tree, list(tree)) <= 1.44 * math.log2(N + 2)
    # The keys of one half, in the order in which they came: the other half becomes the tree.
    for i in numbers[: N // 2]:
        del tree[key(i)]
    tree.check()
    assert levels(memory, tree, list(tree)) <= 1.44 * math.log2(N // 2 + 2)


@pytest.mark.parametrize("order", ORDERS)
def test_an_insertion_changes_few_nodes_on_average_and_never_more_than_a_path(order, rng):
    memory = Memory()
    tree = BST(memory, "t")
    changed, most = 0, 0
    for i in ORDERS[order](rng):
        before = memory.counts
        tree[key(i)] = b"v"
        now = memory.counts[1] - before[1]
        changed += now
        most = max(most, now)
    assert changed / N < 8  # calls; a node may be named twice
    assert most < 2 * 1.44 * math.log2(N) + 8


def test_one_link_that_does_not_show_the_balance_is_found(rng):
    memory = Memory()
    tree = BST(memory, "t")
    for i in range(200):
        tree[key(i)] = b"v"
    found = 0
    for address, type_of, content in memory.nodes():
        if type_of == 1:
            continue
        for link in (0, 8):
            if content[link : link + 8] == bytes(8):
                continue
            old = content[link + 6 : link + 7]
            memory.damage(address, 32 + link + 6, bytes([old[0] ^ 1]), sealed=True)
            with pytest.raises(Fault, match="balance"):
                tree.check()
            memory.damage(address, 32 + link + 6, old, sealed=True)
            found += 1
    assert found == 199
    tree.check()


def test_a_tree_that_is_too_high_or_a_cycle_is_found_by_every_reader():
    memory = Memory()
    tree = BST(memory, "t")
    for i in range(3):
        tree[key(i)] = b"v"
    root = next(content for _, type_of, content in memory.nodes() if type_of == 1)
    top = int.from_bytes(root[8:16], "little")
    address = (1 << 48) | (top & ((1 << 48) - 1))
    memory.damage(address, 32, top.to_bytes(8, "little"), sealed=True)
    memory.damage(address, 40, top.to_bytes(8, "little"), sealed=True)
    for ask in (
        lambda: tree.get(key(0)),
        lambda: tree.get(key(2)),
        tree.first,
        tree.last,
        lambda: list(tree.range(key(0))),
        lambda: list(tree.range(reverse=True)),
        lambda: tree.count(key(0)),
        tree.check,
        lambda: tree.update({key(5): b""}),
        lambda: tree.pop(key(2)),
        tree.clear,
    ):
        with pytest.raises(Fault):
            ask()


def test_a_clear_removes_some_dozen_keys_in_one_operation():
    memory = Memory()
    tree = BST(memory, "t")
    for i in range(1000):
        tree[key(i)] = bytes(300 if i % 10 == 0 else 30)
    memory.operations()
    tree.clear()
    operations = [operation for operation in memory.operations() if operation[1] == 6]
    assert len(operations) < 1000 / 30
    assert memory.used < 100
