from rfp.fabric.fabric import Region
from rfp.protocol.server.service import Service
from rfp.store.counters import COUNTERS as COUNTERS

EVICTIONS: tuple[str, ...]

POLICIES: dict[str, int]

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
    ) -> Partition: ...
    def stats(self) -> dict[str, int]: ...
    def check(self) -> None: ...
