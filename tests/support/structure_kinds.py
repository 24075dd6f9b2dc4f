"""The kinds of structures, for tests of what holds for all of them: add a new kind here."""

from __future__ import annotations

from typing import Any

import pytest

from structures import BST, MVBST, BPlusTree, HashTable, MVBPlusTree, Queue, SkipList, Stack

SEQUENCES: list[Any] = [Queue, Stack]
VERSIONED: list[Any] = [MVBPlusTree, MVBST]
ORDERED: list[Any] = [BPlusTree, SkipList, BST, *VERSIONED]
MAPPINGS: list[Any] = [HashTable, *ORDERED]
KINDS: list[Any] = [*SEQUENCES, *MAPPINGS]
# Names of structures, by which tests with one structure of each kind refer to them.
NAMES: dict[str, Any] = {
    "queue": Queue,
    "stack": Stack,
    "table": HashTable,
    "tree": BPlusTree,
    "skips": SkipList,
    "bst": BST,
    "versions": MVBPlusTree,
    "mvbst": MVBST,
}


def each_of(kinds: list[Any], *, fast: tuple[Any, ...] = ()) -> pytest.MarkDecorator:
    """Parametrise a test over kinds: its argument `kind`.

    Args:
        fast: The kinds on which the fast suite runs a slow test; the long one runs it on all.
    """
    return pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, marks=[pytest.mark.long] if fast and kind not in fast else [])
            for kind in kinds
        ],
        ids=[kind.__name__ for kind in kinds],
    )


def add(structure: Any, key: bytes, value: bytes) -> None:
    """Put the value: under the key, if the structure is a mapping."""
    if isinstance(structure, Queue):
        structure.put(value)
    elif isinstance(structure, Stack):
        structure.push(value)
    else:
        structure[key] = value


def take(structure: Any) -> bytes:
    """Remove the next value, or the value of any key."""
    if isinstance(structure, Queue):
        return structure.get()
    return structure.pop() if isinstance(structure, Stack) else structure.popitem()[1]


def content(structure: Any) -> list[Any]:
    """Return all values in their order, or all items, sorted."""
    if isinstance(structure, tuple(SEQUENCES)):
        return list(structure)
    items = list(structure.items())
    return items if isinstance(structure, tuple(ORDERED)) else sorted(items)
