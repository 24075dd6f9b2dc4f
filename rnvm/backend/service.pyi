from typing import Any

from rfp.fabric.fabric import Fabric, Region
from rfp.protocol.server.service import Service
from rnvm.pool.pool import Pool

ENDED: dict[int, tuple[Any, str]]
MIRROR_STATES: dict[int, str]
DEPARTURES: dict[int, str]
REFUSALS: dict[int, str]

class PoolService(Service):
    pool: Pool
    title: str
    def __init__(
        self,
        opened: Pool,
        lease: float,
        snapshot_lifetime: float = 60.0,
        *,
        flushed: bool = False,
        forgetful: bool = False,
        revoking: bool = False,
        file: int = -1,
        min_mirrors: int = 0,
        mirror_patience: float = 1.0,
    ) -> None: ...
    @property
    def names(self) -> int: ...
    @property
    def failed(self) -> bool: ...
    @property
    def removed(self) -> bool: ...
    @property
    def counters(self) -> dict[str, Any]: ...
    @property
    def replication(self) -> dict[str, int] | None: ...
    @property
    def mirrors(self) -> list[dict[str, Any]]: ...
    def close(self) -> None: ...
    def keep_words(self, words: Region) -> None: ...
    def reserve(self, fabric: Fabric) -> Region: ...
    def wake_by(self, descriptor: int) -> None: ...
    def report(self) -> None: ...
    def share(self, number: int, fabric: Fabric) -> Region: ...
    def _hold_replication(self) -> None: ...
    def _set_replication(
        self,
        *,
        acked: int | None = None,
        in_sync: int | None = None,
        min_mirrors: int | None = None,
    ) -> None: ...
    def _go_slow(self, *, collecting: bool = False, replaying: bool = False) -> None: ...
