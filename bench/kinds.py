"""The structures that experiments and rfp-ycsb measure: one row for each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structures

CONSTANT_TIME, LOGARITHMIC_TIME = "O(1)", "O(log n)"


@dataclass(frozen=True)
class Kind:
    """A kind of structure.

    Attributes:
        name: that of its class in `structures`.
        meaning: what it is, in words.
        growth: the growth of the nodes that one operation reads with the number of entries.
        add, look, take: the methods of a kind without keys: add a value, read one, remove one.
        ordered: its keys are in order.
        versions: its readers read one version, and never again because of a writer.
    """

    name: str
    meaning: str
    growth: str
    add: str = ""
    look: str = ""
    take: str = ""
    ordered: bool = False
    versions: bool = False

    @property
    def structure(self) -> Any:
        """The class."""
        return getattr(structures, self.name)

    @property
    def mapping(self) -> bool:
        """Whether it maps keys to values."""
        return not self.add

    @property
    def database(self) -> str:
        """Its name for rfp-ycsb, which measures mappings."""
        short = self.name.replace("Plus", "p").lower()
        return f"rnvm-{short}" if self.mapping else ""

    @property
    def adding(self) -> str:
        """The operation that adds or replaces an entry, in words."""
        return f"{self.name}[k] = v" if self.mapping else f"{self.name}.{self.add}"

    @property
    def looking(self) -> str:
        """The query for one entry, in words."""
        return f"{self.name}[k]" if self.mapping else f"{self.name}.{self.look}"

    def adder(self, structure: Any, value: bytes) -> Callable[[bytes], None]:
        """Return the operation that adds an entry with a key; a kind without keys ignores it."""
        if self.mapping:

            def store(key: bytes) -> None:
                structure[key] = value

            return store
        add = getattr(structure, self.add)
        return lambda key: add(value)

    def looker(self, structure: Any) -> Callable[[bytes], Any]:
        """Return the query for a key's value, or for the value that is next."""
        if self.mapping:
            get: Callable[[bytes], Any] = structure.__getitem__
            return get
        look = getattr(structure, self.look)
        return lambda key: look()

    def taker(self, structure: Any) -> Callable[[bytes], Any]:
        """Return the operation that removes a key, or the value that is next, and returns the
        value."""
        take = getattr(structure, self.take or "pop")
        return take if self.mapping else lambda key: take()


ALL = (
    Kind("Queue", "queue", CONSTANT_TIME, add="put", look="peek", take="get"),
    Kind("Stack", "stack", CONSTANT_TIME, add="push", look="peek", take="pop"),
    Kind("HashTable", "hash table", CONSTANT_TIME),
    Kind("SkipList", "skip list", LOGARITHMIC_TIME, ordered=True),
    Kind("BST", "binary search tree", LOGARITHMIC_TIME, ordered=True),
    Kind("BPlusTree", "B+tree", LOGARITHMIC_TIME, ordered=True),
    Kind(
        "MVBST", "multi-version binary search tree", LOGARITHMIC_TIME, ordered=True, versions=True
    ),
    Kind("MVBPlusTree", "multi-version B+tree", LOGARITHMIC_TIME, ordered=True, versions=True),
)

# Those that this version has.
STRUCTURES = tuple(kind for kind in ALL if hasattr(structures, kind.name))


def kind_of(name: str) -> Kind:
    """Return the kind whose class has this name."""
    return next(kind for kind in STRUCTURES if kind.name == name)
