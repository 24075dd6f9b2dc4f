from rfp._fabric import Region
from rfp.protocol._service import Service
from rfp.store.counters import COUNTERS as COUNTERS

EVICTION: dict[str, int]

class Partition(Service):
    region: Region
    def __init__(
        self,
        region: Region,
        *,
        seed: int,
        eviction: str = "clock",
        first_version: int,
        lease_ns: int,
        session_quota: int,
        max_value: int,
    ) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def check(self) -> None: ...
