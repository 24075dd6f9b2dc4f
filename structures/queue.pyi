from collections.abc import Iterable
from typing import Any

from rnvm.frontend.frontend import FrontEnd
from structures.queue_contents import QueueContents
from structures.queue_contents import Reservation as Reservation

class Queue(QueueContents):
    KIND: int
    WAITING: dict[str, tuple[str, str]]
    def __init__(
        self,
        fe: FrontEnd,
        name: str,
        *,
        codec: Any = None,
        dead_letter: Queue | str | None = None,
        max_deliveries: int | None = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> None: ...
    def put(self, value: Any, *, delay: float | None = 0, timeout: float | None = None) -> None: ...
    def put_many(self, values: Iterable[Any], *, timeout: float | None = None) -> int: ...
    def get(self, default: Any = ..., *, timeout: float | None = None) -> Any: ...
    def reserve(
        self, *, lease: float = 60.0, timeout: float | None = None
    ) -> tuple[bytes, Any]: ...
    def ack(self, token: bytes, *, timeout: float | None = None) -> None: ...
    def nack(self, token: bytes, *, timeout: float | None = None) -> None: ...
    def extend(
        self, token: bytes, lease: float = 60.0, *, timeout: float | None = None
    ) -> None: ...
    @property
    def dead_letter(self) -> Queue | None: ...
    @property
    def max_deliveries(self) -> int: ...
