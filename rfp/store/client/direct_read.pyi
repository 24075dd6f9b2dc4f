from enum import IntEnum
from typing import Any

class direct_result(IntEnum):  # noqa: N801 - a C enum
    DIRECT_FOUND = 0
    DIRECT_ABSENT = 1
    DIRECT_UNSURE = 2

class DirectReads:
    counters: dict[str, int]
    def __new__(cls, connection: Any) -> DirectReads: ...
