from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from rfp.protocol.client.client_base import TIME_S_MAX as TIME_S_MAX
from rfp.protocol.client.opener import Opener
from rnvm.frontend.session import Session

_Value = TypeVar("_Value")

DURABILITIES: tuple[str, ...]
GOODBYE_S: float
CONFLICTS_MAX: int

class FrontEnd(Session):
    durability: str
    def __init__(
        self,
        opener: Opener,
        *,
        durability: str = "persistent",
        timeout: float = 5.0,
        reconnect: bool = True,
        cache: int = 67108864,
        oplog: bool = True,
        lock: str = "sticky",
    ) -> None: ...
    def names(self, *, timeout: float | None = None) -> dict[str, dict[str, Any]]: ...
    def drop(self, name: str, *, timeout: float | None = None) -> None: ...
    def batch(self) -> Batch: ...
    def transaction(self, *structures: Any, timeout: float | None = None) -> Transaction: ...
    def read_transaction(
        self, *structures: Any, timeout: float | None = None
    ) -> ReadTransaction: ...
    def read(
        self, function: Callable[..., _Value], *structures: Any, timeout: float | None = None
    ) -> _Value: ...
    def release(self, *, timeout: float | None = None) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def figures(self) -> dict[str, int]: ...
    @property
    def promise(self) -> str: ...
    def close(self) -> None: ...
    def forked(self) -> None: ...
    def __enter__(self) -> FrontEnd: ...
    def __exit__(self, *_: object) -> None: ...
    def __del__(self) -> None: ...

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

class Transaction:
    fe: FrontEnd
    structures: tuple[Any, ...]
    timeout: float | None
    def __new__(
        cls, fe: FrontEnd, structures: tuple[Any, ...], timeout: float | None
    ) -> Transaction: ...
    def __enter__(self) -> FrontEnd: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

class ReadTransaction:
    fe: FrontEnd
    structures: tuple[Any, ...]
    timeout: float | None
    locked: bool
    def __new__(
        cls, fe: FrontEnd, structures: tuple[Any, ...], timeout: float | None, locked: bool = False
    ) -> ReadTransaction: ...
    def __enter__(self) -> FrontEnd: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

def forget_parents_handles() -> None: ...
def close_handles() -> None: ...
