from rfp.fabric.fabric import EventChannel, QueuePair, Region, RemoteRegion

def sleeper(
    channel: EventChannel,
    memory: Region,
    offset: int,
    rounds: int,
    *,
    step: float = 1.0,
    limit: int = 10,
    timeout: float = 20.0,
) -> int: ...
def waker(
    pair: QueuePair,
    local: Region,
    remote: RemoteRegion,
    offset: int,
    rounds: int,
    *,
    timeout: float = 20.0,
) -> None: ...
def publisher(
    memory: Region, offset: int, length: int, rounds: int, *, timeout: float = 20.0
) -> None: ...
def fetcher(
    pair: QueuePair,
    local: Region,
    remote: RemoteRegion,
    offset: int,
    length: int,
    rounds: int,
    *,
    timeout: float = 20.0,
) -> int: ...
def round_trips(
    pair: QueuePair,
    local: Region,
    remote: RemoteRegion,
    opcode: int,
    offset: int,
    length: int,
    rounds: int,
    *,
    timeout: float = 20.0,
) -> list[int]: ...
def burst(
    pair: QueuePair,
    local: Region,
    remote: RemoteRegion,
    opcode: int,
    offsets: list[int],
    length: int,
) -> int: ...
