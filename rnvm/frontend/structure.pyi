from collections.abc import Callable
from typing import Any

from rfp.protocol.client.client_base import TIME_S_MAX as TIME_S_MAX
from rnvm.format.partitions import SEPARATOR as SEPARATOR
from rnvm.frontend.frontend import FrontEnd

ROOT: int
ROOT_BYTES_MAX: int
kinds: dict[int, Any]
BUILT_IN_CODECS: dict[str, Callable[[], Codec]]
made: dict[str, Codec]

class Codec:
    name: str
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    def __init__(
        self, name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]
    ) -> None: ...

def utf8_codec() -> Codec: ...
def json_codec() -> Codec: ...
def pickle_codec() -> Codec: ...
def codec_of(codec: Any) -> Any: ...
def codec_name(codec: Any) -> bytes: ...

class Registered:
    cls: type
    @property
    def format(self) -> int | None: ...

class Structure:
    KIND: int
    fe: FrontEnd
    name: str
    codec: Any
    def __init__(
        self,
        fe: FrontEnd,
        name: str,
        *,
        codec: Any = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> None: ...
    @property
    def codec_name(self) -> str: ...
    def check(self, *, timeout: float | None = None) -> None: ...
