from typing import NamedTuple

from rfp.fabric.fabric import Region, RemoteRegion
from rfp.protocol.client.client_ring import ClientRing
from rfp.protocol.server.server_ring import ServerRing
from rfp.protocol.server.service import Service
from rfp.protocol.server.worker import Worker

class Request(NamedTuple):
    opcode: int
    count: int  # type: ignore[assignment]
    flags: int
    release: int
    payload: bytes

class Response(NamedTuple):
    sequence: int
    status: int
    kind: int
    time: int
    result: int
    payload: bytes

OUTCOMES: dict[int, str]
TAKE_RESULTS: dict[int, str]
CHECKSUMS: dict[int, str]

def checksum(data: bytes | bytearray | memoryview, crc: int = 0) -> int: ...
def checksum_method() -> str: ...
def checksum_of_difference(data: bytes | bytearray | memoryview, zeros: int) -> int | None: ...
def begin(
    ring: ClientRing,
    server_ring: ServerRing | None = None,
    *,
    sequence: int | None = None,
    fetch: int | None = None,
    fixed_fetch: bool | None = None,
    mode: str | None = None,
    paradigm: str | None = None,
    retries: int | None = None,
    polls_per_round_trip: int | None = None,
    spin: int | None = None,
    checked: bool | None = None,
) -> None: ...
def submit(
    ring: ClientRing,
    payload: bytes,
    *,
    opcode: int = ...,
    count: int = 0,
    flags: int = 0,
    tag: int = 0,
) -> int | None: ...
def flush(ring: ClientRing) -> None: ...
def step(ring: ClientRing) -> str: ...
def wait(ring: ClientRing, seconds: float) -> str: ...
def result(ring: ClientRing) -> Response: ...
def tag(ring: ClientRing) -> int: ...
def pop(ring: ClientRing) -> None: ...
def abandon(ring: ClientRing) -> None: ...
def release(ring: ClientRing, pin: int) -> None: ...
def transfer(
    ring: ClientRing,
    opcode: int,
    local: Region,
    local_offset: int,
    remote: RemoteRegion,
    remote_offset: int,
    length: int,
    seconds: float,
) -> str: ...
def room(ring: ClientRing) -> int: ...
def mode(ring: ClientRing) -> str: ...
def take(ring: ServerRing, ahead: int = 0) -> tuple[str, Request | None]: ...
def publish(
    ring: ServerRing,
    payload: bytes,
    *,
    status: int = 0,
    kind: int = ...,
    result: int = 0,
    ns: int = 0,
) -> bool: ...
def notify(ring: ServerRing, count: int = 1) -> None: ...
def complete(ring: ServerRing) -> int: ...
def impatient(worker: Worker) -> None: ...
def calls(ring: ClientRing, n: int, length: int, *, timeout: float = 30.0) -> int: ...
def alternate(
    region: Region | RemoteRegion, offset: int, versions: list[bytes], seconds: float
) -> None: ...

class Fixed(Service):
    def __init__(self) -> None: ...
    def say(self, payload: bytes, *, status: int = 0, kind: int = ..., result: int = 0) -> None: ...

class Echo(Service):
    def __init__(self, *, delay: int = 0, seed: int = 1, ticks_before_answer: int = 0) -> None: ...
    def slow_down(self, delay: int) -> None: ...
    @property
    def sessions(self) -> int: ...
