from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from typing_extensions import Buffer

from rfp.protocol.client.caller_memory import Registration as Registration
from rfp.protocol.client.client_base import TIME_S_MAX as TIME_S_MAX
from rfp.protocol.client.client_base import TIME_S_MIN as TIME_S_MIN
from rfp.protocol.client.client_base import ClientBase, _Opener
from rfp.store.client.reservation import Reservation as Reservation
from rfp.store.client.views import View

COUNTERS: tuple[str, ...]

class Item(NamedTuple):
    value: bytes
    version: int

class Client(ClientBase):
    def __init__(
        self,
        open_connection: _Opener,
        *,
        timeout: float = 5.0,
        reconnect: bool = True,
        mode: str = "auto",
        fetch: int | None = None,
        retries: int | None = None,
        tuned: Any = None,
        location_cache: int = 0,
    ) -> None: ...
    @property
    def seed(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def calibration(self) -> dict[str, Any]: ...
    def get(self, key: Buffer, *, timeout: float | None = None) -> bytes | None: ...
    def item(self, key: Buffer, *, timeout: float | None = None) -> Item | None: ...
    def get_into(
        self, key: Buffer, buffer: Buffer, *, timeout: float | None = None
    ) -> int | None: ...
    def get_range(
        self, key: Buffer, offset: int, length: int, *, timeout: float | None = None
    ) -> bytes | None: ...
    def put(
        self,
        key: Buffer,
        value: Buffer,
        *,
        ttl: float | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
        timeout: float | None = None,
    ) -> int: ...
    def view(self, key: Buffer, *, timeout: float | None = None) -> View | None: ...
    def view_many(
        self, keys: Iterable[Buffer], *, timeout: float | None = None
    ) -> list[View | None]: ...
    def reserve(
        self,
        key: Buffer,
        nbytes: int,
        *,
        ttl: float | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
        timeout: float | None = None,
    ) -> Reservation: ...
    def delete(self, key: Buffer, *, timeout: float | None = None) -> bool: ...
    def exists(self, key: Buffer, *, timeout: float | None = None) -> bool: ...
    def __contains__(self, key: Buffer, /) -> bool: ...
    def incr(self, key: Buffer, amount: int = 1, *, timeout: float | None = None) -> int: ...
    def touch(
        self, key: Buffer, ttl: float | None = None, *, timeout: float | None = None
    ) -> bool: ...
    def get_many(
        self, keys: Iterable[Buffer], *, timeout: float | None = None
    ) -> list[bytes | None]: ...
    def get_ranges(
        self, ranges: Iterable[tuple[Buffer, int, int]], *, timeout: float | None = None
    ) -> list[bytes | None]: ...
    def exists_many(
        self, keys: Iterable[Buffer], *, timeout: float | None = None
    ) -> list[bool]: ...
    def get_into_many(
        self,
        keys: Iterable[Buffer],
        buffers: Iterable[Buffer],
        *,
        timeout: float | None = None,
    ) -> list[int | Exception | None]: ...
    def put_many(
        self,
        items: Mapping[bytes, Buffer] | Iterable[tuple[Buffer, Buffer]],
        *,
        ttl: float | None = None,
        timeout: float | None = None,
    ) -> list[int | Exception]: ...
    def delete_many(
        self, keys: Iterable[Buffer], *, timeout: float | None = None
    ) -> list[bool]: ...
    def scan(
        self,
        prefix: Buffer = b"",
        cursor: int = 0,
        count: int = 128,
        *,
        timeout: float | None = None,
    ) -> tuple[int, list[bytes]]: ...
    def scan_iter(
        self, prefix: Buffer = b"", *, count: int = 128, timeout: float | None = None
    ) -> Iterator[bytes]: ...
    def clear(self, prefix: Buffer = b"", *, timeout: float | None = None) -> int: ...
    def register(self, buffer: Any) -> Registration: ...
    def stats(self, *, timeout: float | None = None) -> dict[str, Any]: ...
