from typing import Any

from rfp.address import Address

DEATH: float
FIRST_PAUSE: float
LONGEST_PAUSE: float
FIRST_ATTEMPT: float


def unknown(address: object) -> Exception: ...

class Attachment:
    address: Address
    timeout: float
    reconnect: bool
    structures: Any
    def interrupt(self, error: BaseException) -> None: ...
    def reach(self, offset: int, length: int) -> None: ...
