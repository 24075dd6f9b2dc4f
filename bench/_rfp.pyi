from bench._driver import Connection
from rfp._client import Client

class RfpConnection(Connection):
    def __init__(self, client: Client, window: int) -> None: ...
    @property
    def counters(self) -> dict[str, object]: ...
