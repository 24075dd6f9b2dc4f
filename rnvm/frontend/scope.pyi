from types import TracebackType
from typing import Any

from rnvm.frontend.frontend import FrontEnd

class Batch:
    fe: FrontEnd
    def __new__(cls, fe: FrontEnd) -> Batch: ...
    def __enter__(self) -> FrontEnd: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

class NamedScope:
    fe: FrontEnd
    structures: tuple[Any, ...]
    timeout: float | None
    def __new__(
        cls, fe: FrontEnd, structures: tuple[Any, ...], timeout: float | None, *_: Any
    ) -> NamedScope: ...
    def __enter__(self) -> FrontEnd: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

class Transaction(NamedScope): ...

class ReadTransaction(NamedScope):
    locked: bool
    def __new__(
        cls, fe: FrontEnd, structures: tuple[Any, ...], timeout: float | None, locked: bool = False
    ) -> ReadTransaction: ...
