from typing import Any

from rfp.fabric.fabric import EventChannel, QueuePair, Region, RemoteRegion

class ClientRing:
    def __new__(
        cls,
        pair: QueuePair,
        channel: EventChannel,
        requests: RemoteRegion,
        request_offset: int,
        responses: RemoteRegion,
        response_offset: int,
        reply: Region,
        reply_offset: int,
        scratch: Region,
        scratch_offset: int,
        slots: int,
        slot_size: int,
        checked: bool,
        heartbeat: RemoteRegion | None = None,
        silence_ns_max: int = 900_000_000,
    ) -> ClientRing: ...
    @property
    def pair(self) -> QueuePair: ...
    @property
    def channel(self) -> EventChannel: ...
    @property
    def requests(self) -> RemoteRegion: ...
    @property
    def responses(self) -> RemoteRegion: ...
    @property
    def reply(self) -> Region: ...
    @property
    def scratch(self) -> Region: ...
    @property
    def heartbeat(self) -> RemoteRegion | None: ...
    @property
    def counters(self) -> dict[str, Any]: ...

def scratch_bytes(slots: int, slot_size: int) -> int: ...
