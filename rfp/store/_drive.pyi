from rfp._fabric import Region
from rfp.protocol._service import Service

class Memory(Region):
    def __init__(self, length: int) -> None: ...
    def close(self) -> None: ...

class Session:
    capacity: int
    heavy: bool
    def __init__(self, service: Service, *, staging: int = 0, capacity: int = 4096) -> None: ...
    def execute(
        self,
        opcode: int,
        payload: bytes | bytearray | memoryview = b"",
        *,
        count: int = 0,
        flags: int = 0,
        release: int = 0,
        capacity: int | None = None,
    ) -> tuple[int, int, int, bytes]: ...
    def stage(self, offset: int, data: bytes | bytearray | memoryview) -> None: ...
    def tend(self, now: int) -> bool: ...
    def time(
        self, opcode: int, fixed: int, keys: list[bytes], rounds: int, group: int = 16, tail: bytes = b""
    ) -> float: ...
    def close(self) -> None: ...
