from typing import Any

DIRECT_FOUND: int
DIRECT_ABSENT: int
DIRECT_UNSURE: int

class DirectReads:
    counters: dict[str, int]
    def __new__(cls, connection: Any) -> DirectReads: ...
