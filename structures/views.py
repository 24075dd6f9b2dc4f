"""Views of mappings that other front-ends change.

An item whose key vanishes is skipped, where the views of collections.abc would raise.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any


class Keys(KeysView[Any]):
    """A set-like view of the keys."""

    _mapping: Any

    def __reversed__(self) -> Iterator[Any]:
        yield from reversed(self._mapping)


class Items(ItemsView[Any, Any]):
    """A set-like view of (key, value)."""

    _mapping: Any

    def __contains__(self, item: object) -> bool:
        # As that of a dict, where ItemsView would raise TypeError for what is no pair.
        return isinstance(item, tuple) and len(item) == 2 and super().__contains__(item)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        yield from self._mapping._each(True)

    def __reversed__(self) -> Iterator[tuple[Any, Any]]:
        yield from self._mapping._each(True, reverse=True)


class Values(ValuesView[Any]):
    """A view of the values."""

    _mapping: Any

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._each(True))

    def __reversed__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._each(True, reverse=True))

    def __contains__(self, value: object) -> bool:
        return any(v is value or v == value for v in self)
