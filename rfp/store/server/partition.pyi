from rfp.fabric.fabric import Region
from rfp.protocol.server.service import Service
from rfp.store.counters import COUNTERS as COUNTERS

EVICTIONS: tuple[str, ...]

POLICIES: dict[str, int]
VIEW_TABLE_NUMBER: int
VIEW_HOLDER_BYTES: int

def view_table_bytes(partitions: int) -> int: ...

class Holder: ...

class Partition(Service):
    region: Region
    def __new__(
        cls,
        region: Region,
        *,
        seed: int,
        eviction: str = "clock",
        first_version: int,
        lease_ns: int,
        session_quota: int,
        max_value: int,
        view_quota: int = 0,
    ) -> Partition: ...
    def open_views(self, peer: int, table: Region, index: int) -> None: ...
    def end_views(self, peer: int) -> None: ...
    def views_ended(self, peer: int) -> bool: ...
    def stats(self) -> dict[str, int]: ...
    def check(self) -> None: ...
