from typing import Any

from rnvm.media.medium import Medium

bugs: dict[str, int]
IDENTITY_STATES: dict[int, str]
IDENTITY_RECORDS: tuple[tuple[int, int], ...]

def plant(*which: str) -> None: ...
def read(on: Medium) -> dict[str, Any] | None: ...
def write(
    on: Medium,
    *,
    state: str,
    identity: bytes = ...,
    group: bytes = ...,
    member: str = "",
    epoch: int = 0,
    opening: bytes = ...,
) -> None: ...
def erase(on: Medium) -> None: ...
def new() -> bytes: ...
