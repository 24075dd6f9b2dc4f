from rfp.fabric.fabric import QueuePair, Region, RemoteRegion

class ServerRing:
    def __new__(
        cls,
        requests: Region,
        request_offset: int,
        responses: Region,
        response_offset: int,
        staging: Region | None,
        pair: QueuePair,
        reply: RemoteRegion,
        reply_offset: int,
        notify_offset: int,
        slots: int,
        slot_size: int,
        checked: bool,
        peer: int = 0,
        process: int = 0,
    ) -> ServerRing: ...
    @property
    def requests(self) -> Region: ...
    @property
    def responses(self) -> Region: ...
    @property
    def staging(self) -> Region | None: ...
    @property
    def reply(self) -> RemoteRegion: ...
    @property
    def pair(self) -> QueuePair: ...
    @property
    def counters(self) -> dict[str, int]: ...
