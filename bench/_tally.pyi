from typing import Literal

from bench._histogram import Histogram

METRIC_NAMES: tuple[str, ...]
STATUS_NAMES: tuple[str, ...]
STATUS_OK: int
STATUS_ERROR: int
STATUS_NOT_FOUND: int
STATUS_UNEXPECTED_STATE: int
STATUS_SERVICE_UNAVAILABLE: int
STATUS_COUNT: int
METRIC_VERIFY: int
METRIC_CLEANUP: int
METRICS: int

class Tally:
    def __init__(self) -> None: ...
    def count(self, what: int, how: int, ns: int, intended_ns: int = 0) -> None: ...
    def finish(self) -> None: ...
    @property
    def operations(self) -> int: ...
    def histogram(
        self, what: int, kind: Literal["done", "intended", "failed"] = "done"
    ) -> Histogram: ...
    def returns(self, what: int) -> dict[str, int]: ...
