from typing import Any

from bench._driver import Connection
from rfp import Client

class StoreConnection(Connection):
    def __new__(cls, client: Client, largest: int, timeout: float = 10.0) -> StoreConnection: ...
    @property
    def counters(self) -> dict[str, Any]: ...
