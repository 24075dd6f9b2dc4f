from bench._tally import Tally
from bench._workload import Stream

class Connection:
    window: int
    def failure(self) -> str: ...
    def close(self) -> None: ...

class StopFlag:
    def set(self) -> None: ...
    def is_set(self) -> bool: ...

def run(
    connection: Connection,
    requests: Stream,
    measured: Tally,
    stop: StopFlag,
    *,
    operations: int,
    window: int = 1,
    target: float = 0.0,
    offset: float = 0.0,
    timeout: float = 10.0,
) -> None: ...
