from typing import Any

class DirectReads:
    counters: dict[str, int]
    def __new__(cls, connection: Any) -> DirectReads: ...
