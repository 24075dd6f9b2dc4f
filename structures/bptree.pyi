from collections.abc import Iterable, Iterator
from collections.abc import Mapping as AbstractMapping
from typing import Any

from structures.mapping import Mapping

class BPlusTree(Mapping):
    KIND: int
    def range(
        self, lo: Any = None, hi: Any = None, *, reverse: bool = False
    ) -> Iterator[tuple[Any, Any]]: ...
    def __reversed__(self) -> Iterator[Any]: ...
    def first(self) -> tuple[Any, Any]: ...
    def last(self) -> tuple[Any, Any]: ...
    def bulk_load(
        self,
        items: AbstractMapping[Any, Any] | Iterable[tuple[Any, Any]],
        *,
        timeout: float | None = None,
    ) -> int: ...
