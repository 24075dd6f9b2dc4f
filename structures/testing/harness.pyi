from contextlib import AbstractContextManager
from typing import Any

from typing_extensions import Buffer

CODECS: dict[str, Codec]

class Fault(Exception):
    code: int
    def __init__(self, code: int, what: str) -> None: ...

class Codec:
    encode: Any
    decode: Any
    def __init__(self, encode: Any, decode: Any) -> None: ...

class Memory:
    failed: bool
    timeout: float
    used: int
    counts: tuple[int, int, int]
    def __init__(
        self, *, limit: int = ..., record: int = ..., strict: bool = True, seed: int = 1
    ) -> None: ...
    def transaction(
        self, *structures: Structure, timeout: float | None = None
    ) -> AbstractContextManager[None]: ...
    def batch(self) -> AbstractContextManager[None]: ...
    def fail(self, what: str | None = None, *, after: int = 0, code: int = ...) -> None: ...
    def disturb(self, again: float = 0.0, mixing: bool = False) -> None: ...
    def retain(self, version: int | None = None) -> None: ...
    def limit(self, nbytes: int) -> None: ...
    def operations(self) -> list[tuple[str, int, bytes]]: ...
    def nodes(self) -> list[tuple[int, int, bytes]]: ...
    def damage(self, address: int, offset: int, written: Buffer, sealed: bool = False) -> None: ...
    def again(self, structure: Structure, code: int, operation: bytes) -> int: ...

class Structure:
    fe: Memory
    name: str
    codec: Any
    def __init__(
        self,
        fe: Memory,
        name: str,
        *,
        codec: Any = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> None: ...
    def check(self) -> None: ...
