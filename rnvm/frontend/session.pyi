import threading
from typing import Any

from rfp.address import Address

DEATH_NOTICE_S: float
GOODBYE_S: float
SESSION_PAUSE_S_MIN: float
SESSION_PAUSE_S_MAX: float
ATTEMPT_S_MIN: float
SAME_RELEASE: str

def unknown(address: object) -> Exception: ...
def few_mirrors() -> Exception: ...

class Life: ...

class Lives(threading.local):
    life: Life
    def __init__(self) -> None: ...

lives: Lives

class FairLock:
    holder: int
    owner: int
    def owner_ended(self, life: Any) -> None: ...

class Waiter: ...

class Session:
    address: Address
    timeout: float
    reconnect: bool
    structures: Any
    def interrupt(self, error: BaseException) -> None: ...
    def reach(self, offset: int, length: int) -> None: ...
